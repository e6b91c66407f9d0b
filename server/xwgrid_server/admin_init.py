"""`xwgrid-admin init`: a new server, all of it or nothing."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from msgspec import Struct
from sqlalchemy import make_url, select
from sqlalchemy.exc import ArgumentError
from xwgrid_schema.tables import users

from xwgrid import signing
from xwgrid.applications import manifests
from xwgrid.command_line import example
from xwgrid.errors import BadInput, Conflict, Unavailable
from xwgrid.model import Instant
from xwgrid_server import accounts, application_versions, authority, database, settings, signing_keys
from xwgrid_server.accounts import REQUESTER_LIFETIME, Contact
from xwgrid_server.admin_desk import Desk, desk_command
from xwgrid_server.authority import write_private
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.settings import Settings
from xwgrid_server.settings_template import settings_text


class Initialised(Struct, frozen=True, kw_only=True):
    """What a new server is, told once."""

    settings_file: str
    state: str
    operator: str
    api_url: str | None  # None while its port is not known
    token: str | None  # the operator's, for `xwgrid login`
    signing_key: str
    applications: tuple[str, ...]


class Wishes(Struct, frozen=True, kw_only=True):
    """What the options of `init` say about a settings file that is yet to be written."""

    state: Path | None = None
    database: str | None = None
    host_names: tuple[str, ...] = ()
    api: str | None = None
    volunteers: str | None = None


@click.command(
    "init",
    epilog=example(
        "xwgrid-admin init --host-name grid.example.org",
        "xwgrid-admin init --state ~/grid --database postgresql+psycopg://grid@db.example/grid",
    ),
)
@click.option("--operator", default="operator", show_default=True, help="The name of the first user.")
@click.option("--host-name", "host_names", multiple=True, help="Name or address others dial; repeat for more.")
@click.option("--database", "database_url", help="SQLAlchemy URL; SQLite in the state folder if not given.")
@click.option("--state", type=click.Path(path_type=Path, file_okay=False), help="Folder for CA, blobs and database.")
@click.option("--api", help="Where people's port listens, such as 0.0.0.0:8443.")
@click.option("--volunteers", help="Where volunteers' port listens, such as 0.0.0.0:8444.")
@click.option(
    "--signing-key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Ed25519 private key (PEM) that signs the built-in applications; made if it is not there.",
)
@desk_command
def init(
    desk: Desk,
    *,
    operator: str,
    host_names: tuple[str, ...],
    database_url: str | None,
    state: Path | None,
    api: str | None,
    volunteers: str | None,
    signing_key: Path | None,
) -> None:
    """Make a new server: settings, CA, certificate, database, first user; sign and publish the applications."""
    if database_url is not None and _has_password(database_url):
        raise BadInput(
            "a password does not belong on a command line, where every user of the machine can read it: leave it out "
            "and put it into ~/.pgpass, or set XWGRID_SERVER_DATABASE"
        )
    wishes = Wishes(state=state, database=database_url, host_names=host_names, api=api, volunteers=volunteers)
    file = (desk.settings_file or settings.default_file()).absolute()
    made = initialise(file, wishes, operator, signing_key, time.time())
    desk.answer(made, _told(made))


def initialise(file: Path, wishes: Wishes, operator: str, signing_key: Path | None, now: Instant) -> Initialised:
    """Make a server from the settings `file`, which is written first if there is none.

    Raises Conflict, with everything as it was, when there is a server already; so does every other failure leave
    things as they were, but for the empty tables of a PostgreSQL database.
    """
    text, chosen = _settings(file, wishes)
    folder = chosen.folder
    if chosen.authority_folder.exists():
        raise Conflict(f"there is a server in {folder} already: it is not written over", state=str(folder))
    key_path = (signing_key or folder / "application-signing-key.pem").absolute()
    blobs = BlobFiles(chosen.blobs_folder, chosen.staging_folder)
    ca = authority.new_authority(now)
    credential = ca.issue_server(chosen.host_names, now)
    with _undone_on_failure(folder, chosen.database_url, key_path, file):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        blobs.prepare()
        key = signing_keys.read(key_path) if key_path.exists() else signing_keys.make(key_path)
        database.upgrade(chosen.database_url)
        engine = database.open_engine(chosen.database_url)
        try:
            with engine.begin() as connection:
                if connection.execute(select(users.c.id).limit(1)).first() is not None:
                    raise Conflict(
                        "the database has users already, of another server or of an init that was cut short: "
                        "name another database, or restore that server's state folder"
                    )
                first = accounts.insert_user(connection, operator, "operator", now)
                published = []
                for manifest, files in manifests.built_in():
                    signed = signing.sign(manifest, key)
                    application_versions.insert_version(connection, blobs, signed, files, now)
                    published.append(f"{manifest.application} {manifest.version}")
                url = _api_url(chosen)
                token = None
                if url is not None:
                    contact = Contact(url=url, ca_key=ca.key_hash)
                    end = now + REQUESTER_LIFETIME
                    token = accounts.insert_token(
                        connection, first, "requester", contact, expires_at=end, now=now, note="made by init"
                    )
                # Files before the commit: with either missing there is no server, and the undoing is simple.
                if text is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    write_private(file, text.encode())
                authority.save(ca, credential, chosen.authority_folder)
        finally:
            engine.dispose()
    return Initialised(
        settings_file=str(file),
        state=str(folder),
        operator=operator,
        api_url=url,
        token=token,
        signing_key=str(key_path),
        applications=tuple(published),
    )


def _settings(file: Path, wishes: Wishes) -> tuple[str | None, Settings]:
    """Return the text to be written, None when the file is there, and what it says."""
    if file.exists():
        if wishes != Wishes():
            raise Conflict(
                f"there is a settings file {file} already: change it there, and leave out --state, --database, "
                "--host-name, --api and --volunteers",
                file=str(file),
            )
        return None, settings.load(file)
    values: dict[str, str | tuple[str, ...] | None] = {
        "state": str((wishes.state or Settings().folder).absolute()),
        "database": wishes.database,
        "host_names": wishes.host_names or None,
        "api": wishes.api,
        "volunteers": wishes.volunteers,
    }
    text = settings_text({key: value for key, value in values.items() if value is not None})
    return text, settings.parse(text, source=str(file), environment=os.environ)


def _api_url(chosen: Settings) -> str | None:
    port = chosen.api_address.port
    return chosen.public_api_url(port) if port or chosen.api_url else None


@contextmanager
def _undone_on_failure(folder: Path, database_url: str, *files: Path) -> Iterator[None]:
    """Remove, when the block fails, what it put into `folder`, at `files` and where an SQLite database lies."""
    sqlite = make_url(database_url).database if database_url.startswith("sqlite") else None
    watched = [*files, *(Path(f"{sqlite}{end}") for end in ("", "-wal", "-shm") if sqlite)]
    watched = [path for path in watched if not path.exists()]
    top = next((path for path in (folder, *folder.parents) if path.parent.exists()), folder)
    present = set(folder.iterdir()) if folder.is_dir() else None
    try:
        yield
    except BaseException as error:
        for path in watched:
            path.unlink(missing_ok=True)
        if present is None:
            shutil.rmtree(top, ignore_errors=True)
        else:
            for path in set(folder.iterdir()) - present:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise Unavailable(f"the server's files cannot be written: {error}; nothing was kept") from error
        raise


def _has_password(url: str) -> bool:
    try:
        return make_url(url).password is not None
    except ArgumentError:
        return False


def _told(made: Initialised) -> str:
    own = f" --settings {made.settings_file}" if made.settings_file != str(settings.default_file()) else ""
    lines = [
        f"Settings: {made.settings_file}",
        f"State:    {made.state}",
        f"Published, signed by {made.signing_key} (move it to a safe place): {', '.join(made.applications)}",
        "",
        f"Start the server:      xwgrid-server run{own}",
        f"Let a machine join:    xwgrid-admin token enrol --user {made.operator}{own}",
    ]
    if made.token is None:
        lines.append(f"Your token, when it runs:  xwgrid-admin token requester --user {made.operator}{own}")
    else:
        lines += ["Your token, for `xwgrid login`; it is shown this once:", "", made.token]
    return "\n".join(lines)
