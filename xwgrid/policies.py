"""How a job's results are checked: fixed replication, credibility, audits, and BOINC's rule for comparison.

Each policy takes a task's attempts and what is known of their hosts, and returns a verdict. Whatever a policy finds
disputed is settled by the vote of `xwgrid.voting`, with a quorum of at least two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol, assert_never

from msgspec import Struct, structs

from xwgrid import auditing, voting
from xwgrid.lifecycle import LIVE
from xwgrid.model import (
    Audit,
    Boinc,
    Credibility,
    Fixed,
    HostId,
    JobRequest,
    Policy,
    ReplicaState,
)
from xwgrid.trust import (
    NEWCOMER,
    Caught,
    Grid,
    Standing,
    doubt,
    friends_share,
    is_quarantined,
    is_suspect,
    is_tested,
    lie_rate,
    missing_probability,
    strips_needed,
    wrong_rate,
)
from xwgrid.voting import Attempt, AuditOrder, Hopeless, Undecided, Verdict

# Two results that differ cannot be told apart by one of them.
LEAST_QUORUM: Final = 2
# A frame whose parts cannot be rendered, though the whole can, is replicated instead.
AUDITS_THAT_MAY_FAIL: Final = 2
# So many new hosts are believed where no other is to be had: friends would have to be more than half of them.
ENOUGH_NEW_HOSTS: Final = 8
# Beyond so many replicas that agree, credibility says that its doubts are of another kind, and accepts.
_MOST_REPLICAS: Final = 5


class Lot(Protocol):
    """Draws a number in [0, 1) that is the same whenever the same is asked, and that nobody outside can foretell."""

    def __call__(self, *what: str | int) -> float:
        """Return the number drawn for `what`."""


class Case(Struct, frozen=True):
    """One open task, and all a policy may look at."""

    request: JobRequest
    rows: int | None  # height of its picture, None when it cannot be rendered in parts
    attempts: Sequence[Attempt]
    ordered: Sequence[AuditOrder]  # audits asked for, and not taken by anybody
    standings: Mapping[HostId, Standing]
    others: int = 1_000  # owners (in a private job: hosts) about who may still look at a part of it
    in_steps: bool = False  # its picture is made of raw passes by denoising: both are looked at


def policy_of(request: JobRequest) -> Policy:
    """Return a job's policy. The server writes its default into every job, so that only bare requests lack one."""
    return request.policy or Fixed()


def replicas_at_first(request: JobRequest) -> int:
    """Return how many replicas a fresh task wants."""
    return request.replicas if isinstance(policy_of(request), Fixed) else 1


def uses_standing(request: JobRequest) -> bool:
    """Say whether results are accepted by the standing of their hosts: then new ones begin with a test."""
    return not isinstance(policy_of(request), Fixed)


def quorum_of(request: JobRequest) -> int:
    """Return how many equal results win a vote: of a job that is not replicated from the start, at least two."""
    fixed = request.policy is None or isinstance(request.policy, Fixed)
    return request.quorum if fixed else max(LEAST_QUORUM, request.quorum)


def decide(case: Case, grid: Grid, lot: Lot) -> Verdict:
    """Return the verdict on an open task by its job's policy."""
    policy = policy_of(case.request)
    if isinstance(policy, Fixed):
        return voting.decide(case.attempts, replicas=case.request.replicas, quorum=case.request.quorum)
    tally = _heard(case, grid)
    quorum = quorum_of(case.request)
    if tally.most == 0 or tally.disputed:
        # Where everybody about has voted, waiting for a strict majority could be for ever.
        if tally.is_majority(quorum) or (not case.others and tally.is_first_of_all(quorum)):
            return voting.agreed(case.attempts, tally.best)
        return _replicated(case, tally, quorum if tally.disputed else 1)
    match policy:
        case Audit():
            return _audited(case, policy, tally, grid, lot)
        case Credibility():
            return _credible(case, policy, tally, grid)
        case Boinc():
            return _boinc(case, policy, tally, lot)
    assert_never(policy)


def _replicated(case: Case, tally: voting.Tally, quorum: int) -> Hopeless | Undecided:
    """Ask for as many full replicas as it takes at least until so many are equal, if there is hope."""
    return voting.hopeless(case.attempts, tally) or Undecided(tally.wanted(quorum, quorum))


