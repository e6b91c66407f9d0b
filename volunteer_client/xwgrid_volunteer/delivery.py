"""Brings what is in the outbox to the server: files first, then the report, again and again until it is confirmed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.task import deferLater

from xwgrid.errors import BadInput, GridError, TooLarge, Unavailable, WrongBytes
from xwgrid.model import Cause, Instant, ReplicaId, ResultFile, Seconds
from xwgrid.wire import Failed, Finished, Report
from xwgrid_volunteer.outbox import Entry, Outbox

_log = logging.getLogger(__name__)

_AGAIN_FIRST: Seconds = 0.5
_AGAIN_MOST: Seconds = 60.0
_WRONG_TRIES = 3
_UPLOADS_AT_ONCE = 3


class Uploads(Protocol):
    """The one call this needs of `grid_api.GridApi`."""

    async def upload(self, replica: ReplicaId, file: ResultFile, path: Path) -> None:
        """Send one file of a result."""


class Delivery:
    """Knows of every entry whether its files are at the server. `changed` is called when another report is ready."""

    def __init__(
        self,
        reactor: Any,
        server: Uploads,
        outbox: Outbox,
        *,
        clock: Callable[[], Instant],
        uniform: Callable[[float, float], float],
        changed: Callable[[], None],
        doubt: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._outbox = outbox
        self._clock = clock
        self._uniform = uniform
        self._changed = changed
        self._doubt = doubt
        self._uploads: dict[ReplicaId, Deferred[None]] = {}
        self._room = DeferredSemaphore(_UPLOADS_AT_ONCE)

    @property
    def uploading(self) -> tuple[ReplicaId, ...]:
        """Return the replicas whose files are not all at the server yet."""
        return tuple(self._uploads)

    @property
    def ready(self) -> tuple[Report, ...]:
        """Return what may be reported, oldest first."""
        return tuple(e.report for e in self._outbox.entries if e.report.replica not in self._uploads)

    def send(self, entry: Entry) -> None:
        """Begin with an entry of the outbox."""
        replica = entry.report.replica
        if entry.files and replica not in self._uploads:
            # Before the first byte moves it counts as not ready.
            self._uploads[replica] = Deferred()
            self._uploads[replica] = Deferred.fromCoroutine(self._upload(entry))
            if replica in self._uploads and self._uploads[replica].called:
                del self._uploads[replica]
        self._changed()

    def forget(self, replica: ReplicaId) -> None:
        """Give an entry up, or be done with it: the server wants to hear no more of it."""
        upload = self._uploads.pop(replica, None)
        if upload is not None:
            upload.cancel()
        self._outbox.forget(replica)

    def stop(self) -> None:
        """Break off what is under way; the entries stay on the disk."""
        for upload in tuple(self._uploads.values()):
            upload.cancel()

    async def _upload(self, entry: Entry) -> None:
        replica = entry.report.replica
        try:
            for file in entry.files:
                await self._upload_file(replica, file)
        except CancelledError:
            return
        except (GridError, OSError) as error:
            message = f"the result could not be uploaded: {error}"[:2_000]
            _log.warning("lease %s: %s", replica, message)
            seconds = entry.report.outcome.seconds if isinstance(entry.report.outcome, Finished) else 0.0
            failed = Report(replica=replica, outcome=Failed(cause=Cause.BAD_RESULT, message=message, seconds=seconds))
            self._outbox.put(entry.job, failed, self._clock())
        self._uploads.pop(replica, None)
        self._changed()

    async def _upload_file(self, replica: ReplicaId, file: ResultFile) -> None:
        tries, wrong = 0, 0
        while True:
            try:
                await self._room.acquire()
                try:
                    await self._server.upload(replica, file, self._outbox.file(replica, file.name))
                finally:
                    self._room.release()
            except WrongBytes:
                wrong += 1
                if wrong >= _WRONG_TRIES:
                    raise
            except (TooLarge, BadInput):
                raise
            except GridError as error:
                # Everything else may pass; and if the lease is no more, the server says so in its next answer.
                if not isinstance(error, Unavailable):
                    _log.info("lease %s: %s", replica, error.message)
                    self._doubt()
                tries += 1
                delay = self._uniform(0.0, min(_AGAIN_MOST, _AGAIN_FIRST * 2.0 ** min(tries, 10)))
                await deferLater(self._reactor, delay)
            else:
                return
