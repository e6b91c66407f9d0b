"""Request bodies that are taken as they arrive: kept in memory up to a limit, or passed on with backpressure.

twisted.web by itself collects a whole body, of any size, before anybody is asked. Here the site is asked as soon as
the head of a request is read, and names a `Body`. A refusal is then answered at once, in the middle of the body.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from io import BytesIO
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote_to_bytes

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.http_headers import Headers

from xwgrid.errors import BadInput, GridError, Malformed, TooLarge
from xwgrid.model import Seconds
from xwgrid_server import http_answers

# A refused body that is this short is waited for: the connection can then be used again.
_SHORT_BODY = 64 << 10
# After an early refusal the rest of the body is thrown away this long: closing at once would reset the connection, and
# the client would lose the answer with it.
LINGER_SECONDS: Seconds = 10.0
_LINGER_BYTES = 64 << 20


class Head(Struct, frozen=True, kw_only=True):
    """What is known of a request before its body."""

    method: str
    path: str  # percent-decoded; a path that is not UTF-8 has U+FFFD in it, and so matches no route
    query: Mapping[str, str]
    headers: Headers
    length: int | None  # of the body in bytes; None: it says so itself, chunk by chunk

    def header(self, name: str) -> str | None:
        """Return the first header of this name."""
        value = self.headers.getRawHeaders(name)
        return value[0] if value else None

    def count(self, name: str) -> int | None:
        """Return a header's value as a number of bytes, None when it is not there.

        Raises BadInput when it is no such number.
        """
        value = self.header(name)
        if value is None:
            return None
        if not (value.isascii() and value.isdecimal()) or len(value) > 18:
            raise BadInput(f"{name}: {value[:50]!r} is not a number of bytes", header=name)
        return int(value)


class Body(Protocol):
    """Takes the bytes of one request's body."""

    def write(self, data: bytes) -> None:
        """Take the next bytes."""

    def end(self) -> None:
        """That was all."""

    def lose(self) -> None:
        """The connection is gone; no more will come."""


class MemoryBody:
    """A body kept in memory, of at most `limit` bytes."""

    def __init__(self, request: StreamingRequest, limit: int) -> None:
        self._request = request
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Take the next bytes; more than the limit refuse the request."""
        self._size += len(data)
        if self._size > self._limit:
            self._request.refuse(body_too_large(self._limit))
        else:
            self._parts.append(data)

    def end(self) -> None:
        """Nothing to do: the bytes are here."""

    def lose(self) -> None:
        """Forget them."""
        self._parts.clear()

    def data(self) -> bytes:
        """Return all bytes."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


class AdmittedBody(MemoryBody):
    """A body in memory that is read only once its sender is admitted: strangers cannot fill the memory."""

    def __init__(self, request: StreamingRequest, limit: int, admit: Callable[[], Awaitable[object]]) -> None:
        """`admit` raises GridError to refuse."""
        super().__init__(request, limit)
        self._settled = False
        self._waiting: Deferred[None] | None = None
        request.pause_body()

        async def run() -> None:
            await admit()

        Deferred.fromCoroutine(run()).addErrback(self._refuse).addCallback(self._settle)

    def settled(self) -> Deferred[None]:
        """Fire when it is known whether the sender is admitted; if not, the request is refused by then."""
        self._waiting = Deferred()
        if self._settled:
            self._waiting.callback(None)
        return self._waiting

    def _refuse(self, failure: Failure) -> None:
        self._request.refuse(http_answers.presentable(failure, "a request was not admitted"))

    def _settle(self, _result: None) -> None:
        self._settled = True
        self._request.resume_body()
        if self._waiting is not None:
            self._waiting.callback(None)


class Discard:
    """Where a refused body goes."""

    def __init__(self, request: StreamingRequest) -> None:
        self._request = request
        self._size = 0

    def write(self, data: bytes) -> None:
        """Throw away; somebody who goes on for ever is cut off."""
        self._size += len(data)
        if self._size > _LINGER_BYTES:
            self._request.abort()

    def end(self) -> None:
        """Nothing to do."""

    def lose(self) -> None:
        """Nothing to do."""