def _heard(case: Case, grid: Grid) -> voting.Tally:
    """Count the box without hosts that decide nothing, though their result may be looked at.

    Those that are set aside; and new ones beside others that were right once. New ones alone are believed when there
    are many of them, all of whom have answered, or nobody else to ask: two may be friends who came together.
    """
    everybody = voting.count(case.attempts, in_steps=case.in_steps)
    ballots = [a for a in case.attempts if a.audits is None and a.state is ReplicaState.VOTING]
    if len(ballots) < LEAST_QUORUM and not everybody.disputed:
        return everybody  # no vote yet
    standings = [case.standings.get(ballot.host, NEWCOMER) for ballot in ballots]
    believed = [not is_quarantined(standing, grid.now) for standing in standings]
    old = [is_tested(standing) for standing in standings]
    asks_further = case.others > 0 and not isinstance(case.request.policy, Boinc)
    if asks_further and any(one and other for one, other in zip(believed, old, strict=True)):
        believed = [one and other for one, other in zip(believed, old, strict=True)]
    tally = everybody
    if not all(believed):
        unheard = {ballot.replica for ballot, is_believed in zip(ballots, believed, strict=True) if not is_believed}
        voices = [attempt for attempt in case.attempts if attempt.replica not in unheard]
        tally = structs.replace(voting.count(voices, in_steps=case.in_steps), disputed=everybody.disputed)
        if tally.most == 0 and not everybody.disputed:
            tally = everybody
    if asks_further and not any(old) and (tally.live or tally.total < ENOUGH_NEW_HOSTS):
        return structs.replace(tally, most=min(1, tally.most))
    return tally


# --- audits -----------------------------------------------------------------------------------------------------


def _audited(case: Case, policy: Audit, tally: voting.Tally, grid: Grid, lot: Lot) -> Verdict:
    """All that is in the box agrees: accept it, or look closer."""
    quorum = quorum_of(case.request)
    if tally.most >= quorum:
        return voting.agreed(case.attempts, tally.best)
    if case.rows is None:
        return _replicated(case, tally, quorum)
    author = _author(case.attempts)
    reach = auditing.reach(policy.share, case.rows)
    done, out = _looks(case, author, grid)
    missing = _needed(case, author, grid, policy.epsilon, reach).less(done)
    if not any(missing):
        return voting.agreed(case.attempts, tally.best)
    if tally.most + tally.live >= quorum:
        return Undecided(0)  # a full replica that is on its way says more than looks
    if _audits_lead_nowhere(case, author):
        return _replicated(case, tally, quorum)
    wanted = missing.less(out)
    hopeless = voting.hopeless(case.attempts, tally) if any(wanted) else None
    if hopeless is not None:
        return hopeless
    audits = [*case.ordered]
    if wanted.strips:
        # The place is drawn now that the result is here; a later look at the same result gets other places.
        chance = lot("strips", author.replica, done.strips, out.strips, len(case.attempts))
        strips = auditing.lay_strips(case.rows, wanted.strips, chance)
        owners = max(1, case.others - len(audits) - wanted.denoising)
        dealt = auditing.deal(strips, owners, math.ceil(1.0 / reach))
        audits += [AuditOrder(author.replica, auditing.written(each)) for each in dealt]
    # Never together with strips: whoever denoises is given the raw passes that strips are looked for in.
    audits += [AuditOrder(author.replica, auditing.DENOISED)] * wanted.denoising
    return Undecided(0, tuple(audits))


class _Looks(NamedTuple):
    """Looks at a result: at strips of it, or of its raw passes; and, if it has raw passes, at its denoising."""

    strips: int
    denoising: int

    def less(self, others: _Looks) -> _Looks:
        """Return what is left of these without so many others."""
        return _Looks(max(0, self.strips - others.strips), max(0, self.denoising - others.denoising))


def _needed(case: Case, author: Attempt, grid: Grid, epsilon: float, reach: float) -> _Looks:
    """Return what it takes until a result is a lie with a chance of at most epsilon."""
    doubted = doubt(case.standings.get(author.host, NEWCOMER), lie_rate(grid.climate), grid.now)
    friends = friends_share(grid)
    # Denoising is done again as a whole: whoever does it meets every lie.
    denoising = strips_needed(doubted, epsilon, 1.0, friends) if case.in_steps else 0
    return _Looks(strips_needed(doubted, epsilon, reach, friends), denoising)


def _looks(case: Case, author: Attempt, grid: Grid) -> tuple[_Looks, _Looks]:
    """Return what was looked at and fits, and what is still out.

    What an auditor found who was wrong lately counts for nothing.
    """
    done: list[str] = []
    out = [order.strips for order in case.ordered if order.audits == author.replica]
    for attempt in case.attempts:
        if attempt.audits != author.replica or attempt.strips is None:
            continue
        fits = attempt.state is ReplicaState.VOTING and voting.difference(attempt, author) == 0
        if attempt.state in LIVE:
            out.append(attempt.strips)
        elif fits and not is_suspect(case.standings.get(attempt.host, NEWCOMER), grid.now):
            done.append(attempt.strips)
    return _looked_at(done), _looked_at(out)


