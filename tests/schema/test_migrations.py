"""The migrations are the only road to a schema, and they lead to the tables of the code."""

from __future__ import annotations

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text
from xwgrid_schema import migration
from xwgrid_schema.tables import metadata
from xwgrid_server import database

from xwgrid.errors import BadSettings, Conflict, Unavailable


def test_migrated_equals_declared(database_url: str) -> None:
    """A database brought up by the migrations has exactly the tables the code declares."""
    engine = database.open_engine(database_url)
    with database.reading(engine) as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_upgrading_twice_keeps_the_data(empty_database_url: str) -> None:
    """An upgrade of a database that is up to date changes nothing in it."""
    database.upgrade(empty_database_url)
    engine = database.open_engine(empty_database_url)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO users (id, name, created_at) VALUES (1, 'ada', 0)"))
    database.upgrade(empty_database_url)
    with database.reading(engine) as connection:
        assert connection.execute(text("SELECT name FROM users")).scalar_one() == "ada"
    database.check_revision(engine)
    engine.dispose()


def test_an_empty_database_is_refused(empty_database_url: str) -> None:
    """A server does not start on a database without a schema, and says what to run."""
    engine = database.open_engine(empty_database_url)
    with pytest.raises(Conflict, match="xwgrid-admin db upgrade"):
        database.check_revision(engine)
    engine.dispose()


def test_a_newer_database_is_refused(database_url: str) -> None:
    """A database of a newer xwgrid is neither used nor upgraded."""
    engine = database.open_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Conflict, match="newer xwgrid"):
        database.check_revision(engine)
    engine.dispose()
    with pytest.raises(Conflict, match="newer xwgrid"):
        database.upgrade(database_url)


def test_other_databases_are_refused() -> None:
    """An address that is no SQLite or PostgreSQL is a sentence; one that does not answer is another."""
    with pytest.raises(BadSettings, match="mysql"):
        database.open_engine("mysql://localhost/x")
    with pytest.raises(BadSettings, match="not a database address"):
        database.open_engine("nonsense")
    engine = database.open_engine("postgresql://nobody:secret@127.0.0.1:1/x")
    with pytest.raises(Unavailable) as refused:
        database.check_revision(engine)
    assert "secret" not in refused.value.message


def test_a_connection_that_was_cut_while_idle_is_replaced(postgresql_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After PostgreSQL was restarted the next question gets its answer."""
    engine = database.open_engine(postgresql_url, try_after_idle=0)
    other = database.open_engine(postgresql_url)
    with database.reading(engine) as connection:
        number = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    with other.begin() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:number)"), {"number": number})
    with database.reading(engine) as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()
    other.dispose()


def test_counting_a_jobs_time_keeps_what_was_there(empty_database_url: str) -> None:
    """A grid of the first schema comes through the upgrade with its jobs and replicas, and their time is counted."""
    engine = database.open_engine(empty_database_url)
    with engine.begin() as connection:
        migration.upgrade(connection, "0001")
        connection.execute(text("INSERT INTO users (id, name, created_at) VALUES (1, 'ada', 0)"))
        connection.execute(text("INSERT INTO hosts (id, owner_id, name, enrolled_at) VALUES (1, 1, 'desk', 0)"))
        connection.execute(text("INSERT INTO blobs VALUES ('spec', 1, 0)"))
        connection.execute(
            text(
                "INSERT INTO jobs (id, owner_id, name, application, spec, request, state, private, priority, tasks,"
                " created_at) VALUES (7, 1, 'film', 'blender', 'spec', '{}', 'open', FALSE, 0, 3, 0)"
            )
        )
        for number, (state, seconds) in enumerate([("agreed", 2.5), ("outvoted", 1.5), ("failed", 9.0)]):
            connection.execute(
                text(
                    "INSERT INTO replicas (id, job_id, task, number, host_id, voter, state, leased_at, seconds)"
                    " VALUES (:id, 7, :id, 0, 1, 1, :state, 0, :seconds)"
                ),
                {"id": number, "state": state, "seconds": seconds},
            )
    database.upgrade(empty_database_url)
    with database.reading(engine) as connection:
        counted = connection.execute(text("SELECT name, timed, seconds FROM jobs")).one()
        kept = connection.execute(text("SELECT COUNT(*) FROM replicas")).scalar_one()
    assert tuple(counted) == ("film", 2, 4.0)
    assert kept == 3
    engine.dispose()
