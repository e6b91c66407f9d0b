"""How far hosts are trusted, and how closely their results are looked at."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwgrid.model import UserId
from xwgrid.trust import (
    ACCUSED_DOUBT,
    LONGEST_QUARANTINE,
    MEMORY_OF_RESULTS,
    MOST_FRIENDS,
    MOST_LAYERS,
    NEWCOMER,
    NEWCOMERS_DOUBT,
    PROBATION,
    PROVEN,
    QUARANTINE,
    SUSPECTS_DOUBT,
    SUSPICION,
    UNITS_A_REQUESTER,
    Caught,
    Climate,
    Grid,
    Standing,
    accused,
    after_cleared,
    after_valid,
    after_wrong,
    doubt,
    friends_share,
    is_accused,
    is_proven,
    is_quarantined,
    is_suspect,
    is_tested,
    lie_rate,
    met_liar,
    met_result,
    met_wrong,
    missing_probability,
    quarantined,
    share_of_frame,
    strips_needed,
    told,
    worth,
    wrong_rate,
)

NOW = 1_000_000.0
A, B, C = UserId(1), UserId(2), UserId(3)
PROVEN_HOST = Standing(proven=True, tested=True, valid=20, streak=20)


def worked(standing: Standing, **units: int) -> Standing:
    """Return the standing after so many units of validated work for each requester: A=4, B=4, C=2."""
    for requester, count in {"A": A, "B": B, "C": C}.items():
        for _ in range(units.get(requester, 0)):
            standing = after_valid(standing, 1.0, count)
    return standing


# --- how many strips --------------------------------------------------------------------------------------------

_DOUBTS = st.floats(1e-6, 1.0)
_EPSILONS = st.floats(1e-5, 0.5)
_REACHES = st.floats(0.003, 1.0)
_FRIENDS = st.floats(0.0, MOST_FRIENDS)


@settings(deadline=None)
@given(_DOUBTS, _EPSILONS, _REACHES, _FRIENDS)
def test_the_fewest_strips_that_do(doubted: float, epsilon: float, reach: float, friends: float) -> None:
    """As many as trying out one after the other finds: enough of them, and not one more."""
    most = math.ceil(MOST_LAYERS / reach)
    tried = 1
    # A hair's breadth beyond epsilon is rounding, not risk.
    while tried < most and doubted * missing_probability(tried, reach, friends) > epsilon * (1 + 1e-6):
        tried += 1
    found = strips_needed(doubted, epsilon, reach, friends)
    assert abs(found - tried) <= 1
    if found < most:
        assert doubted * missing_probability(found, reach, friends) <= epsilon * (1 + 1e-6)
    if found > 1:
        assert doubted * missing_probability(found - 1, reach, friends) >= epsilon * (1 - 1e-6)


_TWO_CASES = st.tuples(*(st.tuples(each, each).map(sorted) for each in (_DOUBTS, _EPSILONS, _REACHES, _FRIENDS)))


@given(_TWO_CASES)
def test_more_doubt_or_less_tolerance_never_wants_fewer_strips(cases: tuple[list[float], ...]) -> None:
    """Strips grow with the doubt and the liar's friends; they shrink with epsilon and with what one strip reaches."""
    (less_doubt, more_doubt), (strict, lax), (near, far), (few, many) = cases
    easy = strips_needed(less_doubt, lax, far, few)
    hard = strips_needed(more_doubt, strict, near, many)
    assert 1 <= easy <= hard <= math.ceil(MOST_LAYERS / near)


@given(st.integers(1, 400), _REACHES, _FRIENDS)
def test_another_strip_never_misses_more(strips: int, reach: float, friends: float) -> None:
    """The chance of missing a lie is one, and falls with each strip."""
    before, after = (missing_probability(count, reach, friends) for count in (strips, strips + 1))
    assert 0.0 <= after <= before + 1e-12 <= 1.0 + 1e-12
    assert missing_probability(0, reach, friends) == 1.0