def _looked_at(audits: Sequence[str]) -> _Looks:
    return _Looks(sum(map(auditing.number_of_strips, audits)), audits.count(auditing.DENOISED))


def _audits_lead_nowhere(case: Case, author: Attempt) -> bool:
    """Say whether a result is to be replicated: auditors fail, vanish, or nobody is left who could be one."""
    audits = [attempt for attempt in case.attempts if attempt.audits is not None]
    if not audits:
        return not case.others
    came = [audit for audit in audits if audit.state is ReplicaState.VOTING]
    failed = sum(audit.state is ReplicaState.FAILED for audit in audits)
    failed += sum(audit.audits == author.replica and voting.difference(audit, author) is None for audit in came)
    lost = voting.losses(audits)
    live = any(audit.state in LIVE for audit in audits)
    nobody_left = not live and not case.others
    return failed >= AUDITS_THAT_MAY_FAIL or lost >= voting.LEASES_THAT_MAY_BE_LOST or nobody_left


def _author(attempts: Sequence[Attempt]) -> Attempt:
    ballots = [a for a in attempts if a.audits is None and a.state is ReplicaState.VOTING and a.fingerprint is not None]
    return ballots[0] if len(ballots) == 1 else min(ballots, key=lambda attempt: attempt.replica)


def how_caught(request: JobRequest, rows: int | None, attempts: Sequence[Attempt], loser: Attempt) -> Caught:
    """Return with what chance the checks of a task catch what `loser` handed in: for the grid's climate."""
    policy = policy_of(request)
    if not isinstance(policy, Audit) or rows is None:
        return Caught()
    # How much of the frame is altered is known where a full replica was laid beside it.
    full = [a for a in attempts if a.audits is None]
    beside = [a.differences[loser.replica] for a in full if loser.replica in a.differences]
    beside += [loser.differences[a.replica] for a in full if a.replica in loser.differences]
    reach = auditing.reach(max(beside, default=policy.share), rows)
    audits = [a for a in attempts if a.audits == loser.replica and a.strips and a.differences]
    if any(a.strips == auditing.DENOISED and a.differences.get(loser.replica, 0.0) > 0 for a in audits):
        return Caught()  # whoever denoises meets it for certain
    strips = sum(auditing.number_of_strips(a.strips or "") for a in audits)
    return Caught(1.0 - missing_probability(strips, reach, 0.0) if strips else 1.0, 1.0 - reach)


# --- credibility ------------------------------------------------------------------------------------------------


def _credible(case: Case, policy: Credibility, tally: voting.Tally, grid: Grid) -> Verdict:
    """Accept what is wrong with a chance below epsilon: its least doubted voter lies, and all others are friends.

    After Sarmenta, Sabotage-tolerance mechanisms for volunteer computing systems (2002), section 4, with voters that
    may collude: two give the same wrong result only together.
    """
    doubts = [
        doubt(case.standings.get(attempt.host, NEWCOMER), wrong_rate(grid.climate), grid.now)
        for attempt in case.attempts
        if attempt.audits is None and attempt.state is ReplicaState.VOTING
    ]
    wrong = min(doubts) * friends_share(grid) ** (tally.most - 1)
    everybody = not case.others and not tally.live and tally.most >= quorum_of(case.request)
    if wrong <= policy.epsilon or tally.most >= _MOST_REPLICAS or everybody:
        return voting.agreed(case.attempts, tally.best)
    return _replicated(case, tally, tally.most + 1)


# --- BOINC's rule -----------------------------------------------------------------------------------------------


def _boinc(case: Case, policy: Boinc, tally: voting.Tally, lot: Lot) -> Verdict:
    """BOINC's adaptive replication: a trusted host's result is replicated with the chance 1 / (valid ones in a row).

    Source: BOINC wiki, AdaptiveReplication; sched/validator and credit code of BOINC 7.
    """
    quorum = quorum_of(case.request)
    author = _author(case.attempts)
    streak = case.standings.get(author.host, NEWCOMER).streak
    if tally.most >= quorum or (
        tally.most == 1 and streak >= policy.trusted_after and lot("boinc", author.replica) >= 1.0 / streak
    ):
        return voting.agreed(case.attempts, tally.best)
    return _replicated(case, tally, quorum)
