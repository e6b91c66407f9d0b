"""A store to be tried out, in SQL or in memory, and what its rows are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import msgspec
from msgspec import structs
from sqlalchemy import Engine, insert
from xwgrid_schema.tables import blobs, hosts, replica_blobs, users
from xwgrid_server import tolerance_store
from xwgrid_server.job_store import SqlStore
from xwgrid_server.store import (
    Changes,
    Claim,
    HostChange,
    JobChange,
    NewJob,
    ReplicaChange,
    Saved,
    StandingChange,
    Store,
    TaskChange,
    TaskRow,
)

from simulator.memory_store import MemoryStore
from tests.server.small_grid import SPEC, digest_job
from xwgrid.model import Digest, HostFacts, HostId, JobId, ReplicaId, ReplicaState, TaskState, UserId
from xwgrid.tolerances import Tolerance
from xwgrid.trust import NEWCOMER
from xwgrid.voting import Attempt

REQUESTER, OPERATOR, STRANGER = UserId(100), UserId(101), UserId(102)
HOSTS = 6  # host n is of owner n
NOW = 1_000_000.0
LEASE = 90.0
DIGEST = hashlib.sha256(b"a result").hexdigest()
OTHER_DIGEST = hashlib.sha256(b"another result").hexdigest()


class Surroundings(Protocol):
    """What is written beside the coordinator: hosts are enrolled, files arrive."""

    def host(self, host: HostId, owner: UserId, facts: HostFacts | None) -> None:
        """Enrol a host."""

    def arrived(self, replica: ReplicaId, job: JobId, digests: Sequence[Digest], /) -> None:
        """Take in the files of a replica's result."""

    def measured(self, tolerance: Tolerance) -> None:
        """Keep what was measured between two classes."""


@dataclass
class InSql:
    """Around the store in SQL."""

    engine: Engine
    here: set[Digest] = field(default_factory=set)

    def host(self, host: HostId, owner: UserId, facts: HostFacts | None) -> None:
        """Enrol a host."""
        text = None if facts is None else msgspec.json.encode(facts).decode()
        row = {"id": host, "owner_id": owner, "name": f"host{host}", "enrolled_at": NOW, "facts": text}
        with self.engine.begin() as connection:
            connection.execute(insert(hosts).values(row))

    def user(self, user: UserId, role: str = "requester") -> None:
        """Make a user known."""
        with self.engine.begin() as connection:
            connection.execute(insert(users).values(id=user, name=f"user{user}", created_at=NOW, role=role))

    def blob(self, digest: Digest) -> None:
        """Have some bytes on the server."""
        if digest not in self.here:
            self.here.add(digest)
            with self.engine.begin() as connection:
                connection.execute(insert(blobs).values(digest=digest, size=1, created_at=NOW))

    def arrived(self, replica: ReplicaId, job: JobId, digests: Sequence[Digest], /) -> None:
        """Take in the files of a replica's result."""
        for digest in digests:
            self.blob(digest)
            with self.engine.begin() as connection:
                connection.execute(insert(replica_blobs).values(replica_id=replica, digest=digest, job_id=job))

    def measured(self, tolerance: Tolerance) -> None:
        """Keep what was measured between two classes."""
        tolerance_store.keep(self.engine, tolerance)


@dataclass
class InMemory:
    """Around the store in memory."""

    store: MemoryStore

    def host(self, host: HostId, owner: UserId, facts: HostFacts | None) -> None:
        """Enrol a host."""
        self.store.add_host(host, owner, facts)

    def arrived(self, replica: ReplicaId, _job: JobId, digests: Sequence[Digest], /) -> None:
        """Take in the files of a replica's result."""
        self.store.arrived(replica, frozenset(digests))

    def measured(self, tolerance: Tolerance) -> None:
        """Keep what was measured between two classes."""
        self.store.measured(tolerance)


