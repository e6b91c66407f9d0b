"""Tolerances between classes, and groups of close ballots: what holds for every measurement and every vote."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xwgrid.errors import BadInput
from xwgrid.tolerances import (
    LEAST_SAMPLES,
    NARROWEST,
    WIDEST,
    Cast,
    Distance,
    Tolerance,
    TooFarApart,
    TooFewSamples,
    close_pairs,
    measured,
    medoid_groups,
    within,
)

NEAR = Distance(share=0.002, largest=3.0, block=0.125)
FAR = Distance(share=0.1, largest=90.0, block=2.7)

_distances = st.builds(
    Distance,
    share=st.floats(0, 0.02),
    largest=st.integers(0, 12).map(float),
    block=st.floats(0, 0.8),
)
_kinds = st.dictionaries(st.sampled_from("abcdef"), st.lists(_distances, min_size=1, max_size=4), max_size=6)
_ballots = st.integers(0, 9).map(lambda count: list(range(count)))


def measure(distances: dict[str, list[Distance]], margin: float = 2.0) -> Tolerance:
    """Measure two made-up classes."""
    return measured(distances, application="blender", classes=("old", "new"), measured_at=5.0, margin=margin)


@given(_kinds, st.floats(1, 10))
def test_a_tolerance_covers_what_it_was_measured_on_and_no_cheat(
    distances: dict[str, list[Distance]], margin: float
) -> None:
    """All frames of the kinds it stands for are within it, it is never wider than the widest, and others are named."""
    try:
        tolerance = measure(distances, margin)
    except (TooFewSamples, TooFarApart):
        return
    assert tolerance.samples >= LEAST_SAMPLES
    for kind, several in distances.items():
        assert (kind in tolerance.excepted) == any(not within(distance, WIDEST) for distance in several)
        if kind not in tolerance.excepted:
            assert all(within(distance, tolerance) for distance in several)
    bounds = Distance(share=tolerance.share, largest=tolerance.largest, block=tolerance.block)
    assert within(bounds, WIDEST)
    assert within(NARROWEST, bounds)


def test_the_margin_widens_what_was_seen() -> None:
    """Twice the largest distances that were seen, in each measure for itself, named with classes in order and date."""
    tolerance = measure({"glossy": [NEAR] * 7, "fine": [Distance(share=0.003, largest=1.0, block=0.0)]})
    assert (tolerance.share, tolerance.largest, tolerance.block) == (0.006, 6.0, 0.25)
    assert (tolerance.class_a, tolerance.class_b) == ("new", "old")
    assert (tolerance.measured_at, tolerance.samples, tolerance.margin, tolerance.excepted) == (5.0, 8, 2.0, ())


def test_equal_results_still_get_the_narrowest_tolerance() -> None:
    """Classes whose reference frames are identical are not held to identity on frames that nobody measured."""
    tolerance = measure({"glossy": [Distance(share=0.0, largest=0.0, block=0.0)] * 8})
    assert (tolerance.share, tolerance.largest, tolerance.block) == (0.001, 1.0, 0.1)


def test_too_few_samples_are_refused() -> None:
    """Seven pairs of pictures make no tolerance, and none do not either."""
    with pytest.raises(TooFewSamples, match="7 pairs of pictures are too few"):
        measure({"glossy": [NEAR] * 7})
    with pytest.raises(TooFewSamples):
        measure({})


def test_classes_too_far_apart_are_refused() -> None:
    """Where honest results differ so much that cheats would pass there is no tolerance, and the frames are named."""
    with pytest.raises(TooFarApart, match=r"only 6 are within 1\.0% .*not: hair, smoke") as refused:
        measure({"glossy": [NEAR] * 6, "smoke": [FAR], "hair": [NEAR, FAR]})
    assert refused.value.facts["excepted"] == ["hair", "smoke"]


def test_a_kind_with_one_far_frame_is_excepted_as_a_whole() -> None:
    """The tolerance says what it does not cover, and near frames of such a kind do not count."""
    tolerance = measure({"glossy": [NEAR] * 8, "hair": [NEAR, FAR]})
    assert tolerance.excepted == ("hair",)
    assert tolerance.samples == 8


@pytest.mark.parametrize("margin", [0.0, 0.99, -1.0, 11.0, math.inf, math.nan])
def test_senseless_margins_are_refused(margin: float) -> None:
    """A margin is a factor from 1 to 10."""
    with pytest.raises(BadInput, match="margin"):
        measure({"glossy": [NEAR] * 8}, margin)


def test_one_class_has_no_tolerance() -> None:
    """Within a class results are compared exactly, so nothing is measured there."""
    with pytest.raises(BadInput, match="one class"):
        measured({"glossy": [NEAR] * 8}, application="blender", classes=("a", "a"), measured_at=0.0)


def test_not_a_number_is_never_within() -> None:
    """A distance that could not be computed is no closeness."""
    assert not within(Distance(share=math.nan, largest=0.0, block=0.0), WIDEST)
    assert not within(Distance(share=0.0, largest=0.0, block=math.nan), WIDEST)


def test_a_chain_is_not_one_group() -> None:
    """Five results, each close to the next alone, do not all agree: closeness is not handed on."""
    groups = medoid_groups("abcde", [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e")])
    assert [(group.centre, group.members) for group in groups] == [("b", ("a", "b", "c")), ("d", ("d", "e"))]


@given(_ballots, st.data())
def test_groups_part_the_ballots(ballots: list[int], data: st.DataObject) -> None:
    """Every ballot is in one group, all of a group are close to its centre, and larger groups stand first."""
    close = data.draw(st.sets(st.sampled_from(list(combinations(ballots, 2)))) if len(ballots) > 1 else st.just(set()))
    groups = medoid_groups(ballots, close)
    assert sorted(ballot for group in groups for ballot in group.members) == ballots
    for group in groups:
        assert group.centre in group.members
        for member in group.members:
            assert member == group.centre or {(group.centre, member), (member, group.centre)} & close
    sizes = [len(group.members) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    # No ballot has more close to it than the first centre.
    if groups:
        degrees = [sum(ballot in pair for pair in close) for ballot in ballots]
        assert sizes[0] == 1 + max(degrees)


@given(_ballots, st.data())
def test_grouping_hangs_on_neither_the_order_of_pairs_nor_their_sides(ballots: list[int], data: st.DataObject) -> None:
    """The same ballots and the same closeness give the same groups, whichever way the reader processes told it."""
    close = data.draw(st.lists(st.tuples(st.sampled_from(ballots), st.sampled_from(ballots)))) if ballots else []
    turned = [(other, one) for one, other in reversed(close)]
    assert medoid_groups(ballots, close) == medoid_groups(ballots, turned)


@given(st.lists(st.sampled_from("pqr"), max_size=8))
def test_within_a_class_groups_are_those_of_equal_fingerprints(fingerprints: list[str]) -> None:
    """Where all ballots are of one class, grouping counts exactly the votes that counting fingerprints counts."""
    casts = [Cast(number, "one", fingerprint * 64) for number, fingerprint in enumerate(fingerprints)]
    groups = medoid_groups([cast.ballot for cast in casts], close_pairs(casts, ()))
    assert sorted(len(group.members) for group in groups) == sorted(map(fingerprints.count, set(fingerprints)))


def test_what_was_read_once_holds_for_equal_ballots() -> None:
    """One comparison of two pictures speaks for all ballots of the same classes with the same pictures, no others."""
    casts = [
        Cast(1, "avx2", "p"),
        Cast(2, "avx2", "p"),
        Cast(3, "older", "q"),
        Cast(4, "older", "q"),
        Cast(5, "third", "q"),
        Cast(6, "avx2", "r"),
    ]
    assert close_pairs(casts, [(4, 1), (4, 99)]) == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}


def test_equal_pictures_of_two_classes_need_a_tolerance_too() -> None:
    """Fingerprints of two classes are compared by nobody unless a tolerance allowed the reader to."""
    assert close_pairs([Cast(1, "avx2", "p"), Cast(2, "older", "p")], ()) == frozenset()


def test_two_results_of_one_class_are_never_merely_close() -> None:
    """A reader that calls two different results of one class close is not heard: there equality alone counts."""
    assert close_pairs([Cast(1, "avx2", "p"), Cast(2, "avx2", "q")], [(1, 2)]) == frozenset()
