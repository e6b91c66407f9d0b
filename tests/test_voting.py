"""Ballots to verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from xwgrid.model import Cause, HostId, ReplicaId, ReplicaState
from xwgrid.voting import Agreed, Attempt, Hopeless, Undecided, count, decide, late_ballot_agrees


def attempt(
    number: int,
    state: ReplicaState,
    fingerprint: str | None = None,
    cause: Cause | None = None,
    host: int | None = None,
) -> Attempt:
    return Attempt(
        ReplicaId(number), number, HostId(number if host is None else host), number, state, cause, fingerprint, "class"
    )


def audit(number: int, state: ReplicaState = ReplicaState.VOTING, **differences: float) -> Attempt:
    """Return an audit of replica 0, compared with the replicas named: r0=0.1 differs from 0 in a tenth of its rows."""
    made = attempt(number, state, "strips")
    beside = {ReplicaId(int(name[1:])): share for name, share in differences.items()}
    return structs.replace(made, audits=ReplicaId(0), strips="3+2", differences=beside)


def ballots(*fingerprints: str) -> list[Attempt]:
    return [attempt(number, ReplicaState.VOTING, each) for number, each in enumerate(fingerprints)]


def test_two_who_agree_outvote_a_third() -> None:
    """Two volunteers who agree outvote a third who does not; the earliest of them is canonical."""
    assert decide(ballots("lie", "true", "true"), replicas=2, quorum=2) == Agreed(
        "true", ReplicaId(1), (ReplicaId(1), ReplicaId(2)), (ReplicaId(0),)
    )


def test_a_tie_asks_for_one_more() -> None:
    """One against one wants one more ballot, and none while that one is under way."""
    tie = ballots("lie", "true")
    assert decide(tie, replicas=2, quorum=2) == Undecided(1)
    assert decide([*tie, attempt(3, ReplicaState.LEASED)], replicas=2, quorum=2) == Undecided(0)


def test_a_quorum_without_a_majority_is_not_enough() -> None:
    """Two equal ballots among four do not win with a quorum of two: half is no majority."""
    assert decide(ballots("a", "a", "b", "c"), replicas=2, quorum=2) == Undecided(1)


def test_the_first_replicas_are_all_wanted() -> None:
    """Before anything happened a task wants as many replicas as its job said, and at least its quorum."""
    assert decide([], replicas=3, quorum=2) == Undecided(3)


def test_who_hands_back_is_replaced_without_blame() -> None:
    """Hundreds of leases handed back never make a task fail."""
    back = [attempt(number, ReplicaState.HANDED_BACK, cause=Cause.OWNER) for number in range(300)]
    assert decide(back, replicas=2, quorum=2) == Undecided(2)


def test_three_failing_hosts_end_a_task_and_one_failing_thrice_does_not() -> None:
    """It takes three different hosts."""
    same = [attempt(number, ReplicaState.FAILED, host=1) for number in range(5)]
    assert isinstance(decide(same, replicas=1, quorum=1), Undecided)
    others = [attempt(number, ReplicaState.FAILED) for number in range(3)]
    assert isinstance(decide(others, replicas=1, quorum=1), Hopeless)


def test_a_task_that_takes_ten_hosts_down_ends() -> None:
    """Lost leases have a bound of their own."""
    lost = [attempt(number, ReplicaState.LOST) for number in range(10)]
    assert isinstance(decide(lost[:9], replicas=1, quorum=1), Undecided)
    assert isinstance(decide(lost, replicas=1, quorum=1), Hopeless)


def test_results_that_always_differ_end_a_task() -> None:
    """When no majority forms in fifteen ballots the task fails and says so."""
    verdict = decide(ballots(*(str(number) for number in range(15))), replicas=2, quorum=2)
    assert isinstance(verdict, Hopeless)
    assert "15 ballots" in verdict.reason


def test_a_late_ballot_is_judged_by_the_verdict() -> None:
    """Only the canonical fingerprint counts as right."""
    done = [attempt(1, ReplicaState.AGREED, "true"), attempt(2, ReplicaState.OUTVOTED, "lie")]
    assert late_ballot_agrees(done, attempt(3, ReplicaState.VOTING, "true"))
    assert late_ballot_agrees(done, attempt(3, ReplicaState.VOTING, "lie")) is False


def test_an_audit_alone_is_no_ballot() -> None:
    """Audits that fit a result make no majority, and none that differs takes one away from the vote's number."""
    fitting = [*ballots("true"), *(audit(number, r0=0.0) for number in range(5, 9))]
    assert decide(fitting, replicas=2, quorum=2) == Undecided(1)
    assert not count(fitting).disputed
    assert count([*ballots("lie"), audit(5, r0=0.1)]).disputed


