"""The working set of one batch: rows as they will be once it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import structs

from xwgrid.lifecycle import REPLICA_MOVES, TASK_MOVES, ReplicaEvent, TaskEvent, move
from xwgrid.model import Cause, HostId, Instant, JobId, ReplicaId, ReplicaState, TaskState
from xwgrid.scheduling import JobCard, ReadyIndex, pinned, ready_task
from xwgrid.voting import Agreed, Attempt, Hopeless, Undecided, decide, late_ballot_agrees
from xwgrid_server.calls import ReadOrder
from xwgrid_server.store import (
    Changes,
    Claim,
    HostChange,
    JobChange,
    Renewal,
    ReplicaChange,
    ReplicaRow,
    Store,
    TaskChange,
    TaskKey,
    TaskRow,
)


class Batch:
    """Collects what a batch changes. Moves go through the tables of `xwgrid.lifecycle`."""

    def __init__(
        self,
        store: Store,
        index: ReadyIndex,
        card: Callable[[JobId], JobCard],
        rows: Mapping[ReplicaId, ReplicaRow],
        now: Instant,
    ) -> None:
        self.now = now
        self.renewals: dict[ReplicaId, Renewal] = {}
        self.hosts: dict[HostId, HostChange] = {}
        self.claims: list[Claim] = []
        self.to_read: list[ReadOrder] = []
        self.touched: set[TaskKey] = set()
        self.newly_wanted = 0
        self._store = store
        self._index = index
        self._card = card
        self._rows = dict(rows)
        self._leases: dict[HostId, dict[ReplicaId, None]] = {}
        for replica, row in rows.items():
            if row.attempt.state is ReplicaState.LEASED:
                self._leases.setdefault(row.attempt.host, {})[replica] = None
        self._was: dict[ReplicaId, ReplicaState] = {}
        self._told: dict[ReplicaId, dict[str, Any]] = {}
        self._tasks: dict[TaskKey, TaskChange] = {}
        self._counts: dict[JobId, JobChange] = {}

    def row(self, replica: ReplicaId) -> ReplicaRow | None:
        """Return a replica as it stands in this batch."""
        return self._rows.get(replica)

    def leases_of(self, host: HostId) -> Iterator[ReplicaRow]:
        """Return the live leases of a host as they stand in this batch."""
        return iter([self._rows[replica] for replica in self._leases.get(host, ())])

    def end(self, row: ReplicaRow, event: ReplicaEvent, **told: Any) -> None:
        """Move a replica on, with what is told of it: fields of `ReplicaChange`."""
        attempt = row.attempt
        state = move(REPLICA_MOVES, attempt.state, event)
        if attempt.state is ReplicaState.LEASED:
            self.renewals.pop(attempt.replica, None)
            self._leases[attempt.host].pop(attempt.replica, None)
            self._index.lease_ended(self._card(row.job))
            told["ended_at"] = self.now
        if state is ReplicaState.FAILED:
            self._index.host_failed(row.job, attempt.host)
        if state is ReplicaState.LOST:
            self._count(row.job, "lost")
        if event in _RESULT_CAME and told["seconds"] > 0:
            self._count(row.job, "timed")
            self._count(row.job, "seconds", told["seconds"])
        self._change(row, state, told)
        self.touched.add((row.job, row.task))

    def decide(self) -> None:
        """Come to a verdict on every task touched so far, and tell the index what is wanted now."""
        for key, task in self._store.tasks(self.touched).items() if self.touched else ():
            attempts = [self._present(attempt) for attempt in task.attempts]
            if task.state is TaskState.OPEN:
                self._vote(key, task, attempts)
            else:
                self._late(task, attempts)

    def changes(self) -> Changes:
        """Return everything to be written."""
        return Changes(
            now=self.now,
            replicas=[
                ReplicaChange(id=replica, was=was, state=self._rows[replica].attempt.state, **self._told[replica])
                for replica, was in self._was.items()
            ],
            renewals=list(self.renewals.values()),
            tasks=list(self._tasks.values()),
            claims=self.claims,
            jobs=list(self._counts.values()),
            hosts=list(self.hosts.values()),
        )

    # --- verdicts -----------------------------------------------------------------------------------------------

    def _vote(self, key: TaskKey, task: TaskRow, attempts: list[Attempt]) -> None:
        request = self._card(task.job).request
        verdict = decide(attempts, replicas=request.replicas, quorum=request.quorum)
        state, wanted, canonical, reason = TaskState.OPEN, 0, None, ""
        match verdict:
            case Agreed():
                state, canonical = move(TASK_MOVES, task.state, TaskEvent.AGREED), verdict.canonical
                self._settle(task, attempts, verdict)
                self._count(task.job, "agreed")
            case Hopeless():
                state, reason = move(TASK_MOVES, task.state, TaskEvent.GIVEN_UP), verdict.reason
                for attempt in attempts:
                    if attempt.state is ReplicaState.VOTING:
                        self._judge(task, attempt, ReplicaEvent.OUTVOTED)
                self._count(task.job, "failed")
            case Undecided():
                wanted = verdict.wanted
                self.newly_wanted += max(0, wanted - task.wanted)
        ready = ready_task(task.number, wanted, task.made, attempts)
        self._tasks[key] = TaskChange(
            job=task.job,
            number=task.number,
            was=task.state,
            state=state,
            wanted=wanted,
            # Losing the only replica of a class frees the task for hosts of any class.
            result_class=pinned(request, ready.result_class),
            canonical=canonical,
            reason=reason,
        )
        self._index.offer(task.job, ready)

    def _settle(self, task: TaskRow, attempts: list[Attempt], verdict: Agreed) -> None:
        winners = set(verdict.winners)
        for attempt in attempts:
            if attempt.state is ReplicaState.VOTING:
                won = attempt.replica in winners
                self._judge(task, attempt, ReplicaEvent.WON if won else ReplicaEvent.OUTVOTED)

    def _late(self, task: TaskRow, attempts: list[Attempt]) -> None:
        """Judge ballots that came after the verdict. The verdict stays."""
        for attempt in attempts:
            if attempt.state is ReplicaState.VOTING and attempt.fingerprint is not None:
                if task.state is TaskState.AGREED:
                    agrees = late_ballot_agrees(attempts, attempt.fingerprint)
                    self._judge(task, attempt, ReplicaEvent.WON if agrees else ReplicaEvent.OUTVOTED)
                else:
                    self._judge(task, attempt, ReplicaEvent.CANCELLED)

    def _judge(self, task: TaskRow, attempt: Attempt, event: ReplicaEvent) -> None:
        row = self._rows.get(attempt.replica) or ReplicaRow(attempt, task.job, task.number, None, None)
        state = move(REPLICA_MOVES, row.attempt.state, event)
        if state is ReplicaState.OUTVOTED:
            self._count(task.job, "outvoted")
        self._change(row, state, {})

    def _present(self, attempt: Attempt) -> Attempt:
        """Return an attempt as it stands in this batch."""
        row = self._rows.get(attempt.replica)
        return attempt if row is None else row.attempt

    def _change(self, row: ReplicaRow, state: ReplicaState, told: dict[str, Any]) -> None:
        attempt = row.attempt
        self._was.setdefault(attempt.replica, attempt.state)
        self._told.setdefault(attempt.replica, {}).update(told)
        cause: Cause | None = told.get("cause", attempt.cause)
        fingerprint = told.get("fingerprint", attempt.fingerprint)
        after = attempt._replace(state=state, cause=cause, fingerprint=fingerprint)
        self._rows[attempt.replica] = row._replace(attempt=after)

    def _count(self, job: JobId, what: str, by: float = 1) -> None:
        change = self._counts.get(job) or JobChange(job=job)
        self._counts[job] = structs.replace(change, **{what: getattr(change, what) + by})


_RESULT_CAME = frozenset({ReplicaEvent.VALUE_REPORTED, ReplicaEvent.FILES_REPORTED})
