"""The volunteers' port: mutual TLS, plain twisted.web, and as little as possible between a work call and its answer."""

from __future__ import annotations

import re
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import Connection, Engine
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory

from xwgrid import wire
from xwgrid.errors import BadInput, NotFound, TooLarge
from xwgrid.model import Digest, HostId, ReplicaId, Seconds
from xwgrid.wire import WorkAnswer, WorkRequest
from xwgrid_server import http_answers
from xwgrid_server.accounts import HostAccount
from xwgrid_server.admission import Admission
from xwgrid_server.authority import HostIdentity
from xwgrid_server.blob_files import DIGEST, replica_upload, replica_uploads
from xwgrid_server.blob_rights import LiveLease, attach, host_may_read, live_lease, record
from xwgrid_server.database import reading
from xwgrid_server.http_bodies import Body, Head, MemoryBody, StreamingRequest, body_too_large
from xwgrid_server.http_threads import Clock, Threads
from xwgrid_server.http_uploads import Destination, UploadBody, Uploads
from xwgrid_server.tls import peer_identity

# A daemon keeps its connection between two heartbeats (10 min at most), so that it need not greet anew each time.
IDLE_SECONDS: Seconds = 660.0
# As many files as a report may name.
_MOST_FILES = 1_000

_BLOB = re.compile(r"/v1/blobs/([^/]+)")
_FILE = re.compile(r"/v1/leases/(\d{1,18})/files/([^/]+)")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")


class Work(Protocol):
    """What is asked of the dispatcher."""

    def work(self, host: HostId, request: WorkRequest) -> Deferred[WorkAnswer]:
        """Answer a work call; cancelled when its caller is gone."""


class SentFile(Struct, frozen=True, kw_only=True):
    """What a volunteer's upload is: a file of the result of a replica, by its bytes."""

    replica: ReplicaId
    digest: Digest


class VolunteerChannel(HTTPChannel):
    """A volunteer's connection: it is of one certificate from its first byte to its last."""

    _identity: HostIdentity | None = None

    def identity(self) -> HostIdentity:
        """Return who the client certificate names. Raises Unauthenticated."""
        if self._identity is None:
            self._identity = peer_identity(self.transport)
        return self._identity