def test_a_strip_a_frame_is_enough_where_nobody_lies() -> None:
    """A proven host of a grid without lies is looked at by one strip, a newcomer by a layer, an accused one by more."""
    grid = Grid(Climate(), 1_000, NOW)
    rate, friends = lie_rate(grid.climate), friends_share(grid)
    needed = [strips_needed(doubt(each, rate, NOW), 0.001, 0.052, friends) for each in (PROVEN_HOST, NEWCOMER)]
    assert needed == [1, 19]
    under_suspicion = doubt(accused(PROVEN_HOST, NOW), rate, NOW)
    assert strips_needed(under_suspicion, 0.001, 0.052, friends) > 19
    assert strips_needed(0.0, 0.001, 0.052, friends) == 1


# --- standing ---------------------------------------------------------------------------------------------------


def test_it_takes_three_requesters_to_be_proven() -> None:
    """However much one or two requesters validate, their jobs count for four units each."""
    assert not is_proven(worked(NEWCOMER, A=1_000))
    assert not is_proven(worked(NEWCOMER, A=1_000, B=1_000))
    assert is_proven(worked(NEWCOMER, A=4, B=4, C=2))
    assert not is_proven(worked(NEWCOMER, A=4, B=4, C=1))
    assert worked(NEWCOMER, A=9).earned == {A: UNITS_A_REQUESTER}


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 1.0)), max_size=60))
def test_proven_takes_ten_units_of_at_least_three(results: list[tuple[int, float]]) -> None:
    """Whatever order the results come in."""
    standing = NEWCOMER
    units: dict[int, float] = {}
    for requester, each in results:
        standing = after_valid(standing, each, UserId(requester))
        units[requester] = units.get(requester, 0.0) + each
        enough = sum(min(UNITS_A_REQUESTER, total) for total in units.values())
        if is_proven(standing):
            assert enough >= PROVEN - 1e-6
            assert len([total for total in units.values() if total > 0]) >= 3
        else:
            assert enough <= PROVEN + 1e-6
    assert standing.valid == standing.streak == len(results)


def test_what_nobody_checked_earns_nothing() -> None:
    """A valid result worth no units counts as one, and brings its host no nearer to being proven."""
    standing = after_valid(NEWCOMER, 0.0, A)
    assert (standing.valid, standing.earned, standing.tested) == (1, {}, False)


def test_a_unit_is_a_minute_and_a_strip_its_share_of_one() -> None:
    """Longer results are worth no more: a slow host does not become proven sooner."""
    assert (worth(30.0), worth(60.0), worth(6_000.0)) == (0.5, 1.0, 1.0)
    assert share_of_frame(None) == 1.0
    assert share_of_frame("12+2,90+2") == pytest.approx(0.04)
    assert share_of_frame(",".join(["1+2"] * 99)) == 1.0
    assert worth(60.0, share_of_frame("12+2")) == pytest.approx(0.02)


def test_one_wrong_result_is_outlived_by_twenty_units() -> None:
    """A proven host that was wrong once stays proven, is looked at closely, and then no more."""
    standing = after_wrong(PROVEN_HOST, NOW)
    assert is_suspect(standing, NOW)
    assert not is_quarantined(standing, NOW)
    assert (standing.wrong, standing.streak, standing.proven) == (1, 0, True)
    assert doubt(standing, 0.001, NOW) == SUSPECTS_DOUBT
    almost = worked(standing, A=int(PROBATION) - 1)
    assert is_suspect(almost, NOW)
    again = worked(almost, A=1)
    assert not is_suspect(again, NOW)
    assert (again.wrong, doubt(again, 0.001, NOW)) == (1, 0.001)


def test_the_second_wrong_result_sets_a_host_aside() -> None:
    """For a day; it comes back with nothing: neither proven, nor tested, nor what it had earned."""
    twice = after_wrong(after_wrong(worked(PROVEN_HOST, A=3), NOW), NOW + 5)
    assert is_quarantined(twice, NOW + QUARANTINE)
    back = NOW + 5 + QUARANTINE
    assert not is_quarantined(twice, back)
    assert (twice.proven, twice.tested, twice.earned, twice.audit_again) == (False, False, {}, True)
    assert doubt(twice, 0.001, NOW + 10) == 1.0
    assert doubt(twice, 0.001, back) == SUSPECTS_DOUBT
    assert is_quarantined(after_wrong(twice, back), back), "the next one sets it aside again"
    way_back = worked(twice, A=10, B=10)
    assert not is_suspect(way_back, back)
    assert not is_proven(way_back)
    assert is_proven(worked(way_back, C=4))


