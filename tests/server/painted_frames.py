"""Frames whose pictures are a few numbers, and a reader of them: enough for audits, without a renderer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Engine, insert, select
from xwgrid_schema.tables import blobs, replica_blobs
from xwgrid_schema.tables import standings as standings_table
from xwgrid_server.calls import Effects, Reading, ReadOrder

from tests.server.small_grid import SmallGrid
from xwgrid.applications.registry import application_of
from xwgrid.auditing import audit_names, parse_strips
from xwgrid.model import Audit, BlenderWork, Credibility, Digest, Fixed, Frames, JobRequest, ResultFile
from xwgrid.wire import Finished, Lease, WorkAnswer

HEIGHT = 100  # a strip is two rows of it


class Picture(NamedTuple):
    """A frame as somebody rendered it: right, but for a band of rows that bears the mark of a hand."""

    first: int = 0
    rows: int = 0
    mark: int = 0

    def row(self, number: int) -> int:
        """Return what can be seen in a row: 0 is as it should be."""
        return self.mark if self.first <= number < self.first + self.rows else 0


RIGHT = Picture()
SPOILT = Picture(0, HEIGHT, 1)


def picture_job(
    count: int,
    policy: Audit | Credibility | Fixed | None = None,
    *,
    replicas: int = 2,
    quorum: int = 2,
    private: bool = False,
) -> JobRequest:
    """Return a film of `count` frames, audited unless another policy is given."""
    return JobRequest(
        name="film",
        work=BlenderWork(scene_file="scene.blend", width=64, height=HEIGHT, denoise=False),
        split=Frames(first=1, last=count),
        policy=policy or Audit(),
        replicas=replicas,
        quorum=quorum,
        private=private,
    )


class Painter:
    """Sends pictures, and reads them as the server's readers do."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pictures: dict[Digest, Picture] = {}

    def send(self, lease: Lease, request: JobRequest, picture: Picture, seconds: float) -> Finished:
        """Upload a picture, or of an audit the strips of it; return the report."""
        strips = lease.arguments.get("strips")
        names = application_of(request).result_names(request, lease.task)
        if isinstance(strips, str):
            names = audit_names(names, parse_strips(strips, HEIGHT))
        digest = hashlib.sha256(repr((lease.job, lease.task, picture)).encode()).hexdigest()
        with self._engine.begin() as connection:
            if digest not in self._pictures:
                connection.execute(insert(blobs).values(digest=digest, size=1, created_at=0.0))
            arrived = select(replica_blobs.c.digest).where(replica_blobs.c.replica_id == lease.replica)
            if digest not in connection.execute(arrived).scalars().all():
                sent = {"replica_id": lease.replica, "digest": digest, "job_id": lease.job}
                connection.execute(insert(replica_blobs).values(sent))
        self._pictures[digest] = picture
        files = tuple(ResultFile(name=name, sha256=digest, size=1) for name in names)
        return Finished(fingerprint=digest, files=files, seconds=seconds)

    def read(self, order: ReadOrder) -> Reading:
        """Return what a reader makes of a result: its fingerprint, and how far it is from the others."""
        rows = _rows(order.strips)
        picture = self._pictures[order.files[0].sha256]
        differences = {}
        for other in order.others:
            both = rows & _rows(other.strips)
            beside = self._pictures[other.files[0].sha256]
            if both:
                differences[other.replica] = sum(picture.row(row) != beside.row(row) for row in both) / len(both)
        seen = repr((order.job, order.task, order.strips, [picture.row(row) for row in sorted(rows)]))
        return Reading(order.replica, hashlib.sha256(seen.encode()).hexdigest(), differences)


def _rows(strips: str | None) -> set[int]:
    if strips is None:
        return set(range(HEIGHT))
    return {row for strip in parse_strips(strips, HEIGHT) for row in range(strip.first, strip.first + strip.rows)}


class PaintedGrid(SmallGrid):
    """A small grid that renders films; a frame takes a minute."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.painter = Painter(self.engine)

    def paint(self, host: int, lease: Lease, picture: Picture = RIGHT) -> WorkAnswer:
        """Report a lease's picture after a minute, and have it read; return the answer to the report."""
        self.now += 60
        answer, effects = self.report(host, lease, picture)
        self.read(effects)
        return answer

    def report(self, host: int, lease: Lease, picture: Picture = RIGHT, want: int = 0) -> tuple[WorkAnswer, Effects]:
        """Report a lease's picture; return the answer and what is to be read."""
        row = self.coordinator._store.job(lease.job)  # what the volunteer has from its specification
        assert row is not None
        finished = self.painter.send(lease, row.request, picture, 60.0)
        return self.call_with_effects(host, reports=[(lease, finished)], want=want)

    def read(self, *effects: Effects) -> None:
        """Read what is to be read."""
        for order in [order for each in effects for order in each.to_read]:
            self.coordinator.serve([], [self.painter.read(order)], self.now)

    def stand(self, *hosts: int, **fields: Any) -> None:
        """Write how hosts stand."""
        with self.engine.begin() as connection:
            for host in hosts:
                connection.execute(insert(standings_table).values({"host_id": host, **fields}))


T = TypeVar("T")


def only(found: Iterable[T]) -> T:
    """Return the one thing there is."""
    (one,) = found
    return one


def strips_of(leases: Sequence[Lease]) -> list[str | None]:
    """Return where the leases look: None for full replicas."""
    return [None if "strips" not in lease.arguments else str(lease.arguments["strips"]) for lease in leases]
