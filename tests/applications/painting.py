"""Picture files for tests, honest and otherwise."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import OpenImageIO

from xwgrid.applications.pictures import Pinned

WIDTH, HEIGHT = 16, 9
# As Blender names raw passes.
PASSES = (
    *(f"ViewLayer.Combined.{c}" for c in "RGBA"),
    *(f"ViewLayer.Denoising Albedo.{c}" for c in "RGB"),
    "ViewLayer.Denoising Depth.Z",
    *(f"ViewLayer.Denoising Normal.{c}" for c in "XYZ"),
)


def pinned(file_format: Any = "PNG", color_depth: Any = "8", width: int = WIDTH, height: int = HEIGHT) -> Pinned:
    """Return what a job of small pictures pins."""
    return Pinned(format=file_format, width=width, height=height, color_depth=color_depth)


def gradient(channels: int = 3) -> npt.NDArray[np.float32]:
    """Return pixels 0 to 1 that differ everywhere, shape (height, width, channels)."""
    y, x, c = np.mgrid[0:HEIGHT, 0:WIDTH, 0:channels]
    values: npt.NDArray[np.float32] = ((x + y * WIDTH) * channels + c).astype(np.float32)
    return values / np.float32(WIDTH * HEIGHT * channels)


def painted(
    folder: Path,
    suffix: str,
    kind: str,
    pixels: npt.NDArray[np.float32] | None = None,
    *,
    attributes: dict[str, str] | None = None,
    window: tuple[int, int, int, int] | None = None,
    channels: Sequence[str] | None = None,
) -> bytes:
    """Return a picture file of `kind` ("uint8", "half", …), with `attributes` in its header.

    `window` is (x, y, full width, full height): the picture is a part of one so large. `channels` are the names of its
    channels, if they are not those of a picture.
    """
    pixels = gradient() if pixels is None else pixels
    height, width, depth = pixels.shape
    spec = OpenImageIO.ImageSpec(width, height, depth, kind)
    if channels is not None:
        spec.channelnames = tuple(channels)
    for name, value in (attributes or {}).items():
        spec.attribute(name, value)
    if window:
        spec.x, spec.y, spec.full_width, spec.full_height = window
    path = folder / f"painted{suffix}"
    out = OpenImageIO.ImageOutput.create(str(path))
    assert out is not None
    assert out.open(str(path), spec), out.geterror()
    assert out.write_image(pixels), out.geterror()
    out.close()
    return path.read_bytes()


def png_of(width: int, height: int, raw: bytes, *, colour_type: int = 2, bits: int = 8, more: bytes = b"") -> bytes:
    """Return a PNG file with any header over any compressed rows, and `more` chunks before them."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + more
        + chunk(b"IDAT", zlib.compress(raw, 9))
        + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return one chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
