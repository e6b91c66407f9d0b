"""The lottery of who checks whom, over the real census of owners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xwgrid_server.census import Census
from xwgrid_server.store import HostRow

from xwgrid.drawing import (
    DELAY_SHARE,
    LEAST_OWNERS,
    LONGEST_DELAY,
    LONGEST_REMINDER,
    MOST_DRAWS,
    PATIENCE,
    PATIENCE_TASKS,
    REMINDER,
    REMINDERS_IN_VAIN,
    Key,
    Lots,
    Lottery,
    Reminders,
    Wish,
)
from xwgrid.model import HostFacts, HostId, Instant, JobId, Program, TaskNumber, UserId
from xwgrid.trust import NEWCOMER, Standing

NOW = 1_000_000.0
CLASS = "blender any"
SPEC = "0" * 64
KEY: Key = (JobId(1), TaskNumber(0))


def host(number: int, owner: int, standing: Standing = NEWCOMER) -> HostRow:
    """Return a host of the one class."""
    programs = (Program(runtime="blender", version="4.5", result_class=CLASS),)
    facts = HostFacts(name="host", system="Linux", processor="one", cores=1, memory_bytes=1, programs=programs)
    return HostRow(HostId(number), UserId(owner), "active", "", NOW, facts, standing)


def crowd(owners: int) -> Census:
    """Return a census of owners 1 … n, each with the host of the same number, all about."""
    return Census([host(number, number) for number in range(1, owners + 1)], NOW)


def lottery(owners: Census | int, *, seed: int = 1) -> Lottery:
    """Return a lottery with the same draws in every run."""
    return Lottery(crowd(owners) if isinstance(owners, int) else owners, Random(seed))  # noqa: S311


def wish(
    parts: int = 1,
    *,
    key: Key = KEY,
    not_to: Collection[int] = (),
    mean_seconds: float = 60.0,
    proven: bool = False,
    may: Callable[[UserId], bool] | None = None,
) -> Wish:
    """Return what is looked for."""
    return Wish(key, CLASS, SPEC, proven, mean_seconds, may or (lambda owner: owner not in not_to), parts)


def due(drawing: Lottery, now: Instant) -> list[Key]:
    """Return what is to be drawn now."""
    return list(drawing.due(now))


# --- draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "longest"), [(0.0, 0.0), (60.0, 60.0 * DELAY_SHARE), (36_000.0, LONGEST_DELAY)])
def test_a_check_comes_after_a_short_delay_nobody_can_foretell(mean: float, longest: float) -> None:
    """At a random moment within a tenth of the time a task takes, a minute at most; not twice while it is awaited."""
    moments = []
    for seed in range(50):
        drawing = lottery(9, seed=seed)
        drawing.enter(KEY, 1, mean, NOW)
        drawing.enter(KEY, 1, mean, NOW)
        moment = drawing.next_due()
        assert moment is not None
        moments.append(moment - NOW)
        assert due(drawing, moment - 1e-3) == []
        assert due(drawing, moment) == [KEY]
        assert due(drawing, moment + 1_000) == []
    assert 0.0 <= min(moments) <= max(moments) <= longest
    assert max(moments) - min(moments) >= 0.8 * longest


def test_as_many_owners_as_parts_and_never_one_twice() -> None:
    """Each part of a task is offered to an owner of its own; nobody else has an offer."""
    drawing = lottery(9)
    drawing.enter(KEY, 4, 60.0, NOW)
    due(drawing, NOW + 60)
    drawn = drawing.draw(wish(4), NOW)
    assert drawn is not None
    assert len(set(drawn)) == 4
    assert [owner for owner in range(1, 10) if drawing.offers(UserId(owner)) == [KEY]] == sorted(drawn)
    assert drawing.draw(wish(4), NOW) == [], "all parts are offered"
    assert drawing.draw(wish(5), NOW) not in (None, []), "and one more"


def test_nobody_is_drawn_who_took_part() -> None:
    """Of six owners, five of whom may not, it is always the sixth."""
    for seed in range(30):
        drawing = lottery(6, seed=seed)
        drawing.enter(KEY, 1, 60.0, NOW)
        due(drawing, NOW + 60)
        found = drawing.draw(wish(not_to={1, 2, 3, 4, 5}), NOW)
        assert found in ([6], None), "or nobody was met in a few draws, and whoever asks may have it"
    drawing = lottery(6)
    drawing.enter(KEY, 1, 60.0, NOW)
    assert drawing.draw(wish(not_to=range(1, 7)), NOW) is None


def test_an_owner_with_many_machines_is_drawn_as_often_as_others() -> None:
    """Draws are even over the owners, not over the hosts."""
    hosts = [host(number, number) for number in range(1, 11)] + [host(number, 1) for number in range(11, 200)]
    drawing = lottery(Census(hosts, NOW))
    counted: Counter[int] = Counter()
    for number in range(3_000):
        key = (JobId(1), TaskNumber(number))
        drawing.enter(key, 1, 60.0, NOW)
        drawn = drawing.draw(wish(key=key), NOW)
        assert drawn is not None
        counted.update(drawn)
    # Six standard deviations of a binomial with p = 1/10.
    assert all(abs(counted[owner] - 300) < 6 * 16.5 for owner in range(1, 11))


def test_who_has_the_scene_loaded_is_preferred_and_not_certain() -> None:
    """One of fifty who has it is drawn far more often than others, and most draws go elsewhere."""
    owners = crowd(50)
    owners.calls(HostId(7), (SPEC,), NEWCOMER, NOW)
    counted: Counter[int] = Counter()
    for seed in range(400):
        drawing = lottery(owners, seed=seed)
        drawing.enter(KEY, 1, 60.0, NOW)
        counted.update(drawing.draw(wish(), NOW) or [])
    assert 3 * 400 / 50 < counted[7] < 200


def test_credibility_is_raised_by_who_proved_itself() -> None:
    """Where a second opinion should weigh much, a proven owner is preferred to one who has the scene."""
    owners = crowd(20)
    owners.calls(HostId(7), (SPEC,), NEWCOMER, NOW)
    owners.calls(HostId(8), (), Standing(proven=True), NOW)
    counted: Counter[int] = Counter()
    for seed in range(400):
        drawing = lottery(owners, seed=seed)
        drawing.enter(KEY, 1, 60.0, NOW)
        counted.update(drawing.draw(wish(proven=True), NOW) or [])
    assert counted[8] > 4 * counted[7]


def test_too_few_owners_are_not_drawn_from() -> None:
    """Three must be about beside those who took part."""
    drawing = lottery(5)
    assert drawing.enough(CLASS, 5 - LEAST_OWNERS)
    assert not drawing.enough(CLASS, 6 - LEAST_OWNERS)
    assert not drawing.enough("another class", 0)
    empty = lottery(0)
    empty.enter(KEY, 1, 60.0, NOW)
    assert empty.draw(wish(), NOW) is None


# --- offers -----------------------------------------------------------------------------------------------------


def run_out(drawing: Lottery, wanted: Wish, now: Instant) -> Instant:
    """Let the offers of a task run out; return when that is."""
    until = now + PATIENCE + PATIENCE_TASKS * wanted.mean_seconds
    assert due(drawing, until - 1) == []
    assert due(drawing, until) == [wanted.key]
    return until


def test_an_offer_that_is_not_taken_goes_to_another() -> None:
    """After the time of two tasks and a little more, and after three such times to whoever asks."""
    drawing = lottery(30)
    drawing.enter(KEY, 2, 60.0, NOW)
    due(drawing, NOW + 60)
    now, before = NOW, drawing.draw(wish(2), NOW)
    for _ in range(MOST_DRAWS - 1):
        assert before
        now = run_out(drawing, wish(2), now)
        assert not any(drawing.offers(owner) for owner in before)
        before = drawing.draw(wish(2), now)
        assert before
    now = run_out(drawing, wish(2), now)
    assert drawing.draw(wish(2), now) is None


def test_who_takes_its_part_leaves_the_others_their_offers() -> None:
    """What was taken is not offered again; the rest runs out as it would have."""
    drawing = lottery(30)
    drawing.enter(KEY, 2, 60.0, NOW)
    due(drawing, NOW + 60)
    first, second = drawing.draw(wish(2), NOW) or []
    drawing.taken(first, KEY)
    drawing.enter(KEY, 1, 60.0, NOW + 1)
    assert drawing.offers(first) == []
    assert drawing.offers(second) == [KEY]
    assert due(drawing, NOW + 20) == [], "one part, one offer: nobody else is drawn"
    run_out(drawing, wish(1), NOW)
    assert drawing.offers(second) == []


def test_a_task_that_is_taken_out_is_offered_to_nobody() -> None:
    """Withdrawing ends its offers; entering it again begins anew."""
    drawing = lottery(30)
    drawing.enter(KEY, 3, 60.0, NOW)
    due(drawing, NOW + 60)
    drawn = drawing.draw(wish(3), NOW) or []
    drawing.withdraw(KEY)
    assert not any(drawing.offers(owner) for owner in drawn)
    assert due(drawing, NOW + 10_000) == []
    drawing.enter(KEY, 1, 60.0, NOW)
    assert due(drawing, NOW + 60) == [KEY]
    assert len(drawing.draw(wish(), NOW) or []) == 1


def test_offers_are_told_oldest_first() -> None:
    """A host that was drawn twice does the older first."""
    drawing = lottery(1)
    keys: list[Key] = [(JobId(1), TaskNumber(number)) for number in (5, 3, 9)]
    for key in keys:
        drawing.enter(key, 1, 60.0, NOW)
        drawing.draw(wish(key=key), NOW)
    assert drawing.offers(UserId(1)) == keys


_STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "draw", "take", "withdraw", "wait"]), st.integers(0, 2), st.integers(1, 4)),
    max_size=40,
)


@settings(deadline=None)
@given(_STEPS, st.integers(1, 6), st.integers(0, 1_000))
def test_offers_are_only_of_what_is_open_and_to_who_may(
    steps: list[tuple[str, int, int]], owners: int, seed: int
) -> None:
    """Whatever happens: offers of a task are at most its parts, to different owners, none of whom may not have it."""
    drawing = lottery(owners, seed=seed)
    parts: dict[Key, int] = {}
    now = NOW
    for what, number, count in steps:
        key = (JobId(1), TaskNumber(number))
        if what == "enter":
            parts[key] = count
            drawing.enter(key, count, 10.0, now)
        elif what == "wait":
            now += 10.0 * count
        elif what == "take":
            for owner in range(1, owners + 1):
                if key in drawing.offers(UserId(owner)):
                    drawing.taken(UserId(owner), key)
                    parts[key] -= 1
                    break
        elif what == "withdraw":
            drawing.withdraw(key)
            parts.pop(key, None)
        # One by one, as the index does: a task that was withdrawn meanwhile does not come.
        for each in drawing.due(now):
            if drawing.draw(wish(parts[each], key=each, mean_seconds=10.0, may=lambda owner: owner != 1), now) is None:
                drawing.withdraw(each)
                del parts[each]
        offered = [each for owner in range(1, owners + 1) for each in drawing.offers(UserId(owner))]
        assert not drawing.offers(UserId(1))
        assert set(offered) <= set(parts)
        # What was taken away from the parts since is offered until it runs out.
        assert all(offers <= max(parts[each], 4) for each, offers in Counter(offered).items())


# --- reminders and lots -----------------------------------------------------------------------------------------


def test_what_nobody_takes_is_thought_over_ever_more_seldom() -> None:
    """After half a minute, then after twice as long each time, an hour at most; not when somebody took it."""
    reminders = Reminders()
    reminders.watch(KEY, NOW)
    reminders.watch(KEY, NOW + 5)
    now, waited = NOW, []
    for _ in range(10):
        moment = reminders.next_due()
        assert moment is not None
        assert reminders.due(moment - 1, lambda _: True) == []
        assert reminders.due(moment, lambda _: True) == [KEY]
        waited.append(moment - now)
        now = moment
    assert waited[:3] == [REMINDER, 2 * REMINDER, 4 * REMINDER]
    assert waited[-1] == LONGEST_REMINDER
    assert reminders.due(now + LONGEST_REMINDER, lambda _: False) == []
    assert reminders.next_due() is None


def remind(reminders: Reminders, times: int = 1) -> None:
    """Let so many reminders of the one task come; it is still open to all."""
    for _ in range(times):
        moment = reminders.next_due()
        assert moment is not None
        assert reminders.due(moment, lambda _: True) == [KEY]


def test_after_a_few_reminders_nobody_is_counted_on() -> None:
    """Not before, not for other tasks, and not again once somebody took it, until as many more have come."""
    reminders = Reminders()
    assert not reminders.are_in_vain(KEY)
    reminders.watch(KEY, NOW)
    for _ in range(2):
        remind(reminders, REMINDERS_IN_VAIN - 1)
        assert not reminders.are_in_vain(KEY)
        remind(reminders)
        assert reminders.are_in_vain(KEY)
        assert not reminders.are_in_vain((JobId(1), TaskNumber(1)))
        reminders.watch(KEY, NOW)
        assert reminders.are_in_vain(KEY), "it is watched already"
        reminders.forget(KEY)
        assert not reminders.are_in_vain(KEY)


def test_a_task_that_is_not_open_any_more_is_not_watched() -> None:
    """What was in vain before is forgotten with it; when it opens again, its first reminder comes as soon as at first.
    Forgetting what nobody watches is nothing.
    """
    reminders = Reminders()
    reminders.watch(KEY, NOW)
    remind(reminders, REMINDERS_IN_VAIN)
    moment = reminders.next_due()
    assert moment is not None
    assert reminders.due(moment, lambda _: False) == []
    assert not reminders.are_in_vain(KEY)
    reminders.forget(KEY)
    assert reminders.next_due() is None
    reminders.watch(KEY, moment)
    assert reminders.next_due() == moment + REMINDER


def test_a_draw_can_be_put_off() -> None:
    """Not before a moment, and then after a delay nobody can foretell, as ever."""
    drawing = lottery(9)
    drawing.enter(KEY, 1, 60.0, NOW, NOW + 500)
    moment = drawing.next_due()
    assert moment is not None
    assert NOW + 500 < moment < NOW + 500 + 60.0 * DELAY_SHARE
    assert due(drawing, moment) == [KEY]


def test_a_lot_is_the_same_whenever_the_same_is_asked_and_known_to_nobody_else() -> None:
    """It hangs on the secret and on everything it is drawn for, and is even over [0, 1)."""
    lots = Lots(b"secret")
    assert lots("strips", 7, 1) == Lots(b"secret")("strips", 7, 1)
    assert len({lots("strips", 7, 1), lots("strips", 7, 2), lots("strips", 71), Lots(b"other")("strips", 7, 1)}) == 4
    drawn = [lots("strips", number) for number in range(4_000)]
    assert all(0.0 <= each < 1.0 for each in drawn)
    tenths = Counter(int(10 * each) for each in drawn)
    assert all(abs(count - 400) < 120 for count in tenths.values())
    assert len(tenths) == 10
