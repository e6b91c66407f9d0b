"""What tests of the requester's side may ask for: scenes made by Blender, a server, settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grid import RUNTIMES
from tests.rendering import python_with_blender
from tests.requester.https_server import SmallServer
from xwgrid.requester.settings import Settings, save_credentials


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scenes that make_scenes.py makes."""
    folder = tmp_path_factory.mktemp("scenes")
    made = subprocess.run(
        [python_with_blender(), str(Path(__file__).with_name("make_scenes.py")), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert (folder / "good.blend").exists(), made.stderr
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[SmallServer]:
    """A small server on loopback."""
    with SmallServer(tmp_path) as running:
        yield running


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings that know the Blender runtime, and whose credentials are this test's own."""
    return Settings(credentials=str(tmp_path / "credentials"), runtimes=str(RUNTIMES))


@pytest.fixture
def settings_file(tmp_path: Path, settings: Settings, server: SmallServer) -> Path:
    """The same as a file for commands, logged in to the small server."""
    save_credentials(settings.credentials_folder(), server.credentials())
    file = tmp_path / "requester.toml"
    file.write_text(f"credentials = {json.dumps(settings.credentials)}\nruntimes = {json.dumps(settings.runtimes)}\n")
    return file
