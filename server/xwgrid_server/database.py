"""Opening the job database: SQLite for a small grid, PostgreSQL for more."""

from __future__ import annotations

import functools
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DisconnectionError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry
from xwgrid_schema import migration

from xwgrid.errors import BadSettings, Conflict, Unavailable
from xwgrid.model import Seconds

# How long a statement of the admin command waits for the server's transaction, and the other way round.
SQLITE_BUSY_MILLISECONDS = 15_000

TRY_AFTER_IDLE_SECONDS: Seconds = 5.0


def open_engine(url: str, *, try_after_idle: Seconds = TRY_AFTER_IDLE_SECONDS) -> Engine:
    """Return an engine for `sqlite:///PATH` or `postgresql+psycopg://…`. Connects to nothing yet.

    PostgreSQL connections that were idle for longer than `try_after_idle` seconds are tried before they are used.

    Raises BadSettings for any other address.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise BadSettings(f"database = '{url}' is not a database address: {error}", key="database") from error
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in {"sqlite", "postgresql+psycopg"}:
        raise BadSettings(
            f"database: '{parsed.drivername}' is not supported; write sqlite:///PATH or postgresql://USER@HOST/NAME",
            key="database",
        )
    if parsed.drivername == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": SQLITE_BUSY_MILLISECONDS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = create_engine(parsed)
    event.listen(engine, "checkin", _note_time)
    event.listen(engine, "checkout", functools.partial(_try_if_idle, try_after_idle))
    return engine


def _note_time(_connection: Any, entry: ConnectionPoolEntry) -> None:
    entry.info["idle_since"] = time.monotonic()


def _try_if_idle(after: Seconds, connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
    # A server that was restarted meanwhile is found out here, not by a caller. Busy connections are not asked: it would
    # be a twentieth of the dispatcher's time.
    if time.monotonic() - entry.info.get("idle_since", 0.0) > after:
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
            connection.rollback()
        except Exception as error:
            raise DisconnectionError("the database closed this connection") from error


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    # SQLAlchemy begins transactions itself; the driver's own guesses would leave DDL outside of them.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",  # an answer leaves after its commit: the commit must survive a power cut
        "foreign_keys = ON",
        f"busy_timeout = {SQLITE_BUSY_MILLISECONDS}",
        "temp_store = MEMORY",
        "cache_size = -65536",
    ):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that reads first and writes later would fail, not wait, when another one committed in between.
    read_only = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Open a connection that only reads.

    On SQLite this is one transaction, which neither waits for the writer nor makes it wait. On PostgreSQL every
    statement sees what is committed, in a transaction of its own: that spares two messages a time.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            yield connection.execution_options(isolation_level="AUTOCOMMIT")
        else:
            with connection.execution_options(read_only=True).begin():
                yield connection


def upgrade(url: str) -> None:
    """Bring the database to the schema of this code, making it if it is new.

    Raises NewerDatabase when it is newer than the code, Unavailable when it cannot be reached.
    """
    engine = open_engine(url)
    try:
        with _reaching(engine), engine.begin() as connection:
            _refuse_newer(migration.present_revision(connection), engine)
            migration.upgrade(connection)
    finally:
        engine.dispose()


def check_revision(engine: Engine) -> None:
    """Return if the database has the schema of this code.

    Raises NewerDatabase, or Conflict when it is older or empty, with what to do about it; Unavailable when it cannot be
    reached.
    """
    with _reaching(engine), reading(engine) as connection:
        present = migration.present_revision(connection)
    _refuse_newer(present, engine)
    if present != migration.newest_revision():
        raise Conflict(
            f"the database {_name(engine)} is at revision {present or 'none'}, this program needs "
            f"{migration.newest_revision()}: run `xwgrid-admin db upgrade` (after a backup)",
            present=present,
        )


class NewerDatabase(Conflict):
    """The database was made by a newer xwgrid: install that version, or restore the backup from before the upgrade."""

    exit_status = 2


def _refuse_newer(present: str | None, engine: Engine) -> None:
    if present is not None and present not in migration.known_revisions():
        raise NewerDatabase(
            f"the database {_name(engine)} is at revision {present}, which this program does not know: it was made by "
            "a newer xwgrid. Install that version, or restore the backup from before the upgrade",
            present=present,
        )


def _name(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=True)


class _reaching:  # noqa: N801  # reads as a word: `with _reaching(engine)`
    """Turns a database that cannot be reached into Unavailable."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: Any, error: BaseException | None, _traceback: Any) -> None:
        if isinstance(error, OperationalError):
            raise Unavailable(f"the database {_name(self._engine)} cannot be used: {error.orig}") from error
        if isinstance(error, SQLAlchemyError):
            raise Unavailable(f"the database {_name(self._engine)} does not work: {error}") from error
