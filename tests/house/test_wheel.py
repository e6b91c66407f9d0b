"""What an installed wheel holds and runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.house.rooms import ROOT, files, lines, rooms


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree: building leaves folders behind."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree)
    for room in rooms().values():
        shutil.copytree(room, tree / room.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    out = tmp_path_factory.mktemp("wheel")
    ended = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(tree)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an empty environment with the wheel in it.

    The libraries it needs are those of this environment, named by a .pth file: a test must not depend on a registry.
    The editable installation of the tree is not visible there: .pth files of folders named so are not followed.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    here = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*here, str(wheel)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    found = subprocess.run(
        [str(python), "-c", "import xwgrid; print(xwgrid.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder,
    )
    assert Path(found.stdout.strip()).is_relative_to(folder)
    return folder / "bin"


def test_wheel_holds_every_file(wheel: Path) -> None:
    """Every package and every data file of the rooms is in the wheel, and nothing of another name."""
    expected = {
        str(Path(*package.split(".")) / path.relative_to(room))
        for package, room in rooms().items()
        for path in files(room)
    }
    with zipfile.ZipFile(wheel) as archive:
        present = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert present == expected


def test_wheel_knows_its_extras(wheel: Path) -> None:
    """All six extras can be asked for, those without requirements as well."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert {"server", "volunteer", "tray", "oracle", "dev", "all"} <= set(metadata.get_all("Provides-Extra", []))


@pytest.mark.parametrize(
    "command", [line.split("=")[0].strip() for line in lines("options.entry_points", "console_scripts")]
)
def test_commands_run_from_the_wheel(installed: Path, command: str) -> None:
    """Each command starts in an environment that holds the wheel and no tree."""
    ended = subprocess.run(
        [str(installed / command), "--help"], capture_output=True, text=True, check=False, cwd=installed
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage:")
