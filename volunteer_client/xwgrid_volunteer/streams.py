"""Bytes of requests and answers on their way, watched for silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone

from xwgrid.errors import GridError
from xwgrid.model import Seconds

_CHUNK_BYTES = 1 << 16


class Quiet:
    """Cancels what it watches when nothing has moved for too long."""

    def __init__(self, reactor: Any, seconds: Seconds) -> None:
        self._reactor = reactor
        self._seconds = seconds
        self._timer: Any = None
        self.over = False

    def watch(self, cancel: Callable[[], None]) -> None:
        """Begin."""

        def ring() -> None:
            self.over = True
            cancel()

        self._timer = self._reactor.callLater(self._seconds, ring)

    def moved(self) -> None:
        """Take a sign of life."""
        if self._timer is not None and self._timer.active():
            self._timer.reset(self._seconds)

    def end(self) -> None:
        """Watch no more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()


class Sender:
    """A request's body, read from a file from where it stands to its end. Twisted asks for it by these names.

    Every chunk that leaves is a sign of life. `give_up` ends it when the answer came before all was sent.
    """

    def __init__(self, reactor: Any, body: BinaryIO, length: int, quiet: Quiet) -> None:
        self.length = length
        self._reactor = reactor
        self._body = body
        self._quiet = quiet
        self._consumer: Any = None
        self._turn: Any = None
        self.done = False  # all was handed over
        self._finished: Deferred[None] = Deferred(self._cancelled)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Send chunk after chunk; fires when the last one was handed over."""
        self._consumer = consumer
        self._send()
        return self._finished

    def pauseProducing(self) -> None:
        """Wait: the network is slower than the disk."""
        if self._turn is not None and self._turn.active():
            self._turn.cancel()
        self._turn = None

    def resumeProducing(self) -> None:
        """Go on."""
        if self._turn is None and not self._body.closed:
            self._turn = self._reactor.callLater(0, self._send)

    def stopProducing(self) -> None:
        """Send nothing more; the connection is gone."""
        self.give_up()

    def give_up(self) -> None:
        """Send nothing more."""
        self.pauseProducing()
        self._body.close()

    def _send(self) -> None:
        self._turn = None
        if self._body.closed:
            return
        data = self._body.read(_CHUNK_BYTES)
        self._quiet.moved()
        if data:
            # The consumer may pause us in here.
            self._turn = self._reactor.callLater(0, self._send)
            self._consumer.write(data)
        else:
            self._body.close()
            self.done = True
            self._finished.callback(None)

    def _cancelled(self, _finished: Deferred[None]) -> None:
        self.give_up()


class Receiver(Protocol):
    """Takes an answer's body; what `take` raises ends the connection and is the call's failure."""

    transport: Any

    def __init__(self, take: Callable[[bytes], None], quiet: Quiet) -> None:
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
