"""Where in a frame an audit looks: thin strips across its whole width, evenly spaced from a place drawn afterwards.

Several thin strips meet a small lie far more often than one square of the same area. `n` strips spaced `height / n`
apart, the first at a random height, meet an altered band with the probability min(1, n * reach), where `reach` is the
chance of one strip: systematic sampling (Cochran, Sampling Techniques, 1977, chapter 8). An alteration of any other
shape with the same area is taller, and met more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from xwgrid.errors import BadInput

# A strip is this share of the picture's height, and at least two rows. Rendering it costs far more than its area
# (docs/trust.md), so thinner ones would save nothing, and thicker ones hardly meet more.
STRIP_SHARE: Final = 1 / 500
LEAST_ROWS: Final = 2
# Strips one auditor renders, where there are auditors enough: of more, neighbouring ones are of different owners.
STRIPS_AN_AUDIT: Final = 20
# In place of strips: the audit makes the picture once more of its author's raw passes, and all of it is compared.
DENOISED: Final = "denoised"


class Strip(NamedTuple):
    """Rows `first` … `first + rows - 1` of a picture, counted from its top, across its whole width."""

    first: int
    rows: int


def strip_rows(height: int) -> int:
    """Return how many rows a strip of a picture `height` rows high has."""
    return min(height, max(LEAST_ROWS, round(height * STRIP_SHARE)))


# Asked at every look at a result; jobs have few shares and heights among them.
@lru_cache(maxsize=1_024)
def reach(share: float, height: int) -> float:
    """Return the chance that one strip meets a band that is `share` of a picture `height` rows high, wherever it is."""
    rows = strip_rows(height)
    return min(1.0, (math.ceil(share * height - 1e-9) + rows - 1) / (height + rows - 1))


def lay_strips(height: int, count: int, chance: float) -> tuple[Strip, ...]:
    """Return `count` strips evenly spaced over a picture `height` rows high, all shifted by `chance`, in [0, 1).

    Those that would lie partly outside are moved inside: what is at an edge is met as often as what is not.
    """
    rows = strip_rows(height)
    places = height + rows - 1  # where a strip may begin that has a row in the picture
    count = min(count, height - rows + 1)
    begins = (int((chance + index) * places / count) - (rows - 1) for index in range(count))
    return tuple(Strip(begin, rows) for begin in sorted({max(0, min(begin, height - rows)) for begin in begins}))


def deal(strips: Sequence[Strip], most: int, a_layer: int = STRIPS_AN_AUDIT) -> tuple[tuple[Strip, ...], ...]:
    """Return the strips of each audit, of `most` at most: neighbouring strips are never in the same of several.

    `a_layer` is how many strips meet a lie for certain: where there are auditors enough, further ones are of others.
    """
    audits = max(1, min(-(-len(strips) // min(STRIPS_AN_AUDIT, a_layer)), most))
    return tuple(tuple(strips[audit::audits]) for audit in range(audits))


def written(strips: Sequence[Strip]) -> str:
    """Return strips as `parse_strips` reads them: "12+2,90+2"."""
    return ",".join(f"{strip.first}+{strip.rows}" for strip in strips)


def number_of_strips(text: str) -> int:
    """Return how many strips an audit has: none where it looks at the denoising."""
    return 0 if text == DENOISED else text.count(",") + 1


def parse_strips(text: str, height: int | None = None) -> tuple[Strip, ...]:
    """Read strips of a picture `height` rows high; None, and whether they lie in it is not looked at.

    Raises BadInput for what is none, or lies outside the picture.
    """
    strips = []
    for part in text.split(","):
        first, plus, rows = part.partition("+")
        if not plus or not _is_number(first) or not _is_number(rows):
            raise BadInput(f"'{part[:40]}' is not a strip: write its first row and how many, such as 12+2")
        strip = Strip(int(first), int(rows))
        if strip.rows < 1 or (height is not None and strip.first + strip.rows > height):
            raise BadInput(f"the strip {part} does not lie in a picture {height} rows high", height=height)
        strips.append(strip)
    return tuple(strips)


def _is_number(text: str) -> bool:
    return len(text) <= 6 and text.isascii() and text.isdecimal()


def audit_names(result_names: Sequence[str], strips: Sequence[Strip]) -> tuple[str, ...]:
    """Return the names of the files an audit's result consists of: "frame_0007_rows_0012.png"."""
    names = []
    for name in result_names:
        stem, dot, suffix = name.rpartition(".")
        names += [f"{stem}_rows_{strip.first:04d}{dot}{suffix}" for strip in strips]
    return tuple(names)
