"""The legal moves of jobs, tasks and replicas. Every state is a key, every event a column; anything else is a fault."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

from xwgrid.errors import IllegalMove
from xwgrid.model import JobState, ReplicaState, TaskState


class ReplicaEvent(StrEnum):
    """What happens to a replica."""

    FILES_REPORTED = "files reported"  # a reader process must look at them before they count
    VALUE_REPORTED = "value reported"  # small enough to be its own fingerprint
    READ = "read"
    UNREADABLE = "unreadable"
    FAILURE_REPORTED = "failure reported"
    HANDED_BACK = "handed back"
    EXPIRED = "expired"
    DROPPED = "dropped"
    WON = "won"
    OUTVOTED = "outvoted"
    REOPENED = "reopened"  # its task's verdict is looked at again
    CANCELLED = "cancelled"


class TaskEvent(StrEnum):
    """What happens to a task."""

    AGREED = "agreed"
    GIVEN_UP = "given up"
    CANCELLED = "cancelled"
    RETRIED = "retried"
    AUDITED_AGAIN = "audited again"  # the host whose result was accepted was caught, and the job is not delivered


class JobEvent(StrEnum):
    """What happens to a job."""

    ENTERED = "entered"  # its last task is stored
    ALL_AGREED = "all agreed"
    ALL_ENDED = "all ended"  # and some failed
    CANCELLED = "cancelled"
    RETRIED = "retried"


_R, _RE = ReplicaState, ReplicaEvent
REPLICA_MOVES: Final[Mapping[ReplicaState, Mapping[ReplicaEvent, ReplicaState]]] = {
    _R.LEASED: {
        _RE.FILES_REPORTED: _R.READING,
        _RE.VALUE_REPORTED: _R.VOTING,
        _RE.FAILURE_REPORTED: _R.FAILED,
        _RE.HANDED_BACK: _R.HANDED_BACK,
        _RE.EXPIRED: _R.LOST,
        _RE.DROPPED: _R.LOST,
        _RE.CANCELLED: _R.CANCELLED,
    },
    _R.READING: {_RE.READ: _R.VOTING, _RE.UNREADABLE: _R.FAILED, _RE.CANCELLED: _R.CANCELLED},
    _R.VOTING: {_RE.WON: _R.AGREED, _RE.OUTVOTED: _R.OUTVOTED, _RE.CANCELLED: _R.CANCELLED},
    _R.AGREED: {_RE.REOPENED: _R.VOTING},
    # A retry starts a new vote: old ballots leave the box, so that their voters may vote again, and old failures and
    # losses are not counted a second time.
    _R.OUTVOTED: {_RE.CANCELLED: _R.CANCELLED, _RE.REOPENED: _R.VOTING},
    _R.FAILED: {_RE.CANCELLED: _R.CANCELLED},
    _R.LOST: {_RE.CANCELLED: _R.CANCELLED},
    _R.HANDED_BACK: {},
    _R.CANCELLED: {},
}

TASK_MOVES: Final[Mapping[TaskState, Mapping[TaskEvent, TaskState]]] = {
    TaskState.OPEN: {
        TaskEvent.AGREED: TaskState.AGREED,
        TaskEvent.GIVEN_UP: TaskState.FAILED,
        TaskEvent.CANCELLED: TaskState.CANCELLED,
    },
    TaskState.AGREED: {TaskEvent.AUDITED_AGAIN: TaskState.OPEN},
    TaskState.FAILED: {TaskEvent.RETRIED: TaskState.OPEN},
    TaskState.CANCELLED: {},
}

JOB_MOVES: Final[Mapping[JobState, Mapping[JobEvent, JobState]]] = {
    JobState.ENTERING: {JobEvent.ENTERED: JobState.OPEN, JobEvent.CANCELLED: JobState.CANCELLED},
    JobState.OPEN: {
        JobEvent.ALL_AGREED: JobState.FINISHED,
        JobEvent.ALL_ENDED: JobState.INCOMPLETE,
        JobEvent.CANCELLED: JobState.CANCELLED,
    },
    JobState.FINISHED: {},
    JobState.INCOMPLETE: {JobEvent.RETRIED: JobState.OPEN, JobEvent.CANCELLED: JobState.CANCELLED},
    JobState.CANCELLED: {},
}

LIVE: Final = frozenset({ReplicaState.LEASED, ReplicaState.READING})
IN_THE_BOX: Final = frozenset({ReplicaState.VOTING, ReplicaState.AGREED, ReplicaState.OUTVOTED})
# Replicas in these states keep their voter from having another one of the same task.
KEEPS_OTHERS_OUT: Final = LIVE | IN_THE_BOX
# As hoped for so far: nothing anybody would want to read about.
UNEVENTFUL: Final = LIVE | {ReplicaState.VOTING, ReplicaState.AGREED}

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)


def move(table: Mapping[State, Mapping[Event, State]], state: State, event: Event) -> State:
    """Return the state that `event` leads to from `state`.

    Raises IllegalMove, naming both, when the table has no such move.
    """
    try:
        return table[state][event]
    except KeyError:
        raise IllegalMove(
            f"{type(state).__name__} '{state}' has no move for '{event}'", state=str(state), event=str(event)
        ) from None


def draw(table: Mapping[State, Mapping[Event, State]]) -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for state, moves in table.items():
        lines += [f"    {state} --> {after}: {event}" for event, after in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join(lines)
