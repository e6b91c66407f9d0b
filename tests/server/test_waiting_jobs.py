"""What a job that nobody works on waits for, as its requester reads it. On SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import update
from xwgrid_schema.tables import hosts
from xwgrid_server import job_views
from xwgrid_server.database import open_engine

from tests.server.small_grid import REQUESTER, SmallGrid, digest_job
from xwgrid.model import JobId, UserId


@pytest.fixture
def grid(database_url: str) -> Iterator[SmallGrid]:
    """A store on both databases, one after the other."""
    engine = open_engine(database_url)
    yield SmallGrid(engine)
    engine.dispose()


def called(grid: SmallGrid, **owners: int) -> None:
    """Let only these hosts have called, each of this owner: `host1=7` is host 1 of user 7."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).values(last_seen_at=None))
        for name, owner in owners.items():
            row = hosts.c.id == int(name.removeprefix("host"))
            connection.execute(update(hosts).where(row).values(owner_id=owner, last_seen_at=grid.now))


def reason(grid: SmallGrid, job: JobId) -> str:
    """Return why a job waits."""
    return job_views.job(grid.engine, UserId(REQUESTER), job, {}).reason or ""


def test_a_job_says_whose_machines_it_waits_for(grid: SmallGrid) -> None:
    """Nobody's yet, only the requester's own, too few owners', or just a free one."""
    job = grid.submit(digest_job(1))
    called(grid)
    assert "no volunteer has called" in reason(grid, job)
    called(grid, host1=REQUESTER)
    assert "take none of your public jobs; --private" in reason(grid, job)
    called(grid, host1=REQUESTER, host2=2)
    assert reason(grid, job).endswith("its checks need 2 beside you, and 1 called so far")
    called(grid, host2=2, host3=3)
    assert reason(grid, job) == "it waits for a volunteer that can take it"


def test_a_private_job_waits_for_its_own_machines(grid: SmallGrid) -> None:
    """Whoever else is about, none of them may have it."""
    job = grid.submit(digest_job(1, private=True))
    called(grid, host1=1)
    assert reason(grid, job) == "it waits: none of your own machines has called this server yet"
    called(grid, host1=REQUESTER)
    assert reason(grid, job) == "it waits for one of your own machines"
