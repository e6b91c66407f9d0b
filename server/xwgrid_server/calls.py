"""The nouns between the dispatcher and the coordinator."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct

from xwgrid.drawing import LEAST_OWNERS
from xwgrid.errors import GridError, UnreadableResult
from xwgrid.model import Digest, HostId, JobId, JobRequest, ReplicaId, ResultFile, Seconds, TaskNumber
from xwgrid.tolerances import Tolerance
from xwgrid.wire import WorkAnswer, WorkRequest


class LeaseTerms(Struct, frozen=True, kw_only=True):
    """How long leases last, and from how many owners checks are drawn."""

    heartbeat_seconds: Seconds = 30.0
    # Three lost heartbeats: a laptop that changes networks is back within two.
    heartbeats_per_lease: float = 3.0
    # Other owners that must be about for a check to be drawn among them; with fewer whoever asks may have it.
    draw_from: int = LEAST_OWNERS


class Call(Struct, frozen=True):
    """A work call as it arrived. `news` is False when a held call is looked at again: then it only takes."""

    host: HostId
    request: WorkRequest
    news: bool = True


class Reading(Struct, frozen=True):
    """What a reader process made of a replica's result."""

    replica: ReplicaId
    fingerprint: Digest | UnreadableResult
    # Of the others it was compared with: the share of the rows both have, 0 to 1, in which any pixel differs.
    differences: Mapping[ReplicaId, float] = MappingProxyType({})


class Other(NamedTuple):
    """A result of the same task that one is compared with."""

    replica: ReplicaId
    files: tuple[ResultFile, ...]
    strips: str | None = None
    tolerance: Tolerance | None = None  # when it is of another class, and one was measured for the two


class ReadOrder(Struct, frozen=True):
    """A result that must be read before it counts."""

    replica: ReplicaId
    request: JobRequest
    job: JobId
    task: TaskNumber
    files: tuple[ResultFile, ...]
    strips: str | None = None  # an audit's: which rows it holds, as `xwgrid.auditing.written` writes them
    others: tuple[Other, ...] = ()


class Effects(NamedTuple):
    """What is to be done after the commit."""

    to_read: tuple[ReadOrder, ...] = ()
    changed: frozenset[tuple[JobId, TaskNumber]] = frozenset()
    ended: tuple[JobId, ...] = ()
    wanted: int = 0  # replicas that became wanted: as many waiting hosts are worth waking
    drawn: tuple[HostId, ...] = ()  # hosts that have work waiting for them alone


class Entered(NamedTuple):
    """How far the entering of a job's tasks is; with `left` 0 the job is open and wants `replicas`."""

    left: int
    replicas: int


class Served(NamedTuple):
    """The answers to a batch of calls, in their order, and what follows from it."""

    answers: list[WorkAnswer | GridError]
    effects: Effects