class StreamingRequest(Request):
    """A request whose body goes where `choose_body` says. Subclasses answer in `respond`, when all of it has come."""

    head: Head
    body: Body
    channel: Any  # an HTTPChannel; None once the connection is lost
    refusal: GridError | None = None
    _all_received = False
    _answered_early = False
    _lingering: Any = None  # an IDelayedCall
    _answering: Deferred[None] | None = None

    def choose_body(self, head: Head) -> Body:
        """Return where the body shall go. Raises GridError to refuse it."""
        raise NotImplementedError

    def respond(self) -> None:
        """Answer; called once, after the body's end, and not after a refusal."""
        raise NotImplementedError

    def gotLength(self, length: int | None) -> None:  # noqa: N802  # Twisted's name
        """Decide where the body goes, now that the head is complete."""
        channel = self.channel
        # The channel tells method and path only after the body; until then they are its own affair.
        method, uri = channel._command, channel._path  # noqa: SLF001
        self.content = BytesIO()
        self.body = Discard(self)
        self.head = _head(method, uri, self.requestHeaders, length)
        if b"\r" in method or uri.startswith(b"*"):
            self.refuse(Malformed("this is not a request for a path"))
            return
        try:
            body = self.choose_body(self.head)
        except GridError as error:
            self.refuse(error)
            return
        if self.refusal is None:
            self.body = body

    def handleContentChunk(self, data: bytes) -> None:  # noqa: N802  # Twisted's name
        """Pass on the next bytes of the body."""
        self.body.write(data)

    def process(self) -> None:
        """Answer, the body being complete."""
        self._all_received = True
        self.body.end()
        if self._answered_early:
            self._stop_lingering()
            self.channel.loseConnection()
        elif self.refusal is not None:
            http_answers.refuse(self, self.refusal)
        else:
            self.respond()

    def refuse(self, error: GridError) -> None:
        """Answer with a refusal: at once when much of the body is still to come, else after it."""
        if self.refusal is not None or self.deaf:
            return
        self.refusal = error
        length = self.head.length
        if self._all_received:
            http_answers.refuse(self, error)
            return
        if not isinstance(self.body, Discard):
            self.body = Discard(self)
        if length is not None and length <= _SHORT_BODY:
            self.resume_body()
            return
        self._answered_early = True
        self.requestHeaders.removeHeader(b"Expect")  # else the channel would still ask for the body
        channel = self.channel
        if channel is not None:
            channel.write(http_answers.early_refusal(error))
            self._lingering = channel.callLater(LINGER_SECONDS, self.abort)
            self.resume_body()

    def pause_body(self) -> None:
        """Read no more from this connection for now."""
        if (producer := self._producer()) is not None:
            producer.pauseProducing()

    def resume_body(self) -> None:
        """Read on."""
        if not self._all_received and (producer := self._producer()) is not None:
            producer.resumeProducing()

    def abort(self) -> None:
        """Cut the connection."""
        self._stop_lingering()
        if self.channel is not None and self.channel.transport is not None:
            self.channel.transport.abortConnection()

    def connectionLost(self, reason: Failure) -> None:  # Twisted's name
        """Tell the body that no more will come."""
        self._stop_lingering()
        if not self._all_received and hasattr(self, "body"):
            self.body.lose()
        Request.connectionLost(self, reason)
        answering, self._answering = self._answering, None
        if answering is not None:
            answering.cancel()

    def start(self, answering: Coroutine[Deferred[Any], Any, None], *, shielded: bool = False) -> None:
        """Answer by a coroutine. When the connection goes away it is cancelled, unless `shielded`."""
        running = Deferred.fromCoroutine(answering)
        if not shielded:
            self._answering = running
        running.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        if not (self._disconnected and failure.check(CancelledError)):
            http_answers.fail(self, failure)

    @property
    def deaf(self) -> bool:
        """Nobody is there to be answered, or has been answered already."""
        return bool(self._disconnected or self.finished)

    def _producer(self) -> Any:
        transport = self.channel.transport if self.channel is not None else None
        return None if transport is None else IPushProducer(transport, None)

    def _stop_lingering(self) -> None:
        if self._lingering is not None and self._lingering.active():
            self._lingering.cancel()
        self._lingering = None


def body_too_large(limit: int) -> TooLarge:
    """Return the refusal of a body of more than `limit` bytes."""
    return TooLarge(f"the body of this request may have {limit} bytes", limit=limit)


def _head(method: bytes, uri: bytes, headers: Headers, length: int | None) -> Head:
    path, _, query = uri.partition(b"?")
    return Head(
        method=method.decode("ascii", "replace"),
        path=unquote_to_bytes(path).decode("utf-8", "replace"),
        query=dict(parse_qsl(query.decode("ascii", "replace"), keep_blank_values=True)),
        headers=headers,
        length=length,
    )
