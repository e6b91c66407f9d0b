"""Which rows two results have in common, and in how many of them they differ. Call it in a sandboxed process only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xwgrid.applications.pictures import Picture


class Rows(NamedTuple):
    """Rows of a frame: those of `picture`, whose first one is the frame's row `first`, counted from the top."""

    first: int
    picture: Picture


def differing_share(one: Sequence[Rows], other: Sequence[Rows]) -> float | None:
    """Return the share of the rows both have in which any byte of a pixel differs; None when they have none in common.

    Rows with other channels, or channels of another type, differ.
    """
    there = {row: (piece, index) for piece in other for index, row in enumerate(_numbers(piece))}
    common = differing = 0
    for piece in one:
        for index, row in enumerate(_numbers(piece)):
            if row in there:
                common += 1
                differing += not _are_equal(piece.picture, index, there[row][0].picture, there[row][1])
    return differing / common if common else None


def _numbers(piece: Rows) -> range:
    return range(piece.first, piece.first + piece.picture.height)


def _are_equal(one: Picture, row: int, other: Picture, other_row: int) -> bool:
    # As bytes: what is no number equals itself, and minus zero is not zero, as for the fingerprint.
    return (one.width, one.channels, one.type) == (other.width, other.channels, other.type) and one.pixels[
        row
    ].tobytes() == other.pixels[other_row].tobytes()
