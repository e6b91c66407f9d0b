"""What a scene is and what it uses, told by Blender itself: always in a child process, with a time limit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from xwgrid.applications import manifests
from xwgrid.errors import BadInput, GridError
from xwgrid.requester.settings import Settings

_RUNTIME_FOLDER = re.compile(r"blender-bpy-(\d+(?:\.\d+)*)")
_TAIL = 1_500
_ANOTHER_BLENDER = (
    " (to get one for the grid: xwgrid-volunteer runtime install blender; "
    "to name one you have: `blender` in requester.toml)"
)


class Problem(Struct, frozen=True, kw_only=True):
    """Why a file does not open."""

    kind: Literal["not_blend", "newer", "damaged"]
    message: str


class Reference(Struct, frozen=True, kw_only=True):
    """Something a scene uses outside its .blend; `files` is empty when it is not there."""

    kind: str
    name: str
    reference: str
    path: str
    files: tuple[str, ...] = ()


class SceneFacts(Struct, frozen=True, kw_only=True):
    """One scene of a file, as its own settings say."""

    name: str
    first: int
    last: int
    step: int
    fps: float
    width: int
    height: int
    full_width: int
    full_height: int
    border: bool
    engine: str  # Blender's own name of it
    format: str  # Blender's own name of it
    color_depth: str
    denoise: bool = False  # Cycles only
    denoised_in_one: str | None = None  # why denoising can be no step of its own
    has_camera: bool
    sequencer_strips: int
    views: int


class FileFacts(Struct, frozen=True, kw_only=True):
    """A .blend that opened, its scene to be rendered, and what that one needs."""

    blender: str  # version of the renderer that looked, "4.5.15"
    scene: SceneFacts
    used: tuple[Reference, ...]
    missing: tuple[Reference, ...]
    unbaked: tuple[str, ...]
    scripts_not_run: str


class _Line(Struct, frozen=True, kw_only=True):
    """What inspect_scene.py prints."""

    opens: bool
    blender: str
    problem: Problem | None = None
    scenes: tuple[SceneFacts, ...] = ()
    scene: str | None = None
    used: tuple[Reference, ...] = ()
    missing: tuple[Reference, ...] = ()
    unbaked: tuple[str, ...] = ()
    scripts_not_run: str = ""


class Renderer(Struct, frozen=True, kw_only=True):
    """How to run a script with bpy: `command`, the script, `before_arguments`, its arguments."""

    command: tuple[str, ...]
    before_arguments: tuple[str, ...] = ()

    def run(self, script: str, *arguments: str) -> list[str]:
        """Return the command line for one of the scripts beside the drivers."""
        return [*self.command, str(manifests.script(script)), *self.before_arguments, *arguments]


def find_renderer(settings: Settings, search_path: str | None = None) -> Renderer | None:
    """Return the Blender of the settings, else the newest runtime installed, else a `blender` on the search path."""
    if settings.blender:
        return Renderer(command=settings.blender)
    versions: list[tuple[tuple[int, ...], Path]] = []
    folder = settings.runtimes_folder()
    for entry in folder.iterdir() if folder.is_dir() else ():
        match = _RUNTIME_FOLDER.fullmatch(entry.name)
        if match and (entry / "bin" / "python").exists():
            versions.append((tuple(int(part) for part in match[1].split(".")), entry / "bin" / "python"))
    if versions:
        return Renderer(command=(str(max(versions)[1]),))
    if blender := shutil.which("blender", path=search_path):
        options = ("-b", "--factory-startup", "--python-exit-code", "1", "--python")
        return Renderer(command=(blender, *options), before_arguments=("--",))
    return None


def inspect(renderer: Renderer, scene_file: Path, seconds: float) -> FileFacts:
    """Open a scene file in a child process and return what it says.

    Raises BadInput when it does not open there (damaged, newer, too slow), GridError when Blender itself does not run.
    """
    # A private home: neither the user's start-up file nor add-ons have a say. Temporary files stay there, too.
    with tempfile.TemporaryDirectory(prefix="xwgrid-inspect-") as home:
        environment = os.environ | {"HOME": home, "BLENDER_USER_RESOURCES": home, "TMPDIR": home}
        status, output, log = _run(renderer.run("inspect_scene.py", str(scene_file)), environment, scene_file, seconds)
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        ending = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        if status < 0:
            raise BadInput(
                f"{scene_file} is damaged: Blender {ending} while it opened the file. Its last words:\n{log[-_TAIL:]}",
                file=str(scene_file),
            )
        raise GridError(
            f"Blender cannot look into {scene_file}: {' '.join(renderer.command)} {ending} without an answer. "
            f"Its last words:\n{log[-_TAIL:]}"
        )
    try:
        line = msgspec.json.decode(lines[-1], type=_Line)
    except msgspec.MsgspecError as error:
        raise GridError(f"{renderer.command[0]} gave an answer that is not understood: {error}") from error
    if line.problem is not None:
        more = _ANOTHER_BLENDER if line.problem.kind == "newer" else ""
        raise BadInput(line.problem.message + more, file=str(scene_file), problem=line.problem.kind)
    scene = next((each for each in line.scenes if each.name == line.scene), None)
    if scene is None:
        raise BadInput(f"{scene_file} has no scene of its own to render", file=str(scene_file))
    return FileFacts(
        blender=line.blender,
        scene=scene,
        used=line.used,
        missing=line.missing,
        unbaked=line.unbaked,
        scripts_not_run=line.scripts_not_run,
    )


def _run(command: Sequence[str], environment: dict[str, str], scene: Path, seconds: float) -> tuple[int, str, str]:
    """Return a child's exit status, output and log. It is a group of its own, of which nothing is left afterwards."""
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise GridError(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        output, log = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise BadInput(
            f"Blender did not open {scene} within {seconds:g} seconds: if it is only large, "
            "raise inspect_seconds in requester.toml",
            file=str(scene),
        ) from error
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
    return child.returncode, output, log
