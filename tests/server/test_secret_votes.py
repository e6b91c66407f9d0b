"""What a requester sees of votes: nothing before the verdict, all of it afterwards. On SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, update
from xwgrid_schema.tables import replicas, tasks
from xwgrid_server import job_views
from xwgrid_server.database import open_engine

from tests.server.small_grid import REQUESTER, SmallGrid, digest_job
from xwgrid.model import JobId, TaskNumber, UserId
from xwgrid.wire import JobView, ReplicaView, TaskView, encode

# A result and an audit of it that fitted, and one that did not.
AUTHOR: dict[str, Any] = {"id": 101, "number": 0, "host_id": 1, "voter": 1, "fingerprint": "1" * 64}
FITTING: dict[str, Any] = {"id": 102, "number": 1, "host_id": 2, "voter": 2, "fingerprint": "2" * 64}
FITTING |= {"audits": 101, "strips": "12+2,90+2", "differences": '{"101": 0.0}'}
ODD: dict[str, Any] = {"id": 103, "number": 2, "host_id": 3, "voter": 3, "fingerprint": "3" * 64}
ODD |= {"audits": 101, "strips": "5+2", "differences": '{"101": 0.25}'}


@pytest.fixture
def grid(database_url: str) -> Iterator[SmallGrid]:
    """A store on both databases, one after the other."""
    engine = open_engine(database_url)
    yield SmallGrid(engine)
    engine.dispose()


def put(grid: SmallGrid, job: JobId, row: dict[str, Any], state: str, **more: Any) -> None:
    """Write a replica of the job's first task as the dispatcher would have."""
    values = {"result_class": "c", "leased_at": grid.now, "ended_at": grid.now + 1, "seconds": 0.25}
    values |= {"log_tail": "rendering 2 strips", "job_id": job, "task": 0, "state": state} | row | more
    with grid.engine.begin() as connection:
        connection.execute(insert(replicas).values(values))


def decided(grid: SmallGrid, job: JobId, state: str, **values: Any) -> None:
    """Write how the job's first task stands."""
    where = (tasks.c.job_id == job) & (tasks.c.number == 0)
    with grid.engine.begin() as connection:
        connection.execute(update(tasks).where(where).values(state=state, made=3, **values))


def seen(grid: SmallGrid, job: JobId) -> TaskView:
    """Return the first task as its requester sees it."""
    return job_views.task(grid.engine, UserId(REQUESTER), job, TaskNumber(0), {})


def by_number(view: TaskView) -> dict[int, ReplicaView]:
    """Return the replicas shown."""
    return {replica.replica: replica for replica in view.replicas}


def test_before_the_verdict_a_vote_looks_like_another(grid: SmallGrid) -> None:
    """Neither fingerprints nor strips nor differences are shown, nor what would tell an audit from a full replica."""
    job = grid.submit(digest_job(1))
    for row in (AUTHOR, FITTING, ODD):
        put(grid, job, row, "voting")
    decided(grid, job, "open", undrawn=2)
    view = seen(grid, job)
    assert (view.accepted, view.undrawn, view.files) == ("", 0, ())
    shown = {
        encode((each.state, each.fingerprint, each.audits, each.strips, each.differed, each.seconds, each.log_tail))
        for each in view.replicas
    }
    assert len(shown) == 1
    text = encode(view)
    for secret in (b"12+2", b"0.25", b"1111", b"2222", b"strips 2", b"rendering"):
        assert secret not in text


def test_after_the_verdict_everything_is_shown(grid: SmallGrid) -> None:
    """Who looked at whose result, where, and what differed; and on what grounds it was accepted."""
    job = grid.submit(digest_job(1))
    put(grid, job, AUTHOR, "agreed")
    put(grid, job, FITTING, "agreed")
    put(grid, job, ODD, "outvoted")
    decided(grid, job, "agreed", canonical_replica=101, undrawn=1)
    view = seen(grid, job)
    replica = by_number(view)
    assert (replica[101].audits, replica[101].strips, replica[101].differed) == (None, None, None)
    assert (replica[102].audits, replica[102].strips, replica[102].differed) == (101, "12+2,90+2", 0.0)
    assert (replica[103].audits, replica[103].differed, replica[103].fingerprint) == (101, 0.25, "3" * 64)
    assert view.accepted.startswith("2 strips by 1 other owner fit; 1 check went to whoever asked")
    assert view.undrawn == 1


def test_a_verdict_taken_back_is_seen_and_hides_the_votes_again(grid: SmallGrid) -> None:
    """The task says why it is open again; with the new verdict it says what came of it. It is not left out of lists."""
    job = grid.submit(digest_job(2))
    put(grid, job, AUTHOR, "voting")
    put(grid, job, FITTING, "voting")
    decided(grid, job, "open", accepted_before=101)
    view = seen(grid, job)
    assert view.reason.startswith("audited again")
    assert {replica.audits for replica in view.replicas} == {None}
    listed = job_views.tasks_of(grid.engine, UserId(REQUESTER), job, {}, eventful=True).tasks
    assert [task.number for task in listed] == [0]
    with grid.engine.begin() as connection:
        connection.execute(update(replicas).where(replicas.c.id == 101).values(state="outvoted"))
    put(grid, job, {"id": 104, "number": 3, "host_id": 4, "voter": 4, "fingerprint": "4" * 64}, "agreed")
    decided(grid, job, "agreed", canonical_replica=104)
    view = seen(grid, job)
    assert view.accepted_before == 101
    assert "audited again after its host was caught; the picture changed" in view.accepted


def test_a_test_is_not_shown_while_it_is_under_way(grid: SmallGrid) -> None:
    """The answer is known already: whoever saw the test could pass it on. Afterwards it is shown as one."""
    job = grid.submit(digest_job(1))
    put(grid, job, AUTHOR, "agreed")
    put(grid, job, {"id": 105, "number": 1, "host_id": 4, "voter": 4}, "leased", is_test=True, ended_at=None)
    decided(grid, job, "agreed", canonical_replica=101)
    assert set(by_number(seen(grid, job))) == {101}
    assert job_of(grid, job).running == 0
    with grid.engine.begin() as connection:
        connection.execute(update(replicas).where(replicas.c.id == 105).values(state="outvoted"))
    assert by_number(seen(grid, job))[105].test


def test_a_failure_tells_why_at_once(grid: SmallGrid) -> None:
    """A replica that gave no vote has no secret: its log is there while the task is open."""
    job = grid.submit(digest_job(1))
    put(grid, job, AUTHOR | {"fingerprint": None}, "failed", cause="crashed", log_tail="signal 11")
    decided(grid, job, "open")
    (replica,) = seen(grid, job).replicas
    assert (replica.cause, replica.log_tail) == ("crashed", "signal 11")


def job_of(grid: SmallGrid, job: JobId) -> JobView:
    """Return the job as its requester sees it."""
    return job_views.job(grid.engine, UserId(REQUESTER), job, {})
