"""How far two pictures are apart, as tolerances between classes measure it. Call it in a sandboxed process only.

Both are tone-mapped to 8 bits first, as `pictures.eight_bit` does: 16 bits are rounded, scene-linear floats clipped to
0 … 1 and sRGB-encoded, alpha stays linear. A highlight that is 0.5 brighter than white is white in both.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec.structs import replace

from xwgrid.applications.pictures import Picture, eight_bit
from xwgrid.errors import BadInput
from xwgrid.tolerances import Distance

BLOCK = 8
# Rows looked at together, a multiple of BLOCK: what is computed on the way to a distance stays small.
_BAND = 256


def distance(one: Picture, other: Picture) -> Distance:
    """Return how far two pictures are apart. Raises BadInput unless they have one size, channels and type.

    Blocks begin at the top left corner; one that would be less than 8 pixels wide or high, at the right or lower edge,
    is part of the block before it.
    """
    if (one.width, one.height, one.channels, one.type) != (other.width, other.height, other.channels, other.type):
        raise BadInput(f"these pictures cannot be compared: {_described(one)} against {_described(other)}")
    differing, largest, block = 0, 0, 0.0
    columns, widths = _starts(one.width, BLOCK)
    for first, last in _bands(one.height):
        steps = _band(one, first, last) - _band(other, first, last)
        differing += int(np.count_nonzero(steps))
        largest = max(largest, int(np.abs(steps).max()))
        rows, heights = _starts(last - first, BLOCK)
        sums = np.add.reduceat(np.add.reduceat(steps, rows, axis=0, dtype=np.int32), columns, axis=1)
        means = sums / (heights[:, None, None] * widths[None, :, None])
        block = max(block, float(np.abs(means).max()))
    return Distance(share=differing / one.pixels.size, largest=float(largest), block=block)


def _band(picture: Picture, first: int, last: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    return eight_bit(replace(picture, pixels=picture.pixels[first:last])).astype(np.int16)


def _bands(height: int) -> Iterator[tuple[int, int]]:
    starts, sizes = _starts(height, _BAND, least=BLOCK)
    for first, rows in zip(starts.tolist(), sizes.tolist(), strict=True):
        yield first, first + rows


def _starts(
    length: int, step: int, least: int | None = None
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], np.ndarray[tuple[int], np.dtype[np.intp]]]:
    """Return where each part of `length` begins and how long it is; a rest below `least` joins the part before it."""
    starts = np.arange(0, length, step)
    if len(starts) > 1 and length - starts[-1] < (least or step):
        starts = starts[:-1]
    return starts, np.diff(starts, append=length)


def _described(picture: Picture) -> str:
    return f"{picture.width} x {picture.height} {''.join(picture.channels)} {picture.type}"
