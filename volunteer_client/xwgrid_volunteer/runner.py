"""One driver process of one job in its sandbox, spoken to line by line. docs/protocol.md describes the lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from msgspec import Struct
from twisted.internet.defer import Deferred

from xwgrid.model import Cause, Limits, ReplicaId, Seconds
from xwgrid.sandboxing import Bubblewrap
from xwgrid_volunteer.runtimes import Runtime
from xwgrid_volunteer.staging import Staged


class JobPlan(Struct, frozen=True, kw_only=True):
    """What is started, and within which bounds."""

    runtime: Runtime
    staged: Staged
    entry: str  # the driver script, relative to `staged.application`
    limits: Limits
    tool: Bubblewrap | None  # None: no sandbox, for applications the owner marked trusted
    start_seconds: Seconds = 300.0  # a first import of Blender from a cold disk takes 8 s, a large scene minutes
    bye_seconds: Seconds = 10.0  # between `quit` and the end of the process; some renderers hang at exit


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
    """The driver says it is done, and its files are there: new, regular, inside `folder`, within the size limit.

    `folder` belongs to the receiver now, who removes it.
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
    unbegun: tuple[ReplicaId, ...]  # given, but never begun: nobody's fault; give them to a fresh process
    log_tail: str


RunnerEvent: TypeAlias = Ready | Progress | TaskFinished | TaskFailed | Ended


class JobProcess:
    """A driver process. `listener` gets every event, in order, from the reactor; `Ended` exactly once."""

    def __init__(self, reactor: Any, plan: JobPlan, listener: Callable[[RunnerEvent], None]) -> None:
        raise NotImplementedError

    @property
    def running(self) -> ReplicaId | None:
        """The task being worked on."""
        raise NotImplementedError

    @property
    def waiting(self) -> tuple[ReplicaId, ...]:
        """Tasks given and not begun."""
        raise NotImplementedError

    def start(self) -> None:
        """Spawn the process. A start that fails is told by `Ended`, never raised."""
        raise NotImplementedError

    def give(self, replica: ReplicaId, arguments: Mapping[str, int | str]) -> None:
        """Queue a task. The driver gets it at once, also while it works on another. Raises Conflict once ended."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Stop every process of the sandbox where it stands. Its clock stops too."""
        raise NotImplementedError

    def resume(self) -> None:
        """Let them go on."""
        raise NotImplementedError

    def quit(self) -> Deferred[None]:
        """Let the tasks given finish, then end in good order; fires after `Ended`."""
        raise NotImplementedError

    def stop(self) -> Deferred[None]:
        """Kill the whole tree now. No task fails by it: all tasks come back in `Ended.unbegun`. Fires after `Ended`."""
        raise NotImplementedError
