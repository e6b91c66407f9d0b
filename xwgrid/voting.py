"""Ballots to verdicts, inside one class of results: a strict majority of all valid ballots, and at least the quorum.

Every ballot is of another voter (an owner; in a private job, a host): the store's keys see to that. An audit is no
ballot. But where results differ, an audit that fits one of them and not another bears witness for the one it fits.
Which policy asks for what is in `xwgrid.policies`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct

from xwgrid.lifecycle import LIVE
from xwgrid.model import Cause, Digest, HostId, ReplicaId, ReplicaState, Seconds
from xwgrid.tolerances import Cast, close_pairs, medoid_groups

# A task that different hosts fail to do is at fault itself: a scene that crashes the renderer, say.
HOSTS_THAT_MAY_FAIL: Final = 3
# Hosts that vanish say little about the task, but one that takes every host down must end some time.
LEASES_THAT_MAY_BE_LOST: Final = 10
# No more than so many of them count of one host: it cannot bring a task down alone.
LOSSES_OF_A_HOST: Final = 3
# Votes that split further than this come from results that differ by nature: no majority will ever form.
MOST_BALLOTS: Final = 15
# Of a task with fewer attempts than any of these there is hope.
_LEAST_ATTEMPTS: Final = min(HOSTS_THAT_MAY_FAIL, LEASES_THAT_MAY_BE_LOST, MOST_BALLOTS)
# A host that fails this many tasks of a job is kept off the job.
TASKS_A_HOST_MAY_FAIL: Final = 3

_NO_DIFFERENCES: Final[Mapping[ReplicaId, float]] = MappingProxyType({})


class Attempt(Struct, frozen=True):
    """One replica of a task, as far as the verdict needs it."""

    replica: ReplicaId
    number: int
    host: HostId
    voter: int
    state: ReplicaState
    cause: Cause | None
    fingerprint: Digest | None
    result_class: str
    audits: ReplicaId | None = None  # the replica whose result it looks at; None: it is a full one
    strips: str | None = None  # where it looks, as `xwgrid.auditing.written` writes it
    # Of the others it was compared with: the share of the rows both have in which they differ.
    differences: Mapping[ReplicaId, float] = _NO_DIFFERENCES
    seconds: Seconds = 0.0  # its device was at it, as far as the server can tell
    credit: Seconds = 0.0  # given for it already
    is_test: bool = False  # of a host that has not proved itself, on a task that was decided before


class AuditOrder(Struct, frozen=True):
    """An audit that is wanted: of which result, and where."""

    audits: ReplicaId
    strips: str


class Agreed(NamedTuple):
    """A result is accepted. `winners` and `losers` are the replicas, audits among them, that were right and wrong."""

    fingerprint: Digest
    canonical: ReplicaId  # the earliest of the full winners
    winners: tuple[ReplicaId, ...]
    losers: tuple[ReplicaId, ...]


class Undecided(NamedTuple):
    """More is needed: `wanted` full replicas beyond the live ones, and these audits beyond the live ones."""

    wanted: int
    audits: tuple[AuditOrder, ...] = ()


class Hopeless(NamedTuple):
    """No result will come of this task."""

    reason: str


Verdict: TypeAlias = Agreed | Undecided | Hopeless


class Tally(Struct, frozen=True):
    """The box of one task, counted. Only full replicas make a candidate."""

    best: Digest  # the candidate with the most supporters, the first such; "" without ballots
    most: int
    total: int  # voters who said something that tells the candidates apart
    live: int  # full replicas still out
    disputed: bool  # ballots differ, or an audit differs from the result it looked at
    second: int = 0  # supporters of the next best candidate

    def is_majority(self, quorum: int) -> bool:
        """Say whether the best candidate has a strict majority of at least `quorum` voters."""
        return self.most >= quorum and 2 * self.most > self.total

    def is_first_of_all(self, quorum: int) -> bool:
        """Say whether the best candidate has more voters than any other, at least `quorum`, and none are to come."""
        return self.live == 0 and self.most >= quorum and self.most > self.second

    def wanted(self, replicas: int, quorum: int) -> int:
        """Return the fewest further full replicas that could make the best candidate win."""
        needed = max(quorum - self.most, self.total - 2 * self.most + 1, replicas - self.total)
        return max(0, needed - self.live)


def decide(attempts: Sequence[Attempt], *, replicas: int, quorum: int) -> Verdict:
    """Return the verdict on an open task from all its attempts so far, by fixed replication.

    `replicas` attempts are made at first, and more while no strict majority of at least `quorum` voters has formed.
    """
    tally = count(attempts)
    if tally.is_majority(quorum):
        return agreed(attempts, tally.best)
    return hopeless(attempts, tally) or Undecided(tally.wanted(replicas, quorum))


def count(attempts: Sequence[Attempt], *, in_steps: bool = False) -> Tally:
    """Count the box: ballots, and where these are disputed the audits that tell them apart.

    Of results that are made `in_steps` no audit has seen all: it disputes the one it differs from, and is no voter.
    """
    supporters: dict[Digest, int] = {}
    voted: set[int] = set()
    ballots: list[Attempt] = []
    audits: list[Attempt] = []
    live = 0
    for attempt in attempts:
        if attempt.audits is not None:
            if attempt.state is ReplicaState.VOTING:
                audits.append(attempt)
        elif attempt.state is ReplicaState.VOTING and attempt.fingerprint is not None:
            voted.add(attempt.voter)
            ballots.append(attempt)
        elif attempt.state in LIVE:
            live += 1
    if not ballots:
        return Tally("", 0, 0, live, disputed=False)
    candidate = candidates(ballots)
    for ballot in ballots:
        supporters[candidate[ballot.replica]] = supporters.get(candidate[ballot.replica], 0) + 1
    disputed = len(supporters) > 1
    total = len(voted)
    for audit in audits:
        shares = [(candidate[ballot.replica], difference(audit, ballot)) for ballot in ballots]
        against = {fingerprint for fingerprint, share in shares if share is not None and share > 0}
        if not against:
            continue
        disputed = True
        if audit.voter in voted or in_steps:
            continue  # the owner's own ballot says more
        voted.add(audit.voter)
        total += 1
        fits = {fingerprint for fingerprint, share in shares if share == 0} - against
        if len(fits) == 1:
            supporters[fits.pop()] += 1
    best = max(supporters, key=supporters.__getitem__, default="")
    second = max((number for fingerprint, number in supporters.items() if fingerprint != best), default=0)
    return Tally(best, supporters.get(best, 0), total, live, disputed, second)


def candidates(ballots: Sequence[Attempt]) -> Mapping[ReplicaId, Digest]:
    """Return what each ballot is for: its fingerprint, or that of the centre of the group it belongs to.

    Within a class ballots are grouped by fingerprint. Those of several classes are grouped around medoids, by what the
    readers found alike within the tolerance measured for the two (difference 0).
    """
    if len(ballots) < 2 or len({ballot.result_class for ballot in ballots}) < 2:
        return {ballot.replica: ballot.fingerprint or "" for ballot in ballots}
    casts = [Cast(ballot.replica, ballot.result_class, ballot.fingerprint or "") for ballot in ballots]
    alike = [
        (one.replica, other.replica)
        for one in ballots
        for other in ballots
        if one.replica < other.replica and one.result_class != other.result_class and difference(one, other) == 0
    ]
    groups = medoid_groups([cast.ballot for cast in casts], close_pairs(casts, alike))
    fingerprint = {cast.ballot: cast.fingerprint for cast in casts}
    return {member: fingerprint[group.centre] for group in groups for member in group.members}


def agreed(attempts: Sequence[Attempt], fingerprint: Digest) -> Agreed:
    """Return the verdict for a candidate: who was right, and who was wrong."""
    box = [a for a in attempts if a.state is ReplicaState.VOTING and a.audits is None and a.fingerprint is not None]
    candidate = candidates(box)
    winners = [ballot.replica for ballot in box if candidate[ballot.replica] == fingerprint]
    # That a result is not alike another class's says nothing against it: only those of a class that won can lose.
    classes = {ballot.result_class for ballot in box if candidate[ballot.replica] == fingerprint}
    losers = [
        ballot.replica for ballot in box if candidate[ballot.replica] != fingerprint and ballot.result_class in classes
    ]
    canonical = min(winners)
    right = [attempt for attempt in attempts if attempt.replica in winners]
    for attempt in attempts:
        if attempt.state is ReplicaState.VOTING and attempt.audits is not None:
            fits = audit_fits(attempt, right)
            if attempt.audits in losers and fits is None and attempt.differences.get(attempt.audits, 0.0) > 0:
                fits = True  # nobody else's result could be compared with it, and the one that was is wrong
            if fits is not None:
                (winners if fits else losers).append(attempt.replica)
    return Agreed(fingerprint, canonical, tuple(winners), tuple(losers))


def audit_fits(audit: Attempt, right: Sequence[Attempt]) -> bool | None:
    """Say whether an audit fits the result that these replicas have; None when it was compared with none of them."""
    shares = [share for share in (difference(audit, each) for each in right) if share is not None]
    return min(shares) == 0 if shares else None


def difference(one: Attempt, other: Attempt) -> float | None:
    """Return the share of the rows two results both have in which they differ; None when they were not compared.

    Whichever was read later was laid beside the other.
    """
    share = one.differences.get(other.replica)
    return other.differences.get(one.replica) if share is None else share


def losses(attempts: Iterable[Attempt]) -> int:
    """Return how often hosts vanished with a task; no host counts more than LOSSES_OF_A_HOST times."""
    lost = Counter(attempt.host for attempt in attempts if attempt.state is ReplicaState.LOST)
    return sum(min(times, LOSSES_OF_A_HOST) for times in lost.values())


def hopeless(attempts: Sequence[Attempt], tally: Tally) -> Hopeless | None:
    """Return why no result will come of a task, if none will. Tests were of a task that was decided before."""
    if len(attempts) < _LEAST_ATTEMPTS:
        return None
    attempts = [attempt for attempt in attempts if attempt.audits is None and not attempt.is_test]
    failed = {attempt.host for attempt in attempts if attempt.state is ReplicaState.FAILED}
    if len(failed) >= HOSTS_THAT_MAY_FAIL:
        return Hopeless(f"{len(failed)} different hosts failed at it; the last lines of their logs say why")
    if losses(attempts) >= LEASES_THAT_MAY_BE_LOST:
        hosts = len({attempt.host for attempt in attempts if attempt.state is ReplicaState.LOST})
        return Hopeless(f"{hosts} hosts vanished while they had it, some of them again and again")
    if tally.total >= MOST_BALLOTS:
        return Hopeless(f"no majority in {tally.total} ballots: its results differ from host to host")
    return None


def late_ballot_agrees(attempts: Sequence[Attempt], ballot: Attempt) -> bool | None:
    """Say whether a ballot or an audit that came after the verdict fits it; None when that cannot be told.

    It changes credit and standing, nothing else.
    """
    winners = [a for a in attempts if a.state is ReplicaState.AGREED and a.audits is None]
    if ballot.audits is not None:
        return audit_fits(ballot, winners)
    if any(winner.fingerprint == ballot.fingerprint for winner in winners):
        return True
    # One of another class can be found alike; where no tolerance was measured nothing can be said.
    across = [difference(ballot, winner) for winner in winners if winner.result_class != ballot.result_class]
    if any(share == 0 for share in across):
        return True
    return False if any(winner.result_class == ballot.result_class for winner in winners) else None
