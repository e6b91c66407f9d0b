"""Audits in a grid of real processes: four volunteers of four owners, some of whom cheat."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from sqlalchemy import select
from xwgrid_schema.tables import hosts, jobs, replicas, standings
from xwgrid_server import database

from tests.applications.driven import blender, drive
from tests.grid import RUNTIMES, Grid
from tests.rendering import pixels, python_with_blender, render_plainly, tiny_scene
from xwgrid import wire
from xwgrid.auditing import DENOISED, parse_strips
from xwgrid.model import Audit, BlenderWork, JobRequest
from xwgrid.requester.settings import save_credentials

FRAMES, DENOISED_FRAMES = 12, 6
WIDTH, HEIGHT, SAMPLES = 96, 540, 4


def test_cheats_are_caught_at_less_than_half_a_frame_more(tmp_path: Path) -> None:
    """One volunteer alters a small area, another halves the samples: both are caught, and every frame is right.

    All in all, newcomers' tests and whatever the cheats cost included, at most 1.4 frames are rendered for each.
    """
    scene = tiny_scene(tmp_path)
    out = tmp_path / "out"
    with Grid(tmp_path / "grid") as grid:
        _join(grid, honest=None, upright=None, painter="area", miser="samples")
        _submit(grid, scene, FRAMES, "--no-denoise", "--out", str(out))
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


def test_denoised_frames_are_audited_by_their_raw_passes(tmp_path: Path) -> None:
    """Strips are of the raw passes, and the picture is made of them once more by another owner, who is given them. One
    volunteer alters pictures after they were denoised: it is caught, and every frame is right.
    """
    scene = tiny_scene(tmp_path)
    out = tmp_path / "out"
    with Grid(tmp_path / "grid") as grid:
        _join(grid, honest=None, upright=None, decent=None, painter="area")
        _submit(grid, scene, DENOISED_FRAMES, "--denoise", "--out", str(out))
        wrong = _wrong_results(grid)
        checks = _checks(grid)
        with database.reading(grid.engine) as connection:
            request = wire.decode(connection.execute(select(jobs.c.request)).scalar_one(), JobRequest)
    assert isinstance(request.work, BlenderWork)
    assert request.work.raw_passes
    assert isinstance(request.policy, Audit)
    tasks: list[dict[str, int | str]] = [{"frame": frame} for frame in range(1, DENOISED_FRAMES + 1)]
    (tmp_path / "right").mkdir()
    right = drive(tmp_path / "right", blender(), request, tasks, inputs=scene.parent)
    assert sorted(path.name for path in (out / "frames").iterdir()) == [
        f"frame_{task['frame']:04d}.png" for task in tasks
    ]
    for number, task in enumerate(tasks, 1):
        name = f"frame_{task['frame']:04d}.png"
        (tmp_path / name).write_bytes(right.files(number)[name])
        assert np.array_equal(pixels(out / "frames" / name), pixels(tmp_path / name))
    assert wrong["painter"] > 0
    assert wrong["honest"] == wrong["upright"] == wrong["decent"] == 0
    assert checks[DENOISED] > 0
    assert checks["strips"] > 0


def _join(grid: Grid, **volunteers: str | None) -> None:
    """Start volunteers of as many owners, by name: None is honest, else how it cheats. Returns once all have called."""
    grid.add_user("requester")
    for name, cheats in volunteers.items():
        grid.add_user(name)
        grid.add_volunteer(name, name, "" if cheats is None else _cheating(cheats)).start()
    _wait_until_all_called(grid)


def _submit(grid: Grid, scene: Path, frames: int, *wishes: str) -> None:
    """Have a film rendered under audits, and fetch it."""
    credentials, settings = scene.with_name("credentials"), scene.with_name("requester.toml")
    save_credentials(credentials, grid.credentials("requester"))
    lines = (f"credentials = {json.dumps(str(credentials))}", f"runtimes = {json.dumps(str(RUNTIMES))}")
    settings.write_text("\n".join(lines) + "\n")
    asked = ["--frames", f"1-{frames}", "--resolution", f"{WIDTH}x{HEIGHT}", "--samples", str(SAMPLES)]
    asked += ["--policy", "audit", "--epsilon", "0.001", *wishes]
    grid.run("xwgrid", "--settings", str(settings), "submit", str(scene), *asked)


def _checks(grid: Grid) -> Counter[str]:
    """Return how often audits were made that had a word: of strips, and of denoising."""
    query = select(replicas.c.strips).where(replicas.c.audits.is_not(None), replicas.c.fingerprint.is_not(None))
    with database.reading(grid.engine) as connection:
        found = connection.execute(query).scalars()
        return Counter(DENOISED if strips == DENOISED else "strips" for strips in found)


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
