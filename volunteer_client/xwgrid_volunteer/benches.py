"""What the workshop keeps in mind: leases, and the benches their programs run on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from xwgrid.model import Digest, ReplicaId
from xwgrid.wire import Lease
from xwgrid_volunteer.runner import JobProcess


class Stage(StrEnum):
    """How far a lease is."""

    FETCHING = "fetching"
    WAITING = "waiting"  # its files are here
    GIVEN = "given"  # to a driver process, running or next in its queue
    CHECKING = "checking"  # the result is looked at and put into the outbox


@dataclass
class Work:
    """A lease this host works on."""

    lease: Lease
    stage: Stage = Stage.FETCHING
    done: float | None = None
    label: str = ""
    starts: int = 0


@dataclass
class Bench:
    """A place for one driver process, and the tasks it was given, in order."""

    number: int
    spec: Digest | None = None
    process: JobProcess | None = None
    given: list[ReplicaId] = field(default_factory=list)
    ready: bool = False
    leaving: bool = False  # its process is being ended; nothing new for it until that is done
    idle: Any = None
