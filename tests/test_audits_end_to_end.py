"""Audits in a grid of real processes: four volunteers of four owners, two of whom cheat."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
from sqlalchemy import select
from xwgrid_schema.tables import hosts, replicas, standings
from xwgrid_server import database

from tests.grid import Grid
from tests.rendering import pixels, python_with_blender, render_plainly, tiny_scene
from xwgrid.auditing import parse_strips
from xwgrid.requester.settings import save_credentials

FRAMES = 12
WIDTH, HEIGHT, SAMPLES = 96, 540, 4


def test_cheats_are_caught_at_less_than_half_a_frame_more(tmp_path: Path) -> None:
    """One volunteer alters a small area, another halves the samples: both are caught, and every frame is right.

    All in all, newcomers' tests and whatever the cheats cost included, at most 1.4 frames are rendered for each.
    """
    scene = tiny_scene(tmp_path)
    out = tmp_path / "out"
    with Grid(tmp_path / "grid") as grid:
        grid.add_user("requester")
        for name, cheats in (("honest", None), ("upright", None), ("painter", "area"), ("miser", "samples")):
            grid.add_user(name)
            grid.add_volunteer(name, name, "" if cheats is None else _cheating(cheats)).start()
        _wait_until_all_called(grid)
        save_credentials(tmp_path / "credentials", grid.credentials("requester"))
        settings = tmp_path / "requester.toml"
        settings.write_text(f"credentials = {json.dumps(str(tmp_path / 'credentials'))}\n")
        wishes = ["--frames", f"1-{FRAMES}", "--resolution", f"{WIDTH}x{HEIGHT}", "--samples", str(SAMPLES)]
        wishes += ["--no-denoise", "--policy", "audit", "--epsilon", "0.001", "--out", str(out)]
        grid.run("xwgrid", "--settings", str(settings), "submit", str(scene), *wishes)
        area = _rendered_area(grid)
        wrong = _wrong_results(grid)
    render_plainly(scene, tmp_path / "plain", FRAMES, samples=SAMPLES, width=WIDTH, height=HEIGHT)
    for frame in range(1, FRAMES + 1):
        name = f"frame_{frame:04d}.png"
        assert np.array_equal(pixels(out / "frames" / name), pixels(tmp_path / "plain" / name))
    assert wrong["painter"] > 0
    assert wrong["miser"] > 0
    assert wrong["honest"] == wrong["upright"] == 0
    assert area / FRAMES <= 1.4


def _cheating(kind: str) -> str:
    """Return settings of a daemon whose renderer cheats."""
    script = Path(__file__).with_name("cheating_renderer.py")
    # The script decodes pictures, which Blender's own Python cannot: it runs in ours, and starts Blender's.
    command = [sys.executable, "-B", str(script), kind, python_with_blender()]
    folders = [str(script.parent), str(Path(sys.executable).parents[1]), str(Path(sys.executable).resolve().parents[1])]
    return f"[runtimes.blender]\ncommand = {json.dumps(command)}\nread_only = {json.dumps(folders)}\n"


def _wait_until_all_called(grid: Grid) -> None:
    """Return once each volunteer has called: auditors are drawn among those that have."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with database.reading(grid.engine) as connection:
            if all(row.last_seen_at is not None for row in connection.execute(select(hosts.c.last_seen_at))):
                return
        time.sleep(0.1)
    raise RuntimeError("not every volunteer called within 60 s")


def _rendered_area(grid: Grid) -> float:
    """Return what was rendered in all, in frames."""
    with database.reading(grid.engine) as connection:
        rows = connection.execute(select(replicas.c.strips).where(replicas.c.state != "handed_back")).all()
    return sum(
        1.0 if row.strips is None else sum(strip.rows for strip in parse_strips(row.strips)) / HEIGHT for row in rows
    )


def _wrong_results(grid: Grid) -> dict[str, int]:
    """Return how many wrong results each host has on its account."""
    query = select(hosts.c.name, standings.c.wrong).join_from(hosts, standings, isouter=True)
    with database.reading(grid.engine) as connection:
        return {row.name: row.wrong or 0 for row in connection.execute(query)}
