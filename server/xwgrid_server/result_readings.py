"""Results on their way through the reader processes: each is read until there is a word on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from xwgrid.errors import NotFound, UnreadableResult
from xwgrid.model import ReplicaId, Seconds
from xwgrid_server.calls import Reading, ReadOrder

# A reader that failed for reasons of its own (not of the result's) is asked again after this long.
READ_AGAIN_AFTER: Final[Seconds] = 5.0


class Reader(Protocol):
    """Reads strangers' results in processes of their own."""

    def read(self, order: ReadOrder) -> Deferred[Reading]:
        """Return what was seen of a result; fails with UnreadableResult when the result is at fault."""


class ResultReadings:
    """Sends results to the reader, each to one at a time, and passes on what it says."""

    log = Logger()

    def __init__(self, clock: Any, reader: Reader, take: Callable[[Reading], None]) -> None:
        self._clock = clock
        self._reader = reader
        self._take = take
        self._being_read: set[ReplicaId] = set()
        self._stopped = False

    def send(self, order: ReadOrder) -> None:
        """Have a result read, unless it is being read already."""
        if order.replica not in self._being_read:
            self._being_read.add(order.replica)
            self._read(order)

    def stop(self) -> None:
        """Pass nothing on any more; what is not read is read after the next start."""
        self._stopped = True

    def _read(self, order: ReadOrder) -> None:
        if self._stopped:
            return
        maybeDeferred(self._reader.read, order).addCallbacks(self._done, self._failed, (), {}, (order,))

    def _failed(self, failure: Failure, order: ReadOrder) -> None:
        if isinstance(failure.value, (UnreadableResult, NotFound)):
            self._done(Reading(order.replica, UnreadableResult(failure.value.message)))
        elif not self._stopped:
            self.log.failure("the reader failed at replica {replica}", failure, replica=order.replica)
            self._clock.callLater(READ_AGAIN_AFTER, self._read, order)

    def _done(self, reading: Reading) -> None:
        self._being_read.discard(reading.replica)
        if not self._stopped:
            self._take(reading)
