"""Scenes, made once for all tests here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.applications.driven import blender


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scenes that scenes.py makes."""
    folder = tmp_path_factory.mktemp("scenes")
    made = subprocess.run(
        [*blender(), str(Path(__file__).with_name("scenes.py")), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert (folder / "two_scenes.blend").exists(), made.stderr
    return folder
