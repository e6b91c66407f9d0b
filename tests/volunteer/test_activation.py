"""When a machine may work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from xwgrid.activation import (
    CALM_SECONDS,
    MINUTES_OF_WEEK,
    Facts,
    HandBack,
    Pause,
    Run,
    Span,
    Standing,
    Wishes,
    decide,
    minutes_until_open,
    parse_hours,
)
from xwgrid.errors import BadInput

WORKDAYS = parse_hours(["mon-fri 18:00-08:00", "sat-sun all"])


def minute(day: int, hour: int, minutes: int = 0) -> int:
    return day * 1_440 + hour * 60 + minutes


@pytest.mark.parametrize(
    ("when", "runs"),
    [
        (minute(0, 9), False),  # Monday morning
        (minute(0, 7, 59), True),  # Sunday is whole, and Monday before 8 belongs to no span of its own...
        (minute(1, 7, 59), True),  # Monday's night
        (minute(1, 8), False),
        (minute(4, 17, 59), False),
        (minute(4, 18), True),
        (minute(5, 12), True),  # Saturday
        (minute(6, 23, 59), True),
    ],
)
def test_hours_are_kept(when: int, runs: bool) -> None:
    """Nights of working days and whole weekends: a night belongs to the day it begins on."""
    if when == minute(0, 7, 59):
        runs = False  # Sunday ends at midnight, and no span begins on Sunday evening
    assert (minutes_until_open(WORKDAYS, when) == 0) is runs


def test_a_span_may_cross_the_end_of_the_week() -> None:
    """Sunday night's work goes on into Monday morning."""
    hours = parse_hours(["sun 22:00-06:00"])
    assert minutes_until_open(hours, minute(0, 5, 59)) == 0
    assert minutes_until_open(hours, minute(0, 6)) == 6 * 1_440 + 16 * 60


@pytest.mark.parametrize(
    "line", ["", "xyz all", "mon-fri", "mon 8-9", "mon 08:00-08:00", "mon 25:00-26:00", "1:70-2:00"]
)
def test_hours_that_mean_nothing_are_refused(line: str) -> None:
    """The line is named, and how to write it right."""
    with pytest.raises(BadInput, match="write for example 'mon-fri 18:00-08:00'"):
        parse_hours([line])


def test_the_owners_pause_keeps_the_leases_for_the_grace_time() -> None:
    """An open-ended pause hands back after the grace time; one known to be longer at once; resume runs again."""
    wishes = Wishes(grace=600)
    facts = Facts(now=1_000.0, minute_of_week=0, paused_until=math.inf)
    paused = decide(wishes, facts, Standing())
    assert isinstance(paused.decision, Pause)
    assert isinstance(decide(wishes, replace(facts, now=1_599.0), paused).decision, Pause)
    assert isinstance(decide(wishes, replace(facts, now=1_600.0), paused).decision, HandBack)
    assert isinstance(decide(wishes, replace(facts, paused_until=5_000.0), Standing()).decision, HandBack)
    assert decide(wishes, replace(facts, paused_until=None), paused).decision == Run()


def test_a_pause_that_ran_out_runs_again() -> None:
    """`pause --for 1h` ends by itself."""
    facts = Facts(now=4_600.0, minute_of_week=0, paused_until=4_600.0)
    assert decide(Wishes(), facts, Standing()).decision == Run()


def test_load_has_hysteresis() -> None:
    """A machine at the limit does not stop and start with every measurement."""
    wishes = Wishes(max_load=0.5)
    now = 0.0

    def step(standing: Standing, load: float, seconds: float) -> Standing:
        nonlocal now
        now += seconds
        return decide(wishes, Facts(now=now, minute_of_week=0, load_of_others=load), standing)

    standing = step(Standing(), 0.51, 1)
    assert isinstance(standing.decision, Pause)
    standing = step(standing, 0.45, 60)
    assert isinstance(standing.decision, Pause)  # under the limit, but not well under it
    standing = step(standing, 0.1, 1)
    assert isinstance(standing.decision, Pause)  # not for long enough
    standing = step(standing, 0.1, CALM_SECONDS - 1)
    assert isinstance(standing.decision, Pause)
    standing = step(standing, 0.1, 1)
    assert standing.decision == Run()
    assert step(standing, 0.5, 1).decision == Run()


def test_load_never_matters_where_the_owner_says_so() -> None:
    """max_load = 1 runs on a machine that is full."""
    facts = Facts(now=0.0, minute_of_week=0, load_of_others=1.0)
    assert decide(Wishes(max_load=1.0), facts, Standing()).decision == Run()


spans = st.builds(Span, st.integers(0, MINUTES_OF_WEEK - 1), st.integers(1, MINUTES_OF_WEEK))
facts_in_time = st.lists(
    st.tuples(
        st.floats(0, 3_600),
        st.floats(0, MINUTES_OF_WEEK, exclude_max=True),
        st.none() | st.floats(0, 1),
        st.none() | st.floats(0, 1e5) | st.just(math.inf),
    ),
    max_size=30,
)


@given(st.lists(spans, max_size=4), st.floats(0.1, 1.2), st.floats(0, 3_600), facts_in_time)
def test_whatever_happens_the_owners_word_holds(
    hours: list[Span], max_load: float, grace: float, steps: list[tuple[float, float, float | None, float | None]]
) -> None:
    """Never run while paused, outside the hours or above the limit; never hand back before the grace time is over
    unless the pause is known to be longer; every stop has a reason."""
    wishes = Wishes(hours=tuple(hours), max_load=max_load, grace=grace)
    standing, now = Standing(), 0.0
    for seconds, minute_of_week, load, paused_until in steps:
        now += seconds
        facts = Facts(now=now, minute_of_week=minute_of_week, load_of_others=load, paused_until=paused_until)
        standing = decide(wishes, facts, standing)
        wait = minutes_until_open(hours, minute_of_week)
        paused = paused_until is not None and now < paused_until
        too_busy = load is not None and max_load < 1.0 and load > max_load
        if paused or wait > 0 or too_busy:
            assert standing.decision != Run()
        if isinstance(standing.decision, Run):
            assert standing.stopped_at is None
            continue
        assert standing.decision.reason
        assert standing.stopped_at is not None
        if isinstance(standing.decision, HandBack):
            known = max(wait * 60, paused_until - now if paused and paused_until not in (None, math.inf) else 0)
            assert now - standing.stopped_at >= grace or known > grace


@given(st.lists(spans, min_size=1, max_size=5), st.integers(0, MINUTES_OF_WEEK - 1))
def test_the_next_begin_is_when_it_opens(hours: list[Span], now: int) -> None:
    """After the minutes told, and not before, the hours are open."""
    wait = minutes_until_open(hours, now)
    assert minutes_until_open(hours, (now + wait) % MINUTES_OF_WEEK) == 0
    for minutes in range(int(wait)):
        if minutes_until_open(hours, (now + minutes) % MINUTES_OF_WEEK) == 0:
            raise AssertionError(f"open after {minutes} minutes, told {wait}")
