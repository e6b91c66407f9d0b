"""What tests of every room may ask for: databases, real ones."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from xwgrid_server import database

from tests.postgresql import PostgreSQL

# A shell starts what it runs in the background with Ctrl-C ignored, and every program below inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One PostgreSQL server for the whole run, started when the first test asks."""
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="session")
def _migrated_postgresql(postgresql_server: PostgreSQL) -> str:
    """The name of a database with the present schema, to be copied."""
    name = postgresql_server.create()
    database.upgrade(postgresql_server.url(name))
    return name


@pytest.fixture(scope="session")
def _migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the present schema, to be copied."""
    path = tmp_path_factory.mktemp("database") / "migrated.sqlite"
    database.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQL) -> Iterator[str]:
    """The address of an empty PostgreSQL database of this test's own."""
    name = postgresql_server.create()
    yield postgresql_server.url(name)
    postgresql_server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a database of this test's own with the present schema; the test runs on SQLite and PostgreSQL."""
    if request.param == "sqlite":
        path = tmp_path / "xwgrid.sqlite"
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    name = server.create(template=request.getfixturevalue("_migrated_postgresql"))
    yield server.url(name)
    server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of this test's own; the test runs on SQLite and PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.sqlite'}"
    url: str = request.getfixturevalue("postgresql_url")
    return url
