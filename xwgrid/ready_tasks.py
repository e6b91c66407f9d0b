"""The ready tasks of one job: fresh ones in order, begun ones in buckets of equal conditions."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, NamedTuple, TypeAlias

from msgspec import Struct, structs

from xwgrid.auditing import DENOISED
from xwgrid.lifecycle import KEEPS_OTHERS_OUT
from xwgrid.model import Digest, HostId, Instant, JobId, JobRequest, ReplicaState, Seconds, TaskNumber, UserId
from xwgrid.policies import quorum_of, replicas_at_first
from xwgrid.voting import Attempt, AuditOrder


class ReadyTask(Struct, frozen=True):
    """A task that wants `wanted` more full replicas now, and these audits."""

    number: TaskNumber
    wanted: int
    made: int = 0
    result_class: str | None = None
    voters: frozenset[int] = frozenset()  # who may not have it: they hold it or voted on it
    failed_hosts: frozenset[HostId] = frozenset()
    audits: tuple[AuditOrder, ...] = ()
    auditors: frozenset[int] = frozenset()  # who looks, or looked, at a part of it: they get no further part

    @property
    def parts(self) -> int:
        """How many replicas of any kind it wants."""
        return self.wanted + len(self.audits)

    def suits(self, voter: int, host: HostId, result_class: str) -> bool:
        """Say whether a host could do all of it, wanted or not."""
        return self.result_class in {None, result_class} and host not in self.failed_hosts and voter not in self.voters

    def fits(self, voter: int, host: HostId, result_class: str) -> bool:
        """Say whether there is anything in it for a host."""
        return (
            host not in self.failed_hosts
            and voter not in self.voters
            and (self.wanted > 0 or self.has_audit_for(voter, result_class))
        )

    def has_audit_for(self, voter: int, result_class: str) -> bool:
        """Say whether a voter could look at a part of it: strips are compared within a class alone."""
        return bool(self.audits) and voter not in self.auditors and self.result_class == result_class

    def after_audit(self, auditor: int) -> ReadyTask:
        """Return the task after its first audit was taken."""
        auditors = self.auditors | {auditor}
        return structs.replace(self, made=self.made + 1, audits=self.audits[1:], auditors=auditors)

    def after_full(self, voter: int, result_class: str) -> ReadyTask:
        """Return the task after a full replica of it was taken; the first one's class is the task's."""
        return structs.replace(
            self,
            wanted=self.wanted - 1,
            made=self.made + 1,
            result_class=self.result_class or result_class,
            voters=self.voters | {voter},
        )


def takes_part(attempt: Attempt) -> bool:
    """Say whether an attempt keeps its voter from looking at a part of the task.

    Whoever was to denoise raw passes has them to copy strips from, whatever became of the lease.
    """
    return attempt.state in KEEPS_OTHERS_OUT or attempt.strips == DENOISED


def ready_task(
    number: TaskNumber, wanted: int, made: int, attempts: Iterable[Attempt], audits: tuple[AuditOrder, ...] = ()
) -> ReadyTask:
    """Return what the index keeps of a begun task, from all its attempts."""
    voters, auditors, failed_hosts, result_class = set(), set(), set(), None
    for attempt in attempts:
        if attempt.state is ReplicaState.FAILED:
            failed_hosts.add(attempt.host)
        if not takes_part(attempt):
            continue
        if attempt.audits is not None:
            auditors.add(attempt.voter)
        else:
            voters.add(attempt.voter)
            result_class = result_class or attempt.result_class  # the first one's
    return ReadyTask(
        number, wanted, made, result_class, frozenset(voters), frozenset(failed_hosts), audits, frozenset(auditors)
    )


def pinned(request: JobRequest, result_class: str | None) -> str | None:
    """Return the class that replicas of `result_class` pin a task to: none when one ballot decides."""
    return result_class if quorum_of(request) > 1 else None


class JobCard(NamedTuple):
    """What the choice needs to know of a job."""

    job: JobId
    owner: UserId
    request: JobRequest  # without its inputs
    spec: Digest
    runtime: str
    renderer: str | None  # a version the job is pinned to
    rows: int | None = None  # the height of its pictures, None when they cannot be rendered in parts
    application: str = ""
    in_steps: bool = False  # its pictures are made of raw passes by denoising


class JobProgress(Struct, frozen=True):
    """How far a job is."""

    left: int  # tasks that have not ended
    timed: int = 0  # results that came with their time
    seconds: Seconds = 0.0  # the sum of these times

    @property
    def mean_seconds(self) -> Seconds:
        """The mean time of a full replica, 0 while it is not known."""
        return self.seconds / self.timed if self.timed else 0.0


# A job is hurried when the time it still needs, stretched by this for what may go wrong, ends after its deadline.
LATE: Final = 1.5

_Condition: TypeAlias = tuple[frozenset[int], frozenset[HostId], frozenset[int], bool, bool]


@dataclass
class ReadyTasks:
    """What the index knows of one open job."""

    card: JobCard
    progress: JobProgress
    failures: dict[HostId, int] = field(default_factory=dict)
    fresh: deque[TaskNumber] = field(default_factory=deque)
    cursor: int = -1
    exhausted: bool = False
    begun: dict[TaskNumber, ReadyTask] = field(default_factory=dict)
    # Begun tasks that anybody may have, by pinned class, then by the rest of the condition; innermost an ordered set.
    buckets: dict[str | None, dict[_Condition, dict[TaskNumber, None]]] = field(default_factory=dict)
    # Begun tasks the refilling has still to come by. It reads what is committed, and that may be older than what the
    # batch in hand has told of them.
    ahead: set[TaskNumber] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.fresh_wanted = replicas_at_first(self.card.request)
        self.quorum = quorum_of(self.card.request)

    @property
    def has_any(self) -> bool:
        """Whether there may be something in it for whoever asks."""
        return bool(self.buckets or self.fresh or not self.exhausted)

    def is_late(self, live: int, now: Instant) -> bool:
        """Say whether the job, at its pace with so many live leases, will miss a deadline that is still to come."""
        deadline = self.card.request.deadline
        if deadline is None or now >= deadline:
            return False
        left = self.progress.left * self.progress.mean_seconds / max(live, 1)
        return now + LATE * left >= deadline

    def put(self, task: ReadyTask) -> ReadyTask:
        """Take the present truth about a begun task, out of every bucket; return it as it is kept."""
        self.drop(task.number)
        if self.quorum < 2:
            task = structs.replace(task, result_class=None)  # one ballot decides: see `pinned`
        if task.number > self.cursor and not self.exhausted:
            self.ahead.add(task.number)
        if task.parts > 0:
            self.begun[task.number] = task
        return task

    def open_to_all(self, number: TaskNumber) -> None:
        """Let whoever asks have a begun task."""
        task = self.begun[number]
        self.buckets.setdefault(task.result_class, {}).setdefault(_condition(task), {})[number] = None

    def is_open_to_all(self, number: TaskNumber) -> bool:
        """Say whether whoever asks may have a begun task."""
        task = self.begun[number]
        return number in self.buckets.get(task.result_class, {}).get(_condition(task), {})

    def drop(self, number: TaskNumber) -> None:
        """Forget a begun task."""
        task = self.begun.pop(number, None)
        buckets = None if task is None else self.buckets.get(task.result_class)
        if task is None or not buckets:
            return
        condition = _condition(task)
        bucket = buckets.get(condition, {})
        if bucket.pop(number, 0) is None and not bucket:
            del buckets[condition]
            if not buckets:
                del self.buckets[task.result_class]

    def open_tasks(self, classes: Iterable[str | None], most: int | None) -> Iterator[ReadyTask]:
        """Yield one task of each bucket of these pins, of at most `most` buckets of each."""
        for pin in classes:
            for bucket in islice(self.buckets.get(pin, {}).values(), most):
                yield self.begun[next(iter(bucket))]

    def next_fresh(self) -> ReadyTask:
        """Take the first of the fresh tasks, of which there must be one."""
        return ReadyTask(self.fresh.popleft(), self.fresh_wanted)

    def refill(self, tasks: Iterable[ReadyTask]) -> list[ReadyTask]:
        """Take the next window of the job's ready tasks; return those that are begun."""
        begun = []
        for task in tasks:
            self.cursor = task.number
            if task.number in self.ahead:
                continue
            if task.made == 0 and task.wanted == self.fresh_wanted and not task.audits:
                self.fresh.append(task.number)
            else:
                begun.append(task)
        self.ahead = set() if self.exhausted else {number for number in self.ahead if number > self.cursor}
        return begun


def _condition(task: ReadyTask) -> _Condition:
    return (task.voters, task.failed_hosts, task.auditors, task.wanted > 0, bool(task.audits))