@dataclass
class StoredGrid:
    """A store with hosts 1 … HOSTS, each of the owner of the same number, and short words for what tests write."""

    store: Store
    around: Surroundings
    replicas: int = 0

    def __post_init__(self) -> None:
        for number in range(1, HOSTS + 1):
            self.around.host(HostId(number), UserId(number), None)

    # --- writing ------------------------------------------------------------------------------------------------

    def job(self, tasks: int = 3, wanted: int = 2) -> JobId:
        """Store a job and open it; a fresh task wants `wanted` replicas."""
        job = self.store.create_job(NewJob(REQUESTER, digest_job(tasks), SPEC, [SPEC], tasks, NOW))
        self.store.enter_tasks(job, 0, tasks - 1, wanted)
        assert self.store.open_job(job)
        return job

    def save(self, **changes: Any) -> Saved:
        """Write a batch."""
        return self.store.save(Changes(**{"now": NOW, **changes}))

    def claim(self, job: JobId, task: int = 0, host: int = 1, **told: Any) -> Claim:
        """Return a claim with the next number; `told` says what is not as usual."""
        self.replicas += 1
        usual: dict[str, Any] = {
            "id": self.replicas,
            "job": job,
            "task": task,
            "number": self.store.tasks([_key(job, task)])[_key(job, task)].made,
            "host": host,
            "voter": host,
            "result_class": "python any",
            "pinned": "python any",
            "leased_at": NOW,
            "next_transition": NOW + LEASE,
        }
        return Claim(**(usual | told))

    def lease(self, job: JobId, task: int = 0, host: int = 1, **told: Any) -> ReplicaId:
        """Give a lease out."""
        claim = self.claim(job, task, host, **told)
        assert not self.save(claims=[claim]).refused
        return claim.id

    def move(self, replica: ReplicaId, was: str, state: str, **told: Any) -> Saved:
        """Move a replica."""
        return self.save(replicas=[changed(replica, was, state, **told)])

    def box(self, job: JobId, task: int = 0, host: int = 1, **told: Any) -> ReplicaId:
        """Give a lease out and put its ballot into the box."""
        replica = self.lease(job, task, host, **told)
        self.move(replica, "leased", "voting", fingerprint=DIGEST, ended_at=NOW)
        return replica

    def accept(self, job: JobId, task: int, replica: ReplicaId) -> Saved:
        """Accept a ballot in the box."""
        return self.save(
            replicas=[changed(replica, "voting", "agreed")],
            tasks=[decided(job, task, "open", "agreed", canonical=replica)],
            jobs=[JobChange(job=job, agreed=1)],
        )

    # --- reading ------------------------------------------------------------------------------------------------

    def task(self, job: JobId, task: int = 0) -> TaskRow:
        """Return a task."""
        return self.store.tasks([_key(job, task)])[_key(job, task)]

    def attempt(self, replica: ReplicaId) -> Attempt:
        """Return a replica."""
        return self.store.load([], [replica]).replicas[replica].attempt


def changed(replica: ReplicaId, was: str, state: str, **told: Any) -> ReplicaChange:
    """Return a move of a replica."""
    return ReplicaChange(id=replica, was=ReplicaState(was), state=ReplicaState(state), **told)


def decided(job: JobId, task: int, was: str, state: str, **told: Any) -> TaskChange:
    """Return the truth about a task; it wants nothing unless `told` says so."""
    usual: dict[str, Any] = {"wanted": 0, "result_class": None}
    return TaskChange(job=job, number=cast(Any, task), was=TaskState(was), state=TaskState(state), **(usual | told))


def stands(host: int, **told: Any) -> StandingChange:
    """Return the standing of a new host, but for what is told."""
    return StandingChange(host=HostId(host), **{**structs.asdict(NEWCOMER), "earned": "{}", **told})


def seen(host: int, at: float) -> HostChange:
    """Return that a host was seen."""
    return HostChange(id=HostId(host), last_seen_at=at)


def in_sql(engine: Engine) -> StoredGrid:
    """Return a grid whose store is in SQL."""
    around = InSql(engine)
    for user in (*range(1, HOSTS + 1), REQUESTER, STRANGER):
        around.user(UserId(user))
    around.user(OPERATOR, "operator")
    around.blob(SPEC)
    return StoredGrid(SqlStore(engine), around)


def in_memory() -> StoredGrid:
    """Return a grid whose store is in memory."""
    store = MemoryStore(operators=[OPERATOR])
    return StoredGrid(store, InMemory(store))


def _key(job: JobId, task: int) -> Any:
    return (job, task)
