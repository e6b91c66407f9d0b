"""A frame through all parts: the requester's command, the server, a volunteer, Blender, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tests.grid import Grid
from tests.rendering import pixels, render_plainly, tiny_scene
from xwgrid.requester.settings import save_credentials


def test_a_frame_comes_back_right(tmp_path: Path) -> None:
    """A scene handed in by command comes back as the picture that Blender itself makes of it, with sheet and film."""
    scene = tiny_scene(tmp_path)
    with Grid(tmp_path / "grid") as grid:
        for user in ("requester", "owner"):
            grid.add_user(user)
        grid.add_volunteer("desktop", "owner").start()
        save_credentials(tmp_path / "credentials", grid.credentials("requester"))
        settings = tmp_path / "requester.toml"
        settings.write_text(f"credentials = {json.dumps(str(tmp_path / 'credentials'))}\n")
        out = tmp_path / "out"
        options = ["--frames", "1-2", "--replicas", "1", "--quorum", "1", "--seed", "0", "--out", str(out)]
        grid.run("xwgrid", "--settings", str(settings), "submit", str(scene), *options)
    render_plainly(scene, tmp_path / "plain", 2, samples=4, width=64, height=36)
    names = [file.name for file in sorted((out / "frames").iterdir())]
    assert names == ["frame_0001.png", "frame_0002.png"]
    for name in names:
        assert np.array_equal(pixels(out / "frames" / name), pixels(tmp_path / "plain" / name))
    assert {"contact_sheet.png", "video.mp4", "summary.json"} <= {file.name for file in out.iterdir()}
