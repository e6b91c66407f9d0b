"""On what grounds a result was accepted, as its requester reads it."""

from __future__ import annotations

from xwgrid.grounds import Decided, grounds
from xwgrid.model import Audit, Credibility, Fixed, HostId, ReplicaId, ReplicaState
from xwgrid.voting import Attempt

AGREED, OUTVOTED = ReplicaState.AGREED, ReplicaState.OUTVOTED


def full(number: int, state: ReplicaState = AGREED, *, test: bool = False) -> Attempt:
    """Return a full replica, of the owner of the same number."""
    of = ReplicaId(number), number, HostId(number), number, state, None, "f" * 64, "class"
    return Attempt(*of, is_test=test)


def audit(number: int, voter: int, strips: str, state: ReplicaState = AGREED) -> Attempt:
    """Return an audit of replica 1."""
    of = ReplicaId(number), number, HostId(voter), voter, state, None, "a" * 64, "class"
    return Attempt(*of, audits=ReplicaId(1), strips=strips)


def test_a_vote_counts_its_equal_results() -> None:
    """Those who lost, and tests of newcomers, are not among them."""
    attempts = [full(1), full(2), full(3, OUTVOTED), full(4, test=True)]
    assert grounds(Decided(Fixed(), False, attempts)) == "2 equal results"


def test_an_audit_counts_strips_and_owners() -> None:
    """Strips that fit, and how many others laid them; in a private job these are hosts."""
    attempts = [full(1), audit(2, 2, "12+2,90+2,170+2,250+2,330+2"), audit(3, 3, "5+2,6+2", OUTVOTED)]
    assert grounds(Decided(Audit(), False, attempts)) == "5 strips by 1 other owner fit"
    attempts.append(audit(4, 4, "7+2"))
    assert grounds(Decided(Audit(), False, attempts)) == "6 strips by 2 other owners fit"
    assert grounds(Decided(Audit(), True, attempts)) == "6 strips by 2 other hosts fit"
    assert grounds(Decided(Audit(), False, [full(1), audit(2, 2, "12+2")])) == "1 strip by 1 other owner fits"


def test_denoising_that_was_done_again_is_told() -> None:
    """Beside strips and equal results, by how many others; what lost does not count, and it is no strip."""
    denoised, strips = audit(2, 2, "denoised"), audit(3, 3, "12+2,90+2")
    assert grounds(Decided(Audit(), False, [full(1), denoised])) == "denoising by 1 other owner fits"
    both = [full(1), strips, denoised]
    assert grounds(Decided(Audit(), False, both)) == "2 strips by 1 other owner fit and denoising by 1 other owner fits"
    assert grounds(Decided(Audit(), True, both)) == "2 strips by 1 other host fit and denoising by 1 other host fits"
    twice = [*both, audit(4, 4, "denoised"), audit(5, 5, "denoised", OUTVOTED)]
    assert grounds(Decided(Audit(), False, twice)).endswith("fit and denoising by 2 other owners fits")
    equal = [full(1), full(6), denoised]
    assert grounds(Decided(Audit(), False, equal)) == "2 equal results and denoising by 1 other owner fits"


def test_a_dispute_that_was_settled_tells_both() -> None:
    """Where an audit started a vote, results and strips are told."""
    attempts = [full(1, OUTVOTED), audit(2, 2, "12+2"), full(3), full(4)]
    assert grounds(Decided(Audit(), False, attempts)) == "2 equal results and 1 strip by 1 other owner fits"


def test_a_single_result_is_not_made_more_of() -> None:
    """Nobody looked at it: that is said, or that its host has proved itself."""
    assert grounds(Decided(Fixed(), False, [full(1)])) == "1 result, and nobody checked it"
    assert grounds(Decided(Credibility(), False, [full(1)])) == "1 result, of a host that has proved itself"


def test_a_verdict_that_was_looked_at_again_says_so() -> None:
    """Whether the picture changed hangs on what became of the one accepted before."""
    same = Decided(Audit(), False, [full(1), audit(2, 2, "12+2")], accepted_before=ReplicaId(1))
    assert grounds(same).endswith("; audited again after its host was caught; the picture is the same")
    changed = same._replace(attempts=[full(1, OUTVOTED), full(3), full(4)])
    assert grounds(changed) == "2 equal results; audited again after its host was caught; the picture changed"


def test_checks_that_were_not_drawn_are_told() -> None:
    """With too few owners about, whoever asks gets the check; of private jobs nobody expects otherwise."""
    attempts = [full(1), full(2)]
    assert grounds(Decided(Fixed(), False, attempts, undrawn=1)).endswith(
        "; 1 check went to whoever asked, for too few owners were about to draw from"
    )
    assert grounds(Decided(Fixed(), True, attempts, undrawn=1)) == "2 equal results"
