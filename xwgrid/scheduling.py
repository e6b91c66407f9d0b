"""The index of ready tasks, and which of them a host may take.

The index holds open jobs. Of each it knows a window of *fresh* tasks (no replica yet, in order of number, refilled
from the store) and all *begun* tasks that want more replicas, in buckets of equal conditions, so that choosing costs
the same at a thousand and at a million open tasks. What is chosen leaves the index at once: two calls of one group
never get the same replica.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from xwgrid.lifecycle import KEEPS_OTHERS_OUT
from xwgrid.model import Digest, HostId, JobId, JobRequest, Program, ReplicaState, TaskNumber, UserId
from xwgrid.voting import TASKS_A_HOST_MAY_FAIL, Attempt

WINDOW: Final = 1_000
# Buckets a host looks at before it turns to fresh tasks. A voter is in few of them, so the first few nearly always fit.
BUCKETS_LOOKED_AT: Final = 64
# A host that has a job's scene loaded counts as this many leases less for the job's owner: a scene load is worth that.
LOADED_BONUS: Final = 2


class ReadyTask(NamedTuple):
    """A task that wants `wanted` more replicas now."""

    number: TaskNumber
    wanted: int
    made: int = 0
    result_class: str | None = None
    voters: frozenset[int] = frozenset()  # who may not have it: they hold it or voted on it
    failed_hosts: frozenset[HostId] = frozenset()


def ready_task(number: TaskNumber, wanted: int, made: int, attempts: Iterable[Attempt]) -> ReadyTask:
    """Return what the index keeps of a begun task, from all its attempts."""
    voters, failed_hosts, result_class = set(), set(), None
    for attempt in attempts:
        if attempt.state in KEEPS_OTHERS_OUT:
            voters.add(attempt.voter)
            result_class = attempt.result_class
        elif attempt.state is ReplicaState.FAILED:
            failed_hosts.add(attempt.host)
    return ReadyTask(number, wanted, made, result_class, frozenset(voters), frozenset(failed_hosts))


def pinned(request: JobRequest, result_class: str | None) -> str | None:
    """Return the class that replicas of `result_class` pin a task to: none when one ballot decides."""
    return result_class if request.quorum > 1 else None


class HostCard(NamedTuple):
    """What the choice needs to know of a host."""

    host: HostId
    owner: UserId
    programs: Mapping[str, Program]  # by runtime
    loaded: frozenset[Digest] = frozenset()


class JobCard(NamedTuple):
    """What the choice needs to know of a job."""

    job: JobId
    owner: UserId
    request: JobRequest  # without its inputs
    spec: Digest
    runtime: str
    renderer: str | None  # a version the job is pinned to


class Choice(NamedTuple):
    """One replica for one host. `number` is the replica's number within its task."""

    card: JobCard
    task: TaskNumber
    number: int
    voter: int
    result_class: str


# The tasks of a job that want replicas, in order of number, after a number, at most so many.
Source: TypeAlias = Callable[[JobId, int, int], Sequence[ReadyTask]]
# How many owners (or, for a private job's owner, hosts) of a class were seen lately.
Census: TypeAlias = Callable[[str, UserId | None], int]
_Condition: TypeAlias = tuple[frozenset[int], frozenset[HostId]]  # who may not have it: voters, hosts


@dataclass
class _Job:
    card: JobCard
    fresh: deque[TaskNumber] = field(default_factory=deque)
    fresh_wanted: int = 1  # replicas a fresh task wants: all of them the same
    cursor: int = -1
    exhausted: bool = False
    begun: dict[TaskNumber, ReadyTask] = field(default_factory=dict)
    # By pinned class, then by the rest of the condition; innermost an ordered set.
    buckets: dict[str | None, dict[_Condition, dict[TaskNumber, None]]] = field(default_factory=dict)
    failures: dict[HostId, int] = field(default_factory=dict)
    # Begun tasks the refilling has still to come by. It reads what is committed, and that may be older than what the
    # batch in hand has told of them.
    ahead: set[TaskNumber] = field(default_factory=set)

    def put(self, task: ReadyTask) -> None:
        self.drop(task.number)
        task = task._replace(result_class=pinned(self.card.request, task.result_class))
        if task.number > self.cursor and not self.exhausted:
            self.ahead.add(task.number)
        if task.wanted > 0:
            self.begun[task.number] = task
            self.buckets.setdefault(task.result_class, {}).setdefault(_condition(task), {})[task.number] = None

    def drop(self, number: TaskNumber) -> None:
        task = self.begun.pop(number, None)
        if task is not None:
            buckets = self.buckets[task.result_class]
            bucket = buckets[_condition(task)]
            del bucket[number]
            if not bucket:
                del buckets[_condition(task)]


