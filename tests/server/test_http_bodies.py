"""Bodies of requests over a connection in memory: limits, early refusals, slow and silent senders."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory
from xwgrid_server import http_answers
from xwgrid_server.http_bodies import (
    LINGER_SECONDS,
    AdmittedBody,
    Body,
    Head,
    MemoryBody,
    StreamingRequest,
    body_too_large,
)

from xwgrid.errors import Unauthenticated

LIMIT = 100_000
IDLE_SECONDS = 60.0


class Answering(StreamingRequest):
    """Answers with the size of its body."""

    def choose_body(self, head: Head) -> Body:
        """Take what is sent to /open at once, and anything else when its sender is admitted."""
        if head.path == "/open":
            return MemoryBody(self, LIMIT)
        if head.path == "/small":
            raise body_too_large(1)
        return AdmittedBody(self, LIMIT, lambda: self.channel.factory.admitted)

    def respond(self) -> None:
        """Tell the size."""
        self.start(self.tell())

    async def tell(self) -> None:
        """Wait until the sender is admitted, then tell the size."""
        assert isinstance(self.body, MemoryBody)
        if isinstance(self.body, AdmittedBody):
            await self.body.settled()
        if self.refusal is None:
            http_answers.send_json(self, 200, len(self.body.data()))


class Connection(HTTPFactory):
    """One connection to a site of such requests."""

    protocol: Any = HTTPChannel

    def __init__(self) -> None:
        self.clock = Clock()
        super().__init__(timeout=IDLE_SECONDS, reactor=self.clock)  # type: ignore[arg-type]  # its time is enough
        self.admitted: Deferred[None] = Deferred()
        self.transport = StringTransport()
        channel: Any = self.buildProtocol(None)
        channel.requestFactory = Answering
        channel.makeConnection(self.transport)
        self.channel = channel

    def log(self, request: Any) -> None:
        """Write no log."""

    def send(self, path: str, length: int | None, body: bytes = b"") -> None:
        """Send a request's head, and the beginning of its body."""
        kind = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self.channel.dataReceived(f"POST {path} HTTP/1.1\r\nHost: x\r\n{kind}\r\n\r\n".encode() + body)

    def answer(self) -> bytes:
        """Return what was answered since the last time."""
        value: bytes = self.transport.value()
        self.transport.clear()
        return value


def test_a_body_arrives_whole() -> None:
    """However it is cut into pieces."""
    connection = Connection()
    connection.send("/open", 3_000)
    for _ in range(3):
        connection.channel.dataReceived(bytes(1_000))
    assert connection.answer().endswith(b"\r\n\r\n3000")


def test_a_body_over_the_limit_is_refused_while_it_comes() -> None:
    """The refusal does not wait for the end; the rest is thrown away, and then the connection ends."""
    connection = Connection()
    connection.send("/open", LIMIT * 10)
    connection.channel.dataReceived(bytes(LIMIT))
    assert connection.answer() == b""
    connection.channel.dataReceived(b"x")
    answer = connection.answer()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"\r\nConnection: close\r\n" in answer
    connection.channel.dataReceived(bytes(LIMIT * 8))
    assert not connection.transport.disconnecting
    connection.channel.dataReceived(bytes(LIMIT - 1))
    assert connection.transport.disconnecting
    assert connection.answer() == b""


def test_a_refused_sender_who_goes_on_is_cut_off() -> None:
    """After some seconds nothing is thrown away any more."""
    connection = Connection()
    connection.send("/open", None, b"ffffff\r\n" + bytes(LIMIT + 1))
    assert connection.answer().startswith(b"HTTP/1.1 413 ")
    connection.clock.advance(LINGER_SECONDS - 1)
    assert not connection.transport.disconnected
    connection.clock.advance(1)
    assert connection.transport.disconnected


def test_a_refused_body_that_is_short_costs_no_connection() -> None:
    """The next call of the same connection is answered."""
    connection = Connection()
    connection.admitted.errback(Failure(Unauthenticated("who are you?")))
    connection.send("/closed", 10, bytes(10))
    assert connection.answer().startswith(b"HTTP/1.1 401 ")
    connection.send("/open", 1, b"x")
    assert connection.answer().startswith(b"HTTP/1.1 200 ")


def test_a_refused_sender_is_not_asked_to_go_on() -> None:
    """Whoever waits for `100 Continue` gets the refusal alone."""
    connection = Connection()
    head = f"POST /open HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {LIMIT * 2}\r\n\r\n"
    connection.channel.dataReceived(head.encode())
    connection.channel.dataReceived(bytes(LIMIT + 1))
    assert connection.answer().startswith(b"HTTP/1.1 100 Continue")
    refused = Connection()
    refused.channel.dataReceived(head.replace("/open", "/small").encode())
    assert refused.answer().startswith(b"HTTP/1.1 413 ")


def test_nothing_is_read_from_strangers() -> None:
    """While it is asked who is sending, the connection is paused; once admitted it is read to the end."""
    connection = Connection()
    connection.send("/closed", 10)
    assert connection.transport.producerState == "paused"
    connection.admitted.callback(None)
    assert connection.transport.producerState == "producing"
    connection.channel.dataReceived(bytes(10))
    assert connection.answer().endswith(b"\r\n\r\n10")


def test_a_body_that_came_before_its_sender_was_known_waits() -> None:
    """What was on its way with the head is kept, and answered after the admission."""
    connection = Connection()
    connection.send("/closed", 10, bytes(10))
    assert connection.answer() == b""
    connection.admitted.callback(None)
    assert connection.answer().endswith(b"\r\n\r\n10")


def test_a_silent_sender_is_cut_off() -> None:
    """A body that stops coming ends with its connection."""
    connection = Connection()
    connection.send("/open", 10, bytes(5))
    connection.clock.advance(IDLE_SECONDS - 1)
    connection.channel.dataReceived(b"x")
    connection.clock.advance(IDLE_SECONDS - 1)
    assert not connection.transport.disconnecting
    connection.clock.advance(1)
    assert connection.transport.disconnecting


def test_a_sender_who_goes_away_leaves_nothing() -> None:
    """No timer runs on, before the answer or after an early one."""
    for length, body in ((10, bytes(5)), (LIMIT * 2, bytes(LIMIT + 1))):
        connection = Connection()
        connection.send("/open", length, body)
        connection.channel.connectionLost(Failure(ConnectionError()))
        assert connection.clock.getDelayedCalls() == []


def test_what_is_no_request_for_a_path_is_refused() -> None:
    """`OPTIONS *` and the like."""
    connection = Connection()
    connection.channel.dataReceived(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    assert connection.answer().startswith(b"HTTP/1.1 400 ")


def test_two_lengths_are_refused() -> None:
    """A request that says its length twice, in two ways, is how requests are smuggled."""
    connection = Connection()
    head = b"POST /open HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.channel.dataReceived(head)
    assert connection.answer().startswith(b"HTTP/1.1 400 ")
    assert connection.transport.disconnecting
