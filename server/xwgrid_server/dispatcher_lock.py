"""One dispatching process per database: two of them could each see one vote of two."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from xwgrid.errors import Conflict, Unavailable
from xwgrid.model import Seconds

# Any number that no other program picks for an advisory lock: the first eight letters of "xwgriddi".
_LOCK_NUMBER = int.from_bytes(b"xwgriddi")
# A server that was killed lets go when PostgreSQL notices: at once on one machine, a little later over a network.
WAIT_SECONDS: Seconds = 5.0


class DispatcherLock(Protocol):
    """The right to dispatch. It ends with the process, however that ends."""

    def held(self) -> bool:
        """Tell whether it is still ours; blocks."""

    def release(self) -> None:
        """Let go."""


def take(engine: Engine, wait_seconds: Seconds = WAIT_SECONDS) -> DispatcherLock:
    """Become the one dispatching process of this database; blocks for up to `wait_seconds`.

    Raises Conflict when another process is, Unavailable when the lock cannot be asked for.
    """
    if engine.dialect.name == "sqlite":
        return _FileLock(Path(f"{engine.url.database}.lock"))
    return _AdvisoryLock(engine, wait_seconds)


class _FileLock:
    """A lock on a file beside an SQLite database."""

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise Unavailable(f"the lock file {path} cannot be opened: {error}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            raise _taken() from error

    def held(self) -> bool:
        return True

    def release(self) -> None:
        os.close(self._descriptor)


class _AdvisoryLock:
    """PostgreSQL's: held by a connection that is used for nothing else."""

    def __init__(self, engine: Engine, wait_seconds: Seconds) -> None:
        self._connection = _open(engine)
        try:
            self._connection.execute(text(f"SET lock_timeout = {round(wait_seconds * 1_000)}"))
            self._connection.execute(text("SELECT pg_advisory_lock(:number)"), {"number": _LOCK_NUMBER})
        except OperationalError as error:
            self._connection.invalidate()
            self._connection.close()
            raise _taken() from error

    def held(self) -> bool:
        try:
            self._connection.execute(text("SELECT 1"))
        except SQLAlchemyError:
            return False
        return True

    def release(self) -> None:
        # Closed, not given back to the pool: the lock belongs to the session.
        self._connection.invalidate()
        self._connection.close()


def _open(engine: Engine) -> Connection:
    try:
        return engine.connect().execution_options(isolation_level="AUTOCOMMIT")
    except OperationalError as error:
        raise Unavailable(f"the database cannot be reached: {error.orig}") from error


def _taken() -> Conflict:
    return Conflict(
        "another xwgrid-server is at work on this database: stop it first. One process decides, or two could each see "
        "one vote of two"
    )
