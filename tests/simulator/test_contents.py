"""What simulated results hold, how they differ, and chances that can be told again."""

from __future__ import annotations

from itertools import pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.chance import log_normal, lot, mixed, time_away, time_there
from simulator.contents import Content, altered_all_over, difference, fingerprint, lie
from simulator.scenario import Availability
from xwgrid.auditing import Strip
from xwgrid.model import JobId, TaskNumber

HEIGHT = 100
RIGHT = Content(0)
LOW = Content(0, 7, 10, 20)  # rows 10 to 29
HIGH = Content(0, 9, 25, 10)  # rows 25 to 34

_contents = st.builds(
    lambda identity, first, rows: Content(0, identity, first, min(rows, HEIGHT - first)) if identity else RIGHT,
    st.integers(0, 2),
    st.integers(0, HEIGHT - 1),
    st.integers(1, HEIGHT),
)


def test_equal_results_do_not_differ() -> None:
    """Right results are equal, and so are two copies of one lie."""
    assert difference(RIGHT, Content(0), HEIGHT, None) == 0.0
    assert difference(LOW, LOW, HEIGHT, None) == 0.0


def test_full_results_differ_where_either_is_altered() -> None:
    """Against a right one a lie differs in its rows; two lies differ in the rows of either."""
    assert difference(RIGHT, LOW, HEIGHT, None) == 0.2
    assert difference(HIGH, RIGHT, HEIGHT, None) == 0.1
    assert difference(LOW, HIGH, HEIGHT, None) == 0.25


def test_strips_see_what_they_meet() -> None:
    """An audit differs by the share of its own rows that lie in what was altered."""
    strips = (Strip(0, 2), Strip(9, 2), Strip(50, 2))
    assert difference(RIGHT, LOW, HEIGHT, strips) == pytest.approx(1 / 6)
    assert difference(RIGHT, LOW, HEIGHT, strips[:1]) == 0.0
    assert difference(altered_all_over(0, 3, HEIGHT), RIGHT, HEIGHT, strips) == 1.0


def test_classes_differ_everywhere() -> None:
    """Results of two classes have no row in common."""
    assert difference(RIGHT, Content(1), HEIGHT, None) == 1.0


@given(one=_contents, other=_contents)
def test_difference_is_counted_row_by_row(one: Content, other: Content) -> None:
    """However two results are altered, the difference is that of their rows, and the same either way round."""
    rows = [
        [each.identity if each.first <= row < each.first + each.rows else 0 for row in range(HEIGHT)]
        for each in (one, other)
    ]
    expected = 0.0 if one.identity == other.identity else fmean(a != b for a, b in zip(*rows, strict=True))
    assert difference(one, other, HEIGHT, None) == pytest.approx(expected)
    assert difference(other, one, HEIGHT, None) == pytest.approx(expected)


@given(share=st.floats(0.0001, 1.0), place=st.floats(0.0, 1.0, exclude_max=True), height=st.integers(1, 3_000))
def test_lies_lie_in_the_picture(share: float, place: float, height: int) -> None:
    """A lie alters at least one row, about as many as it is to, and none outside the picture."""
    told = lie(0, 8, height, share, place)
    assert not told.is_right
    assert told.rows == max(1, min(height, round(share * height)))
    assert 0 <= told.first <= height - told.rows


def test_fingerprints_tell_results_apart() -> None:
    """Equal results of a task have one fingerprint; other tasks, classes and contents have others."""
    made = {
        fingerprint(content, JobId(job), TaskNumber(task))
        for content in (RIGHT, LOW, Content(1))
        for job in (1, 2)
        for task in (0, 1)
    }
    assert len(made) == 12
    assert all(len(each) == 64 for each in made)
    assert fingerprint(RIGHT, JobId(1), TaskNumber(0)) == fingerprint(Content(0), JobId(1), TaskNumber(0))


def test_lots_are_even() -> None:
    """Drawn for many things in a row, numbers lie evenly in [0, 1), and neighbours have nothing in common."""
    drawn = [lot(1, 2, number) for number in range(100_000)]
    assert 0 <= min(drawn) < max(drawn) < 1
    tenths = [0] * 10
    for number in drawn:
        tenths[int(number * 10)] += 1
    assert all(abs(count - 10_000) < 500 for count in tenths)
    assert abs(fmean((a - 0.5) * (b - 0.5) for a, b in pairwise(drawn))) < 0.002
    assert mixed(-1) != mixed(1) != mixed(1, 0)


def test_hosts_come_and_go_as_often_as_they_are_to() -> None:
    """Times there and away have the mean that was asked for, and many short ones for a few long ones."""
    availability = Availability(mean_seconds=7_200.0, shape=0.6, away_mean_seconds=600.0, away_spread=1.0)
    random = Random(1)
    there = [time_there(availability, random) for _ in range(100_000)]
    away = [time_away(availability, random) for _ in range(100_000)]
    assert fmean(there) == pytest.approx(7_200.0, rel=0.05)
    assert fmean(away) == pytest.approx(600.0, rel=0.05)
    assert sorted(there)[50_000] < 0.6 * 7_200.0
    assert fmean(log_normal(1.0, 0.3, random) for _ in range(10_000)) == pytest.approx(1.0, rel=0.02)
