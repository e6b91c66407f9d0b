"""Frames whose pictures are a few numbers, and a reader of them: enough for audits, without a renderer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar

from sqlalchemy import Engine, insert, select
from xwgrid_schema.tables import blobs, replica_blobs
from xwgrid_schema.tables import standings as standings_table
from xwgrid_server.calls import Effects, Reading, ReadOrder

from tests.server.small_grid import SmallGrid
from xwgrid.applications.registry import application_of
from xwgrid.auditing import DENOISED, parse_strips
from xwgrid.model import Audit, BlenderWork, Credibility, Digest, Fixed, Frames, JobRequest, ResultFile, TaskNumber
from xwgrid.wire import Finished, Lease, WorkAnswer

HEIGHT = 100  # a strip is two rows of it


class Picture(NamedTuple):
    """A frame as somebody rendered it: right, but for a band of rows that bears the mark of a hand."""

    first: int = 0
    rows: int = 0
    mark: int = 0
    touched: int = 0  # of a job that is denoised in a step of its own: the mark of a hand that came after that

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
    in_steps: bool = False,
) -> JobRequest:
    """Return a film of `count` frames, audited unless another policy is given; denoised, or not, `in_steps`."""
    return JobRequest(
        name="film",
        work=BlenderWork(scene_file="scene.blend", width=64, height=HEIGHT, denoise=in_steps, raw_passes=in_steps),
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
        """Upload a picture, with its raw passes if it has some, or of an audit its part of it; return the report.

        Who denoises once more does so with the raw passes that came with the lease: `picture` is what they alter of it.
        """
        strips = lease.arguments.get("strips")
        application = application_of(request)
        if isinstance(strips, str):
            names = application.audit_names(request, lease.task, strips)
        else:
            names = application.result_names(request, lease.task)
        if strips == DENOISED:
            picture = self._pictures[only(lease.inputs).sha256]._replace(touched=picture.mark)
        raw = application.raw_names(request, lease.task)
        files = tuple(ResultFile(name=n, sha256=self._upload(lease, picture, raw=n in raw), size=1) for n in names)
        return Finished(fingerprint=files[0].sha256, files=files, seconds=seconds)

    def _upload(self, lease: Lease, picture: Picture, *, raw: bool) -> Digest:
        """Send one file of a result; return its name."""
        seen = (lease.job, lease.task, picture._replace(touched=0) if raw else picture, raw)
        digest = hashlib.sha256(repr(seen).encode()).hexdigest()
        with self._engine.begin() as connection:
            if digest not in self._pictures:
                connection.execute(insert(blobs).values(digest=digest, size=1, created_at=0.0))
            arrived = select(replica_blobs.c.digest).where(replica_blobs.c.replica_id == lease.replica)
            if digest not in connection.execute(arrived).scalars().all():
                sent = {"replica_id": lease.replica, "digest": digest, "job_id": lease.job}
                connection.execute(insert(replica_blobs).values(sent))
        self._pictures[digest] = picture
        return digest

    def read(self, order: ReadOrder) -> Reading:
        """Return what a reader makes of a result: its fingerprint, and how far it is from the others."""
        mine = self._seen(order.request, order.files, order.strips)
        differences = {}
        for other in order.others:
            share = _differing_share(mine, self._seen(order.request, other.files, other.strips))
            if share is not None:
                differences[other.replica] = share
        seen = repr((order.job, order.task, order.strips, mine))
        return Reading(order.replica, hashlib.sha256(seen.encode()).hexdigest(), differences)

    def _seen(self, request: JobRequest, files: Sequence[ResultFile], strips: str | None) -> Seen:
        picture = self._pictures[files[0].sha256]
        if not application_of(request).raw_names(request, TaskNumber(0)):
            return {}, {row: (picture.row(row), 0) for row in _rows(strips)}
        raw = {} if strips == DENOISED else {row: picture.row(row) for row in _rows(strips)}
        made = {row: (picture.row(row), picture.touched) for row in range(HEIGHT)}
        return raw, made if strips in {None, DENOISED} else {}


# What can be seen in each row of raw passes, and in each of the picture, where a hand may have come after denoising.
Seen: TypeAlias = tuple[Mapping[int, int], Mapping[int, tuple[int, int]]]


def _differing_share(one: Seen, other: Seen) -> float | None:
    """Return in what share of the rows both have they differ: of raw passes, if these do, else of the picture."""
    told = None
    for mine, theirs in zip(one, other, strict=True):
        both = mine.keys() & theirs.keys()
        if both and not told:
            told = sum(mine[row] != theirs[row] for row in both) / len(both)
    return told


def _rows(strips: str | None) -> list[int]:
    if strips is None:
        return list(range(HEIGHT))
    return [row for strip in parse_strips(strips, HEIGHT) for row in range(strip.first, strip.first + strip.rows)]


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
