"""Installs a runtime: Blender as a Python module, in a virtual environment of its own (it pins old packages)."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xwgrid.errors import BadInput, GridError, Unavailable
from xwgrid_volunteer.runtimes import BLENDER_PREFIX, UNFINISHED

# The last long-term release for Python 3.11.
BLENDER_VERSION = "4.5.15"
# What `import bpy` needs of a bare Debian or Ubuntu: library -> package. The last two are for EEVEE and Workbench.
_LIBRARIES = {
    "libX11.so.6": "libx11-6",
    "libXrender.so.1": "libxrender1",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libxkbcommon.so.0": "libxkbcommon0",
    "libSM.so.6": "libsm6",
    "libICE.so.6": "libice6",
    "libGL.so.1": "libgl1",
    "libEGL.so.1": "libegl1",
    "libgl1-mesa-dri": "libgl1-mesa-dri",
}
_ASK_SECONDS = 180.0
_IMPORT = "import os, bpy; print(bpy.app.version_string, flush=True); os._exit(0)"


def install_blender(folder: Path, version: str, say: Callable[[str], None]) -> Path:
    """Install bpy `version` below `folder` and return its folder; one that is there already is only tried.

    `say` gets a sentence per step; pip's own progress goes to standard error. Nothing half-made is ever found under
    the final name. Raises BadInput for what is no version, Unavailable naming what is missing: the matching Python,
    the network, a system library.
    """
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise BadInput(f"'{version}' is not a Blender version: write all three numbers, such as {BLENDER_VERSION}")
    place = folder.absolute() / f"{BLENDER_PREFIX}{version}"
    try:
        with _alone(folder):
            if (place / "bin" / "python").exists():
                say(f"Blender {version} is in {place} already")
            else:
                _make(place, version, say)
    except OSError as error:
        raise Unavailable(f"Blender cannot be installed into {folder}: {error}", folder=str(folder)) from error
    say("starting it once")
    check_blender(place)
    say(f"Blender {version} works")
    return place


def check_blender(place: Path) -> str:
    """Import bpy in the environment `place` and return its version.

    Raises Unavailable, naming the packages to install when system libraries are missing.
    """
    try:
        answer = subprocess.run(
            [str(place / "bin" / "python"), "-I", "-c", _IMPORT],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ASK_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"Blender in {place} does not start: {error}", folder=str(place)) from error
    if answer.returncode != 0:
        raise Unavailable(import_problem(place, answer.stderr, answer.returncode), folder=str(place))
    return answer.stdout.strip()


def import_problem(place: Path, said: str, status: int) -> str:
    """Return the sentence for a failed `import bpy`, from what it wrote to standard error."""
    missing = re.search(r"(lib\S+): cannot open shared object file", said)
    if missing:
        library = missing[1]
        package = _LIBRARIES.get(library, "the package that has it")
        return (
            f"Blender is installed in {place}, but the system library {library} is missing ({package}). "
            f"On Debian or Ubuntu: apt-get install {' '.join(_LIBRARIES.values())}"
        )
    last = (said.strip().splitlines() or [f"it ended with status {status}"])[-1]
    return f"Blender in {place} does not start: {last}. Remove that folder to install it anew"


def python_for(blender: str) -> str:
    """Return the one Python version, "3.11", that a Blender of this version can be a module of."""
    release = tuple(int(part) for part in blender.split(".")[:2])
    if release >= (5, 1):
        return "3.13"
    return "3.11" if release >= (4, 1) else "3.10"


def _make(place: Path, version: str, say: Callable[[str], None]) -> None:
    python = _find_python(python_for(version), version)
    unfinished = place.with_name(UNFINISHED + place.name)
    if unfinished.exists():
        shutil.rmtree(unfinished)
    say(f"making an environment of its own with {python}")
    try:
        made = subprocess.run(
            [python, "-m", "venv", str(unfinished)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise Unavailable(
                f"{python} cannot make virtual environments (Debian and Ubuntu: "
                f"apt-get install python{python_for(version)}-venv): {_last(made.stdout + made.stderr)}"
            )
        say(f"fetching Blender {version} (350 MB, 1 GB on disk)")
        got = subprocess.run(
            [
                *(str(unfinished / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"),
                *("--only-binary", ":all:", f"bpy=={version}"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            check=False,
        )
        if got.returncode != 0:
            raise Unavailable(
                f"pip could not install bpy {version} (it says why above). Without it a blender program on the PATH, "
                "or one named in the settings under [runtimes.blender], does as well"
            )
        # The scripts inside name the old place; the interpreter, which is all that is used, does not care.
        unfinished.rename(place)
    except (GridError, OSError):
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _find_python(wanted: str, blender: str) -> str:
    for candidate in (sys.executable, shutil.which(f"python{wanted}"), shutil.which("python3")):
        if candidate is not None and _python_version(candidate) == wanted:
            return candidate
    raise Unavailable(
        f"Blender {blender} as a Python module needs exactly Python {wanted}, and there is none on the PATH "
        f"(this is {sys.version.split()[0]}). Install python{wanted}, or download Blender itself and name it in the "
        'settings: [runtimes.blender] command = ["/path/to/blender", "--background", "--factory-startup", '
        '"--disable-autoexec", "--python-exit-code", "3", "--python"]',
        python=wanted,
    )


def _python_version(program: str) -> str | None:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [program, "-I", "-c", code], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: a second installation waits, then finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
