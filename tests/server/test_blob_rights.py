"""Who may read what, asked of real databases."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, update
from xwgrid_schema.tables import replicas, users
from xwgrid_server import blob_rights
from xwgrid_server.database import open_engine, reading

from tests.server.small_grid import SmallGrid, digest_job
from xwgrid.model import HostId, ReplicaId, UserId
from xwgrid.wire import Lease

NOW = 1_000_000.0
ONE, TWO = UserId(1), UserId(2)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with the present schema."""
    made = open_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def grid(engine: Engine) -> SmallGrid:
    """Four users with a host each."""
    return SmallGrid(engine)


def name(text: str) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(text.encode()).hexdigest()


def sent(engine: Engine, user: UserId, *texts: str) -> None:
    """Note that a user sent these blobs."""
    with engine.begin() as connection:
        blob_rights.grant(connection, user, {name(text): len(text) for text in texts}, NOW)


def readable(engine: Engine, user: UserId, text: str) -> bool:
    """Ask whether a user may read a blob."""
    with reading(engine) as connection:
        return blob_rights.user_may_read(connection, user, name(text))


def test_a_blob_is_for_whom_it_was_sent_by(engine: Engine, grid: SmallGrid) -> None:
    """Each user must send it for themselves; sending it again changes nothing."""
    for _ in range(2):
        sent(engine, ONE, "scene")
    assert readable(engine, ONE, "scene")
    assert not readable(engine, TWO, "scene")
    asked = [name("other"), name("scene"), name("other")]
    with reading(engine) as connection:
        assert blob_rights.still_missing(connection, ONE, asked) == (name("other"),)
        assert blob_rights.still_missing(connection, TWO, asked) == (name("other"), name("scene"))
    sent(engine, TWO, "scene")
    assert readable(engine, TWO, "scene")


def test_very_many_names_are_asked_about(engine: Engine, grid: SmallGrid) -> None:
    """A message's 100,000 names are more than a statement takes parameters."""
    sent(engine, ONE, "text 7", "text 39999")
    asked = [name(f"text {number}") for number in range(40_000)]
    with reading(engine) as connection:
        missing = blob_rights.still_missing(connection, ONE, asked)
        assert blob_rights.sizes(connection, asked) == {name("text 7"): 6, name("text 39999"): 10}
    assert list(missing) == [each for each in asked if each not in {name("text 7"), name("text 39999")}]


def leased(grid: SmallGrid, host: int) -> Lease:
    """Hand in a job of user 1 and give its first lease to a host."""
    grid.submit(digest_job(1), owner=ONE)
    (lease,) = grid.call(host, want=1).leases
    return lease


def test_a_result_belongs_to_the_owner_of_its_job(engine: Engine, grid: SmallGrid) -> None:
    """Neither the volunteer's owner nor anybody else may read it; an operator may."""
    lease = leased(grid, 2)
    with engine.begin() as connection:
        live = blob_rights.live_lease(connection, HostId(2), lease.replica)
        assert live is not None
        blob_rights.attach(connection, live, name("picture"), 7, NOW)
    assert readable(engine, ONE, "picture")
    assert not readable(engine, TWO, "picture")
    with reading(engine) as connection:
        names = [name("picture"), name("nothing")]
        assert blob_rights.unreadable(connection, ONE, names) == {name("nothing")}
        assert blob_rights.unreadable(connection, TWO, names) == set(names)
    with engine.begin() as connection:
        connection.execute(update(users).where(users.c.id == 3).values(role="operator"))
    assert readable(engine, UserId(3), "picture")
    with reading(engine) as connection:
        again = blob_rights.live_lease(connection, HostId(2), lease.replica)
        assert again is not None
        assert again.sent == {name("picture"): 7}


def test_a_lease_is_its_hosts_while_it_lives(engine: Engine, grid: SmallGrid) -> None:
    """Another host has no such lease, and when it has ended nobody has."""
    lease = leased(grid, 2)
    with reading(engine) as connection:
        assert blob_rights.live_lease(connection, HostId(3), lease.replica) is None
        assert blob_rights.live_lease(connection, HostId(2), ReplicaId(lease.replica + 1)) is None
        assert blob_rights.host_may_read(connection, HostId(2), lease.spec)
        assert not blob_rights.host_may_read(connection, HostId(3), lease.spec)
    with engine.begin() as connection:
        connection.execute(update(replicas).where(replicas.c.id == lease.replica).values(state="lost"))
    with reading(engine) as connection:
        assert blob_rights.live_lease(connection, HostId(2), lease.replica) is None
        assert not blob_rights.host_may_read(connection, HostId(2), lease.spec)
