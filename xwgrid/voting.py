"""Ballots to verdicts: fixed replication with a quorum, inside one class of results.

A strict majority of all valid ballots wins, and it must have at least `quorum` ballots. Every ballot is of another
voter (an owner; in a private job, a host): the store's keys see to that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from xwgrid.lifecycle import LIVE
from xwgrid.model import Cause, Digest, HostId, ReplicaId, ReplicaState

# A task that different hosts fail to do is at fault itself: a scene that crashes the renderer, say.
HOSTS_THAT_MAY_FAIL: Final = 3
# Hosts that vanish say little about the task, but one that takes every host down must end some time.
LEASES_THAT_MAY_BE_LOST: Final = 10
# Votes that split further than this come from results that differ by nature: no majority will ever form.
MOST_BALLOTS: Final = 15
# A host that fails this many tasks of a job is kept off the job.
TASKS_A_HOST_MAY_FAIL: Final = 3


class Attempt(NamedTuple):
    """One replica of a task, as far as the verdict needs it. NamedTuple, since batches hold thousands of them."""

    replica: ReplicaId
    number: int
    host: HostId
    voter: int
    state: ReplicaState
    cause: Cause | None
    fingerprint: Digest | None
    result_class: str


class Agreed(NamedTuple):
    """A majority formed."""

    fingerprint: Digest
    canonical: ReplicaId  # the earliest of the winners
    winners: tuple[ReplicaId, ...]
    losers: tuple[ReplicaId, ...]


class Undecided(NamedTuple):
    """More ballots are needed; `wanted` replicas beyond the live ones."""

    wanted: int


class Hopeless(NamedTuple):
    """No result will come of this task."""

    reason: str


Verdict: TypeAlias = Agreed | Undecided | Hopeless


def decide(attempts: Sequence[Attempt], *, replicas: int, quorum: int) -> Verdict:
    """Return the verdict on an open task from all its attempts so far.

    `replicas` attempts are made at first, and more while no strict majority of at least `quorum` ballots has formed.
    """
    votes: Counter[str] = Counter()
    live = 0
    for attempt in attempts:
        if attempt.state is ReplicaState.VOTING and attempt.fingerprint is not None:
            votes[attempt.fingerprint] += 1
        elif attempt.state in LIVE:
            live += 1
    total = votes.total()
    best, most = votes.most_common(1)[0] if votes else ("", 0)
    if most >= quorum and 2 * most > total:
        return _agreed(attempts, best)
    hopeless = _hopeless(attempts, total)
    if hopeless is not None:
        return hopeless
    # The fewest further ballots that could make the leader win: up to the quorum, and past half of all.
    needed = max(quorum - most, total - 2 * most + 1, replicas - total)
    return Undecided(wanted=max(0, needed - live))


def _agreed(attempts: Sequence[Attempt], fingerprint: Digest) -> Agreed:
    ballots = [attempt for attempt in attempts if attempt.state is ReplicaState.VOTING]
    winners = tuple(ballot.replica for ballot in ballots if ballot.fingerprint == fingerprint)
    losers = tuple(ballot.replica for ballot in ballots if ballot.fingerprint != fingerprint)
    return Agreed(fingerprint, min(winners), winners, losers)


def _hopeless(attempts: Sequence[Attempt], total: int) -> Hopeless | None:
    failed = {attempt.host for attempt in attempts if attempt.state is ReplicaState.FAILED}
    if len(failed) >= HOSTS_THAT_MAY_FAIL:
        return Hopeless(f"{len(failed)} different hosts failed at it; the last lines of their logs say why")
    lost = sum(attempt.state is ReplicaState.LOST for attempt in attempts)
    if lost >= LEASES_THAT_MAY_BE_LOST:
        return Hopeless(f"{lost} hosts vanished while they had it")
    if total >= MOST_BALLOTS:
        return Hopeless(f"no majority in {total} ballots: its results differ from host to host")
    return None


def late_ballot_agrees(attempts: Sequence[Attempt], fingerprint: Digest) -> bool:
    """Say whether a ballot cast after the verdict is of the majority. It changes credit and standing, nothing else."""
    return any(a.state is ReplicaState.AGREED and a.fingerprint == fingerprint for a in attempts)
