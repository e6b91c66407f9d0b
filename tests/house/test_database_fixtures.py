"""The databases that tests run on are real and their own."""

from __future__ import annotations

from sqlalchemy import inspect, text
from xwgrid_schema.tables import metadata
from xwgrid_server.database import check_revision, open_engine


def test_database_is_migrated(database_url: str) -> None:
    """A test's database holds every table of the schema, made by the migrations."""
    engine = open_engine(database_url)
    check_revision(engine)
    assert set(metadata.tables) <= set(inspect(engine).get_table_names())
    engine.dispose()


def test_empty_database_is_empty(empty_database_url: str) -> None:
    """A test that wants to make its own tables finds none."""
    engine = open_engine(empty_database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_postgresql_survives_power_cuts(postgresql_url: str) -> None:
    """PostgreSQL runs with fsync and synchronous commits, as an operator's server does."""
    engine = open_engine(postgresql_url)
    with engine.connect() as connection:
        assert connection.execute(text("SHOW fsync")).scalar_one() == "on"
        assert connection.execute(text("SHOW synchronous_commit")).scalar_one() == "on"
    engine.dispose()