def test_a_first_result_that_is_wrong_sets_a_new_host_aside() -> None:
    """There is no second chance before a host was right once."""
    assert is_quarantined(after_wrong(NEWCOMER, NOW, test=True), NOW)
    assert not is_quarantined(after_wrong(NEWCOMER, NOW), NOW)


def test_each_time_it_is_set_aside_for_twice_as_long() -> None:
    """A day, two, four, … up to sixty-four."""
    standing, days = NEWCOMER, []
    now = NOW
    for _ in range(9):
        standing = after_wrong(standing, now, test=True)
        assert standing.quarantined_until is not None
        days.append((standing.quarantined_until - now) / QUARANTINE)
        now = standing.quarantined_until
    assert days == [1, 2, 4, 8, 16, 32, 64, 64, 64]
    assert LONGEST_QUARANTINE == 64 * QUARANTINE


def test_what_a_host_did_before_it_was_set_aside_does_not_prolong_that() -> None:
    """Wrong results that turn up later go on its record."""
    aside = after_wrong(NEWCOMER, NOW, test=True)
    later = after_wrong(aside, NOW + 60)
    assert (later.quarantined_until, later.quarantines) == (aside.quarantined_until, 1)
    assert (later.wrong, later.on_record) == (2, 2)


def test_a_verdict_that_is_taken_back_takes_the_blame_back() -> None:
    """A host that was set aside for that alone is released; for anything else, or by the operator, it is not."""
    once = after_cleared(after_wrong(NEWCOMER, NOW, test=True))
    assert (once.wrong, is_quarantined(once, NOW), is_suspect(once, NOW)) == (0, False, False)
    twice = after_wrong(after_wrong(NEWCOMER, NOW, test=True), NOW)
    assert is_quarantined(after_cleared(twice), NOW)
    by_operator = quarantined(NEWCOMER, NOW, 60.0, "a bad disk")
    assert is_quarantined(after_cleared(by_operator), NOW)


def test_an_accused_host_is_suspected_until_the_vote() -> None:
    """One of two that differ is wrong; the vote, or a day, ends the suspicion."""
    standing = accused(PROVEN_HOST, NOW)
    assert is_accused(standing, NOW)
    assert doubt(standing, 0.001, NOW) == ACCUSED_DOUBT
    assert not is_accused(standing, NOW + SUSPICION)
    assert is_accused(after_valid(standing, 1.0, A), NOW), "of another task"
    assert not is_accused(after_valid(standing, 1.0, A, vindicated=True), NOW)
    assert not is_accused(after_wrong(standing, NOW), NOW)


def test_an_operators_word_counts() -> None:
    """A host that is vouched for is proven and tested, but not above being caught."""
    standing = Standing(vouched=True)
    assert is_proven(standing)
    assert is_tested(standing)
    assert doubt(standing, 0.001, NOW) == 0.001
    assert is_quarantined(after_wrong(after_wrong(standing, NOW), NOW), NOW)


@given(st.floats(0, 1), st.booleans(), st.booleans())
def test_doubt_grows_with_what_speaks_against_a_host(rate: float, proven: bool, was_wrong: bool) -> None:
    """Never below the rate of the whole grid; set aside > accused > wrong lately > new > proven."""
    standing = Standing(proven=proven, on_record=int(was_wrong))
    ladder = [
        doubt(PROVEN_HOST, rate, NOW),
        doubt(NEWCOMER, rate, NOW),
        doubt(Standing(on_record=1), rate, NOW),
        doubt(accused(standing, NOW), rate, NOW),
        doubt(quarantined(standing, NOW), rate, NOW),
    ]
    assert ladder == sorted(ladder)
    assert ladder[0] == rate
    assert NEWCOMERS_DOUBT <= ladder[1] <= max(NEWCOMERS_DOUBT, rate)
    assert ladder[-1] == 1.0


