"""Pictures from strangers: read, fingerprinted, compared. Call `read` in a sandboxed process only."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import OpenImageIO
from msgspec import Struct

from xwgrid.errors import BadInput, UnreadableResult
from xwgrid.model import Digest

# Only the reader of the format pinned sees a stranger's bytes, none of the two dozen others.
OpenImageIO.attribute("try_all_readers", 0)
# A reader process decodes one picture and may start nothing, no thread either.
OpenImageIO.attribute("threads", 1)
OpenImageIO.attribute("exr_threads", -1)

PixelArray = npt.NDArray[Any]

_SIGNATURES = {
    "PNG": b"\x89PNG\r\n\x1a\n",
    "JPEG": b"\xff\xd8\xff",
    "OPEN_EXR": b"\x76\x2f\x31\x01",
}
_JPEG_END = b"\xff\xd9"
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "OPEN_EXR": ".exr"}
_READERS = {"PNG": "png", "JPEG": "jpeg", "OPEN_EXR": "openexr"}
_TYPES = {
    ("PNG", "8"): "uint8",
    ("PNG", "16"): "uint16",
    ("JPEG", "8"): "uint8",
    ("OPEN_EXR", "16"): "half",
    ("OPEN_EXR", "32"): "float",
}
# What Blender's BW, RGB and RGBA become; its grey EXR has the one channel "V" or "Y" by version.
_CHANNELS = {("Y",), ("V",), ("I",), ("Y", "A"), ("R", "G", "B"), ("R", "G", "B", "A")}
# Raw passes of one view layer: the picture, albedo, normals and depth, with room for another version's.
_MOST_PASSES = 32


class Pinned(Struct, frozen=True, kw_only=True):
    """What a job says its pictures are: pixels, and bits per channel."""

    format: Literal["PNG", "JPEG", "OPEN_EXR"]
    width: int
    height: int
    color_depth: Literal["8", "16", "32"]
    passes: bool = False  # channels of any name: what is rendered beside the picture


class Picture(Struct, frozen=True, kw_only=True, eq=False):
    """A decoded picture. `pixels` has the shape (height, width, channels), alpha unassociated as in a PNG file."""

    width: int
    height: int
    channels: tuple[str, ...]
    type: str  # "uint8", "uint16", "float16", "float32"
    pixels: PixelArray


class Difference(Struct, frozen=True, kw_only=True):
    """How far two pictures are apart, both tone-mapped to 8 bits."""

    max_step: int  # largest difference of a channel, 0 to 255
    share: float  # of all channels of all pixels, those that differ, 0 to 1


def read(data: bytes, pinned: Pinned, *, name: str = "the picture") -> Picture:
    """Decode a picture that must be what its job pinned.

    The header is looked at before a pixel is decoded, so that a bomb is refused at the cost of its header. Raises
    UnreadableResult.
    """
    if not data:
        raise UnreadableResult(f"{name} is empty", file=name)
    if not data.startswith(_SIGNATURES[pinned.format]):
        raise UnreadableResult(f"{name} is not a {pinned.format} file", file=name, format=pinned.format)
    # The decoder fills what is missing with grey and says nothing.
    if pinned.format == "JPEG" and not data.endswith(_JPEG_END):
        raise UnreadableResult(f"{name} ends early", file=name)
    with _opened(data, pinned, name) as source:
        spec = source.spec()
        _check_header(source, spec, pinned, name)
        pixels = source.read_image(0, 0, 0, spec.nchannels, OpenImageIO.UNKNOWN)
        if pixels is None:
            raise UnreadableResult(f"{name} does not decode: {_first_line(source.geterror())}", file=name)
        array = np.ascontiguousarray(pixels).reshape(spec.height, spec.width, spec.nchannels)
        return Picture(
            width=spec.width,
            height=spec.height,
            channels=tuple(spec.channelnames),
            type=array.dtype.name,
            pixels=array,
        )


def fingerprint(picture: Picture) -> Digest:
    """Return the SHA-256 of size, channel names, type and pixels (little-endian, row by row from the top).

    Dates, render times and compression of the file do not enter.
    """
    header = {
        "width": picture.width,
        "height": picture.height,
        "channels": picture.channels,
        "type": picture.type,
    }
    digest = hashlib.sha256(b"xwgrid picture 1\n" + msgspec.json.encode(header) + b"\n")
    little = picture.pixels.astype(picture.pixels.dtype.newbyteorder("<"), order="C", copy=False)
    digest.update(little.view(np.uint8).data)
    return digest.hexdigest()


def fingerprint_of_strips(strips: Iterable[tuple[int, Picture]]) -> Digest:
    """Return the SHA-256 of strips of a picture, each given with its first row: of these and the fingerprints."""
    digest = hashlib.sha256(b"xwgrid strips 1\n")
    for first, picture in strips:
        digest.update(f"{first} {fingerprint(picture)}\n".encode())
    return digest.hexdigest()


def compare(one: Picture, other: Picture) -> Difference:
    """Return how far two pictures are apart. Raises BadInput when they are not of one size and the same channels."""
    if (one.width, one.height, one.channels) != (other.width, other.height, other.channels):
        raise BadInput(f"these pictures cannot be compared: {_described(one)} against {_described(other)}")
    steps = np.abs(eight_bit(one).astype(np.int16) - eight_bit(other).astype(np.int16))
    return Difference(max_step=int(steps.max()), share=float(np.count_nonzero(steps) / steps.size))


def eight_bit(picture: Picture) -> npt.NDArray[np.uint8]:
    """Return the pixels as a screen shows them: 8 bits a channel, scene-linear floats clipped and sRGB-encoded."""
    if picture.pixels.dtype == np.uint8:
        return picture.pixels
    if picture.pixels.dtype == np.uint16:
        return ((picture.pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    values = np.clip(np.nan_to_num(picture.pixels.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    # The sRGB transfer function, IEC 61966-2-1; alpha is a share and stays linear.
    encoded = np.where(values <= 0.0031308, values * 12.92, 1.055 * np.power(values, 1 / 2.4) - 0.055)
    for channel, called in enumerate(picture.channels):
        if called == "A":
            encoded[..., channel] = values[..., channel]
    return np.rint(encoded * 255.0).astype(np.uint8)


@contextmanager
def _opened(data: bytes, pinned: Pinned, name: str) -> Iterator[Any]:
    """Open bytes as a picture.

    OpenImageIO's Python binding reads from paths alone, and chooses the reader by their suffix. So the bytes become an
    anonymous file in memory, and a link with the right suffix leads to it: nothing of theirs meets a disk.
    """
    descriptor = os.memfd_create("picture")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        wishes = OpenImageIO.ImageSpec()
        wishes.attribute("oiio:UnassociatedAlpha", 1)
        with tempfile.TemporaryDirectory(prefix="xwgrid-picture-") as folder:
            link = Path(folder, "picture" + _SUFFIXES[pinned.format])
            link.symlink_to(f"/proc/self/fd/{descriptor}")
            source = OpenImageIO.ImageInput.open(str(link), wishes)
            if source is None:
                raise UnreadableResult(f"{name} does not open: {_first_line(OpenImageIO.geterror(), link)}", file=name)
            try:
                yield source
            finally:
                source.close()
    finally:
        os.close(descriptor)


def _check_header(source: Any, spec: Any, pinned: Pinned, name: str) -> None:
    if source.format_name() != _READERS[pinned.format]:
        raise UnreadableResult(f"{name} is a {source.format_name()} file, the job asks for {pinned.format}", file=name)
    if (spec.width, spec.height, spec.depth) != (pinned.width, pinned.height, 1):
        raise UnreadableResult(
            f"{name} has {spec.width} x {spec.height} pixels, the job asks for {pinned.width} x {pinned.height}",
            file=name,
            width=spec.width,
            height=spec.height,
        )
    whole = (spec.x, spec.y, spec.full_x, spec.full_y, spec.full_width, spec.full_height)
    if whole != (0, 0, 0, 0, pinned.width, pinned.height):
        raise UnreadableResult(f"{name} is a part cut out of a larger picture", file=name)
    channels = tuple(spec.channelnames)
    if pinned.passes and len(channels) > _MOST_PASSES:
        raise UnreadableResult(f"{name} has {len(channels)} channels: {_MOST_PASSES} may be", file=name)
    if not pinned.passes and channels not in _CHANNELS:
        raise UnreadableResult(
            f"{name} has {len(channels)} channels ({', '.join(channels[:8])[:100]}), not grey, RGB or RGBA",
            file=name,
            channels=len(channels),
        )
    expected = _TYPES.get((pinned.format, pinned.color_depth))
    if str(spec.format) != expected or spec.deep or spec.channelformats:
        raise UnreadableResult(
            f"{name} has channels of type {spec.format}, the job asks for {pinned.color_depth} bits", file=name
        )
    if source.seek_subimage(1, 0) or source.seek_subimage(0, 1):
        raise UnreadableResult(f"{name} holds more than one picture", file=name)
    source.geterror()
    source.seek_subimage(0, 0)


def _first_line(text: str, link: Path | None = None) -> str:
    """Return a library's message, without the path the bytes were opened under."""
    line = (text.strip() or "no reason given").splitlines()[0]
    return line.replace(str(link), "it")[:300] if link else line[:300]


def _described(picture: Picture) -> str:
    return f"{picture.width} x {picture.height} {''.join(picture.channels)}"
