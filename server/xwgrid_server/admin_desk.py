"""What all admin commands have in common: the settings they read, the database they open, how they answer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Concatenate, Final, ParamSpec, TypeVar

import click
import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from xwgrid.errors import BadInput, Conflict, Unavailable
from xwgrid.model import Instant
from xwgrid_server import authority, database, settings
from xwgrid_server.accounts import Contact
from xwgrid_server.listening import read_listening
from xwgrid_server.settings import Settings

# What a database keeps as a number.
NUMBER: Final = click.IntRange(-(1 << 63), (1 << 63) - 1)
# A message or a name that somebody made endless.
_WIDEST = 2_000

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Desk:
    """Where one admin command works: which settings file was named, and whether the answer is to be JSON."""

    settings_file: Path | None
    as_json: bool

    @functools.cached_property
    def settings(self) -> Settings:
        """The server's settings. Raises BadSettings."""
        return settings.load(self.settings_file)

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """Open the server's database for one command.

        Raises Conflict when it has another revision than this program, Unavailable when it cannot be used.
        """
        where = database.open_engine(self.settings.database_url)
        if where.url.database is not None and where.dialect.name == "sqlite" and not Path(where.url.database).exists():
            raise Unavailable(f"there is no database {where.url.database}: run `xwgrid-admin init` first")
        try:
            database.check_revision(where)
            yield where
        except OperationalError as error:
            raise Unavailable(f"the database cannot be used: {error.orig}") from error
        finally:
            where.dispose()

    def contact(self) -> Contact:
        """Return what new tokens say of this server.

        Raises Unavailable when there is no CA yet, Conflict when the API's port is known only while the server runs.
        """
        ca_key = authority.load(self.settings.authority_folder).key_hash
        port = self.settings.api_address.port
        if port or self.settings.api_url:
            return Contact(url=self.settings.public_api_url(port), ca_key=ca_key)
        listening = read_listening(self.settings.listening_file)
        if listening is None:
            raise Conflict(
                "the API listens on any free port (api = …:0): start the server first, tokens carry its port"
            )
        return Contact(url=listening.api, ca_key=ca_key)

    def answer(self, value: object, text: str) -> None:
        """Print `value` as JSON if that was asked for, else `text` for people."""
        click.echo(msgspec.json.encode(value).decode() if self.as_json else text)


def desk_command(function: Callable[Concatenate[Desk, P], R]) -> Callable[P, R]:
    """Give a command the options --settings and --json, and its function a Desk as the first argument."""

    @click.option(
        "--settings",
        "settings_file",
        type=click.Path(path_type=Path, dir_okay=False),
        help=f"The server's settings file; by default {settings.default_file()}.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")
    @functools.wraps(function)
    def command(*arguments: P.args, **options: P.kwargs) -> R:
        file, as_json = options.pop("settings_file"), options.pop("as_json")
        desk = Desk(settings_file=file if isinstance(file, Path) else None, as_json=bool(as_json))
        return function(desk, *arguments, **options)

    return command


F = TypeVar("F", bound=Callable[..., object])


def host_number(*, required: bool = True) -> Callable[[F], F]:
    """Give a command the argument HOST, a host's number, as `number`; None where it is left out."""
    return click.argument("number", metavar="HOST", required=required, type=click.IntRange(1, (1 << 63) - 1))


def sure(question: str, *, yes: bool) -> None:
    """Return when the operator is sure. Raises BadInput when nobody is there to be asked, Conflict when not."""
    if yes:
        return
    try:
        agreed = click.confirm(cut(question, 1_000), err=True)
    except click.Abort:
        raise BadInput("nothing was changed, for nobody answered: say --yes where nobody can be asked") from None
    if not agreed:
        raise Conflict("nothing was changed")


def cut(text: str, longest: int) -> str:
    """Return a stranger's text as a terminal may show it: printable, and no longer than that."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> str:
    """Return rows under their headings, in columns as wide as they must be."""
    if not rows:
        return empty
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )


def _cell(value: object) -> str:
    return "-" if value is None or value == "" else cut(str(value), _WIDEST)


def when(instant: Instant | None) -> str | None:
    """Return an instant as people write it, in the machine's own time zone."""
    if instant is None:
        return None
    return datetime.fromtimestamp(instant, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
