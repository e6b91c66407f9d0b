"""What a simulated result holds, and in how many rows two of them differ.

A result is right, or wrong in one band of rows in a way that can be told from every other: `identity` 0 is right.
Results of two classes differ in every row, as pictures of two renderer builds do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from xwgrid.auditing import Strip
from xwgrid.model import Digest, JobId, TaskNumber


class Content(NamedTuple):
    """What one rendering of a frame shows. `rows` from `first` on are altered; none when it is right."""

    result_class: int
    identity: int = 0
    first: int = 0
    rows: int = 0

    @property
    def is_right(self) -> bool:
        """Whether it is what the job asked for."""
        return self.identity == 0


def altered_all_over(result_class: int, identity: int, height: int) -> Content:
    """Return a content wrong in every row: an honest error, or an audit that was made up."""
    return Content(result_class, identity | 1, 0, height)


def lie(result_class: int, identity: int, height: int, share: float, place: float) -> Content:
    """Return a lie that alters `share` of the height, at least a row, somewhere: `place` is in [0, 1)."""
    rows = max(1, min(height, round(height * share)))
    return Content(result_class, identity | 1, int(place * (height - rows + 1)), rows)


def fingerprint(content: Content, job: JobId, task: TaskNumber) -> Digest:
    """Return the fingerprint of a full result: equal for equal pictures, and only for these."""
    return f"{content.identity:016x}{content.result_class:016x}{job:016x}{task:016x}"


def difference(one: Content, other: Content, height: int, strips: Sequence[Strip] | None) -> float:
    """Return the share of the rows both have in which they differ: those of the whole picture, or of `strips`."""
    if one.result_class != other.result_class:
        return 1.0
    if one.identity == other.identity:
        return 0.0
    looked_at = (Strip(0, height),) if strips is None else strips
    differing = sum(_altered(one, other, strip) for strip in looked_at)
    return differing / sum(strip.rows for strip in looked_at)


def alike(one: Content, other: Content) -> bool:
    """Say whether two results of different classes lie as close as honest ones do."""
    return one.identity == other.identity


def _altered(one: Content, other: Content, strip: Strip) -> int:
    """Return how many rows of a strip are altered in either."""
    end = strip.first + strip.rows
    first = [max(strip.first, content.first) for content in (one, other)]
    last = [min(end, content.first + content.rows) for content in (one, other)]
    rows = [max(0, after - before) for before, after in zip(first, last, strict=True)]
    shared = max(0, min(last) - max(first)) if all(rows) else 0
    return sum(rows) - shared