class VolunteerRequest(StreamingRequest):
    """A request at the volunteers' port."""

    _held: Deferred[None] | None = None

    def choose_body(self, head: Head) -> Body:
        """Let results go to the disk; a work call is small."""
        if head.method == "PUT" and _FILE.fullmatch(head.path):
            return UploadBody(self, self._site.uploads, self._admit_file)
        if (head.length or 0) > wire.MAX_WORK_BYTES:
            raise body_too_large(wire.MAX_WORK_BYTES)
        return MemoryBody(self, wire.MAX_WORK_BYTES)

    def respond(self) -> None:
        """Answer; a work call of a host that called a moment ago without any coroutine or thread."""
        site = self._site
        if self.path != b"/v1/work":
            self.start(self._answer(), shielded=self.method == b"PUT")
            return
        if self.method != b"POST":
            self.responseHeaders.setRawHeaders(b"Allow", [b"POST"])
            http_answers.send_json(self, 405, wire.ErrorBody(code="bad_input", message="use POST"))
            return
        try:
            host = site.admission.remembered(self._identity())
        except Exception:  # noqa: BLE001  # reported by _failed, as in every other call
            self._failed(Failure())
            return
        if host is None:
            self.start(self._work_after_admission())
        else:
            self._work(host)

    def _work(self, host: HostAccount) -> None:
        try:
            request = wire.decode(self.body.data(), WorkRequest)  # type: ignore[attr-defined]  # a MemoryBody
            answer = self._site.work(host.id, request)
        except Exception:  # noqa: BLE001
            self._failed(Failure())
            return
        self._held = answer.addCallbacks(self._worked, self._failed)

    def _worked(self, answer: WorkAnswer) -> None:
        http_answers.send_bare(self, wire.encode(answer))

    def connectionLost(self, reason: Any) -> None:  # Twisted's name
        """Give up the held call: whoever made it will call again."""
        super().connectionLost(reason)
        held, self._held = self._held, None
        if held is not None:
            held.cancel()

    async def _work_after_admission(self) -> None:
        self._work(await self._site.admission.admit(self._identity()))

    async def _answer(self) -> None:
        if isinstance(self.body, UploadBody):
            await self.body.settled()
            if self.refusal is None and not self.deaf:
                http_answers.send(self, 201, b"", kind=b"application/octet-stream")
            return
        host = await self._site.admission.admit(self._identity())
        if self.method in {b"GET", b"HEAD"} and (found := _BLOB.fullmatch(self.head.path)):
            await self._read_blob(host, found[1])
        elif self.method == b"HEAD" and _FILE.fullmatch(self.head.path):
            await self._file_state(host)
        else:
            raise NotFound("there is nothing at this address of the volunteers' port")

    async def _read_blob(self, host: HostAccount, name: str) -> None:
        site = self._site

        def find() -> int | None:
            if not DIGEST.fullmatch(name):
                return None
            with reading(site.engine) as connection:
                allowed = host_may_read(connection, host.id, name)
            return site.uploads.files.size(name) if allowed else None

        size = await site.threads.run(find)
        if size is None:
            raise NotFound("there is no such blob in a job that this host holds a lease of", digest=name[:64])
        if self.method == b"HEAD":
            http_answers.send_head(self, 200, size)
            return
        file = await site.threads.run(site.uploads.files.open, name)
        await http_answers.send_blob(self, (site.uploads.threads, site.clock), file, size)

    async def _file_state(self, host: HostAccount) -> None:
        site = self._site
        file = self._file()

        def look() -> tuple[LiveLease | None, int]:
            with reading(site.engine) as connection:
                lease = live_lease(connection, host.id, file.replica)
            return lease, site.uploads.files.staged(replica_upload(file.replica, file.digest))

        lease, staged = await site.threads.run(look)
        if lease is None:
            raise _no_such_lease(file.replica)
        if file.digest in lease.sent:
            http_answers.send_head(self, 200, lease.sent[file.digest])
        else:
            self.responseHeaders.setRawHeaders(b"Upload-Offset", [b"%d" % staged])
            http_answers.refuse(self, NotFound(f"{staged} bytes of this file are here", digest=file.digest))

    async def _admit_file(self) -> Destination | None:
        """Decide where a file of a result goes. Raises NotFound unless this host holds the lease now."""
        site = self._site
        file = self._file()
        host = await site.admission.admit(self._identity())

        def look() -> LiveLease:
            with reading(site.engine) as connection:
                return _held_lease(connection, host.id, file.replica)

        def keep(size: int) -> None:
            now = site.clock.seconds()
            with site.engine.begin() as connection:
                record(connection, {file.digest: size}, now)  # begins with a write: SQLite then waits its turn
                lease = _held_lease(connection, host.id, file.replica)
                if sum(lease.sent.values()) + size > lease.limits.result_bytes:
                    raise _too_much(lease)
                attach(connection, lease, file.digest, size, now)

        lease = await site.threads.run(look)
        if file.digest in lease.sent:
            return None
        if len(lease.sent) >= _MOST_FILES:
            raise TooLarge(f"a result has at most {_MOST_FILES} files", limit=_MOST_FILES)
        return Destination(
            name=replica_upload(file.replica, file.digest),
            digest=file.digest,
            room=lease.limits.result_bytes - sum(lease.sent.values()),
            group=replica_uploads(file.replica),
            keep=keep,
        )

    def _file(self) -> SentFile:
        found = _FILE.fullmatch(self.head.path)
        digest = self.head.query.get("sha256", "")
        if found is None or not _FILE_NAME.fullmatch(found[2]):
            raise BadInput("a result's file has a name of letters, digits, '_', '-' and '.', and no folder")
        if not DIGEST.fullmatch(digest):
            raise BadInput("say which bytes the file will have: ?sha256= and 64 lower-case hexadecimal digits")
        return SentFile(replica=ReplicaId(int(found[1])), digest=digest)

    def _identity(self) -> HostIdentity:
        channel: VolunteerChannel = self.channel
        return channel.identity()

    @property
    def _site(self) -> VolunteerSite:
        site: VolunteerSite = self.channel.factory
        return site


class VolunteerSite(HTTPFactory):
    """The volunteers' port's site. HTTP/1.1 only, and no line in a log for each call."""

    protocol: Any = VolunteerChannel

    def __init__(
        self,
        *,
        reactor: Any,
        engine: Engine,
        dispatcher: Work,
        admission: Admission,
        uploads: Uploads,
        threads: Threads,
        idle_seconds: Seconds = IDLE_SECONDS,
    ) -> None:
        super().__init__(timeout=idle_seconds, reactor=reactor)
        self.engine = engine
        self.work = dispatcher.work
        self.admission = admission
        self.uploads = uploads
        self.threads = threads
        self.clock: Clock = reactor

    def buildProtocol(self, addr: Any) -> Any:  # Twisted's name
        """Return a channel for a new connection."""
        channel: Any = super().buildProtocol(addr)
        channel.requestFactory = VolunteerRequest
        return channel

    def acceptableProtocols(self) -> list[bytes]:  # noqa: N802  # Twisted's name
        """Return what TLS may offer."""
        return [b"http/1.1"]

    def startFactory(self) -> None:  # noqa: N802  # Twisted's name
        """Open no access log, and tick no clock for it."""

    def stopFactory(self) -> None:  # noqa: N802  # Twisted's name
        """Nothing was started."""

    def log(self, request: Any) -> None:
        """Write no line for each call: thousands come a second."""


def _held_lease(connection: Connection, host: HostId, replica: ReplicaId) -> LiveLease:
    lease = live_lease(connection, host, replica)
    if lease is None:
        raise _no_such_lease(replica)
    return lease


def _no_such_lease(replica: ReplicaId) -> NotFound:
    return NotFound(f"this host holds no lease {replica}, or holds it no more: throw its result away", replica=replica)


def _too_much(lease: LiveLease) -> TooLarge:
    limit = lease.limits.result_bytes
    return TooLarge(f"the result has more than the {limit} bytes its job allows", limit=limit)
