"""The tables of legal moves."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import pytest

from xwgrid.errors import IllegalMove
from xwgrid.lifecycle import JOB_MOVES, REPLICA_MOVES, TASK_MOVES, ReplicaEvent, TaskEvent, draw, move
from xwgrid.model import JobState, ReplicaState, TaskState

TABLES: list[tuple[Mapping[Any, Mapping[Any, Any]], type[StrEnum], set[StrEnum]]] = [
    (REPLICA_MOVES, ReplicaState, {ReplicaState.HANDED_BACK, ReplicaState.CANCELLED}),
    (TASK_MOVES, TaskState, {TaskState.CANCELLED}),
    (JOB_MOVES, JobState, {JobState.FINISHED, JobState.CANCELLED}),
]


@pytest.mark.parametrize(("table", "states", "ends"), TABLES)
def test_every_state_has_a_row_and_none_is_a_trap(
    table: Mapping[Any, Mapping[Any, Any]], states: type[StrEnum], ends: set[StrEnum]
) -> None:
    """Every state is in its table, and from each of them an end can be reached."""
    assert set(table) == set(states)
    good = set(ends)
    for _ in states:
        good |= {state for state, moves in table.items() if set(moves.values()) & good}
    assert good == set(states)
    assert {state for state, moves in table.items() if not moves} == ends


@pytest.mark.parametrize(("table", "states", "ends"), TABLES)
def test_the_drawing_shows_every_move(
    table: Mapping[Any, Mapping[Any, Any]], states: type[StrEnum], ends: set[StrEnum]
) -> None:
    """Each legal move is one line of the diagram."""
    drawing = draw(table)
    for state, moves in table.items():
        for event, after in moves.items():
            assert f"{state} --> {after}: {event}" in drawing


def test_a_verdict_is_final() -> None:
    """Nothing but a second look at a caught host's results moves an agreed replica or task."""
    for event in set(ReplicaEvent) - {ReplicaEvent.REOPENED}:
        with pytest.raises(IllegalMove, match=f"'agreed' has no move for '{event}'"):
            move(REPLICA_MOVES, ReplicaState.AGREED, event)
    assert set(TASK_MOVES[TaskState.AGREED]) == {TaskEvent.AUDITED_AGAIN}
