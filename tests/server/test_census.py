"""Who was seen, who is about, and whom to draw from."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xwgrid_server.census import Census
from xwgrid_server.store import HostRow

from tests.server.small_grid import facts
from xwgrid.model import HostFacts, HostId, UserId
from xwgrid.trust import NEWCOMER, QUARANTINE, Standing, quarantined

NOW = 1_000_000.0
LEASE = 90.0
CLASS = "python any"
PROVEN = Standing(proven=True, tested=True)


def host(
    number: int,
    owner: int | None = None,
    said: HostFacts | None = None,
    *,
    seen_at: float | None = NOW,
    state: str = "active",
    standing: Standing = NEWCOMER,
) -> HostRow:
    """Return a host that runs Python, of the owner of the same number unless another is named."""
    whose = UserId(number if owner is None else owner)
    return HostRow(HostId(number), whose, state, "", seen_at, said or facts(), standing)


def calls(census: Census, row: HostRow, now: float, *, said: HostFacts | None = None) -> list[str]:
    """Have a host call; return the classes that are new of it."""
    joined = census.see(row, said, now, LEASE)
    census.calls(row.host, (), row.standing, now)
    return joined


# --- who was seen -----------------------------------------------------------------------------------------------


def test_owners_are_counted_once_and_hosts_of_an_owner_apart() -> None:
    """Two hosts of one owner are one voter of a public job, and two of a private one."""
    census = Census([host(1), host(2, 1), host(3)], NOW)
    assert census.seen(CLASS, None) == 2
    assert (census.seen(CLASS, UserId(1)), census.seen(CLASS, UserId(3)), census.seen(CLASS, UserId(9))) == (2, 1, 0)
    assert census.seen("another class", None) == 0
    assert census.hosts() == 3


def test_a_host_is_remembered_for_a_day() -> None:
    """One that does not call for longer counts no more, and as new when it comes back."""
    census = Census([host(1), host(2)], NOW)
    assert calls(census, host(1), NOW + Census.MEMORY) == []
    assert census.seen(CLASS, None) == 2
    assert calls(census, host(1), NOW + Census.MEMORY + 1) == []
    assert (census.seen(CLASS, None), census.hosts()) == (1, 1)
    assert CLASS in calls(census, host(2), NOW + Census.MEMORY + 2)


def test_a_host_that_says_something_else_of_itself_changes_its_class() -> None:
    """It leaves the old class and joins the new one; with nothing said it stays what it was."""
    census = Census([host(1), host(2)], NOW)
    assert calls(census, host(1), NOW, said=facts("python odd")) == ["python odd"]
    assert (census.seen(CLASS, None), census.seen("python odd", None)) == (1, 1)
    assert (census.count(CLASS), census.count("python odd")) == (1, 1)
    assert calls(census, host(1), NOW + 1) == []
    assert census.seen("python odd", None) == 1
    assert census.programs(HostId(1))["python"].result_class == "python odd"


def test_a_banned_host_does_not_count() -> None:
    """Nobody waits for its vote."""
    assert Census([host(1, state="banned")], NOW).seen(CLASS, None) == 0


# --- who is about -----------------------------------------------------------------------------------------------


def test_who_could_still_hold_a_lease_is_about() -> None:
    """An owner is drawn from while one of its hosts called within the time of a lease."""
    census = Census([host(number) for number in (1, 2, 3)], NOW)
    assert census.count(CLASS) == 3
    calls(census, host(1), NOW + LEASE)
    assert census.count(CLASS) == 3
    calls(census, host(1), NOW + LEASE + 1)
    assert census.count(CLASS) == 1
    assert census.seen(CLASS, None) == 3, "they were seen today all the same"
    calls(census, host(2), NOW + LEASE + 2)
    assert census.count(CLASS) == 2
    assert list(census.hosts_of(UserId(2))) == [2]
    assert list(census.hosts_of(UserId(3))) == []


def test_after_a_start_only_hosts_that_call_are_about() -> None:
    """Those that the database saw before are known, and not drawn."""
    census = Census([host(1, seen_at=NOW - 3_600), host(2, seen_at=NOW - 5)], NOW)
    assert (census.seen(CLASS, None), census.count(CLASS)) == (2, 0)


def test_a_host_that_is_set_aside_is_not_drawn() -> None:
    """Its owner is, while another of its hosts is about; it comes back when its time is up."""
    census = Census([host(1), host(2, 1), host(3)], NOW)
    aside = quarantined(NEWCOMER, NOW)
    calls(census, host(3, standing=aside), NOW)
    calls(census, host(2, 1, standing=aside), NOW)
    assert census.count(CLASS) == 1
    assert list(census.hosts_of(UserId(1))) == [1]
    calls(census, host(2, 1, standing=aside), NOW + 30)
    assert census.count(CLASS) == 1
    assert list(census.hosts_of(UserId(1))) == [1]
    calls(census, host(3, standing=aside), NOW + QUARANTINE)
    assert census.draw(CLASS, Random(1)) == 3  # noqa: S311


@pytest.mark.parametrize("about", [True, False])
def test_what_an_owners_hosts_are_is_asked_of_those_about(about: bool) -> None:
    """The scene one has loaded, and whether one proved itself, count while it is here."""
    spec = "a" * 64
    census = Census([host(1), host(2, 1), host(3)], NOW)
    census.calls(HostId(2), (spec,), PROVEN, NOW)
    if not about:
        calls(census, host(3), NOW + LEASE + 1)
    assert census.has_loaded(UserId(1), spec) is about
    assert census.is_proven(UserId(1)) is about
    assert census.is_tested(UserId(1)) is about
    assert not census.has_loaded(UserId(3), spec)
    census.calls(HostId(2), (), NEWCOMER, NOW)
    assert not census.has_loaded(UserId(1), spec)
    assert not census.is_proven(UserId(1))


def test_standing_is_known_from_the_start() -> None:
    """A restart does not make proven hosts new ones."""
    census = Census([host(1, standing=PROVEN), host(2)], NOW)
    assert (census.is_proven(UserId(1)), census.is_tested(UserId(1))) == (True, True)
    assert (census.is_proven(UserId(2)), census.is_tested(UserId(2))) == (False, False)


# --- draws ------------------------------------------------------------------------------------------------------


def test_each_owner_about_is_drawn_as_often() -> None:
    """Whatever came and went before, and however many hosts an owner has."""
    census = Census([host(number) for number in range(1, 21)] + [host(number, 1) for number in range(30, 60)], NOW)
    now = NOW
    for number in range(11, 21):
        now += 1
        calls(census, host(number), now)
    for number in (1, 30, 13, *range(11, 21)):
        calls(census, host(number, 1 if number == 30 else None), NOW + LEASE + 10)
    random = Random(1)  # noqa: S311
    drawn = Counter(census.draw(CLASS, random) for _ in range(2_200))
    assert set(drawn) == {1, *range(11, 21)}
    assert all(abs(count - 200) < 80 for count in drawn.values())
    assert census.draw("another class", random) is None


_CALLS = st.lists(
    st.tuples(
        st.integers(1, 8),  # host; its owner is half of it
        st.sampled_from(["python any", "python odd"]),
        st.sampled_from([0.0, 10.0, 50.0, 100.0, 50_000.0, 90_000.0]),  # time that passes before
        st.booleans(),  # whether it is set aside
    ),
    max_size=30,
)


@settings(deadline=None)
@given(_CALLS)
def test_the_counts_are_those_of_a_fresh_count(said: list[tuple[int, str, float, bool]]) -> None:
    """What is kept step by step is what counting everything anew gives."""
    census = Census([], NOW)
    now = NOW
    latest: dict[int, tuple[float, str, bool]] = {}
    for number, result_class, passes, aside in said:
        now += passes
        standing = Standing(quarantined_until=now + 1e9) if aside else NEWCOMER
        row = host(number, (number + 1) // 2, standing=standing)
        calls(census, row, now, said=facts(result_class))
        latest[number] = (now, result_class, aside)
        for each in ("python any", "python odd"):
            known = {n: at for n, (at, of, _) in latest.items() if of == each and at >= now - Census.MEMORY}
            about = {n for n, at in known.items() if at >= now - LEASE}
            drawable = {(n + 1) // 2 for n in about if not latest[n][2]}
            assert census.seen(each, None) == len({(n + 1) // 2 for n in known})
            assert census.count(each) == len(drawable)
            assert {census.draw(each, Random(seed)) for seed in range(20)} - {None} <= drawable  # noqa: S311
        assert census.hosts() == len([at for at, *_ in latest.values() if at >= now - Census.MEMORY])
