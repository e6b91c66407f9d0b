"""`xwgrid-server run`: everything a server consists of, put together."""

from __future__ import annotations

import os
import resource
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.http import HTTPFactory

from xwgrid import __version__
from xwgrid.command_line import Sentences, example
from xwgrid.errors import Unavailable
from xwgrid.model import Seconds
from xwgrid.reading.reader import Reader, ReadingLimits
from xwgrid_server import authority, database, dispatcher_lock, logs, settings, tls
from xwgrid_server.admission import Admission
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.calls import LeaseTerms
from xwgrid_server.dispatcher import Dispatcher
from xwgrid_server.http_api_site import ApiSite
from xwgrid_server.http_threads import Threads
from xwgrid_server.http_uploads import Uploads
from xwgrid_server.listening import Listening, write_listening
from xwgrid_server.readers import ReaderPool
from xwgrid_server.requester_api import Limits, RequesterApi
from xwgrid_server.settings import Address, Settings
from xwgrid_server.volunteer_api import VolunteerSite

# Reading SQL for people and for uploads; the dispatcher's writer is a thread of its own. SQLAlchemy keeps 15
# connections: these, the writer's, and the lock's.
_DATABASE_THREADS = 10
_DISK_THREADS = 8
# A connection that comes while the reactor is busy waits in the kernel: a whole grid calls again after a restart.
_BACKLOG = 1_024
_LOCK_CHECKED_EVERY: Seconds = 5.0
_SWEPT_EVERY: Seconds = 3_600.0
# Whoever was away for a week with half an upload begins it anew.
_UPLOAD_KEPT: Seconds = 7 * 86_400.0


class Server:
    """One running server. `start` it, then `stop` it, once each."""

    log = Logger()

    def __init__(self, reactor: Any, chosen: Settings, engine: Engine, lock: dispatcher_lock.DispatcherLock) -> None:
        """Raises Unavailable when the CA, the blobs' folder or the reader's sandbox cannot be used."""
        self._reactor = reactor
        self._chosen = chosen
        self._lock = lock
        self._authority = authority.load(chosen.authority_folder)
        self._credential = authority.load_server(
            self._authority, chosen.authority_folder, chosen.host_names, time.time()
        )
        self._files = BlobFiles(chosen.blobs_folder, chosen.staging_folder)
        self._engine = engine
        self._queries = Threads(reactor, "database", _DATABASE_THREADS)
        self._disk = Threads(reactor, "disk", _DISK_THREADS)
        limits = ReadingLimits(memory_bytes=chosen.readers.memory_bytes, seconds=chosen.readers.seconds)
        self._readers = ReaderPool(reactor, self._files, lambda: Reader(limits), chosen.readers.processes)
        terms = LeaseTerms(
            heartbeat_seconds=chosen.heartbeat_seconds,
            heartbeats_per_lease=chosen.lease_seconds / chosen.heartbeat_seconds,
            draw_from=chosen.trust.draw_from,
        )
        self._dispatcher = Dispatcher(reactor, engine, self._readers, terms)
        self._admission = Admission(reactor.seconds, engine, self._queries.run)
        self._uploads = Uploads(self._files, self._disk)
        self.failure: Unavailable | None = None  # why it ended by itself
        self._to_stop: list[Callable[[], Awaitable[None] | Deferred[None] | None]] = []

    async def start(self) -> Listening:
        """Take up work and listen. Raises Unavailable when an address cannot be listened on."""
        chosen, reactor = self._chosen, self._reactor
        self._files.prepare()
        for threads in (self._queries, self._disk, self._readers):
            threads.start()
            self._to_stop.append(threads.stop)
        await self._dispatcher.start()
        self._to_stop.append(self._dispatcher.stop)
        volunteers = VolunteerSite(
            reactor=reactor,
            engine=self._engine,
            dispatcher=self._dispatcher,
            admission=self._admission,
            uploads=self._uploads,
            threads=self._queries,
        )
        volunteer_port = self._listen(
            chosen.volunteer_address, volunteers, tls.volunteer_context(self._authority, self._credential)
        )
        volunteer_url = chosen.public_volunteer_url(volunteer_port)
        api = RequesterApi(
            clock=reactor,
            engine=self._engine,
            jobs=self._dispatcher,
            files=self._files,
            uploads=self._uploads,
            threads=self._queries,
            authority=self._authority,
            volunteer_url=volunteer_url,
            limits=Limits(max_blob_bytes=chosen.max_blob_bytes, max_job_tasks=chosen.max_job_tasks, trust=chosen.trust),
        )
        api_port = self._listen(
            chosen.api_address, ApiSite(api, reactor), tls.api_context(self._authority, self._credential)
        )
        self._repeat(_LOCK_CHECKED_EVERY, self._check_lock)
        self._repeat(_SWEPT_EVERY, self._sweep)
        return Listening(api=chosen.public_api_url(api_port), volunteers=volunteer_url, pid=os.getpid())

    async def stop(self) -> None:
        """End in good order: no new calls, the batch in flight is written, reader processes end."""
        while self._to_stop:
            done = self._to_stop.pop()()
            if done is not None:
                await done

    def _listen(self, address: Address, site: HTTPFactory, context: CertificateOptions) -> int:
        """Listen, and return the port."""
        try:
            interface = socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)[0][4][0]
            port: Any = self._reactor.listenSSL(address.port, site, context, backlog=_BACKLOG, interface=interface)
        except (OSError, CannotListenError) as error:
            raise Unavailable(
                f"cannot listen on {address.host}:{address.port} ({error}): is another server running, or is the "
                "address not this machine's?"
            ) from error
        self._to_stop.append(port.stopListening)
        number: int = port.getHost().port
        return number

    def _repeat(self, seconds: Seconds, work: Callable[[], Deferred[None]]) -> None:
        loop = LoopingCall(work)
        loop.clock = self._reactor
        loop.start(seconds, now=False)
        self._to_stop.append(loop.stop)

    def _check_lock(self) -> Deferred[None]:
        def look(held: bool) -> None:
            if not held and self._reactor.running:
                self.log.critical("the lock on the database is lost: another server may dispatch, so this one stops")
                self.failure = Unavailable("the lock on the database was lost: see the log")
                self._reactor.stop()

        return self._queries.run(self._lock.held).addCallback(look)

    def _sweep(self) -> Deferred[None]:
        def told(count: int) -> None:
            if count:
                self.log.info("{count} uploads that nobody went on with are thrown away", count=count)

        return self._disk.run(self._files.sweep, time.time() - _UPLOAD_KEPT).addCallbacks(
            told, lambda failure: self.log.failure("unfinished uploads cannot be thrown away", failure)
        )