def _condition(task: ReadyTask) -> _Condition:
    return (task.voters, task.failed_hosts)


class ReadyIndex:
    """Which tasks of which jobs want replicas. Not thread-safe: one thread decides."""

    def __init__(self, source: Source, census: Census, window: int = WINDOW) -> None:
        self._source = source
        self._census = census
        self._window = window
        self._jobs: dict[JobId, _Job] = {}
        self._live: dict[JobId, int] = {}  # live leases of each job
        self._live_of: dict[UserId, int] = {}  # and of each requester

    # --- what the coordinator tells it -------------------------------------------------------------------------

    def add_job(self, card: JobCard, failures: Mapping[HostId, int], live: int) -> None:
        """Take up an open job with what its hosts failed at and how many live leases it has. Again means: anew."""
        self.remove_job(card)
        self._jobs[card.job] = _Job(card, failures=dict(failures), fresh_wanted=card.request.replicas)
        self._count(card, live)

    def remove_job(self, card: JobCard) -> None:
        """Forget a job that ended."""
        self._jobs.pop(card.job, None)
        self._count(card, -self._live.get(card.job, 0))

    def offer(self, job: JobId, task: ReadyTask) -> None:
        """Take the present truth about a begun task; `wanted` 0 takes it out."""
        if job in self._jobs:
            self._jobs[job].put(task)

    def lease_ended(self, card: JobCard) -> None:
        """Count one live lease of a job less."""
        if self._live.get(card.job, 0) > 0:
            self._count(card, -1)

    def host_failed(self, job: JobId, host: HostId) -> None:
        """Count a task of this job that this host failed."""
        if job in self._jobs:
            failures = self._jobs[job].failures
            failures[host] = failures.get(host, 0) + 1

    def jobs(self) -> Iterable[JobCard]:
        """Return the jobs it holds."""
        return [job.card for job in self._jobs.values()]

    def has_private(self, owner: UserId) -> bool:
        """Say whether an owner has an open job for their own hosts alone."""
        return any(job.card.owner == owner and job.card.request.private for job in self._jobs.values())

    # --- the choice ---------------------------------------------------------------------------------------------

    def choose(self, host: HostCard, wanted: int) -> list[Choice]:
        """Return at most `wanted` replicas for this host, and take them out of the index.

        Jobs go by priority, then by how few leases their owner has, then by age; a voter never gets two of one task.
        """
        chosen: list[Choice] = []
        while len(chosen) < wanted:
            for job in self._in_order(host):
                choice = self._from_job(job, host)
                if choice is not None:
                    chosen.append(choice)
                    break
            else:
                break
        return chosen

    def reason(self, host: HostCard) -> str:
        """Return, in one sentence, why `choose` found nothing for this host."""
        if not self._jobs:
            return "there is no open job"
        reasons: dict[str, None] = {}
        for job in islice(self._jobs.values(), 20):
            refusal = self._refusal(job, host)
            reasons[
                refusal or "every open task is taken, or was voted on by this host's owner, or failed on this host"
            ] = None
        return "; ".join(islice(reasons, 3))

    def _count(self, card: JobCard, leases: int) -> None:
        self._live[card.job] = self._live.get(card.job, 0) + leases
        self._live_of[card.owner] = self._live_of.get(card.owner, 0) + leases
        if not self._live[card.job]:
            del self._live[card.job]
        if not self._live_of[card.owner]:
            del self._live_of[card.owner]

    def _in_order(self, host: HostCard) -> list[_Job]:
        jobs = [job for job in self._jobs.values() if job.begun or job.fresh or not job.exhausted]
        if len(jobs) > 1:
            jobs.sort(key=lambda job: self._rank(job, host))
        return jobs

    def _rank(self, job: _Job, host: HostCard) -> tuple[int, int, int]:
        live = self._live_of.get(job.card.owner, 0)
        bonus = LOADED_BONUS if job.card.spec in host.loaded else 0
        return (-job.card.request.priority, live - bonus, job.card.job)

    def _refusal(self, job: _Job, host: HostCard) -> str | None:
        card = job.card
        if card.request.private and card.owner != host.owner:
            return "the open jobs are private to their owners' own hosts"
        program = host.programs.get(card.runtime)
        if program is None:
            return f"the open jobs need the runtime '{card.runtime}', which this host has not got"
        if card.renderer is not None and not _version_fits(program.version, card.renderer):
            return f"a job is pinned to {card.runtime} {card.renderer}, this host has {program.version}"
        if job.failures.get(host.host, 0) >= TASKS_A_HOST_MAY_FAIL:
            return f"this host failed {TASKS_A_HOST_MAY_FAIL} tasks of job {card.job} and is kept off it"
        seen = self._census(program.result_class, card.owner if card.request.private else None)
        if seen < card.request.quorum:
            return (
                f"job {card.job} needs {card.request.quorum} voters with results of the class "
                f"'{program.result_class}', and {seen} were seen today"
            )
        return None

    def _from_job(self, job: _Job, host: HostCard) -> Choice | None:
        if self._refusal(job, host) is not None:
            return None
        result_class = host.programs[job.card.runtime].result_class
        voter = voter_of(job.card.request, host)
        task = self._begun_for(job, host.host, voter, result_class) or self._next_fresh(
            job, host.host, voter, result_class
        )
        if task is None:
            return None
        job.put(
            task._replace(
                wanted=task.wanted - 1, made=task.made + 1, result_class=result_class, voters=task.voters | {voter}
            )
        )
        self._count(job.card, 1)
        return Choice(job.card, task.number, task.made, voter, result_class)

    def _begun_for(self, job: _Job, host: HostId, voter: int, result_class: str) -> ReadyTask | None:
        # Once there is nothing fresh to turn to, every bucket is looked at.
        most = None if job.exhausted and not job.fresh else BUCKETS_LOOKED_AT
        for pinned in (result_class, None):
            for (voters, failed_hosts), bucket in islice(job.buckets.get(pinned, {}).items(), most):
                if voter not in voters and host not in failed_hosts:
                    return job.begun[next(iter(bucket))]
        return None

    def _next_fresh(self, job: _Job, host: HostId, voter: int, result_class: str) -> ReadyTask | None:
        while True:
            if job.fresh:
                return ReadyTask(job.fresh.popleft(), job.fresh_wanted)
            if job.exhausted:
                return None
            self._refill(job)
            begun = self._begun_for(job, host, voter, result_class)  # the refill may have brought some
            if begun is not None:
                return begun

    def _refill(self, job: _Job) -> None:
        tasks = self._source(job.card.job, job.cursor, self._window)
        job.exhausted = len(tasks) < self._window
        for task in tasks:
            job.cursor = task.number
            if task.number in job.ahead:
                continue
            if task.made == 0 and task.wanted == job.fresh_wanted:
                job.fresh.append(task.number)
            else:
                job.put(task)
        job.ahead = set() if job.exhausted else {number for number in job.ahead if number > job.cursor}


def voter_of(request: JobRequest, host: HostCard) -> int:
    """Return who votes: the host's owner, or in a private job the host itself (negative, so that they never meet)."""
    return -host.host if request.private else host.owner


def _version_fits(version: str, pinned: str) -> bool:
    """Say whether `version` (4.5.15) is of the pinned series (4.5)."""
    return version.split(".")[: len(pinned.split("."))] == pinned.split(".")
