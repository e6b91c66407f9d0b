"""The calls a volunteer makes to its server: mutual TLS against the grid's own CA, HTTP/1.1, connections kept open."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from msgspec import Struct
from twisted.internet import error as network
from twisted.internet.defer import CancelledError, Deferred
from twisted.web import client as twisted_web
from twisted.web.client import ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from xwgrid import wire
from xwgrid.errors import Conflict, GridError, NotFound, Unauthenticated, Unavailable
from xwgrid.model import Digest, ReplicaId, ResultFile, Seconds
from xwgrid.wire import WorkAnswer, WorkRequest
from xwgrid_volunteer.connections import Line, Route, client_tls
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.proxy import Proxy
from xwgrid_volunteer.streams import Quiet, Receiver, Sender

# Twisted's web client has no types.
web: Any = twisted_web

# A refusal is a sentence; more than this is not from an xwgrid server.
_MAX_REFUSAL_BYTES = 1 << 16
_CONNECTIONS = 6  # one held work call, one other, and a few transfers
# An upload or download that is broken off is taken up again this often without a byte of progress in between.
_FRUITLESS_ATTEMPTS = 3
_JOIN_AGAIN = "ask the operator for a new enrolment token and join again with: xwgrid-volunteer enrol --again"


class Patience(Struct, frozen=True, kw_only=True):
    """How long silence is borne."""

    connect: Seconds = 20.0
    silence: Seconds = 45.0  # no byte in either direction; a held call may be silent for its wait time longer


PATIENCE = Patience()


class BlobSink(Protocol):
    """Where a download goes; `offset` bytes are there already."""

    @property
    def offset(self) -> int:
        """Return how many bytes are there."""

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises GridError when they are too many, or there is no room."""

    def restart(self) -> None:
        """Forget what is there: the server sends from the beginning."""


class GridApi:
    """A volunteer's side of the volunteer port. Every call fails with a GridError, or CancelledError if cancelled."""

    def __init__(
        self, reactor: Any, identity: Identity, proxy: Proxy | None = None, patience: Patience = PATIENCE
    ) -> None:
        self._reactor = reactor
        self._patience = patience
        parts = urlsplit(identity.enrolment.volunteer_url)
        self._base = identity.enrolment.volunteer_url.rstrip("/")
        self._pool = web.HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = _CONNECTIONS
        self._pool.retryAutomatically = False  # what is worth a second try is tried again here
        self._route = Route(reactor, client_tls(identity, parts.hostname or ""), proxy, patience.connect)

    async def work(self, request: WorkRequest) -> WorkAnswer:
        """Report, renew, take. Raises Unavailable when nobody answers in time: nothing is lost, ask again."""
        silence = self._patience.silence + request.wait_seconds
        body = wire.encode(request)
        response = await self._request("POST", "/v1/work", {"Content-Type": "application/json"}, BytesIO(body), silence)
        if response.code != 200:
            raise await self._refusal(response)
        parts: list[bytes] = []
        await self._read(response, _limited(parts.append, wire.MAX_WORK_BYTES))
        return wire.decode(b"".join(parts), WorkAnswer)

    async def fetch_blob(self, digest: Digest, sink: BlobSink) -> None:
        """Bring the rest of a blob into `sink`, taking the download up again when it breaks off.

        Raises what the sink raises; NotFound for a blob no lease of this host names; Unavailable when it breaks off
        again and again without progress (what arrived stays in the sink).
        """
        fruitless = 0
        while True:
            before = sink.offset
            try:
                await self._fetch_from(digest, sink, before)
            except Unavailable:
                fruitless = 0 if sink.offset > before else fruitless + 1
                if fruitless >= _FRUITLESS_ATTEMPTS:
                    raise
            else:
                return

    async def _fetch_from(self, digest: Digest, sink: BlobSink, offset: int) -> None:
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = await self._request("GET", f"/v1/blobs/{digest}", headers)
        if response.code == 416:
            await self._read(response, _limited(lambda _data: None, _MAX_REFUSAL_BYTES))
            sink.restart()
            response = await self._request("GET", f"/v1/blobs/{digest}", {})
        if response.code == 200:
            sink.restart()
        elif response.code != 206:
            raise await self._refusal(response)
        await self._read(response, sink.write)

    async def upload(self, replica: ReplicaId, file: ResultFile, path: Path) -> None:
        """Send one file of a result, from where the server has it, until the server says it is complete and right.

        Raises WrongBytes, TooLarge, NotFound or Forbidden as the server does; Unavailable when it breaks off again
        and again without progress.
        """
        place = f"/v1/leases/{replica}/files/{file.name}?sha256={file.sha256}"
        offset: int | None = 0
        best, fruitless = 0, 0
        while offset is not None:
            try:
                offset = await self._upload_from(place, offset, file.size, path)
            except Unavailable:
                fruitless += 1
                if fruitless >= _FRUITLESS_ATTEMPTS:
                    raise
                offset = await self._uploaded(place)
            else:
                fruitless += 1  # a server that keeps naming another offset must not keep us for ever
            if offset is not None and offset > best:
                best, fruitless = offset, 0
            if fruitless > _FRUITLESS_ATTEMPTS:
                raise Unavailable(f"the server does not take {file.name} of lease {replica}: it keeps asking for it")

    async def _upload_from(self, place: str, offset: int, size: int, path: Path) -> int | None:
        """Return None when complete, else the offset the server wants to go on from."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Upload-Offset": str(offset),
            "Upload-Length": str(size),
        }
        file = path.open("rb")  # the producer closes it, when it is read or given up
        file.seek(offset)
        response = await self._request("PUT", place, headers, file)
        if response.code == 409 and (wanted := _upload_offset(response)) is not None:
            await self._read(response, _limited(lambda _data: None, _MAX_REFUSAL_BYTES))
            return wanted
        if response.code not in (200, 201):
            raise await self._refusal(response)
        await self._read(response, _limited(lambda _data: None, _MAX_REFUSAL_BYTES))
        return None

    async def _uploaded(self, place: str) -> int | None:
        response = await self._request("HEAD", place, {})
        await self._read(response, _limited(lambda _data: None, _MAX_REFUSAL_BYTES))
        if response.code == 200:
            return None
        wanted = _upload_offset(response)
        if wanted is None:
            raise _explained_status(response.code)
        return wanted

    def close(self) -> Deferred[None]:
        """Close the connections that are kept open."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def _refusal(self, response: Any) -> GridError:
        parts: list[bytes] = []
        await self._read(response, _limited(parts.append, _MAX_REFUSAL_BYTES))
        error = wire.error_from_body(b"".join(parts), response.code)
        # A body that is none of ours: from something in front of the server.
        return _explained_status(response.code) if type(error) is GridError else error

    async def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: BinaryIO | None = None,
        silence: Seconds | None = None,
    ) -> Any:
        quiet = Quiet(self._reactor, silence or self._patience.silence)
        sender = None if body is None else Sender(self._reactor, body, _length(body), quiet)
        line = Line(self._pool)
        sent = web.Agent.usingEndpointFactory(self._reactor, self._route, line).request(
            method.encode(),
            (self._base + path).encode(),
            Headers({name: [value] for name, value in headers.items()}),
            sender,
        )
        try:
            response = await _in_time(sent, quiet, f"{self._base} did not answer")
        finally:
            if sender is not None:
                sender.give_up()
        if sender is not None and not sender.done:
            # A refusal came before the end of what is refused: the rest is of no use to anybody.
            await line.abort()
        return response

    async def _read(self, response: Any, take: Callable[[bytes], None]) -> None:
        if response.length == 0:
            return
        quiet = Quiet(self._reactor, self._patience.silence)
        receiver = Receiver(take, quiet)
        response.deliverBody(receiver)
        length = response.length if response.length is not UNKNOWN_LENGTH else None
        await _in_time(receiver.finished, quiet, f"{self._base} stopped in the middle of an answer")
        if length is not None and receiver.received != length:
            raise Unavailable(f"{self._base} stopped in the middle of an answer")


