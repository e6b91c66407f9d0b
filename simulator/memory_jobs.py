"""The part of the memory store that has to do with whole jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import structs
from xwgrid_server.store import BoxedResult, JobRow, NewJob, ReplicaRow

from simulator.memory_rows import MemoryJob, MemoryTask
from xwgrid.lifecycle import LIVE
from xwgrid.model import (
    Cause,
    HostId,
    Instant,
    JobId,
    JobState,
    ReplicaId,
    ReplicaState,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.policies import replicas_at_first
from xwgrid.voting import Attempt

_WITHOUT_A_VERDICT = frozenset({ReplicaState.LEASED, ReplicaState.READING, ReplicaState.VOTING})
# A retry counts none of these again.
_OF_THE_FIRST_TRY = frozenset({ReplicaState.VOTING, ReplicaState.OUTVOTED, ReplicaState.FAILED, ReplicaState.LOST})


class Accepted(NamedTuple):
    """A task's canonical result, and the one that was accepted before its verdict was taken back, if it was."""

    task: TaskNumber
    replica: ReplicaId
    before: ReplicaId | None


class MemoryJobs:
    """Jobs with their tasks and replicas. `operators` may steer every job."""

    def __init__(self, operators: Collection[UserId] = ()) -> None:
        self._operators = frozenset(operators)
        self._jobs: dict[JobId, MemoryJob] = {}
        self._unfinished: dict[JobId, MemoryJob] = {}
        self._rows: dict[ReplicaId, ReplicaRow] = {}
        self._files: dict[ReplicaId, str] = {}
        self._boxed: dict[ReplicaId, BoxedResult] = {}  # made when it is first asked for
        self._leases: dict[HostId, dict[ReplicaId, None]] = {}

    # --- xwgrid_server.store.Store ------------------------------------------------------------------------------

    def job(self, job: JobId) -> JobRow | None:
        """Return a job."""
        known = self._jobs.get(job)
        return None if known is None else known.row()

    def may_steer(self, user: UserId, job: JobId) -> bool:
        """Say whether a job is there and the user its owner, or an operator."""
        known = self._jobs.get(job)
        return known is not None and (known.owner == user or user in self._operators)

    def unfinished_jobs(self) -> Sequence[JobRow]:
        """Return jobs that are being entered or open, oldest first."""
        return [known.row() for _, known in sorted(self._unfinished.items())]

    def live_leases(self, job: JobId) -> int:
        """Return how many live leases a job has."""
        return sum(
            attempt.state is ReplicaState.LEASED for task in self._begun(job) for attempt in self._attempts(task)
        )

    def host_failures(self, job: JobId) -> Mapping[HostId, int]:
        """Return how many tasks of a job each host failed."""
        failures: dict[HostId, int] = {}
        for task in self._begun(job):
            failed = (a for a in self._attempts(task) if a.state is ReplicaState.FAILED and a.audits is None)
            for host in {attempt.host for attempt in failed}:
                failures[host] = failures.get(host, 0) + 1
        return failures

    def create_job(self, job: NewJob) -> JobId:
        """Store a job that is being entered."""
        number = JobId(len(self._jobs) + 1)
        request = structs.replace(job.request, inputs=())
        self._jobs[number] = self._unfinished[number] = MemoryJob(number, job.owner, request, job.spec, job.tasks)
        return number

    def entered(self, job: JobId) -> int:
        """Return how many of the job's tasks are stored."""
        return self._jobs[job].entered

    def enter_tasks(self, job: JobId, first: int, last: int, wanted: int) -> None:
        """Store a slab of tasks, both ends included: the one after those that are stored."""
        known = self._jobs[job]
        if first != known.entered:
            raise ValueError(f"the next task of job {job} to be entered is {known.entered}, not {first}")
        known.entered, known.wanted_at_first = last + 1, wanted

    def open_job(self, job: JobId) -> bool:
        """Let volunteers have the job; say whether it was being entered."""
        known = self._jobs.get(job)
        if known is None or known.state is not JobState.ENTERING:
            return False
        known.state = JobState.OPEN
        return True

    def cancel_job(self, job: JobId, now: Instant) -> bool:
        """Cancel a job, its open tasks and its replicas that have no verdict; say whether it was not ended yet."""
        known = self._jobs.get(job)
        if known is None or known.state in {JobState.FINISHED, JobState.CANCELLED}:
            return False
        known.state, known.finished_at = JobState.CANCELLED, now
        self._unfinished.pop(job, None)
        for task in known.begun.values():
            if task.state is TaskState.OPEN:
                task.state, task.wanted, task.audits = TaskState.CANCELLED, 0, ()
            for attempt in self._attempts(task):
                if attempt.state in _WITHOUT_A_VERDICT:
                    self._put(structs.replace(attempt, state=ReplicaState.CANCELLED, cause=Cause.CANCELLED))
        return True

    def retry_job(self, job: JobId) -> int:
        """Open the failed tasks of an incomplete job again; return how many."""
        known = self._jobs.get(job)
        if known is None or known.state is not JobState.INCOMPLETE:
            return 0
        known.state, known.finished_at, known.failed = JobState.OPEN, None, 0
        self._unfinished[job] = known
        opened = 0
        for task in known.begun.values():
            if task.state is TaskState.FAILED:
                opened += 1
                self._open_again(task, replicas_at_first(known.request))
        return opened

    # --- what the simulator asks beside -------------------------------------------------------------------------

    def accepted(self, job: JobId) -> Iterator[Accepted]:
        """Yield the canonical results of a job that is not forgotten."""
        for number, task in self._jobs[job].begun.items():
            if task.canonical is not None:
                yield Accepted(TaskNumber(number), task.canonical, task.accepted_before)

    def replicas_of(self, job: JobId) -> Iterator[Attempt]:
        """Yield all replicas of a job that is not forgotten."""
        for task in self._begun(job):
            yield from self._attempts(task)

    def first_agreed_at(self, job: JobId) -> Instant | None:
        """Return when the first task of a job agreed."""
        return self._jobs[job].first_agreed_at

    def ended_tasks(self, job: JobId) -> int:
        """Return how many tasks of a job have ended."""
        return self._jobs[job].agreed + self._jobs[job].failed

    def agreed_tasks(self, job: JobId) -> int:
        """Return how many tasks of a job have an accepted result."""
        return self._jobs[job].agreed

    def is_over(self, job: JobId) -> bool:
        """Say whether a job has ended, and no result of it may still come."""
        return self._jobs[job].finished_at is not None and not any(a.state in LIVE for a in self.replicas_of(job))

    def forget(self, job: JobId) -> None:
        """Drop the tasks and replicas of a job that is over."""
        known = self._jobs[job]
        for task in known.begun.values():
            for replica in task.replicas:
                del self._rows[replica]
                self._files.pop(replica, None)
                self._boxed.pop(replica, None)
        known.begun = {}
        known.entered = 0

    # --- rows ---------------------------------------------------------------------------------------------------

    def _begun(self, job: JobId) -> Collection[MemoryTask]:
        return self._jobs[job].begun.values() if job in self._jobs else ()

    def _attempts(self, task: MemoryTask) -> tuple[Attempt, ...]:
        rows = self._rows
        return tuple([rows[replica].attempt for replica in task.replicas])

    def _put(self, attempt: Attempt) -> None:
        """Take an attempt that is not leased, or not any more."""
        self._end_lease(attempt.replica)
        row = self._rows[attempt.replica]
        self._rows[attempt.replica] = structs.replace(row, attempt=attempt, next_transition=None)

    def _end_lease(self, replica: ReplicaId) -> None:
        attempt = self._rows[replica].attempt
        if attempt.state is ReplicaState.LEASED:
            leases = self._leases[attempt.host]
            del leases[replica]
            if not leases:
                del self._leases[attempt.host]

    def _open_again(self, task: MemoryTask, at_first: int) -> None:
        live = 0
        for attempt in self._attempts(task):
            if attempt.state in _OF_THE_FIRST_TRY:
                self._put(structs.replace(attempt, state=ReplicaState.CANCELLED))
            elif attempt.state in LIVE and attempt.audits is None:
                live += 1
        task.state, task.audits, task.wanted = TaskState.OPEN, (), max(0, at_first - live)
