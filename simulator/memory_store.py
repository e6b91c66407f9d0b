"""`xwgrid_server.store.Store` over dictionaries, for a million tasks and a hundred thousand hosts in one process.

It keeps the promises of the store in SQL: tests/server/test_store_contract.py runs against both. What no caller of the
protocol can read again (messages, logs, why a task failed) it does not keep, and a task that nobody has claimed yet
takes no memory at all.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence

import msgspec
from msgspec import structs
from xwgrid_server.store import (
    BoxedResult,
    CallFacts,
    Changes,
    Claim,
    HostRow,
    ReplicaRow,
    Saved,
    StandingChange,
    TaskKey,
    TaskRow,
)

from simulator.memory_jobs import MemoryJobs
from simulator.memory_rows import audits_of, changed, claimed
from xwgrid.errors import Conflict, NotFound
from xwgrid.lifecycle import IN_THE_BOX, KEEPS_OTHERS_OUT
from xwgrid.model import (
    Digest,
    HostFacts,
    HostId,
    Instant,
    JobId,
    JobState,
    ReplicaId,
    ReplicaState,
    ResultFile,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.ready_tasks import ReadyTask
from xwgrid.tolerances import Tolerance
from xwgrid.trust import NEWCOMER, Climate, Standing

_FILES = msgspec.json.Decoder(tuple[ResultFile, ...])
_EARNED = msgspec.json.Decoder(dict[UserId, float])


class MemoryStore(MemoryJobs):
    """See `xwgrid_server.store.Store`. `operators` may steer every job; one that `forgives` sets no host aside."""

    def __init__(self, operators: Collection[UserId] = (), *, forgives: bool = False) -> None:
        super().__init__(operators)
        self._forgives = forgives
        self._hosts: dict[HostId, HostRow] = {}
        self._uploaded: dict[ReplicaId, frozenset[Digest]] = {}
        self._standings: dict[HostId, Standing] = {}
        self._tolerances: dict[tuple[str, str, str], Tolerance] = {}
        self._climate = Climate()
        self._last_replica = 0
        # When leases run out, soonest first. A lease that was renewed, or has ended, is found out when its time comes.
        self._due: list[tuple[Instant, ReplicaId]] = []

    # --- hosts, and what arrives beside the calls ---------------------------------------------------------------

    def add_host(
        self, host: HostId, owner: UserId, facts: HostFacts | None = None, standing: Standing | None = None
    ) -> None:
        """Enrol a host, a new one unless it stands somehow already."""
        if standing is not None:
            self._standings[host] = standing
        self._hosts[host] = HostRow(host, owner, "active", "", None, facts, standing or NEWCOMER)

    def measured(self, tolerance: Tolerance) -> None:
        """Take what was measured between two classes, in place of what was there."""
        self._tolerances[tolerance.application, tolerance.class_a, tolerance.class_b] = tolerance

    def arrived(self, replica: ReplicaId, digests: frozenset[Digest]) -> None:
        """Note that a replica's files were uploaded, until it is reported."""
        self._uploaded[replica] = digests

    def standing(self, host: HostId) -> Standing:
        """Return how a host stands."""
        return self._standings.get(host, NEWCOMER)

    def caught(self) -> set[HostId]:
        """Return the hosts that were ever set aside."""
        return {host for host, standing in self._standings.items() if standing.quarantines}

    # --- batches of calls ---------------------------------------------------------------------------------------

    def load(self, hosts: Collection[HostId], replicas: Collection[ReplicaId]) -> CallFacts:
        """Return the hosts, their live leases, and the replicas named."""
        rows = self._rows
        found = {replica: rows[replica] for replica in replicas if replica in rows}
        for host in hosts:
            for replica in self._leases.get(host, ()):
                found[replica] = rows[replica]
        return CallFacts(
            {host: self._hosts[host] for host in hosts if host in self._hosts},
            found,
            {replica: self._uploaded[replica] for replica in replicas if replica in self._uploaded},
        )

    def tasks(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskRow]:
        """Return tasks with all their attempts."""
        found: dict[TaskKey, TaskRow] = {}
        standings = self._standings
        for job, number in keys:
            task = self._jobs[job].task(number) if job in self._jobs else None
            if task is not None:
                attempts = self._attempts(task)
                stand = {a.host: standings[a.host] for a in attempts if a.host in standings}
                found[job, number] = TaskRow(
                    job, number, task.state, task.wanted, task.made, attempts, task.audits, stand
                )
        return found

    def save(self, changes: Changes) -> Saved:
        """Write a batch. Raises Conflict, with nothing written, when a row was not in the state it should be in."""
        self._check(changes)
        for change in changes.replicas:
            self._end_lease(change.id)
            self._rows[change.id] = changed(self._rows[change.id], change)
            if change.files is not None:
                self._files[change.id] = change.files
                self._boxed.pop(change.id, None)
        for renewal in changes.renewals:
            self._renew(renewal.id, renewal.next_transition, renewal.acknowledged_call)
        for told in changes.tasks:
            task = self._jobs[told.job].touch(told.number)
            if told.was is TaskState.AGREED:
                task.accepted_before = task.canonical
            task.state, task.wanted, task.canonical = told.state, told.wanted, told.canonical
            task.audits = audits_of(told.audits)
        refused = frozenset(claim.id for claim in changes.claims if not self._claim(claim))
        for host in changes.hosts:
            self._see(host.id, host.last_seen_at, host.facts)
        for standing in changes.standings:
            self._stand(standing)
        if changes.climate is not None:
            self._climate = changes.climate
        return Saved(refused, self._count(changes))

    def _check(self, changes: Changes) -> None:
        rows, jobs, wrong = self._rows, self._jobs, 0
        for change in changes.replicas:
            row = rows.get(change.id)
            wrong += row is None or row.attempt.state is not change.was
        if wrong:
            raise Conflict(f"{wrong} of {len(changes.replicas)} replicas changed under way: the batch was not written")
        for told in changes.tasks:
            task = jobs[told.job].task(told.number) if told.job in jobs else None
            wrong += task is None or task.state is not told.was
        if wrong:
            raise Conflict(f"{wrong} of {len(changes.tasks)} tasks changed under way: the batch was not written")

    def _claim(self, claim: Claim) -> bool:
        job = self._jobs.get(claim.job)
        if job is None or job.state is not JobState.OPEN or claim.id in self._rows:
            return False
        task = job.touch(claim.task)
        is_full = claim.audits is None
        for replica in task.replicas:
            other = self._rows[replica].attempt
            same = other.voter == claim.voter and (other.audits is None) is is_full
            if other.number == claim.number or (same and other.state in KEEPS_OTHERS_OUT):
                return False
        self._rows[claim.id] = claimed(claim)
        self._leases.setdefault(claim.host, {})[claim.id] = None
        heapq.heappush(self._due, (claim.next_transition, claim.id))
        self._last_replica = max(self._last_replica, claim.id)
        task.replicas.append(claim.id)
        task.made += 1
        if not claim.is_beyond:
            task.wanted -= 1
            task.audits = audits_of(claim.audits_left)
        job.leased += 1
        return True

    def _count(self, changes: Changes) -> dict[JobId, JobState]:
        ended: dict[JobId, JobState] = {}
        for change in changes.jobs:
            job = self._jobs.get(change.job)
            if job is None:
                continue
            job.count(change, changes.now)
            if job.finished_at is not None:
                self._unfinished.pop(change.job, None)
                if job.state is not JobState.CANCELLED:
                    ended[change.job] = job.state
        return ended

    def _renew(self, replica: ReplicaId, until: Instant, call: int) -> None:
        row = self._rows.get(replica)
        if row is not None and row.attempt.state is ReplicaState.LEASED:
            if row.next_transition is None or until < row.next_transition:
                heapq.heappush(self._due, (until, replica))
            acknowledged = call if row.acknowledged_call is None else row.acknowledged_call
            self._rows[replica] = structs.replace(row, next_transition=until, acknowledged_call=acknowledged)

    def _end_lease(self, replica: ReplicaId) -> None:
        super()._end_lease(replica)
        self._uploaded.pop(replica, None)

    def _see(self, host: HostId, now: Instant, facts: str | None) -> None:
        row = self._hosts.get(host)
        if row is not None:
            said = row.facts if facts is None else msgspec.json.decode(facts, type=HostFacts)
            self._hosts[host] = structs.replace(row, last_seen_at=now, facts=said)

    def _stand(self, change: StandingChange) -> None:
        before = self._standings.get(change.host)
        if before is not None and before.edition != change.edition:
            return  # the operator said something of the host since it was read
        earned = _EARNED.decode(change.earned) if change.earned != "{}" else {}
        _, _, *rest = structs.astuple(change)  # a standing has its fields in the same order
        standing = Standing(earned, *rest)
        if self._forgives:
            standing = structs.replace(standing, quarantined_until=None, audit_again=False, tested=True)
        self._standings[change.host] = standing
        row = self._hosts.get(change.host)
        if row is not None:
            self._hosts[change.host] = structs.replace(row, standing=standing)

    # --- the index and the timer --------------------------------------------------------------------------------

    def ready(self, job: JobId, after: int, limit: int) -> Sequence[ReadyTask]:
        """Return the job's tasks that want replicas, in order of number, those after number `after`."""
        known = self._jobs[job]
        fresh = known.untouched().wanted
        found: list[ReadyTask] = []
        for number in map(TaskNumber, range(after + 1, known.entered)):
            if len(found) >= limit:
                break
            task = known.begun.get(number)
            if task is None:
                if fresh:
                    found.append(ReadyTask(number, fresh))
            elif task.wanted > 0:
                made = task.made > 0
                found.append(task.ready(number, self._attempts(task)) if made else ReadyTask(number, task.wanted))
        return found

    def due(self, now: Instant, limit: int) -> Sequence[ReplicaRow]:
        """Return leases that ran out, oldest first."""
        found: dict[ReplicaId, ReplicaRow] = {}
        while self._due and self._due[0][0] <= now and len(found) < limit:
            at, replica = heapq.heappop(self._due)
            row = self._rows.get(replica)
            if row is None or row.attempt.state is not ReplicaState.LEASED or replica in found:
                continue
            until = row.next_transition or 0.0
            if until > at:
                heapq.heappush(self._due, (until, replica))
            elif until == at:
                found[replica] = row
        for replica, row in found.items():
            heapq.heappush(self._due, (row.next_transition or 0.0, replica))
        return list(found.values())

    def unread(self) -> Sequence[ReplicaId]:
        """Return replicas whose results wait to be read."""
        return sorted(replica for replica, row in self._rows.items() if row.attempt.state is ReplicaState.READING)

    def result(self, replica: ReplicaId) -> tuple[ReplicaRow, str]:
        """Return a replica and the JSON list of its result's files. Raises NotFound."""
        row = self._rows.get(replica)
        if row is None:
            raise NotFound(f"there is no replica {replica}", replica=replica)
        boxed = self._boxed.get(replica)
        return row, self._files.get(replica, "[]") if boxed is None else msgspec.json.encode(boxed.files).decode()

    def boxed(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, Sequence[BoxedResult]]:
        """Return the results of tasks that were read, oldest first, audits too."""
        found: dict[TaskKey, list[BoxedResult]] = {}
        for job, number in keys:
            task = self._jobs[job].begun.get(number) if job in self._jobs else None
            for replica in sorted(task.replicas) if task is not None else ():
                attempt = self._rows[replica].attempt
                if attempt.state in IN_THE_BOX:
                    boxed = self._boxed.get(replica)
                    if boxed is None:
                        files = _FILES.decode(self._files.pop(replica, "[]"))
                        boxed = self._boxed[replica] = BoxedResult(
                            replica, attempt.audits, attempt.strips, files, attempt.result_class
                        )
                    found.setdefault((job, number), []).append(boxed)
        return found

    # --- trust --------------------------------------------------------------------------------------------------

    def accepted_of(self, host: HostId) -> Sequence[TaskKey]:
        """Return the tasks of open jobs whose canonical result is of a host."""
        return [
            (job.job, accepted.task)
            for job in self._unfinished.values()
            if job.state is JobState.OPEN
            for accepted in self.accepted(job.job)
            if self._rows[accepted.replica].attempt.host == host
        ]

    def to_audit_again(self) -> Sequence[HostId]:
        """Return the hosts whose standing says `audit_again`."""
        return sorted(host for host, standing in self._standings.items() if standing.audit_again)

    def standings(self, hosts: Collection[HostId]) -> Mapping[HostId, Standing]:
        """Return how hosts stand; new ones are left out."""
        return {host: self._standings[host] for host in hosts if host in self._standings}

    def tolerances(self) -> Sequence[Tolerance]:
        """Return what was measured between classes."""
        return [self._tolerances[key] for key in sorted(self._tolerances)]

    def climate(self) -> Climate:
        """Return what the grid has met so far."""
        return self._climate

    def seen_since(self, since: Instant) -> Sequence[HostRow]:
        """Return the hosts seen since an instant."""
        return [row for row in self._hosts.values() if row.last_seen_at is not None and row.last_seen_at >= since]

    def last_replica(self) -> ReplicaId:
        """Return the highest replica number in use, 0 at first."""
        return ReplicaId(self._last_replica)
