"""What a running driver process tells the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct

from xwgrid.model import Cause, ReplicaId, Seconds


class Ready(Struct, frozen=True, kw_only=True):
    """The driver is up and says what it is."""

    version: str
    result_class: str
    effective: dict[str, Any]  # the settings it renders with, for the log


class Progress(Struct, frozen=True, kw_only=True):
    """How far the task is, 0 to 1."""

    replica: ReplicaId
    done: float


class TaskFinished(Struct, frozen=True, kw_only=True):
    """The driver says it is done, and its files are there: new, regular, within the size limit.

    `folder` is out of the driver's reach and belongs to the receiver now, who removes it.
    """

    replica: ReplicaId
    folder: Path
    files: tuple[str, ...]
    value: str | None
    seconds: Seconds  # wall time of this task, time suspended left out
    log_tail: str
    result_class: str


class TaskFailed(Struct, frozen=True, kw_only=True):
    """The task was begun and did not come to a result."""

    replica: ReplicaId
    cause: Cause  # EXITED, CRASHED, TIMED_OUT or BAD_RESULT
    message: str
    seconds: Seconds
    log_tail: str


class Ended(Struct, frozen=True, kw_only=True):
    """The process and everything it started are gone; the last event."""

    message: str
    unbegun: tuple[ReplicaId, ...]  # given, and nobody's fault that they did not end: give them to a fresh process
    log_tail: str


RunnerEvent: TypeAlias = Ready | Progress | TaskFinished | TaskFailed | Ended
