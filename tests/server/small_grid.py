"""A grid without a network: a real store and coordinator, hosts that are a few lines, and time that is a value."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypedDict, Unpack

import msgspec
from sqlalchemy import Engine, insert
from xwgrid_schema.tables import blobs, hosts, users
from xwgrid_server.calls import Call, Effects, LeaseTerms
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.job_store import SqlStore

from xwgrid.applications.registry import application
from xwgrid.model import Count, DigestWork, HostFacts, HostId, JobId, JobRequest, Program, UserId
from xwgrid.wire import Finished, Held, Lease, Outcome, Report, WorkAnswer, WorkRequest

REQUESTER = 1_000
SPEC = hashlib.sha256(b"a specification").hexdigest()


def facts(result_class: str = "python any", pictures: str = "blender any") -> HostFacts:
    """Return a machine that can run digest jobs and render, with the classes of its results."""
    return HostFacts(
        name="host",
        system="Linux x86_64",
        processor="one",
        cores=2,
        memory_bytes=1 << 32,
        programs=(
            Program(runtime="python", version="3.11", result_class=result_class),
            Program(runtime="blender", version="4.5.15", result_class=pictures),
        ),
    )


def digest_job(
    count: int, *, replicas: int = 2, quorum: int = 2, private: bool = False, priority: int = 0
) -> JobRequest:
    """Return a bag of `count` small tasks."""
    return JobRequest(
        name="digests",
        work=DigestWork(),
        split=Count(count=count),
        replicas=replicas,
        quorum=quorum,
        private=private,
        priority=priority,
    )


def right(task: int) -> str:
    """Return the right value of task `task`."""
    return hashlib.sha256(f"xwgrid/{task}".encode()).hexdigest()


def finished(value: str) -> Finished:
    """Return a report's outcome with a value."""
    return Finished(fingerprint=application("digest").value_fingerprint(value), value=value, seconds=1.0)


class Said(TypedDict, total=False):
    """What a call says; nothing, where it is left out. `number` is the next one unless given."""

    want: int
    held: Sequence[Lease]
    reports: Sequence[tuple[Lease, Outcome]]
    number: int | None


@dataclass
class SmallGrid:
    """Users 1 … owners, each with one host of the same number; user REQUESTER, who has none, hands in the jobs."""

    engine: Engine
    owners: int = 4
    now: float = 1_000_000.0
    calls: dict[HostId, int] = field(default_factory=dict)
    draw_from: int = 1_000  # mostly whoever asks gets a check, so that a test says who does what
    random: Random = field(default_factory=lambda: Random(1))  # noqa: S311  # the same lots in every run

    def __post_init__(self) -> None:
        with self.engine.begin() as connection:
            for number in range(1, self.owners + 1):
                connection.execute(insert(users).values(id=number, name=f"user{number}", created_at=self.now))
                connection.execute(
                    insert(hosts).values(
                        id=number,
                        owner_id=number,
                        name=f"host{number}",
                        enrolled_at=self.now,
                        last_seen_at=self.now,
                        facts=msgspec.json.encode(facts()).decode(),
                    )
                )
            connection.execute(insert(users).values(id=REQUESTER, name="requester", created_at=self.now))
            connection.execute(insert(blobs).values(digest=SPEC, size=15, created_at=self.now))
        self.restart()

    def restart(self) -> None:
        """Begin anew from what is in the database, as after a kill -9."""
        terms = LeaseTerms(draw_from=self.draw_from)
        self.coordinator = Coordinator(SqlStore(self.engine), terms, self.now, self.random)

    def submit(self, request: JobRequest, owner: int = REQUESTER) -> JobId:
        """Hand a job in and open it."""
        job = self.coordinator.begin_job(UserId(owner), request, SPEC, frozenset({SPEC}), self.now)
        while self.coordinator.enter(job).left:
            pass
        return job

    def call(self, host: int, **said: Unpack[Said]) -> WorkAnswer:
        """Make one work call and return its answer."""
        answer, _ = self.call_with_effects(host, **said)
        return answer

    def call_with_effects(self, host: int, **said: Unpack[Said]) -> tuple[WorkAnswer, Effects]:
        """Make one work call and return its answer and what follows from it."""
        served = self.coordinator.serve([Call(HostId(host), self.request(host, **said))], [], self.now)
        (answer,) = served.answers
        if not isinstance(answer, WorkAnswer):
            raise answer
        return answer, served.effects

    def request(self, host: int, **said: Unpack[Said]) -> WorkRequest:
        """Return a host's next call."""
        number = said.get("number")
        after = self.calls.get(HostId(host), 0) + 1
        self.calls[HostId(host)] = max(after, number or 0)
        return WorkRequest(
            call=number or after,
            want=said.get("want", 0),
            held=tuple(Held(replica=lease.replica) for lease in said.get("held", ())),
            reports=tuple(Report(replica=each.replica, outcome=outcome) for each, outcome in said.get("reports", ())),
        )

    def take(self, host: int) -> Lease:
        """Take one lease, acknowledged by the next call."""
        (lease,) = self.call(host, want=1).leases
        return lease

    def do(self, host: int, lease: Lease, value: str | None = None) -> WorkAnswer:
        """Report a lease's right value, or the one given."""
        return self.call(host, reports=[(lease, finished(value or right(lease.task)))])
