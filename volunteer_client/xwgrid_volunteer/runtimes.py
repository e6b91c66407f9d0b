"""Runtimes: what a host starts an application's driver with. Found, or redefined by the owner's settings."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import platformdirs
from msgspec import Struct

# The folder of an installed runtime: "blender-bpy-4.5.15".
BLENDER_PREFIX = "blender-bpy-"
# Names of half-made folders begin so; they are never taken for a runtime.
UNFINISHED = ".unfinished-"


class RuntimeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A runtime as the owner redefines it: `[runtimes.blender]` in the volunteer's settings."""

    command: tuple[str, ...]  # the driver script and the specification follow it
    read_only: tuple[str, ...] = ()  # further folders or files the command needs, shown read-only at the same place


class Runtime(Struct, frozen=True, kw_only=True):
    """How to start a driver: `command`, the driver script, `before_spec`, the specification."""

    name: str  # "blender", "python"
    command: tuple[str, ...]
    before_spec: tuple[str, ...] = ()  # a `blender` executable wants "--" between the script and its argument
    read_only: tuple[str, ...] = ()  # what the sandbox must show beside the system's own folders
    origin: str  # where it was found, for the owner


def runtimes_folder(configured: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the folder of installed runtimes: the setting, XWGRID_RUNTIMES, or the user's data folder."""
    if configured is not None:
        return configured
    named = environment.get("XWGRID_RUNTIMES")
    return Path(named) if named else Path(platformdirs.user_data_dir("xwgrid")) / "runtimes"


def find_runtimes(
    folder: Path, redefined: Mapping[str, RuntimeSettings], *, search_path: str | None = None
) -> dict[str, Runtime]:
    """Return the usable runtimes by name; "python" is always among them.

    `redefined` wins over what is installed in `folder` (the newest first), and that over a `blender` found on
    `search_path` (PATH).
    """
    found = {"python": python_runtime()}
    installed = installed_blenders(folder)
    executable = shutil.which("blender", path=search_path)
    if installed:
        found["blender"] = blender_wheel(installed[0])
    elif executable is not None:
        found["blender"] = blender_executable(Path(executable))
    for name, settings in redefined.items():
        found[name] = _redefined(name, settings, found.get(name))
    return found


def installed_blenders(folder: Path) -> list[Path]:
    """Return the folders of installed Blender wheels, newest version first."""
    folders = [path for path in folder.glob(f"{BLENDER_PREFIX}*") if (path / "bin" / "python").exists()]
    return sorted(folders, key=lambda path: _version(path.name.removeprefix(BLENDER_PREFIX)), reverse=True)


def python_runtime() -> Runtime:
    """Return the Python this program runs on, shut off from the owner's environment and packages."""
    python = sys.executable
    return Runtime(
        name="python",
        command=(python, "-I", "-B"),
        read_only=tuple(sorted({sys.prefix, sys.base_prefix, *_python_folders(Path(python))})),
        origin=f"{python} (this program's own)",
    )


def blender_wheel(folder: Path) -> Runtime:
    """Return the runtime of a virtual environment that has bpy."""
    folder = folder.absolute()
    python = folder / "bin" / "python"
    return Runtime(
        name="blender",
        command=(str(python), "-I", "-B"),
        read_only=_python_folders(python),
        origin=str(folder),
    )


def blender_executable(path: Path) -> Runtime:
    """Return the runtime of a `blender` program. Its own folder, where its data lies, is shown with it."""
    real = path.resolve()
    return Runtime(
        name="blender",
        command=(
            str(real),
            *("--background", "--factory-startup", "--disable-autoexec", "--python-exit-code", "3", "--python"),
        ),
        before_spec=("--",),
        read_only=_shareable((str(real.parent),)),
        origin=str(path),
    )


def _redefined(name: str, settings: RuntimeSettings, known: Runtime | None) -> Runtime:
    """Return the owner's own runtime. What the known one needs is shown too: the command most likely wraps it."""
    program = shutil.which(settings.command[0]) if settings.command else None
    beside = _python_folders(Path(program)) if program else ()
    read_only = {*settings.read_only, *beside, *(known.read_only if known else ())}
    return Runtime(
        name=name,
        command=settings.command,
        before_spec=("--",) if settings.command[-1:] in (("--python",), ("-P",)) else (),
        read_only=tuple(sorted(read_only)),
        origin="the settings file",
    )


def _python_folders(program: Path) -> tuple[str, ...]:
    """Return what a program needs shown: itself; for a Python, its environment and the Python that was made from."""
    program = program.absolute()
    folder = program.parent.parent
    settings = folder / "pyvenv.cfg"
    wanted = {str(program)}
    if settings.is_file():
        wanted.add(str(folder))
        for line in settings.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "home":
                wanted.add(str(Path(value.strip()).parent))
    # The interpreter itself, where the links lead.
    real = program.resolve().parent.parent
    if any(real.glob("lib/python3*")):
        wanted.add(str(real))
    return _shareable(wanted)


def _shareable(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths without those that would show a stranger's job far too much."""
    home = Path.home()
    kept = {path for path in paths if Path(path) not in (Path("/"), home, *home.parents)}
    return tuple(sorted(kept))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in text.split("."))