@click.group("xwgrid-server", cls=Sentences, epilog=example("xwgrid-server run --settings /etc/xwgrid/server.toml"))
@click.version_option(__version__, prog_name="xwgrid-server")
def main() -> None:
    """The central server of a grid."""


@main.command("run", epilog=example("xwgrid-server run --settings /etc/xwgrid/server.toml"))
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"TOML; by default {settings.default_file()}.",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a JSON document with the addresses here when the server listens.",
)
def run(settings_file: Path | None, ready_file: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C. Prints one line, `ready: …`, when it listens."""
    chosen = settings.load(settings_file)
    engine = database.open_engine(chosen.database_url)
    try:
        _check_sqlite_file(engine)
        database.check_revision(engine)
        lock = dispatcher_lock.take(engine)
        try:
            serve(chosen, engine, lock, ready_file)
        finally:
            lock.release()
    finally:
        engine.dispose()


def serve(chosen: Settings, engine: Engine, lock: dispatcher_lock.DispatcherLock, ready_file: Path | None) -> None:
    """Run a server in this process's reactor until it is told to stop. Raises GridError when it could not go on."""
    from twisted.internet import reactor as installed  # noqa: PLC0415  # importing it installs it, so only here

    reactor: Any = installed

    logs.begin(chosen.log_level, sys.stderr)
    _allow_many_connections()
    server = Server(reactor, chosen, engine, lock)
    failures: list[BaseException] = []

    async def start() -> None:
        try:
            listening = await server.start()
            for file in (chosen.listening_file, *([ready_file] if ready_file else [])):
                write_listening(file, listening)
            click.echo(f"ready: api {listening.api} volunteers {listening.volunteers}")
        except Exception as error:  # noqa: BLE001  # whatever it is: stop in good order, then say it
            failures.append(error)
            if reactor.running:
                reactor.stop()

    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(start()))
    reactor.addSystemEventTrigger("before", "shutdown", lambda: Deferred.fromCoroutine(server.stop()))
    reactor.run()
    for failure in (*failures, server.failure):
        if failure is not None:
            raise failure


def _check_sqlite_file(engine: Engine) -> None:
    name = engine.url.database
    if engine.dialect.name == "sqlite" and name is not None and not Path(name).exists():
        raise Unavailable(f"there is no database {name}: run `xwgrid-admin init` first")


def _allow_many_connections() -> None:
    # Every waiting volunteer is an open connection; most systems start with 1,024.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, 1 << 20)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
