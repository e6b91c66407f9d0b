"""The calls a volunteer makes to its server: mutual TLS against the grid's own CA, HTTP/1.1, connections kept open."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from msgspec import Struct
from twisted.internet import error as network
from twisted.internet import ssl as twisted_ssl
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web import client as twisted_web
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH

from xwgrid import wire
from xwgrid.errors import Conflict, GridError, Unauthenticated, Unavailable
from xwgrid.model import Digest, ReplicaId, ResultFile, Seconds
from xwgrid.wire import WorkAnswer, WorkRequest
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.proxy import Proxy, TunnelEndpoint

# Twisted's web client and TLS functions have no types.
ssl: Any = twisted_ssl
web: Any = twisted_web

# A refusal is a sentence; more than this is not from an xwgrid server.
_MAX_REFUSAL_BYTES = 1 << 16
_CONNECTIONS = 6  # one held work call, one other, and a few transfers
# An upload or download that is broken off is taken up again this often without a byte of progress in between.
_FRUITLESS_ATTEMPTS = 3


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
        route = _Route(reactor, _tls(identity, parts.hostname or ""), proxy, patience.connect)
        self._agent = web.Agent.usingEndpointFactory(reactor, route, self._pool)

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
        with path.open("rb") as file:
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
            raise wire.error_from_body(b"", response.code)
        return wanted

    def close(self) -> Deferred[None]:
        """Close the connections that are kept open."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        return closed

    async def _refusal(self, response: Any) -> GridError:
        parts: list[bytes] = []
        await self._read(response, _limited(parts.append, _MAX_REFUSAL_BYTES))
        error = wire.error_from_body(b"".join(parts), response.code)
        if type(error) is GridError and response.code in (408, 429, 500, 502, 503, 504):
            return Unavailable(f"the server, or something in front of it, answered {response.code}")
        if type(error) is GridError and response.code == 401:
            return Unauthenticated("the server does not accept this volunteer's certificate")
        if type(error) is GridError and response.code == 409:
            return Conflict("the server says that things have changed in between")
        return error

    async def _request(
        self, method: str, path: str, headers: dict[str, str], body: Any = None, silence: Seconds | None = None
    ) -> Any:
        quiet = _Quiet(self._reactor, silence or self._patience.silence)
        producer = web.FileBodyProducer(_Watched(body, quiet)) if body is not None else None
        sent = self._agent.request(
            method.encode(),
            (self._base + path).encode(),
            Headers({name: [value] for name, value in headers.items()}),
            producer,
        )
        return await _in_time(sent, quiet, f"{self._base} did not answer")

    async def _read(self, response: Any, take: Callable[[bytes], None]) -> None:
        if response.length == 0:
            return
        quiet = _Quiet(self._reactor, self._patience.silence)
        receiver = _Receiver(take, quiet)
        response.deliverBody(receiver)
        length = response.length if response.length is not UNKNOWN_LENGTH else None
        await _in_time(receiver.finished, quiet, f"{self._base} stopped in the middle of an answer")
        if length is not None and receiver.received != length:
            raise Unavailable(f"{self._base} stopped in the middle of an answer")


def _upload_offset(response: Any) -> int | None:
    found = response.headers.getRawHeaders("Upload-Offset", [""])[0]
    return int(found) if found.isdigit() else None


def _limited(take: Callable[[bytes], object], limit: int) -> Callable[[bytes], None]:
    received = 0

    def checked(data: bytes) -> None:
        nonlocal received
        received += len(data)
        if received > limit:
            raise Unavailable(f"the server's answer is larger than {limit} bytes: is this an xwgrid server?")
        take(data)

    return checked


def _tls(identity: Identity, host: str) -> Any:
    ca = ssl.Certificate.loadPEM(identity.ca_pem)
    own = ssl.PrivateCertificate.loadPEM(identity.certificate_pem + b"\n" + identity.key_pem)
    return ssl.optionsForClientTLS(
        host,
        trustRoot=ssl.trustRootFromCertificates([ca]),
        clientCertificate=own,
        # Without this HTTP/2 is spoken as soon as the h2 package is installed.
        acceptableProtocols=[b"http/1.1"],
    )


class _Route:
    """Tells the agent how to reach the server: straight, or through the proxy's tunnel."""

    def __init__(self, reactor: Any, tls: Any, proxy: Proxy | None, seconds: Seconds) -> None:
        self._reactor = reactor
        self._tls = tls
        self._proxy = proxy
        self._seconds = seconds

    def endpointForURI(self, uri: Any) -> Any:
        host, port = uri.host.decode("ascii").strip("[]"), uri.port
        if self._proxy is None:
            way: Any = HostnameEndpoint(self._reactor, host, port, timeout=self._seconds)
        else:
            to_proxy = HostnameEndpoint(self._reactor, self._proxy.host, self._proxy.port, timeout=self._seconds)
            way = TunnelEndpoint(to_proxy, self._proxy, host, port)
        return wrapClientTLS(self._tls, way)


class _Quiet:
    """Cancels what it watches when nothing has moved for too long."""

    def __init__(self, reactor: Any, seconds: Seconds) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._timer: Any = None
        self.over = False

    def watch(self, cancel: Callable[[], None]) -> None:
        def ring() -> None:
            self.over = True
            cancel()

        self._timer = self._reactor.callLater(self._seconds, ring)

    def moved(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.reset(self._seconds)

    def end(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


async def _in_time(waited: Deferred[Any], quiet: _Quiet, what: str) -> Any:
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
        return Unavailable(f"the server's certificate is not one of the grid this volunteer joined: {text}")
    if "alert" in text:
        return Unauthenticated(f"the server does not accept this volunteer's certificate: {text}")
    if isinstance(error, network.ConnectError | network.DNSLookupError | ResponseFailed):
        return Unavailable(f"{what}: {text}")
    return Unavailable(f"{what}: {type(error).__name__}: {text}")


class _Watched:
    """A file, or bytes, to send: every read is a sign of life."""

    def __init__(self, body: BinaryIO, quiet: _Quiet) -> None:
        self._body = body
        self._quiet = quiet

    def read(self, size: int) -> bytes:
        self._quiet.moved()
        return self._body.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._body.seek(offset, whence)

    def tell(self) -> int:
        return self._body.tell()

    def close(self) -> None:
        self._body.close()


class _Receiver(TwistedProtocol):
    """Takes an answer's body; what `take` raises ends the connection and is the call's failure."""

    transport: Any

    def __init__(self, take: Callable[[bytes], None], quiet: _Quiet) -> None:
        self._take = take
        self._quiet = quiet
        self.received = 0
        self.finished: Deferred[None] = Deferred(lambda _cancelled: self._abort())

    def dataReceived(self, data: bytes) -> None:
        if self.finished.called:
            return
        self._quiet.moved()
        self.received += len(data)
        try:
            self._take(data)
        except (GridError, OSError) as error:
            self.finished.errback(error)
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if isinstance(reason.value, ResponseDone):
            self.finished.callback(None)
        else:
            self.finished.errback(reason)

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()
