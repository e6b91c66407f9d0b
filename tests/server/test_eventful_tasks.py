"""Of a large job a person reads only the tasks with something to tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from xwgrid_server import job_views
from xwgrid_server.database import open_engine

from tests.server.small_grid import REQUESTER, SmallGrid, digest_job
from xwgrid.model import Cause, JobId, UserId
from xwgrid.wire import Failed, HandedBack


@pytest.fixture
def grid(database_url: str) -> Iterator[SmallGrid]:
    """A store on both databases, one after the other."""
    engine = open_engine(database_url)
    yield SmallGrid(engine)
    engine.dispose()


def eventful(grid: SmallGrid, job: JobId) -> list[int]:
    """Return the numbers of the job's tasks with something to tell."""
    found = job_views.tasks_of(grid.engine, UserId(REQUESTER), job, {}, eventful=True)
    return [task.number for task in found.tasks]


def test_only_tasks_with_something_to_tell_are_told(grid: SmallGrid) -> None:
    """What is open, under way or agreed is left out; a failure, a lease handed back, a failed task are in."""
    job = grid.submit(digest_job(5, replicas=1, quorum=1))
    grid.do(1, grid.take(1))
    assert eventful(grid, job) == []
    returned = grid.take(1)
    grid.call(1, reports=[(returned, HandedBack(cause=Cause.OWNER))])
    assert eventful(grid, job) == [returned.task]
    grid.do(1, grid.take(1))
    grid.call(1, reports=[(grid.take(1), Failed(cause=Cause.CRASHED, message="signal 11"))])
    grid.take(2)
    found = eventful(grid, job)
    assert len(found) == 2
    assert found[0] == returned.task
    assert job_views.tasks_of(grid.engine, UserId(REQUESTER), job, {}, eventful=True, limit=1).next_after == found[0]
