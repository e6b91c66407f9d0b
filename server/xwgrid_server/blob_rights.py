"""Who may read which blob, and who has sent it: the SQL of blobs, blob_grants, job_blobs and replica_blobs.

Functions of a connection; the caller's `engine.begin()` is the transaction. Whoever may not see a blob is told the
same as of a blob that does not exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, Table, exists, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from xwgrid_schema.tables import blob_grants, blobs, job_blobs, jobs, replica_blobs, replicas, users

from xwgrid import wire
from xwgrid.applications.registry import application_of
from xwgrid.auditing import DENOISED
from xwgrid.model import (
    Digest,
    HostId,
    Instant,
    JobId,
    JobRequest,
    Limits,
    ReplicaId,
    ReplicaState,
    ResultFile,
    TaskNumber,
    UserId,
)

# SQLite takes 32,766 parameters in a statement.
_BATCH = 10_000


class LiveLease(Struct, frozen=True, kw_only=True):
    """A lease a host holds now, and what was sent for it already."""

    replica: ReplicaId
    job: JobId
    limits: Limits
    sent: Mapping[Digest, int]  # sizes of the files that are here, in bytes


def still_missing(connection: Connection, user: UserId, digests: Sequence[Digest]) -> tuple[Digest, ...]:
    """Return those of `digests` that this user has not sent yet, in the order given, each once."""
    granted: set[str] = set()
    for start in range(0, len(digests), _BATCH):
        query = select(blob_grants.c.digest).where(
            blob_grants.c.user_id == user, blob_grants.c.digest.in_(digests[start : start + _BATCH])
        )
        granted.update(connection.execute(query).scalars())
    return tuple(digest for digest in dict.fromkeys(digests) if digest not in granted)


def sizes(connection: Connection, digests: Sequence[Digest]) -> dict[Digest, int]:
    """Return the sizes in bytes of those of `digests` that the server holds."""
    found: dict[Digest, int] = {}
    for start in range(0, len(digests), _BATCH):
        query = select(blobs.c.digest, blobs.c.size).where(blobs.c.digest.in_(digests[start : start + _BATCH]))
        found.update((row.digest, row.size) for row in connection.execute(query))
    return found


def unreadable(connection: Connection, user: UserId, digests: Sequence[Digest]) -> frozenset[Digest]:
    """Return those of `digests` that this user neither sent nor has as results of their own jobs."""
    lacking = still_missing(connection, user, digests)
    results: set[str] = set()
    for start in range(0, len(lacking), _BATCH):
        query = (
            select(replica_blobs.c.digest)
            .join_from(replica_blobs, jobs, jobs.c.id == replica_blobs.c.job_id)
            .where(jobs.c.owner_id == user, replica_blobs.c.digest.in_(lacking[start : start + _BATCH]))
        )
        results.update(connection.execute(query).scalars())
    return frozenset(lacking) - results


def user_sent(connection: Connection, user: UserId, digest: Digest) -> bool:
    """Tell whether this user has sent these bytes before."""
    query = select(exists().where(blob_grants.c.user_id == user, blob_grants.c.digest == digest))
    return bool(connection.execute(query).scalar())


def user_may_read(connection: Connection, user: UserId, digest: Digest) -> bool:
    """Tell whether a user may read a blob: sent by them, a result of a job of theirs, or any result for an operator."""
    is_operator = exists().where(users.c.id == user, users.c.role == "operator")
    result = (
        select(literal(1))
        .select_from(replica_blobs.join(jobs, jobs.c.id == replica_blobs.c.job_id))
        .where(replica_blobs.c.digest == digest, (jobs.c.owner_id == user) | is_operator)
    )
    return user_sent(connection, user, digest) or bool(connection.execute(select(result.exists())).scalar())


def host_may_read(connection: Connection, host: HostId, digest: Digest) -> bool:
    """Tell whether a host holds a live lease of a job that names this blob, or that is to denoise what is in it."""
    leased = (replicas.c.host_id == host, replicas.c.state == literal(ReplicaState.LEASED.value, literal_execute=True))
    query = (
        select(literal(1))
        .select_from(replicas.join(job_blobs, job_blobs.c.job_id == replicas.c.job_id))
        .where(*leased, job_blobs.c.digest == digest)
    )
    if connection.execute(select(query.exists())).scalar():
        return True
    author = replicas.alias("author")
    query_of_raw = (
        select(author.c.task, author.c.files, jobs.c.request)
        .select_from(replicas)
        .join(author, author.c.id == replicas.c.audits)
        .join(jobs, jobs.c.id == author.c.job_id)
        .where(*leased, replicas.c.strips == DENOISED)
    )
    return any(_is_raw(digest, *row) for row in connection.execute(query_of_raw))


def _is_raw(digest: Digest, task: int, files: str, request: str) -> bool:
    """Say whether a blob is what the picture of a result was made of: the picture itself is not for whoever checks."""
    found = wire.decode(request, JobRequest)
    names = application_of(found).raw_names(found, TaskNumber(task))
    return any(file.sha256 == digest and file.name in names for file in wire.decode(files, tuple[ResultFile, ...]))


def live_lease(connection: Connection, host: HostId, replica: ReplicaId) -> LiveLease | None:
    """Return the lease `replica` if this host holds it now."""
    query = (
        select(replicas.c.job_id, jobs.c.request)
        .join_from(replicas, jobs, jobs.c.id == replicas.c.job_id)
        .where(replicas.c.id == replica, replicas.c.host_id == host, replicas.c.state == ReplicaState.LEASED.value)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    sent = connection.execute(
        select(blobs.c.digest, blobs.c.size)
        .join_from(replica_blobs, blobs, blobs.c.digest == replica_blobs.c.digest)
        .where(replica_blobs.c.replica_id == replica)
    )
    return LiveLease(
        replica=replica,
        job=JobId(row.job_id),
        limits=wire.decode(row.request, JobRequest).limits,
        sent={line.digest: line.size for line in sent},
    )


def grant(connection: Connection, user: UserId, sizes: Mapping[Digest, int], now: Instant) -> None:
    """Note that a user has sent these blobs (name → size in bytes); again changes nothing."""
    record(connection, sizes, now)
    _insert_missing(connection, blob_grants, ({"user_id": user, "digest": digest} for digest in sizes))


def attach(connection: Connection, lease: LiveLease, digest: Digest, size: int, now: Instant) -> None:
    """Note that a blob is part of a replica's result."""
    record(connection, {digest: size}, now)
    row = {"replica_id": lease.replica, "digest": digest, "job_id": lease.job}
    _insert_missing(connection, replica_blobs, [row])


def record(connection: Connection, sizes: Mapping[Digest, int], now: Instant) -> None:
    """Note that these blobs are complete on the disk (name → size in bytes)."""
    rows = ({"digest": digest, "size": size, "created_at": now} for digest, size in sizes.items())
    _insert_missing(connection, blobs, rows)


def _insert_missing(connection: Connection, table: Table, rows: Iterable[Mapping[str, Any]]) -> None:
    # One and the same statement under two names: SQLAlchemy has no common word for it.
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    values = sorted((dict(row) for row in rows), key=lambda row: str(row["digest"]))  # one order: no deadlocks
    if values:
        connection.execute(insert(table).on_conflict_do_nothing(), values)
