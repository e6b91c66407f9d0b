"""Where audits look, and how their strips are dealt."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xwgrid.auditing import (
    LEAST_ROWS,
    STRIPS_AN_AUDIT,
    Strip,
    audit_names,
    deal,
    lay_strips,
    parse_strips,
    reach,
    strip_rows,
    written,
)
from xwgrid.errors import BadInput

_HEIGHTS = st.integers(1, 8_640)
_COUNTS = st.integers(1, 400)
_CHANCES = st.floats(0.0, 1.0, exclude_max=True)


@given(_HEIGHTS, _COUNTS, _CHANCES)
def test_strips_lie_in_the_picture_and_apart(height: int, count: int, chance: float) -> None:
    """Each as high as a strip is, no two in one place, evenly spaced to a row."""
    strips = lay_strips(height, count, chance)
    assert 1 <= len(strips) <= count
    assert all(strip.rows == strip_rows(height) and 0 <= strip.first <= height - strip.rows for strip in strips)
    firsts = [strip.first for strip in strips]
    assert firsts == sorted(set(firsts))
    gaps = [after - before for before, after in pairwise(firsts)]
    assert max(gaps, default=0) - min(gaps[1:-1], default=max(gaps, default=0)) <= 1, "but for those at the edges"


@pytest.mark.parametrize("first", [0, 1, 400, 948, 950])
@pytest.mark.parametrize(("count", "altered"), [(1, 50), (5, 30), (19, 50), (40, 7)])
def test_a_band_is_met_as_often_as_is_said_wherever_it_is(count: int, altered: int, first: int) -> None:
    """Over all places of the strips, an altered band is met with the chance that `reach` gives, at the edges too."""
    height = 1_000
    band = range(first, min(height, first + altered))
    places = [(place + 0.5) / 2_002 for place in range(2_002)]
    met = sum(
        any(
            strip.first < band.stop and strip.first + strip.rows > band.start
            for strip in lay_strips(height, count, each)
        )
        for each in places
    )
    assert met / len(places) >= min(1.0, count * reach(len(band) / height, height)) - 0.003


@given(st.floats(0.001, 1.0), _HEIGHTS)
def test_a_strip_reaches_at_least_what_is_altered(share: float, height: int) -> None:
    """More than the share itself, and certain only where a strip is as high as what is left."""
    assert share * height / (height + strip_rows(height) - 1) - 1e-6 <= reach(share, height) <= 1.0
    assert reach(1.0, height) == 1.0


@given(_COUNTS, st.integers(1, 30), st.integers(1, 60))
def test_strips_are_dealt_so_that_neighbours_are_apart(count: int, most: int, a_layer: int) -> None:
    """All of them, each once, to as many as may be needed and no more; of several audits none has two neighbours."""
    strips = lay_strips(8_000, count, 0.5)
    dealt = deal(strips, most, a_layer)
    assert sorted(strip for each in dealt for strip in each) == sorted(strips)
    assert 1 <= len(dealt) <= most
    assert all(dealt)
    if len(dealt) < most:
        assert max(len(each) for each in dealt) <= min(STRIPS_AN_AUDIT, a_layer)
    if len(dealt) > 1:
        owner = {strip: number for number, each in enumerate(dealt) for strip in each}
        assert all(owner[one] != owner[next_one] for one, next_one in pairwise(strips))


@given(st.lists(st.builds(Strip, st.integers(0, 9_000), st.integers(1, 999)), min_size=1, max_size=40))
def test_strips_read_as_they_were_written(strips: list[Strip]) -> None:
    """And name the files of their results in the same order."""
    assert parse_strips(written(strips)) == tuple(strips)
    names = audit_names(["frame_0007.png"], strips)
    assert names[0] == f"frame_0007_rows_{strips[0].first:04d}.png"
    assert len(names) == len(strips)


@pytest.mark.parametrize(
    "text", ["", "12", "12+", "+2", "12+2,", "a+2", "-1+2", "12+0", "1e3+2", "\u0663+2", "1234567+2"]
)
def test_what_is_no_strip_is_refused(text: str) -> None:
    """With a sentence that shows how to write one."""
    with pytest.raises(BadInput, match=r"12\+2|does not lie"):
        parse_strips(text)


def test_a_strip_must_lie_in_the_picture() -> None:
    """One row too far is too far."""
    assert parse_strips("98+2", 100) == (Strip(98, 2),)
    with pytest.raises(BadInput, match="100 rows high"):
        parse_strips("99+2", 100)


def test_a_strip_has_two_rows_at_least_where_there_are_two() -> None:
    """A five-hundredth of the height, rounded; of a picture of one row, that row."""
    assert [strip_rows(height) for height in (1, 2, 100, 1_080, 4_320)] == [1, LEAST_ROWS, LEAST_ROWS, 2, 9]
