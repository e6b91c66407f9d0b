"""How far apart honest results of two classes may lie, and groups of results that lie close together.

Within a class honest results are equal. Across two classes they may be called close only by a `Tolerance` measured
for the two. Closeness is evidence *for* a result alone: what honest renderers make of smoke or hair can lie further
apart than any tolerance allows, so that two results are not close says nothing against either.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from msgspec import Struct

from xwgrid.errors import BadInput, Conflict
from xwgrid.model import Digest, Instant

BallotT = TypeVar("BallotT", bound=Hashable)

# Fewer frames say too little about frames that nobody measured.
LEAST_SAMPLES: Final = 8
# The farthest apart that was seen, times this, is still close: a job's frames are larger than those measured with.
MARGIN: Final = 2.0
MOST_MARGIN: Final = 10.0


class TooFewSamples(BadInput):
    """A tolerance was to be measured on too few pictures: render the reference frames that are missing."""


class TooFarApart(Conflict):
    """Honest results of two classes differ so much that cheats would pass for honest: vote within each class alone."""


class Distance(Struct, frozen=True, kw_only=True):
    """How far two pictures are apart, both tone-mapped to 8 bits: steps are of 255."""

    share: float  # of all channels of all pixels, those that differ, 0 to 1
    largest: float  # largest difference of a channel, in steps
    block: float  # largest difference between means of a channel over blocks of 8 x 8 pixels, in steps


class Tolerance(Struct, frozen=True, kw_only=True):
    """How far apart honest results of two classes may lie, as measured: bounds as in `Distance`."""

    application: str
    class_a: str  # class_a < class_b
    class_b: str
    share: float
    largest: float
    block: float
    measured_at: Instant
    samples: int  # pairs of pictures measured
    margin: float
    excepted: tuple[str, ...] = ()  # kinds of reference frames that no tolerance covers


# Known cheats lie outside: one sample of 256 left out alters 3.4 % of the channels of a smooth frame and 36 % of an
# uneven one, an area altered by half a step a block shows in the blocks (docs/classes.md has the figures).
WIDEST: Final = Distance(share=0.01, largest=8.0, block=0.5)
# What rounding does to pictures that nobody measured: a class is never held to nothing at all.
NARROWEST: Final = Distance(share=0.001, largest=1.0, block=0.1)


def within(distance: Distance, bounds: Tolerance | Distance) -> bool:
    """Say whether two pictures are as close as `bounds` allow. Not-a-number is not."""
    return distance.share <= bounds.share and distance.largest <= bounds.largest and distance.block <= bounds.block


def ordered(one: str, other: str) -> tuple[str, str]:
    """Return two classes as a tolerance names them. Raises BadInput for one and the same."""
    if one == other:
        raise BadInput(f"'{one[:200]}' is one class: within a class results are compared exactly", result_class=one)
    return (one, other) if one < other else (other, one)


def check_margin(margin: float) -> float:
    """Return `margin`. Raises BadInput outside 1 to MOST_MARGIN."""
    if not 1 <= margin <= MOST_MARGIN:  # not-a-number is neither
        raise BadInput(f"a margin of {margin:g} makes no sense: choose one from 1 to {MOST_MARGIN:g}", margin=margin)
    return margin


def farthest(distances: Iterable[Distance]) -> Distance:
    """Return the largest of each measure; nothing is apart by nothing."""
    several = tuple(distances)
    return Distance(
        share=max((each.share for each in several), default=0.0),
        largest=max((each.largest for each in several), default=0.0),
        block=max((each.block for each in several), default=0.0),
    )


def measured(
    distances: Mapping[str, Sequence[Distance]],
    *,
    application: str,
    classes: tuple[str, str],
    measured_at: Instant,
    margin: float = MARGIN,
) -> Tolerance:
    """Return the tolerance that distances of honest results give, by kind of frame.

    The bounds are the farthest apart that was seen, times `margin`, but never narrower than NARROWEST nor wider than
    WIDEST. A kind with a distance beyond WIDEST is left out as a whole and named in `excepted`.

    Raises TooFewSamples below LEAST_SAMPLES distances, TooFarApart when so few are left after the exceptions, BadInput
    for a margin outside 1 to MOST_MARGIN.
    """
    check_margin(margin)
    class_a, class_b = ordered(*classes)
    total = sum(len(several) for several in distances.values())
    if total < LEAST_SAMPLES:
        raise TooFewSamples(
            f"{total} pairs of pictures are too few for a tolerance: {LEAST_SAMPLES} are needed", samples=total
        )
    excepted = tuple(sorted(kind for kind, several in distances.items() if not all(within(d, WIDEST) for d in several)))
    kept = [distance for kind, several in distances.items() if kind not in excepted for distance in several]
    if len(kept) < LEAST_SAMPLES:
        raise TooFarApart(
            f"results of '{class_a}' and '{class_b}' differ so much that cheats would pass for honest: of {total} "
            f"pairs of frames only {len(kept)} are within {_written(WIDEST)} (not: {', '.join(excepted)}); "
            f"{LEAST_SAMPLES} are needed. Votes stay within each class",
            samples=total,
            excepted=list(excepted),
        )
    seen = farthest(kept)
    return Tolerance(
        application=application,
        class_a=class_a,
        class_b=class_b,
        share=_bound(seen.share * margin, NARROWEST.share, WIDEST.share),
        largest=_bound(math.ceil(seen.largest * margin), NARROWEST.largest, WIDEST.largest),
        block=_bound(seen.block * margin, NARROWEST.block, WIDEST.block),
        measured_at=measured_at,
        samples=len(kept),
        margin=margin,
        excepted=excepted,
    )


class Cast(NamedTuple, Generic[BallotT]):
    """A ballot as far as closeness needs it. `fingerprint` is of all pixels."""

    ballot: BallotT
    result_class: str
    fingerprint: Digest


class Group(NamedTuple, Generic[BallotT]):
    """Ballots close to the one in their centre, which is among them; in the order in which they were cast."""

    centre: BallotT
    members: tuple[BallotT, ...]


def close_pairs(
    casts: Sequence[Cast[BallotT]], read_as_close: Iterable[tuple[BallotT, BallotT]]
) -> frozenset[tuple[BallotT, BallotT]]:
    """Return all pairs of ballots that are close, each pair in the order of `casts`.

    Those of one class are when their fingerprints are equal. Those of two classes are when `read_as_close`, what the
    reader processes found, has the pair, or one of the same two classes and fingerprints: pictures are compared once.
    """
    kinds = {cast.ballot: (cast.result_class, cast.fingerprint) for cast in casts}
    alike = {frozenset((kinds[one], kinds[other])) for one, other in read_as_close if one in kinds and other in kinds}
    found = set()
    for index, one in enumerate(casts):
        for other in casts[index + 1 :]:
            same = kinds[one.ballot] == kinds[other.ballot]
            across = one.result_class != other.result_class
            if same or (across and frozenset((kinds[one.ballot], kinds[other.ballot])) in alike):
                found.add((one.ballot, other.ballot))
    return frozenset(found)


def medoid_groups(ballots: Sequence[BallotT], close: Collection[tuple[BallotT, BallotT]]) -> tuple[Group[BallotT], ...]:
    """Return all ballots in groups, the largest first.

    The ballot with the most ballots close to it is the centre of the first group, which is those ballots; the rest is
    grouped likewise. Of ballots with equally many the one that stands first in `ballots` is taken. `close` has each
    pair once, either way round.
    """
    neighbours: dict[BallotT, set[BallotT]] = {ballot: {ballot} for ballot in ballots}
    for one, other in close:
        if one in neighbours and other in neighbours:
            neighbours[one].add(other)
            neighbours[other].add(one)
    groups = []
    while neighbours:
        centre = max(neighbours, key=lambda ballot: len(neighbours[ballot]))  # the first of equals
        members = neighbours[centre]
        groups.append(Group(centre, tuple(ballot for ballot in neighbours if ballot in members)))
        neighbours = {ballot: near - members for ballot, near in neighbours.items() if ballot not in members}
    return tuple(groups)


def _bound(wanted: float, least: float, most: float) -> float:
    return min(most, max(least, wanted))


def _written(bounds: Distance) -> str:
    return (
        f"{bounds.share:.1%} of the channels, {bounds.largest:g} of 255 steps and {bounds.block:g} steps of an 8 x 8 "
        "block's mean"
    )


class Tolerances:
    """All that were measured, as the choice and the readers ask for them."""

    def __init__(self, measured_ones: Iterable[Tolerance] = ()) -> None:
        self._between = {(each.application, each.class_a, each.class_b): each for each in measured_ones}
        self._partners: dict[tuple[str, str], list[str]] = {}
        for application, one, other in self._between:
            self._partners.setdefault((application, one), []).append(other)
            self._partners.setdefault((application, other), []).append(one)

    def __len__(self) -> int:
        return len(self._between)

    def between(self, application: str, one: str, other: str) -> Tolerance | None:
        """Return the tolerance between two classes; None where none was measured, and within one class."""
        return self._between.get((application, min(one, other), max(one, other)))

    def partners(self, application: str, result_class: str) -> Sequence[str]:
        """Return the classes whose results may be voted on together with those of a class."""
        return self._partners.get((application, result_class), ())
