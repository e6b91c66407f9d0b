"""What is done with whole jobs, and how the index is kept as the store is. `now` is passed in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xwgrid.errors import Conflict, NotFound
from xwgrid.model import Digest, HostId, Instant, JobId, JobRequest, JobState, ReplicaId, UserId
from xwgrid.policies import replicas_at_first
from xwgrid.ready_tasks import JobProgress
from xwgrid.scheduling import ReadyIndex
from xwgrid.splitting import task_count
from xwgrid.tolerances import Tolerances
from xwgrid.trust import Climate
from xwgrid_server.answering import Progress
from xwgrid_server.calls import Entered
from xwgrid_server.job_cards import JobCards
from xwgrid_server.store import NewJob, Store

SLAB = 10_000


class JobDesk:
    """Enters, cancels and retries jobs. The coordinator is one, that serves volunteers too."""

    def __init__(self, store: Store, index: ReadyIndex) -> None:
        self._store = store
        self._index = index
        self._card = JobCards(store, index)
        self.progress = Progress()
        self._next_replica = ReplicaId(1)
        self._climate = Climate()
        self._caught: list[HostId] = []  # whose accepted results are to be audited again
        self._unsure = False  # whether a step was broken off, and the index may not be what the store says

    def begin_job(
        self, owner: UserId, request: JobRequest, spec: Digest, blobs: frozenset[Digest], now: Instant
    ) -> JobId:
        """Store a job whose tasks are still to be entered, by `enter` until it says that all are."""
        return self._store.create_job(NewJob(owner, request, spec, blobs, task_count(request.split), now))

    def enter(self, job: JobId, slab: int = SLAB) -> Entered:
        """Store the next slab of a job's tasks; with the last one the job is open."""
        row = self._store.job(job)
        if row is None or row.state is not JobState.ENTERING:
            return Entered(left=0, replicas=0)
        first = self._store.entered(job)
        if first < row.tasks:
            last = min(first + slab, row.tasks) - 1
            self._store.enter_tasks(job, first, last, replicas_at_first(row.request))
            first = last + 1
        if first == row.tasks:
            with self._surely():
                if self._store.open_job(job):
                    self._take_up(job)
        return Entered(left=row.tasks - first, replicas=row.tasks * replicas_at_first(row.request))

    def cancel_job(self, user: UserId, job: JobId, now: Instant) -> None:
        """Cancel a job. Its volunteers learn at their next call.

        Raises NotFound when the user has no such job, Conflict when it has ended.
        """
        self._check_owner(user, job)
        with self._surely():
            cancelled = self._store.cancel_job(job, now)
            if cancelled:
                self._take_up(job)
                self.progress.leases_ended(job)
        if not cancelled:
            raise Conflict(f"job {job} has ended already: there is nothing to cancel", job=job)

    def retry_job(self, user: UserId, job: JobId) -> int:
        """Open the failed tasks of a job again; return how many.

        Raises NotFound when the user has no such job, Conflict when it has no failed tasks or others still run.
        """
        self._check_owner(user, job)
        with self._surely():
            opened = self._store.retry_job(job)
            if opened:
                self._take_up(job)
        if not opened:
            raise Conflict(f"job {job} has no failed tasks, or is not done with the others yet", job=job)
        return opened

    def _check_owner(self, user: UserId, job: JobId) -> None:
        if not self._store.may_steer(user, job):
            raise NotFound(f"you have no job {job}", job=job)

    def entering(self) -> list[JobId]:
        """Return the jobs whose tasks are not all stored."""
        return [row.job for row in self._store.unfinished_jobs() if row.state is JobState.ENTERING]

    # --- the index as the store is ------------------------------------------------------------------------------

    @contextmanager
    def _surely(self) -> Iterator[None]:
        """Do a step that ends with the index as the store is; one that was broken off is made good before the next."""
        if self._unsure:
            self.start_over()
        self._unsure = True
        yield
        self._unsure = False

    def start_over(self) -> None:
        """Read the open jobs, and what the grid has met, anew."""
        self._climate = self._store.climate()
        self._caught = list(self._store.to_audit_again())
        self._index.eligible.tolerances = Tolerances(self._store.tolerances())
        self._next_replica = ReplicaId(self._store.last_replica() + 1)
        self.progress.begin_anew()
        jobs = {card.job for card in self._index.jobs()}
        jobs.update(row.job for row in self._store.unfinished_jobs() if row.state is JobState.OPEN)
        for job in sorted(jobs):
            self._take_up(job)

    def _take_up(self, job: JobId) -> None:
        """Tell the index the present truth about a job."""
        row = self._store.job(job)
        if row is None or row.state is not JobState.OPEN:
            self._index.remove_job(self._card(job))
        else:
            live = self._store.live_leases(job)
            progress = JobProgress(row.tasks - row.ended, row.timed, row.seconds)
            self._index.add_job(self._card(job), self._store.host_failures(job), live, progress)
