"""Bringing a database to the schema of this code. New databases take the same road as old ones."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def newest_revision() -> str:
    """Return the revision this code works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise RuntimeError("this installation holds no migrations: it is damaged, install it again")
    return head


def known_revisions() -> frozenset[str]:
    """Return every revision this code knows the way from."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def present_revision(connection: Connection) -> str | None:
    """Return the database's revision; None: it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Bring the database up to a revision, the newest unless told otherwise, in the connection's transaction."""
    command.upgrade(_config(connection), revision)


def write_revision(connection: Connection, message: str, revision: str) -> None:
    """Write a new migration module from the difference between the tables and the database (for developers)."""
    command.revision(_config(connection), message=message, autogenerate=True, rev_id=revision)
