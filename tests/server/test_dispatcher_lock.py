"""One dispatching process per database, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from xwgrid_server import database, dispatcher_lock

from xwgrid.errors import Conflict


@pytest.fixture
def engines(database_url: str) -> Iterator[tuple[Engine, Engine]]:
    """Two programs' views of one database."""
    both = database.open_engine(database_url), database.open_engine(database_url)
    yield both
    for engine in both:
        engine.dispose()


def test_only_one_dispatches_at_a_time(engines: tuple[Engine, Engine]) -> None:
    """A second is refused while the first holds the lock, and may when it let go."""
    first = dispatcher_lock.take(engines[0], wait_seconds=0.05)
    assert first.held()
    with pytest.raises(Conflict, match="another xwgrid-server"):
        dispatcher_lock.take(engines[1], wait_seconds=0.05)
    assert first.held()
    first.release()
    second = dispatcher_lock.take(engines[1], wait_seconds=0.05)
    assert second.held()
    second.release()


def test_the_lock_stops_nobody_from_reading_and_writing(engines: tuple[Engine, Engine]) -> None:
    """The admin command works beside the server."""
    lock = dispatcher_lock.take(engines[0])
    with engines[1].begin() as connection:
        connection.execute(text("INSERT INTO users (name, role, created_at) VALUES ('ada', 'requester', 0)"))
    lock.release()


def test_a_lost_connection_is_a_lost_lock(postgresql_url: str) -> None:
    """When PostgreSQL ended the session, another server may dispatch: this one must know."""
    engine, other = database.open_engine(postgresql_url), database.open_engine(postgresql_url)
    lock = dispatcher_lock.take(engine)
    with other.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    assert not lock.held()
    lock.release()
    engine.dispose()
    other.dispose()