# --- the climate ------------------------------------------------------------------------------------------------


def test_a_caught_lie_stands_for_those_that_slipped_through() -> None:
    """One that had a chance of one in four of being caught counts as four, and half of them one strip would miss."""
    climate = met_wrong(Climate(), Caught(0.25, 0.5))
    assert (climate.wrong, climate.lies) == (4.0, 2.0)
    assert met_wrong(Climate(), Caught(0.0)).wrong == 100.0, "but never for more than a hundred"


def test_the_rates_rise_with_lies_and_fall_with_honest_results() -> None:
    """The prior says one in two thousand; what was met outweighs it, and fades."""
    climate = Climate()
    assert lie_rate(climate) == wrong_rate(climate) == 0.0005
    lied = met_wrong(climate, Caught())
    assert lie_rate(lied) > 0.001
    calm = lied
    for _ in range(3 * int(MEMORY_OF_RESULTS)):
        calm = met_result(calm)
    assert lie_rate(calm) < lie_rate(Climate())
    assert calm.results == pytest.approx(MEMORY_OF_RESULTS, rel=0.06)


def test_who_alters_the_whole_frame_makes_nobody_be_looked_at_closely() -> None:
    """An honest error meets any strip: it raises the rate of wrong results, not that of lies one strip would miss."""
    climate = met_wrong(Climate(), Caught(1.0, 0.0))
    assert wrong_rate(climate) > lie_rate(climate) == 0.0005


def test_friends_are_as_many_as_were_caught() -> None:
    """Among few hosts a hundredth is taken for friends; at most one half."""
    assert friends_share(Grid(Climate(), 0, NOW)) == 0.01
    assert friends_share(Grid(Climate(), 10_000, NOW)) < 0.001
    climate = Climate()
    for _ in range(500):
        climate = met_liar(climate)
    assert friends_share(Grid(climate, 900, NOW)) == 0.5


# --- what a host is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (NEWCOMER, "new: 0.0 of 10 units of validated work, of which one requester's jobs count for 4 at most"),
        (worked(NEWCOMER, A=9, B=1), "new: 5.0 of 10 units"),
        (PROVEN_HOST, "proven: 20 results validated, 0 wrong"),
        (Standing(vouched=True), "trusted: the operator vouches for it"),
        (after_wrong(PROVEN_HOST, NOW), "on probation: 1 of its results was wrong; 20.0 more units"),
        (accused(NEWCOMER, NOW), "under suspicion: one of its results differs from an audit"),
        (after_wrong(NEWCOMER, NOW, test=True), "set aside for 24.0 more hours: 1 of its results was wrong"),
        (after_wrong(after_wrong(NEWCOMER, NOW), NOW), "set aside for 24.0 more hours: 2 of its results were wrong"),
        (quarantined(NEWCOMER, NOW, 3_600.0, "a bad disk"), "set aside for 1.0 more hours: a bad disk"),
    ],
)
def test_a_host_is_told_how_it_stands_and_why(standing: Standing, said: str) -> None:
    """In one sentence: the state, and what it comes from."""
    assert told(standing, NOW).startswith(said)


def test_a_host_that_comes_back_is_told_what_outlives_its_record() -> None:
    """On probation: for as many results as are on its record, or for what the operator said."""
    back = after_wrong(after_wrong(NEWCOMER, NOW, test=True), NOW + 60)
    assert told(back, NOW + QUARANTINE).startswith("on probation: 2 of its results were wrong; 20.0 more units")
    by_operator = quarantined(NEWCOMER, NOW, 60.0, "a bad disk")
    assert told(by_operator, NOW + 60).startswith("on probation: a bad disk; 20.0 more units")


def test_a_host_can_be_caught_any_number_of_times() -> None:
    """Quarantine grows to its bound, and no number in it grows beyond what a number can be."""
    standing = quarantined(Standing(quarantines=100_000), NOW)
    assert standing.quarantined_until == NOW + LONGEST_QUARANTINE
