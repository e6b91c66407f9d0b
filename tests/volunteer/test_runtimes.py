"""Which runtimes a host has, what the sandbox shows of them, and what installing one says when it cannot."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from xwgrid_volunteer.runtime_command import runtime
from xwgrid_volunteer.runtime_install import import_problem, install_blender, python_for
from xwgrid_volunteer.runtimes import RuntimeSettings, find_runtimes, runtimes_folder

from xwgrid.errors import BadInput, Unavailable


def make_environment(folder: Path, home: Path) -> Path:
    """Make what looks like a virtual environment with its own interpreter."""
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "pyvenv.cfg").write_text(f"home = {home / 'bin'}\nversion = 3.11.7\n")
    return folder


def test_python_is_always_there(tmp_path: Path) -> None:
    """Without anything installed there is the Python this program runs on, in isolated mode."""
    found = find_runtimes(tmp_path, {}, search_path=str(tmp_path))
    assert list(found) == ["python"]
    assert found["python"].command[:2] == (sys.executable, "-I")
    assert sys.prefix in found["python"].read_only or sys.prefix == "/usr"


def test_newest_blender_wins(tmp_path: Path) -> None:
    """Of two installed Blenders the newer one is used, by number, not by spelling; its base Python is shown."""
    for version in ("4.5.9", "4.5.15"):
        make_environment(tmp_path / f"blender-bpy-{version}", tmp_path / "base")
    (tmp_path / ".unfinished-blender-bpy-9.9.9" / "bin").mkdir(parents=True)
    found = find_runtimes(tmp_path, {}, search_path=str(tmp_path))["blender"]
    assert found.command[0] == str(tmp_path / "blender-bpy-4.5.15" / "bin" / "python")
    assert str(tmp_path / "base") in found.read_only
    assert str(tmp_path / "blender-bpy-4.5.15") in found.read_only


def test_blender_on_the_path(tmp_path: Path) -> None:
    """A blender program on the PATH is used where none is installed: without scripts, its own folder shown."""
    (tmp_path / "opt").mkdir()
    (tmp_path / "bin").mkdir()
    program = tmp_path / "opt" / "blender"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "bin" / "blender").symlink_to(program)
    found = find_runtimes(tmp_path / "none", {}, search_path=str(tmp_path / "bin"))["blender"]
    assert found.command[0] == str(program)
    assert "--factory-startup" in found.command
    assert "--disable-autoexec" in found.command
    assert found.before_spec == ("--",)
    assert found.read_only == (str(tmp_path / "opt"),)


def test_redefined(tmp_path: Path) -> None:
    """The owner's own command wins, and what the known runtime needs stays visible to it."""
    make_environment(tmp_path / "blender-bpy-4.5.15", tmp_path / "base")
    own = RuntimeSettings(command=(sys.executable, "/opt/wrap.py"), read_only=("/opt/wrap.py",))
    found = find_runtimes(tmp_path, {"blender": own}, search_path=str(tmp_path))["blender"]
    assert found.command == (sys.executable, "/opt/wrap.py")
    assert {"/opt/wrap.py", str(tmp_path / "base")} <= set(found.read_only)


def test_home_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that lies in the owner's home does not open the home to strangers' jobs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    found = find_runtimes(tmp_path / "none", {}, search_path=str(tmp_path))["blender"]
    assert str(tmp_path) not in found.read_only
    own = find_runtimes(tmp_path, {"python": RuntimeSettings(command=("/bin/sh", "-c"))})["python"]
    assert "/" not in own.read_only


def test_folder(tmp_path: Path) -> None:
    """The setting names the folder, else the environment, else it is below the user's data."""
    assert runtimes_folder(tmp_path, {"XWGRID_RUNTIMES": "/other"}) == tmp_path
    assert runtimes_folder(None, {"XWGRID_RUNTIMES": "/other"}) == Path("/other")
    assert runtimes_folder(None, {}).parts[-2:] == ("xwgrid", "runtimes")


def test_version_has_three_numbers(tmp_path: Path) -> None:
    """A version is checked before anything is made."""
    with pytest.raises(BadInput, match="all three numbers"):
        install_blender(tmp_path / "new", "4.5", print)
    assert not (tmp_path / "new").exists()


def test_matching_python_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the one Python a Blender needs is missing, the sentence says which, and offers a blender program."""
    wanted = "4.0.2" if sys.version_info[:2] != (3, 10) else "4.5.15"
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unavailable, match=rf"exactly Python {python_for(wanted)}.*runtimes\.blender"):
        install_blender(tmp_path / "new", wanted, print)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".lock"]


def test_pythons() -> None:
    """Each Blender has its one Python."""
    assert [python_for(version) for version in ("3.6.0", "4.2.1", "4.5.15", "5.0.1", "5.1.0")] == [
        *("3.10", "3.11", "3.11", "3.11", "3.13")
    ]


def test_names_the_missing_library(tmp_path: Path) -> None:
    """A missing system library is named, with its package and the whole list to install."""
    said = "ImportError: libXi.so.6: cannot open shared object file: No such file or directory"
    message = import_problem(tmp_path, said, 1)
    assert "libXi.so.6" in message
    assert "libxi6" in message
    assert "apt-get install" in message


def test_unfinished_environment(tmp_path: Path) -> None:
    """An environment without bpy is refused with what Python said, and stays for the owner to look at."""
    place = make_environment(tmp_path / "blender-bpy-4.5.15", Path(sys.base_prefix))
    with pytest.raises(Unavailable, match="No module named 'bpy'"):
        install_blender(tmp_path, "4.5.15", print)
    assert place.exists()


def test_listed(tmp_path: Path) -> None:
    """`runtime list` shows each runtime and what it is."""
    listing = CliRunner(env={"XWGRID_RUNTIMES": str(tmp_path), "PATH": os.environ["PATH"]})
    settings = tmp_path / "volunteer.toml"
    settings.write_text("")
    answer = listing.invoke(runtime, ["list", "--settings", str(settings)])
    assert answer.exit_code == 0, answer.output
    assert f"python: {sys.version.split()[0]}" in answer.output
