"""Who was seen, who is about, and whom to draw from."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from xwgrid_server.census import Census
from xwgrid_server.store import HostRow

from tests.server.small_grid import facts
from xwgrid.model import HostFacts, HostId, Program, UserId
from xwgrid.trust import NEWCOMER, QUARANTINE, Standing, quarantined

NOW = 1_000_000.0
LEASE = 90.0
CLASS, ODD = "python any", "python odd"
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


# --- who proved themselves --------------------------------------------------------------------------------------


def established(census: Census) -> tuple[bool, bool]:
    """Say of the two classes of Python whether each has somebody who proved themselves, or none of both has."""
    return census.is_established(CLASS, "python"), census.is_established(ODD, "python")


def test_a_class_is_established_by_those_who_proved_themselves() -> None:
    """While nobody did every class is; then those that all did with, or three owners, or the operator's word."""
    rows = [host(number, said=facts(CLASS if number < 5 else ODD, "blender other")) for number in range(1, 9)]
    census = Census(rows, NOW)
    assert established(census) == (True, True)
    calls(census, host(1, standing=PROVEN), NOW)
    assert established(census) == (True, False)
    assert census.is_established("java any", "java")
    for number in (5, 6):
        calls(census, host(number, standing=PROVEN), NOW)
    assert established(census) == (False, False), "each could be made up by two friends"
    calls(census, host(7, 6, standing=PROVEN), NOW)
    assert established(census) == (False, False), "of one owner"
    calls(census, host(8, standing=PROVEN), NOW)
    assert established(census) == (False, True)
    calls(census, host(2, standing=Standing(vouched=True)), NOW)
    assert established(census) == (True, True)
    calls(census, host(2, standing=NEWCOMER), NOW)
    assert established(census) == (False, True), "what it proved was taken from it"


def test_who_proved_itself_takes_that_along_to_another_class() -> None:
    """It counts for the class it says it has now, and for that alone; nothing is left of those it had."""
    census = Census([host(1, standing=PROVEN), host(2)], NOW)
    assert established(census) == (True, False)
    for number in range(100):
        calls(census, host(1, standing=PROVEN), NOW + 1, said=facts(f"python {number}"))
    calls(census, host(1, standing=PROVEN), NOW + 1, said=facts(ODD))
    assert established(census) == (False, True)
    assert set(census._proven_of) == {"python", "blender", ODD, "blender any"}


@pytest.mark.parametrize("after", [LEASE + 1, Census.MEMORY + 1], ids=["parted", "forgotten"])
def test_who_proved_itself_counts_for_a_day(after: float) -> None:
    """Also when it is not about; a host that is forgotten makes no class."""
    census = Census([host(1, standing=PROVEN), host(2, said=facts(ODD))], NOW)
    calls(census, host(2), NOW + after)
    assert established(census) == (True, after > Census.MEMORY)
    calls(census, host(1, standing=PROVEN), NOW + after)
    assert established(census) == (True, False), "until it comes back"


def test_a_class_is_of_the_runtime_it_is_named_after() -> None:
    """A host that names another runtime's class, or none, cannot start that program, and counts for no class by it."""
    programs = tuple(
        Program(runtime=runtime, version="1", result_class=result_class)
        for runtime, result_class in (
            ("python", "blender any"),
            ("blender", "any"),
            ("java", "java"),
            ("ruby", "ruby x"),
        )
    )
    said = structs.replace(facts(), programs=programs)
    census = Census([host(1, said=said, standing=PROVEN), host(2)], NOW)
    assert set(census.programs(HostId(1))) == {"ruby"}
    assert [census.seen(each, None) for each in ("blender any", "any", "java", "ruby x")] == [1, 0, 0, 1]
    assert calls(census, host(3), NOW, said=said) == ["ruby x"]
    assert established(census) == (True, True)
    assert census.is_established("ruby x", "ruby")


def test_classes_that_nobody_has_any_more_are_forgotten() -> None:
    """A host that makes up another one with every call leaves nothing of it behind, nor when it is not seen again."""
    census = Census([host(2)], NOW)
    for number in range(50):
        calls(census, host(1), NOW, said=facts(f"python {number}"))
    kept = {CLASS, "blender any", "python 49"}
    assert set(census._voters) == set(census._urns) == kept
    calls(census, host(2), NOW + Census.MEMORY + 1)
    assert set(census._voters) == set(census._urns) == {CLASS, "blender any"}


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


def test_who_is_about_is_known_when_all_had_the_time_to_call() -> None:
    """After a start, where somebody was here lately; where nobody was, at once."""
    assert Census([host(1, seen_at=NOW - 20)], NOW, LEASE).settled_at == NOW + LEASE
    assert Census([host(1), host(2)], NOW, LEASE).settled_at == NOW
    assert Census([host(1, state="banned", seen_at=NOW - 20)], NOW, LEASE).settled_at == NOW
    assert Census([], NOW, LEASE).settled_at == NOW


def test_whether_an_owner_is_about_is_asked_by_class() -> None:
    """They are with the classes of their hosts that called lately, none of which is set aside."""
    census = Census([host(1), host(2, 1, facts(ODD))], NOW)
    owner = UserId(1)
    assert [census.is_about(each, owner) for each in (CLASS, ODD, "another class")] == [True, True, False]
    calls(census, host(1, standing=quarantined(NEWCOMER, NOW)), NOW)
    assert [census.is_about(each, owner) for each in (CLASS, ODD)] == [False, True]
    calls(census, host(1), NOW + LEASE + 1)
    assert [census.is_about(each, owner) for each in (CLASS, ODD)] == [True, False]
    assert not census.is_about(CLASS, UserId(2))


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
        st.booleans(),  # whether it proved itself
    ),
    max_size=30,
)


@settings(deadline=None)
@given(_CALLS)
def test_the_counts_are_those_of_a_fresh_count(said: list[tuple[int, str, float, bool, bool]]) -> None:
    """What is kept step by step is what counting everything anew gives."""
    census = Census([], NOW)
    now = NOW
    latest: dict[int, tuple[float, str, bool]] = {}
    proven: dict[int, bool] = {}
    for number, result_class, passes, aside, proves in said:
        now += passes
        standing = Standing(quarantined_until=now + 1e9 if aside else None, proven=proves)
        row = host(number, (number + 1) // 2, standing=standing)
        calls(census, row, now, said=facts(result_class))
        latest[number], proven[number] = (now, result_class, aside), proves
        counted = {(of, (n + 1) // 2) for n, (at, of, _) in latest.items() if proven[n] and at >= now - Census.MEMORY}
        for each in ("python any", "python odd"):
            known = {n: at for n, (at, of, _) in latest.items() if of == each and at >= now - Census.MEMORY}
            about = {n for n, at in known.items() if at >= now - LEASE}
            drawable = {(n + 1) // 2 for n in about if not latest[n][2]}
            assert census.seen(each, None) == len({(n + 1) // 2 for n in known})
            assert census.count(each) == len(drawable)
            owners = {owner for of, owner in counted if of == each}
            assert census.is_established(each, "python") == (len(owners) >= min(3, len({o for _, o in counted})))
            assert {census.draw(each, Random(seed)) for seed in range(20)} - {None} <= drawable  # noqa: S311
        assert census.hosts() == len([at for at, *_ in latest.values() if at >= now - Census.MEMORY])
