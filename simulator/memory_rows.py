"""What the memory store keeps of jobs, tasks and replicas."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec
from xwgrid_server.store import Claim, JobChange, JobRow, ReplicaChange, ReplicaRow

from xwgrid.model import (
    Digest,
    Instant,
    JobId,
    JobRequest,
    JobState,
    ReplicaId,
    ReplicaState,
    Seconds,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.ready_tasks import ReadyTask, ready_task
from xwgrid.voting import Attempt, AuditOrder

_audits: Final = msgspec.json.Decoder(tuple[AuditOrder, ...])
_differences: Final = msgspec.json.Decoder(dict[ReplicaId, float])


@dataclass(slots=True)
class MemoryTask:
    """A task that was claimed, or decided on, at least once. All others of a job are alike and take no memory."""

    wanted: int
    state: TaskState = TaskState.OPEN
    made: int = 0
    replicas: list[ReplicaId] = field(default_factory=list)
    audits: tuple[AuditOrder, ...] = ()
    canonical: ReplicaId | None = None
    accepted_before: ReplicaId | None = None  # what the verdict said before it was taken back

    def ready(self, number: TaskNumber, attempts: tuple[Attempt, ...]) -> ReadyTask:
        """Return what the index keeps of it."""
        return ready_task(number, self.wanted - len(self.audits), self.made, attempts, self.audits)


@dataclass(slots=True)
class MemoryJob:
    """A job, its counts, and its tasks as far as they are begun."""

    job: JobId
    owner: UserId
    request: JobRequest
    spec: Digest
    tasks: int
    state: JobState = JobState.ENTERING
    entered: int = 0
    wanted_at_first: int = 1  # every slab of a job wants the same
    begun: dict[int, MemoryTask] = field(default_factory=dict)
    agreed: int = 0
    failed: int = 0
    timed: int = 0
    seconds: Seconds = 0.0
    outvoted: int = 0
    lost: int = 0
    leased: int = 0
    finished_at: Instant | None = None
    first_agreed_at: Instant | None = None

    def task(self, number: TaskNumber) -> MemoryTask | None:
        """Return a task; one that nobody touched yet is made up."""
        task = self.begun.get(number)
        if task is None and 0 <= number < self.entered:
            return self.untouched()
        return task

    def untouched(self) -> MemoryTask:
        """Return what a task is before anybody touched it."""
        if self.state is JobState.CANCELLED:
            return MemoryTask(0, TaskState.CANCELLED)
        return MemoryTask(self.wanted_at_first)

    def touch(self, number: TaskNumber) -> MemoryTask:
        """Return a task that is about to change."""
        task = self.begun.get(number)
        if task is None:
            task = self.begun[number] = self.untouched()
        return task

    def count(self, change: JobChange, now: Instant) -> None:
        """Add to the counts, and end the job with its last task."""
        self.agreed += change.agreed
        self.failed += change.failed
        self.outvoted += change.outvoted
        self.lost += change.lost
        self.timed += change.timed
        self.seconds += change.seconds
        if self.agreed and self.first_agreed_at is None:
            self.first_agreed_at = now
        if self.state is JobState.OPEN and self.agreed + self.failed == self.tasks:
            self.state = JobState.INCOMPLETE if self.failed else JobState.FINISHED
            self.finished_at = now

    def row(self) -> JobRow:
        """Return what the coordinator reads of it."""
        return JobRow(
            self.job,
            self.owner,
            self.state,
            self.request,
            self.spec,
            self.tasks,
            self.agreed + self.failed,
            self.timed,
            self.seconds,
        )


def audits_of(text: str) -> tuple[AuditOrder, ...]:
    """Return the audits that a change or a claim leaves to be taken."""
    return () if text == "[]" else _audits.decode(text)


def claimed(claim: Claim) -> ReplicaRow:
    """Return the replica that a claim makes."""
    attempt = Attempt(
        claim.id,
        claim.number,
        claim.host,
        claim.voter,
        ReplicaState.LEASED,
        None,
        None,
        claim.result_class,
        claim.audits,
        claim.strips,
        is_test=claim.is_test,
    )
    return ReplicaRow(attempt, claim.job, claim.task, None, claim.next_transition, claim.leased_at)


def changed(row: ReplicaRow, change: ReplicaChange) -> ReplicaRow:
    """Return a replica after a change; what the change does not tell stays."""
    was = row.attempt
    attempt = Attempt(
        was.replica,
        was.number,
        was.host,
        was.voter,
        change.state,
        was.cause if change.cause is None else change.cause,
        was.fingerprint if change.fingerprint is None else change.fingerprint,
        was.result_class,
        was.audits,
        was.strips,
        was.differences if change.differences is None else _differences.decode(change.differences),
        was.seconds if change.seconds is None else change.seconds,
        was.credit if change.credit is None else change.credit,
        was.is_test,
    )
    return ReplicaRow(attempt, row.job, row.task, row.acknowledged_call, None, row.leased_at)
