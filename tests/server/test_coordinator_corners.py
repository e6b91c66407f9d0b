"""The coordinator in corners: stale rows, late replicas, odd characters, what it keeps in memory."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import select
from xwgrid_schema.tables import tasks
from xwgrid_server import job_views
from xwgrid_server.calls import Call
from xwgrid_server.database import open_engine

from tests.server.small_grid import REQUESTER, SPEC, SmallGrid, digest_job, facts, finished, right
from xwgrid.model import Cause, HostId, JobId, ResultFile, TaskNumber, TaskState, UserId
from xwgrid.wire import Failed, Held, TaskView, WorkAnswer, WorkRequest

FAILURE = Failed(cause=Cause.EXITED, message="it said no")


@pytest.fixture
def grid(database_url: str) -> Iterator[SmallGrid]:
    engine = open_engine(database_url)
    yield SmallGrid(engine)
    engine.dispose()


def task(grid: SmallGrid, job: JobId) -> TaskView:
    return job_views.task(grid.engine, UserId(REQUESTER), job, TaskNumber(0), {})


def test_a_task_that_was_agreed_a_moment_ago_is_not_given_again(grid: SmallGrid) -> None:
    """After a restart, a verdict and a request for work in one batch do not meet over a stale row."""
    job = grid.submit(digest_job(1, replicas=2, quorum=1))
    lease = grid.take(1)
    grid.restart()
    calls = [
        Call(HostId(1), grid.request(1, reports=[(lease, finished(right(0)))])),
        Call(HostId(2), grid.request(2, want=1)),
    ]
    confirmed, nothing = grid.coordinator.serve(calls, [], grid.now).answers
    assert isinstance(confirmed, WorkAnswer)
    assert confirmed.confirmed[0].accepted
    assert isinstance(nothing, WorkAnswer)
    assert nothing.leases == ()
    assert task(grid, job).state is TaskState.AGREED


def test_a_retry_counts_the_late_replicas_of_the_first_try(grid: SmallGrid) -> None:
    """A replica that is still out when its task is opened again is one of those the task wants."""
    job = grid.submit(digest_job(1, replicas=4, quorum=1))
    leases = {host: grid.take(host) for host in (1, 2, 3, 4)}
    for host in (1, 2, 3):
        grid.call(host, reports=[(leases[host], FAILURE)])
    assert task(grid, job).state is TaskState.FAILED
    grid.coordinator.retry_job(UserId(REQUESTER), job)
    with grid.engine.connect() as connection:
        assert connection.execute(select(tasks.c.wanted).where(tasks.c.job_id == job)).scalar_one() == 3


def test_a_log_with_a_character_that_no_database_keeps_is_taken(grid: SmallGrid) -> None:
    """U+0000 in what a program wrote, or in what a host says of itself, stops no report and no lease."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    odd = WorkRequest(call=1, want=1, facts=facts("python \0any"))
    (answer,) = grid.coordinator.serve([Call(HostId(1), odd)], [], grid.now).answers
    assert isinstance(answer, WorkAnswer)
    told = msgspec.structs.replace(FAILURE, log_tail="a\0b")
    assert grid.call(1, reports=[(answer.leases[0], told)]).confirmed[0].accepted
    assert task(grid, job).replicas[0].log_tail == "a\N{REPLACEMENT CHARACTER}b"


def test_progress_is_forgotten_with_a_cancelled_job(grid: SmallGrid) -> None:
    """Cancelling a job leaves nothing of its running replicas in memory."""
    job = grid.submit(digest_job(1))
    lease = grid.take(1)
    held = WorkRequest(call=5, held=(Held(replica=lease.replica, done=0.5),))
    grid.coordinator.serve([Call(HostId(1), held)], [], grid.now)
    assert grid.coordinator.progress == {lease.replica: 0.5}
    grid.coordinator.cancel_job(UserId(REQUESTER), job, grid.now)
    assert grid.coordinator.progress == {}


def test_a_value_brings_no_files(grid: SmallGrid) -> None:
    """Files that nobody sent, named in the report of a value, do not become part of the result."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    named = ResultFile(name="never.png", sha256=SPEC, size=1)
    grid.call(1, reports=[(grid.take(1), msgspec.structs.replace(finished(right(0)), files=(named,)))])
    assert task(grid, job).state is TaskState.AGREED
    assert task(grid, job).files == ()
