"""Answers: JSON, refusals, and blobs by ranges."""

from __future__ import annotations

import re
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, Request
from zope.interface import implementer

from xwgrid import wire
from xwgrid.errors import BadInput, GridError
from xwgrid.model import Seconds
from xwgrid_server.blob_files import WrongOffset
from xwgrid_server.http_threads import Clock, Threads

_log = Logger()

JSON = b"application/json"
# No page of ours loads anything from anywhere, is framed, or is kept by a cache.
SECURITY_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Server", b"xwgrid"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
)
_CHUNK = 256 << 10
# A client that takes nothing for this long has gone, or wants our file handles.
STALLED_SECONDS: Seconds = 120.0
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


def send(
    request: Request, status: int, body: bytes, kind: bytes = JSON, headers: tuple[tuple[bytes, bytes], ...] = ()
) -> None:
    """Answer with these bytes and finish."""
    request.setResponseCode(status)
    put = request.responseHeaders.setRawHeaders
    put(b"Content-Type", [kind])
    put(b"Content-Length", [b"%d" % len(body)])
    for name, value in SECURITY_HEADERS + headers:
        put(name, [value])
    request.write(body)
    request.finish()


def send_bare(request: Request, body: bytes) -> None:
    """Answer 200 with JSON and finish: for programs that ask thousands of times a second, so nothing for browsers."""
    put = request.responseHeaders.setRawHeaders
    put(b"Content-Type", [JSON])
    put(b"Content-Length", [b"%d" % len(body)])
    request.write(body)
    request.finish()


def send_json(request: Request, status: int, message: Any) -> None:
    """Answer with a message and finish."""
    send(request, status, wire.encode(message))


def send_head(request: Request, status: int, size: int) -> None:
    """Answer a HEAD for something of `size` bytes and finish."""
    put = request.responseHeaders.setRawHeaders
    request.setResponseCode(status)
    put(b"Content-Type", [b"application/octet-stream"])
    put(b"Content-Length", [b"%d" % size])
    for name, value in SECURITY_HEADERS:
        put(name, [value])
    request.finish()


def set_refusal(request: Request, error: GridError) -> bytes:
    """Prepare a refusal and return its body, for a framework that writes and finishes by itself."""
    body = wire.error_body(error)
    request.setResponseCode(error.http_status)
    put = request.responseHeaders.setRawHeaders
    put(b"Content-Type", [JSON])
    put(b"Content-Length", [b"%d" % len(body)])
    for name, value in SECURITY_HEADERS + _headers_of(error):
        put(name, [value])
    return body


def refuse(request: Request, error: GridError) -> None:
    """Answer with a refusal and finish."""
    send(request, error.http_status, wire.error_body(error), headers=_headers_of(error))


def early_refusal(error: GridError) -> bytes:
    """Return a whole answer for a connection that is closed after it."""
    body = wire.error_body(error)
    status = error.http_status
    headers = (
        (b"Content-Type", JSON),
        (b"Content-Length", b"%d" % len(body)),
        (b"Connection", b"close"),
        *SECURITY_HEADERS,
        *_headers_of(error),
    )
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (status, RESPONSES.get(status, b"Refused"), lines, body)


def presentable(failure: Failure, what: str) -> GridError:
    """Return what a client may hear of a failure: a refusal as it is; more of anything else is for the log."""
    if isinstance(failure.value, GridError):
        return failure.value
    _log.failure("{what}", failure, what=what)
    return GridError("the server failed at this; its log says why. Try again later, or tell the operator")


def fail(request: Request, failure: Failure) -> None:
    """Answer with what went wrong, if somebody is still there."""
    error = presentable(failure, "a request failed")
    if request.finished or request._disconnected:  # noqa: SLF001  # twisted.web has no public word for it
        return
    if request.startedWriting:
        request.loseConnection()  # half an answer must not look like a whole one
    else:
        refuse(request, error)


async def send_blob(request: Request, means: tuple[Threads, Clock], file: BinaryIO, size: int) -> None:
    """Answer with the `size` bytes of a file, or the range of them that was asked for, and finish. Closes the file."""
    with file:
        put = request.responseHeaders.setRawHeaders
        put(b"Accept-Ranges", [b"bytes"])
        asked = _RANGE.fullmatch((request.getHeader("range") or "").replace(" ", ""))
        start, end = (int(asked[1]), int(asked[2] or size - 1) + 1) if asked else (0, size)
        if asked and start >= size:
            error = BadInput(f"the blob has {size} bytes: there are none from byte {start} on", size=size)
            send(request, 416, wire.error_body(error), headers=((b"Content-Range", b"bytes */%d" % size),))
            return
        if asked and start < end:
            end = min(end, size)
            request.setResponseCode(206)
            put(b"Content-Range", [b"bytes %d-%d/%d" % (start, end - 1, size)])
        else:  # a range that is none is left out of account (RFC 9110, 14.2)
            start, end = 0, size
        for name, value in SECURITY_HEADERS:
            put(name, [value])
        put(b"Content-Type", [b"application/octet-stream"])
        put(b"Content-Disposition", [b"attachment"])
        put(b"Content-Length", [b"%d" % (end - start)])
        valve = Valve(request, means[1])
        try:
            await means[0].run(file.seek, start)
            while start < end:
                data = await means[0].run(file.read, min(_CHUNK, end - start))
                if not data:
                    raise GridError("a blob on the server's disk is shorter than its record says: tell the operator")
                start += len(data)
                request.write(data)
                await valve.opened()
        finally:
            valve.remove()
        request.finish()


@implementer(IPushProducer)
class Valve:
    """Lets a writer wait until its client has taken what was written, for a while at most."""

    def __init__(self, request: Request, reactor: Clock, patience: Seconds = STALLED_SECONDS) -> None:
        self._request = request
        self._reactor = reactor
        self._patience = patience
        self._waiting: Deferred[None] | None = None
        self._open = True
        request.registerProducer(self, True)

    def opened(self) -> Deferred[None]:
        """Fire when there is room again. A client that takes nothing is cut off."""
        waiting: Deferred[None] = Deferred()
        if self._open:
            waiting.callback(None)
            return waiting
        self._waiting = waiting
        cut = self._reactor.callLater(self._patience, self._cut)

        def settled(result: Any) -> Any:
            self._waiting = None
            if cut.active():
                cut.cancel()
            return result

        return waiting.addBoth(settled)

    def remove(self) -> None:
        """Stop watching the connection."""
        if self._request.channel is not None:
            self._request.unregisterProducer()

    def pauseProducing(self) -> None:  # Twisted's name
        """There is no room now."""
        self._open = False

    def resumeProducing(self) -> None:  # Twisted's name
        """There is room again."""
        self._open = True
        if self._waiting is not None:
            self._waiting.callback(None)

    def stopProducing(self) -> None:  # Twisted's name
        """The connection ends; the request's own end cancels the writer."""

    def _cut(self) -> None:
        channel = self._request.channel
        if channel is not None and channel.transport is not None:
            channel.transport.abortConnection()


def _headers_of(error: GridError) -> tuple[tuple[bytes, bytes], ...]:
    if isinstance(error, WrongOffset):
        return ((b"Upload-Offset", b"%d" % error.offset),)
    if error.http_status == 401:
        return ((b"WWW-Authenticate", b"Bearer"),)
    return ()
