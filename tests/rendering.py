"""Scenes for tests that need a real Blender, and what their frames look like when one process renders them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
from PIL import Image

from tests.grid import RUNTIMES

ROOT = Path(__file__).parents[1]


def python_with_blender() -> str:
    """Return the Python of the installed Blender runtime. Raises RuntimeError when there is none."""
    found = sorted(RUNTIMES.glob("blender-bpy-*/bin/python"))
    if not found:
        raise RuntimeError("there is no Blender runtime: run `make .venv/blender`")
    return str(found[-1])


def tiny_scene(folder: Path) -> Path:
    """Make a scene of 24 frames, each a tenth of a second's work; see tests/tiny_scene.py."""
    file = folder / "tiny.blend"
    _run([python_with_blender(), str(ROOT / "tests" / "tiny_scene.py"), str(file)])
    return file


def render_plainly(scene: Path, out: Path, frames: int, *, samples: int, width: int, height: int) -> None:
    """Render frames 1 to `frames` by one Blender process into `out`: frame_0001.png and so on."""
    out.mkdir(parents=True, exist_ok=True)
    numbers = [str(number) for number in (1, frames, samples, width, height)]
    _run([python_with_blender(), str(ROOT / "benchmarks" / "plain_render.py"), str(scene), str(out), *numbers])


def pixels(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Return a picture's decoded pixels, height by width by channels."""
    with Image.open(file) as picture:
        return np.asarray(picture)


def _run(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"{command[1]} ended with {ended.returncode}: {(ended.stderr or ended.stdout)[-2_000:]}")
