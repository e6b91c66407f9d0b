"""A whole grid of this machine for tests and benchmarks: the real server and real volunteers, each a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from xwgrid_server import accounts, authority, database
from xwgrid_server.accounts import Contact, Role
from xwgrid_server.settings import Settings, load

from xwgrid.errors import GridError
from xwgrid.requester.client import GridClient, first_contact
from xwgrid.requester.demo_grid import Part
from xwgrid.requester.settings import Credentials
from xwgrid.tokens import parse

BIN = Path(sys.executable).parent
RUNTIMES = Path(os.environ.get("XWGRID_RUNTIMES") or Path(__file__).parents[1] / ".venv-runtimes")
_START_SECONDS = 60.0


class Daemon(Part):
    """A part of the grid, with what tests and benchmarks ask of its process."""

    @property
    def process_id(self) -> int:
        """Return the id of the running process."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def wait_for(self, file: Path) -> None:
        """Return when the process has written `file`. Raises GridError with its output when it ends instead."""
        end = time.monotonic() + _START_SECONDS
        while not file.exists():
            self.check()
            if time.monotonic() > end:
                raise GridError(f"{self.name} did not start within {_START_SECONDS:g} s: {self.tail()}")
            # The file is the only sign a process of its own gives.
            time.sleep(0.02)


class Grid:
    """One server and its volunteers below `folder`. `with Grid(folder) as grid:` makes it and starts the server.

    `database` is the address of an empty database; without it the server makes an SQLite file. `environment` is added
    to that of all processes: XWGRID_SERVER_LEASE_SECONDS=… and the like.
    """

    def __init__(self, folder: Path, *, database: str | None = None, environment: Mapping[str, str] = {}) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XWGRID_RUNTIMES": str(RUNTIMES), **environment}
        self.settings_file = folder / "server.toml"
        self.volunteers: dict[str, Daemon] = {}
        self._database = database
        self._ready = folder / "server.ready"
        self.server = Daemon(
            "xwgrid-server",
            [
                str(BIN / "xwgrid-server"),
                "run",
                "--settings",
                str(self.settings_file),
                "--ready-file",
                str(self._ready),
            ],
            folder / "server.log",
            self.environment,
        )

    def __enter__(self) -> Grid:
        self.folder.mkdir(parents=True, exist_ok=True)
        # Ports that stay the same when the server is started again: they are in tokens.
        api, volunteers = _free_ports(2)
        options = ["--state", str(self.folder / "server"), "--host-name", "127.0.0.1", "--host-name", "localhost"]
        options += ["--api", f"127.0.0.1:{api}", "--volunteers", f"127.0.0.1:{volunteers}"]
        options += ["--signing-key", str(self.folder / "signing-key.pem")]
        if self._database is not None:
            options += ["--database", self._database]
        self.run("xwgrid-admin", "init", "--settings", str(self.settings_file), *options, "--json")
        self.settings: Settings = load(self.settings_file, {})
        self.engine = database.open_engine(self.settings.database_url)
        self.authority = authority.load(self.settings.authority_folder)
        try:
            self.start_server()
        except BaseException:
            self.engine.dispose()
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            for volunteer in self.volunteers.values():
                volunteer.ask_to_end()
            for volunteer in self.volunteers.values():
                volunteer.stop()
        finally:
            self.server.stop()
            self.engine.dispose()

    def start_server(self) -> None:
        """Start the server and return when it answers."""
        self._ready.unlink(missing_ok=True)
        self.server.start()
        self.server.wait_for(self._ready)

    def run(self, program: str, *arguments: str, given: str | None = None) -> str:
        """Run one of our commands to its end and return its output. Raises RuntimeError when it fails."""
        ended = subprocess.run(
            [str(BIN / program), *arguments],
            input=given,
            stdin=subprocess.DEVNULL if given is None else None,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment,
        )
        if ended.returncode != 0:
            what = " ".join([program, *arguments[:2]])
            raise RuntimeError(f"{what} ended with {ended.returncode}: {ended.stderr or ended.stdout}")
        return ended.stdout

    def add_user(self, name: str, role: Role = "requester") -> None:
        """Add a person."""
        accounts.add_user(self.engine, name, role, time.time())

    def token(self, kind: accounts.Kind, user: str) -> str:
        """Return a new token of a user, good for an hour."""
        now = time.time()
        contact = Contact(
            url=self.settings.public_api_url(self.settings.api_address.port), ca_key=self.authority.key_hash
        )
        found = accounts.user_named(self.engine, user)
        return accounts.make_token(self.engine, found, kind, contact, expires_at=now + 3_600, now=now)

    def credentials(self, user: str) -> Credentials:
        """Return what `xwgrid login` would keep for a user."""
        return first_contact(parse(self.token("requester", user), kind="requester"))

    def client(self, user: str) -> GridClient:
        """Return a user's client; close it."""
        return GridClient(self.credentials(user))

    def add_volunteer(self, name: str, owner: str, settings: str = "") -> Daemon:
        """Enrol a machine of a user; `settings` is TOML for its daemon, which is not started yet."""
        folder = self.folder / name
        folder.mkdir()
        file = folder / "volunteer.toml"
        file.write_text(f"state = {json.dumps(str(folder / 'state'))}\nmax_load = 1\n{settings}")
        options = ["--settings", str(file)]
        self.run(
            "xwgrid-volunteer", "enrol", *options, "--name", name, "--token-file", "-", given=self.token("enrol", owner)
        )
        command = [str(BIN / "xwgrid-volunteer"), "run", *options]
        daemon = Daemon(name, command, folder / "log", self.environment)
        self.volunteers[name] = daemon
        return daemon


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