@pytest.mark.parametrize("read", ["with both ballots there", "before the second ballot"])
def test_an_auditor_bears_witness_between_two(read: str) -> None:
    """Where two results differ, an audit that fits one and not the other decides, whichever was read last."""
    lie, true = ballots("lie", "true")
    if read == "with both ballots there":
        box = [lie, true, audit(5, r0=0.2, r1=0.0)]
    else:
        box = [lie, structs.replace(true, differences={lie.replica: 0.05, ReplicaId(5): 0.0}), audit(5, r0=0.2)]
    assert decide(box, replicas=2, quorum=2) == Agreed(
        "true", true.replica, (true.replica, ReplicaId(5)), (lie.replica,)
    )


def test_an_auditor_who_has_a_ballot_has_one_voice() -> None:
    """An owner who looked at a part of a frame and then rendered it counts once."""
    lie, true = ballots("lie", "true")
    both = structs.replace(audit(5, r0=0.2, r1=0.0), voter=true.voter)
    assert count([lie, true, both]).total == 2
    assert decide([lie, true, both], replicas=2, quorum=2) == Undecided(1)


def test_an_audit_that_fits_nobody_stands_against_everybody() -> None:
    """An audit that differs from all results supports none of them, and more than its voice is needed to win."""
    box = [*ballots("a", "b"), audit(5, r0=0.2, r1=0.3)]
    assert (count(box).most, count(box).total) == (1, 3)
    assert decide([*box, attempt(6, ReplicaState.VOTING, "a")], replicas=2, quorum=2) == Undecided(1)


def test_an_audit_that_was_compared_with_nothing_says_nothing() -> None:
    """Neither right nor wrong: it is among neither the winners nor the losers."""
    verdict = decide([*ballots("true", "true"), audit(5)], replicas=2, quorum=2)
    assert verdict == Agreed("true", ReplicaId(0), (ReplicaId(0), ReplicaId(1)), ())


def test_a_late_audit_is_judged_by_the_verdict() -> None:
    """It was right if it fits the accepted result; nobody can tell when it was compared with another alone."""
    done = [attempt(0, ReplicaState.AGREED, "true"), attempt(1, ReplicaState.OUTVOTED, "lie")]
    assert late_ballot_agrees(done, audit(5, r0=0.0))
    assert late_ballot_agrees(done, audit(5, r0=0.1, r1=0.0)) is False
    assert late_ballot_agrees(done, audit(5, r1=0.1)) is None


def test_lost_audits_and_tests_say_nothing_about_a_task() -> None:
    """However many auditors and new hosts vanish or fail, a task is not given up for it."""
    gone = [audit(number, state) for number in range(20) for state in (ReplicaState.LOST, ReplicaState.FAILED)]
    tests = [
        structs.replace(attempt(number, state), is_test=True)
        for number in range(20)
        for state in (ReplicaState.LOST, ReplicaState.FAILED)
    ]
    assert decide([*gone, *tests], replicas=1, quorum=1) == Undecided(1)


_FINGERPRINTS = st.sampled_from(["a", "b", "c"])
_STATES = st.sampled_from(list(ReplicaState))


@given(st.lists(_FINGERPRINTS, max_size=14), st.integers(1, 5))
def test_a_winner_has_a_strict_majority_of_all_and_a_quorum(fingerprints: list[str], quorum: int) -> None:
    """Whatever the ballots, agreement takes more than half of all and the quorum, and no ballot is left out."""
    verdict = decide(ballots(*fingerprints), replicas=quorum, quorum=quorum)
    if isinstance(verdict, Agreed):
        count = fingerprints.count(verdict.fingerprint)
        assert count >= quorum
        assert 2 * count > len(fingerprints)
        assert sorted(verdict.winners + verdict.losers) == list(range(len(fingerprints)))


@given(st.lists(st.tuples(_STATES, _FINGERPRINTS), max_size=20), st.integers(1, 4), st.integers(0, 3))
def test_what_is_wanted_can_decide(attempts: list[tuple[ReplicaState, str]], quorum: int, extra: int) -> None:
    """If all live and wanted replicas vote with the leader the task is agreed: an undecided task is never stuck."""
    found = [
        attempt(number, state, fingerprint if state is ReplicaState.VOTING else None, host=0)
        for number, (state, fingerprint) in enumerate(attempts)
        if state not in {ReplicaState.AGREED, ReplicaState.OUTVOTED}
    ]
    replicas = quorum + extra
    verdict = decide(found, replicas=replicas, quorum=quorum)
    if not isinstance(verdict, Undecided):
        return
    votes = [each.fingerprint for each in found if each.state is ReplicaState.VOTING]
    leader = max(sorted(set(votes), key=str), key=votes.count, default="a")
    after = [
        structs.replace(each, state=ReplicaState.VOTING, fingerprint=leader) if each.state in LIVE else each
        for each in found
    ]
    after += [attempt(100 + number, ReplicaState.VOTING, leader) for number in range(verdict.wanted)]
    assert isinstance(decide(after, replicas=replicas, quorum=quorum), Agreed)


LIVE = {ReplicaState.LEASED, ReplicaState.READING}