def _length(body: BinaryIO) -> int:
    here = body.tell()
    end = body.seek(0, os.SEEK_END)
    body.seek(here)
    return end - here


def _upload_offset(response: Any) -> int | None:
    found = response.headers.getRawHeaders("Upload-Offset", [""])[0]
    return int(found) if found.isdigit() else None


def _explained_status(status: int) -> GridError:
    """Return the error of a refusal without a sentence."""
    if status == 401:
        return Unauthenticated(f"the server does not accept this volunteer's certificate: {_JOIN_AGAIN}")
    if status == 404:
        return NotFound("the server knows no such lease or blob of this volunteer")
    if status == 409:
        return Conflict("the server says that things have changed in between")
    if status in {408, 429, 500, 502, 503, 504}:
        return Unavailable(f"the server, or something in front of it, answered {status}")
    return wire.error_from_body(b"", status)


def _limited(take: Callable[[bytes], object], limit: int) -> Callable[[bytes], None]:
    received = 0

    def checked(data: bytes) -> None:
        nonlocal received
        received += len(data)
        if received > limit:
            raise Unavailable(f"the server's answer is larger than {limit} bytes: is this an xwgrid server?")
        take(data)

    return checked


async def _in_time(waited: Deferred[Any], quiet: Quiet, what: str) -> Any:
    quiet.watch(waited.cancel)
    try:
        return await waited
    except GridError:
        raise
    except Exception as error:
        if quiet.over:
            raise Unavailable(f"{what} for a long time") from error
        causes = _causes(error)
        if any(isinstance(cause, CancelledError) for cause in causes):
            raise CancelledError from error  # by our caller
        raise _explained(error, what) from error
    finally:
        quiet.end()


def _causes(error: Exception) -> list[BaseException]:
    """Return what is behind an error; Twisted's client wraps lists of failures."""
    return [reason.value for reason in getattr(error, "reasons", ())] or [error]


def _explained(error: Exception, what: str) -> GridError:
    causes = _causes(error)
    for cause in causes:
        if isinstance(cause, GridError):
            return cause
    text = "; ".join(str(cause) or type(cause).__name__ for cause in causes)
    kinds = {type(cause).__name__ for cause in causes}
    if "VerificationError" in kinds or "certificate verify failed" in text:
        return Unavailable(
            f"the server's certificate is not one of the grid this volunteer joined ({text}): nothing was sent to it. "
            f"If the server was set up anew, {_JOIN_AGAIN}"
        )
    if "alert" in text:
        return Unauthenticated(f"the server does not accept this volunteer's certificate ({text}): {_JOIN_AGAIN}")
    if isinstance(error, network.ConnectError | network.DNSLookupError | ResponseFailed):
        return Unavailable(f"{what}: {text}")
    return Unavailable(f"{what}: {type(error).__name__}: {text}")
