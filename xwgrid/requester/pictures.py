"""Rendered frames as 8-bit RGB, for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenImageIO
from numpy.typing import NDArray

from xwgrid.errors import GridError

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".exr"})
# Scene-linear light below this is shown as it is; what is brighter is pressed into the rest of the scale.
_KNEE = 0.8


def read_rgb8(path: Path) -> NDArray[np.uint8]:
    """Return a picture as (height, width, 3) sRGB bytes; transparent parts stand before black, EXR is tone mapped.

    Raises GridError when it cannot be read.
    """
    picture = OpenImageIO.ImageBuf(str(path))
    if picture.has_error or not picture.spec().nchannels:
        raise GridError(f"{path} cannot be read as a picture: {picture.geterror()}", file=str(path))
    spec = picture.spec()
    channels = _colour_channels(tuple(spec.channelnames))
    floats = path.suffix.lower() == ".exr"
    pixels = picture.get_pixels(OpenImageIO.FLOAT if floats else OpenImageIO.UINT8)
    if pixels is None or picture.has_error:
        raise GridError(f"{path} cannot be read as a picture: {picture.geterror()}", file=str(path))
    colours = np.asarray(pixels).reshape(spec.height, spec.width, spec.nchannels)[:, :, channels]
    return tone_mapped(colours) if floats else np.ascontiguousarray(colours, dtype=np.uint8)


def tone_mapped(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return scene-linear light of any brightness as sRGB bytes of the same shape.

    Up to the knee the picture is what a plain sRGB display shows; beyond it brightness goes smoothly, with equal slope,
    towards white, so that highlights keep their form. The transfer curve is that of IEC 61966-2-1.
    """
    light = np.nan_to_num(linear.astype(np.float32), nan=0.0, posinf=1e6, neginf=0.0).clip(min=0.0)
    room = 1.0 - _KNEE
    beyond = np.maximum(light - _KNEE, 0.0)
    shown = np.where(light <= _KNEE, light, _KNEE + room * beyond / (beyond + room))
    encoded = np.where(shown <= 0.0031308, shown * 12.92, 1.055 * np.power(shown, 1 / 2.4) - 0.055)
    return np.asarray(np.rint(encoded * 255.0), dtype=np.uint8)


def _colour_channels(names: tuple[str, ...]) -> list[int]:
    """Return the places of red, green and blue; a picture with fewer channels is grey."""
    endings = [name.rsplit(".", 1)[-1].upper() for name in names]
    if {"R", "G", "B"} <= set(endings):
        return [endings.index(name) for name in ("R", "G", "B")]
    return [0, 1, 2] if len(names) >= 3 else [0, 0, 0]
