"""The coordinator's store in SQL, for SQLite and PostgreSQL. One method is one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from sqlalchemy import ColumnElement, Connection, Engine, func, insert, literal_column, select, text, update
from xwgrid_schema.tables import climate, job_blobs, jobs, replicas, standings, tasks, users

from xwgrid.applications.registry import application_of
from xwgrid.errors import Conflict, NotFound
from xwgrid.model import (
    Digest,
    HostId,
    Instant,
    JobId,
    JobRequest,
    JobState,
    ReplicaId,
    ResultFile,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.policies import replicas_at_first
from xwgrid.ready_tasks import ReadyTask
from xwgrid.tolerances import Tolerance
from xwgrid.trust import Climate, Standing
from xwgrid.voting import Attempt
from xwgrid_server import job_store_rows as rows_of
from xwgrid_server import job_store_sql as sql
from xwgrid_server import tolerance_store
from xwgrid_server.batch_rows import numbers, parameter
from xwgrid_server.database import reading
from xwgrid_server.store import (
    BoxedResult,
    CallFacts,
    Changes,
    Claim,
    HostRow,
    JobRow,
    NewJob,
    ReplicaRow,
    Saved,
    TaskKey,
    TaskRow,
)

# Written out and not sent along: only then does SQLite know that the partial indexes hold the rows.
_NONE: Final[ColumnElement[int]] = literal_column("0")
_READING: Final[ColumnElement[str]] = literal_column("'reading'")


class _Key(Struct, frozen=True):
    """A task, as a batch parameter."""

    job: int
    number: int


class SqlStore:
    """`xwgrid_server.store.Store` over an engine. Used by one thread at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sql = sql.Statements(engine.dialect.name, _Key)

    # --- batches of calls ---------------------------------------------------------------------------------------

    def load(self, hosts: Collection[HostId], replicas: Collection[ReplicaId]) -> CallFacts:
        """Return the hosts, their live leases, and the replicas named."""
        with reading(self._engine) as connection:
            host_rows = connection.execute(self._sql.hosts, numbers(list(hosts))).all()
            rows = list(connection.execute(self._sql.leases_of_hosts, numbers(list(hosts))))
            # Mostly what is named is a lease of the hosts, and here already.
            if others := list(set(replicas) - {row.id for row in rows}):
                rows += connection.execute(self._sql.replicas, numbers(others))
            uploaded: defaultdict[ReplicaId, set[Digest]] = defaultdict(set)
            if replicas:
                for row in connection.execute(self._sql.uploaded, numbers(list(replicas))):
                    uploaded[row.replica_id].add(row.digest)
        return CallFacts(
            {row.id: rows_of.host(row) for row in host_rows},
            {row.id: rows_of.replica(row) for row in rows},
            {replica: frozenset(digests) for replica, digests in uploaded.items()},
        )

    def tasks(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskRow]:
        """Return tasks with all their attempts."""
        with reading(self._engine) as connection:
            wanted = parameter([_Key(*key) for key in keys])
            attempts: defaultdict[TaskKey, list[Attempt]] = defaultdict(list)
            for row in map(rows_of.replica, connection.execute(self._sql.attempts, wanted)):
                attempts[row.job, row.task].append(row.attempt)
            hosts = {attempt.host for box in attempts.values() for attempt in box}
            standings = {
                HostId(row.host_id): rows_of.standing(row)
                for row in connection.execute(self._sql.standings, numbers(sorted(hosts)))
            }
            return {
                (row.job_id, row.number): TaskRow(
                    row.job_id,
                    row.number,
                    TaskState(row.state),
                    row.wanted,
                    row.made,
                    tuple(attempts[row.job_id, row.number]),
                    rows_of.orders(row.audits),
                    standings,
                )
                for row in connection.execute(self._sql.tasks, wanted)
            }

    def save(self, changes: Changes) -> Saved:
        """Write a batch. Raises Conflict, with nothing written, when a row was not in the state it should be in."""
        with self._engine.begin() as connection:
            self._change_replicas(connection, changes)
            if changes.renewals:
                connection.execute(self._sql.renew, parameter(changes.renewals))
            if changes.tasks:
                done = connection.execute(self._sql.change_tasks, parameter(changes.tasks)).rowcount
                _all_done("tasks", done, len(changes.tasks))
            refused = self._claim(connection, changes)
            if changes.hosts:
                connection.execute(self._sql.change_hosts, parameter(changes.hosts))
            self._trust(connection, changes)
            ended: dict[JobId, JobState] = {}
            if changes.jobs:
                counts = parameter(changes.jobs) | {"now": changes.now}
                for row in connection.execute(self._sql.count_jobs, counts):
                    if row.finished_at is not None and row.state != JobState.CANCELLED:
                        ended[row.id] = JobState(row.state)
        return Saved(refused, ended)

    def _change_replicas(self, connection: Connection, changes: Changes) -> None:
        # Leaving a state that keeps other voters out comes before entering it, whatever the order in the batch.
        if changes.replicas:
            done = connection.execute(self._sql.change_replicas, parameter(changes.replicas)).rowcount
            _all_done("replicas", done, len(changes.replicas))

    def _trust(self, connection: Connection, changes: Changes) -> None:
        if changes.standings:
            connection.execute(self._sql.change_standings, parameter(changes.standings))
        if changes.credits:
            connection.execute(self._sql.add_credits, parameter(changes.credits))
        if changes.climate is not None:
            connection.execute(self._sql.change_climate, changes.climate._asdict())

    def _claim(self, connection: Connection, changes: Changes) -> frozenset[ReplicaId]:
        if not changes.claims:
            return frozenset()
        made = {row.id for row in connection.execute(self._sql.claim, parameter(changes.claims))}
        won: defaultdict[TaskKey, list[Claim]] = defaultdict(list)
        per_job: defaultdict[JobId, int] = defaultdict(int)
        for claim in changes.claims:
            if claim.id in made:
                won[claim.job, claim.task].append(claim)
                per_job[claim.job] += 1
        if made:
            rows = [rows_of.claimed(job, number, claims) for (job, number), claims in won.items()]
            connection.execute(self._sql.claim_tasks, parameter(rows))
            counts = [sql.ClaimedJob(job=job, leased=count) for job, count in per_job.items()]
            connection.execute(self._sql.claim_jobs, parameter(counts))
        return frozenset(claim.id for claim in changes.claims if claim.id not in made)

    # --- the index and the timer --------------------------------------------------------------------------------

    def ready(self, job: JobId, after: int, limit: int) -> Sequence[ReadyTask]:
        """Return the job's tasks that want replicas, in order of number, those after number `after`."""
        query = (
            select(tasks.c.number, tasks.c.wanted, tasks.c.made, tasks.c.result_class, tasks.c.audits)
            .where(tasks.c.job_id == job, tasks.c.number > after, tasks.c.wanted > _NONE)
            .order_by(tasks.c.number)
            .limit(limit)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        begun = {(job, row.number) for row in rows if row.made > 0}
        known = self.tasks(begun) if begun else {}
        return [
            rows_of.ready(row, known[job, row.number].attempts) if row.made > 0 else ReadyTask(row.number, row.wanted)
            for row in rows
        ]

    def due(self, now: Instant, limit: int) -> Sequence[ReplicaRow]:
        """Return leases that ran out, oldest first."""
        with reading(self._engine) as connection:
            return [rows_of.replica(row) for row in connection.execute(self._sql.due, {"now": now, "most": limit})]

    def unread(self) -> Sequence[ReplicaId]:
        """Return replicas whose results wait to be read."""
        with reading(self._engine) as connection:
            query = select(replicas.c.id).where(replicas.c.state == _READING).order_by(replicas.c.id)
            return [ReplicaId(row.id) for row in connection.execute(query)]

    def result(self, replica: ReplicaId) -> tuple[ReplicaRow, str]:
        """Return a replica and the JSON list of its result's files. Raises NotFound."""
        with reading(self._engine) as connection:
            row = connection.execute(self._sql.replicas, numbers([replica])).one_or_none()
            files = connection.execute(select(replicas.c.files).where(replicas.c.id == replica)).scalar_one_or_none()
        if row is None or files is None:
            raise NotFound(f"there is no replica {replica}", replica=replica)
        return rows_of.replica(row), files

    def boxed(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, Sequence[BoxedResult]]:
        """Return the results of tasks that were read, oldest first, audits too."""
        found: defaultdict[TaskKey, list[BoxedResult]] = defaultdict(list)
        with reading(self._engine) as connection:
            for row in connection.execute(self._sql.boxed, parameter([_Key(*key) for key in keys])):
                files = msgspec.json.decode(row.files, type=tuple[ResultFile, ...])
                boxed = BoxedResult(ReplicaId(row.id), row.audits, row.strips, files, row.result_class)
                found[row.job_id, row.task].append(boxed)
        return found

    # --- trust --------------------------------------------------------------------------------------------------

    def accepted_of(self, host: HostId) -> Sequence[TaskKey]:
        """Return the tasks of open jobs whose canonical result is of a host."""
        with reading(self._engine) as connection:
            rows = connection.execute(text(sql.ACCEPTED_OF), {"host": host})
            return [(JobId(row.job_id), TaskNumber(row.number)) for row in rows]

    def to_audit_again(self) -> Sequence[HostId]:
        """Return the hosts whose standing says `audit_again`."""
        query = select(standings.c.host_id).where(standings.c.audit_again).order_by(standings.c.host_id)
        with reading(self._engine) as connection:
            return [HostId(row.host_id) for row in connection.execute(query)]

    def standings(self, hosts: Collection[HostId]) -> Mapping[HostId, Standing]:
        """Return how hosts stand; new ones are left out."""
        with reading(self._engine) as connection:
            rows = connection.execute(self._sql.standings, numbers(sorted(hosts)))
            return {HostId(row.host_id): rows_of.standing(row) for row in rows}

    def tolerances(self) -> Sequence[Tolerance]:
        """Return what was measured between classes."""
        return tolerance_store.list_tolerances(self._engine)

    def climate(self) -> Climate:
        """Return what the grid has met so far."""
        query = select(climate.c.results, climate.c.wrong, climate.c.lies, climate.c.liars)
        with reading(self._engine) as connection:
            row = connection.execute(query).one_or_none()
        return Climate() if row is None else Climate(*row)

    def seen_since(self, since: Instant) -> Sequence[HostRow]:
        """Return the hosts seen since an instant."""
        with reading(self._engine) as connection:
            return [rows_of.host(row) for row in connection.execute(self._sql.seen_since, {"since": since})]

    def last_replica(self) -> ReplicaId:
        """Return the highest replica number in use, 0 at first."""
        with reading(self._engine) as connection:
            return ReplicaId(connection.execute(select(func.max(replicas.c.id))).scalar() or 0)

    # --- jobs ---------------------------------------------------------------------------------------------------

    def job(self, job: JobId) -> JobRow | None:
        """Return a job."""
        with reading(self._engine) as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == job)).one_or_none()
        return None if row is None else rows_of.job(row)

    def may_steer(self, user: UserId, job: JobId) -> bool:
        """Say whether a job is there and the user its owner, or an operator."""
        role = select(users.c.role).where(users.c.id == user).scalar_subquery()
        query = select(jobs.c.id).where(jobs.c.id == job, (jobs.c.owner_id == user) | (role == "operator"))
        with reading(self._engine) as connection:
            return connection.execute(query).one_or_none() is not None

    def unfinished_jobs(self) -> Sequence[JobRow]:
        """Return jobs that are being entered or open, oldest first."""
        with reading(self._engine) as connection:
            query = select(jobs).where(jobs.c.finished_at.is_(None)).order_by(jobs.c.id)
            return [rows_of.job(row) for row in connection.execute(query)]

    def live_leases(self, job: JobId) -> int:
        """Return how many live leases a job has."""
        query = select(func.count()).where(replicas.c.job_id == job, replicas.c.state == "leased")
        with reading(self._engine) as connection:
            return connection.execute(query).scalar_one()

    def host_failures(self, job: JobId) -> Mapping[HostId, int]:
        """Return how many tasks of a job each host failed."""
        query = (
            select(replicas.c.host_id, func.count(replicas.c.task.distinct()).label("failures"))
            .where(replicas.c.job_id == job, replicas.c.state == "failed", replicas.c.audits.is_(None))
            .group_by(replicas.c.host_id)
        )
        with reading(self._engine) as connection:
            return {HostId(row.host_id): row.failures for row in connection.execute(query)}

    def create_job(self, job: NewJob) -> JobId:
        """Store a job that is being entered."""
        request = job.request
        row = {
            "owner_id": job.owner,
            "name": request.name,
            "application": application_of(request).name,
            "spec": job.spec,
            "request": msgspec.json.encode(msgspec.structs.replace(request, inputs=())).decode(),
            "state": JobState.ENTERING,
            "private": request.private,
            "priority": request.priority,
            "tasks": job.tasks,
            "created_at": job.now,
        }
        with self._engine.begin() as connection:
            number = JobId(connection.execute(insert(jobs).values(row).returning(jobs.c.id)).scalar_one())
            if job.blobs:
                readable = [{"job_id": number, "digest": digest} for digest in sorted(set(job.blobs))]
                connection.execute(insert(job_blobs), readable)
        return number

    def entered(self, job: JobId) -> int:
        """Return how many of the job's tasks are stored."""
        query = select(func.coalesce(func.max(tasks.c.number) + 1, 0)).where(tasks.c.job_id == job)
        with reading(self._engine) as connection:
            return int(connection.execute(query).scalar_one())

    def enter_tasks(self, job: JobId, first: int, last: int, wanted: int) -> None:
        """Store a slab of tasks, both ends included."""
        with self._engine.begin() as connection:
            connection.execute(self._sql.enter, {"job": job, "first": first, "last": last, "wanted": wanted})

    def open_job(self, job: JobId) -> bool:
        """Let volunteers have the job; say whether it was being entered."""
        query = update(jobs).where(jobs.c.id == job, jobs.c.state == JobState.ENTERING).values(state=JobState.OPEN)
        with self._engine.begin() as connection:
            return connection.execute(query).rowcount == 1

    def cancel_job(self, job: JobId, now: Instant) -> bool:
        """Cancel a job, its open tasks and its replicas that have no verdict; say whether it was not ended yet."""
        with self._engine.begin() as connection:
            where = {"job": job, "now": now}
            if connection.execute(text(sql.CANCEL_JOB), where).rowcount != 1:
                return False
            connection.execute(text(sql.CANCEL_TASKS), {"job": job})
            connection.execute(text(sql.CANCEL_REPLICAS), where)
        return True

    def retry_job(self, job: JobId) -> int:
        """Open the failed tasks of an incomplete job again; return how many."""
        with self._engine.begin() as connection:
            if connection.execute(text(sql.REOPEN_JOB), {"job": job}).rowcount != 1:
                return 0
            connection.execute(text(sql.CLEAR_OLD_BALLOTS), {"job": job})
            row = connection.execute(select(jobs.c.request).where(jobs.c.id == job)).scalar_one()
            request = msgspec.json.decode(row, type=JobRequest)
            where = {"job": job, "wanted": replicas_at_first(request)}
            return connection.execute(text(sql.REOPEN_TASKS), where).rowcount


def _all_done(what: str, done: int, asked: int) -> None:
    if done != asked:
        raise Conflict(f"{asked - done} of {asked} {what} changed under way: the batch was not written")
