"""Uploads: bytes go from the connection to the disk, hashed on the way, never more than a few MiB in memory.

Hashing and writing happen in threads; while they fall behind, nothing more is read from the connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from xwgrid.errors import BadInput
from xwgrid.model import Digest
from xwgrid_server import http_answers
from xwgrid_server.blob_files import BlobFiles, Upload, WrongOffset, too_large
from xwgrid_server.http_bodies import Head, StreamingRequest
from xwgrid_server.http_threads import Threads

# A thread is given this much at once; the connection is paused above it and read on below.
_BATCH_BYTES = 1 << 20


class Destination(Struct, frozen=True, kw_only=True):
    """Where an upload goes, once it is known that its sender may send it."""

    name: str  # in staging
    digest: Digest
    room: int  # how many bytes it may have, together with all other uploads of its group
    group: str  # what the staging names of those begin with; empty: it is alone
    keep: Callable[[int], None]  # notes a complete blob of so many bytes; called in a thread


class Uploads:
    """All uploads in progress. One staging name has one writer: a newer connection takes over from an older one."""

    def __init__(self, files: BlobFiles, threads: Threads) -> None:
        self.files = files
        self.threads = threads
        self._writers: dict[str, UploadBody] = {}
        self._reserved: dict[str, int] = {}

    async def take(self, destination: Destination, body: UploadBody, total: int | None) -> int:
        """Make `body` the writer and return how many bytes the upload may have: `total` if that is known.

        A sender whose network broke comes back before the server sees the end of its old connection; that is ended.
        Raises TooLarge.
        """
        name, group, room = destination.name, destination.group, destination.room
        while (present := self._writers.get(name)) is not None:
            present.cut()
            await present.settled()
        self._writers[name] = body
        if group:
            mates = frozenset(other for other in self._writers if other.startswith(group))
            room -= await self.threads.run(self.files.staged_together, group, without=mates)
            room -= sum(self._reserved.get(other, 0) for other in mates)
        if (total or 0) > room:
            raise too_large(destination.room)
        self._reserved[name] = room if total is None else total
        return self._reserved[name]

    def release(self, body: UploadBody) -> None:
        """`body` writes no more."""
        for name in [name for name, writer in self._writers.items() if writer is body]:
            del self._writers[name]
            self._reserved.pop(name, None)


class UploadBody:
    """The body of one PUT. When it has settled, the request is refused or the blob is complete."""

    def __init__(
        self, request: StreamingRequest, uploads: Uploads, admit: Callable[[], Awaitable[Destination | None]]
    ) -> None:
        """`admit` decides where the bytes go, None when they are here already. It raises GridError to refuse them."""
        self._request = request
        self._uploads = uploads
        self._parts: list[bytes] = []
        self._size = 0
        self._ended = False
        self._lost = False
        self._news: Deferred[None] | None = None
        self._settled = False
        self._waiting: list[Deferred[None]] = []
        request.pause_body()
        running = Deferred.fromCoroutine(self._run(request.head, admit))
        running.addErrback(self._refuse).addCallback(self._settle)

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._settled:
            return  # the blob was here already: the bytes are not needed
        self._parts.append(data)
        self._size += len(data)
        if self._size >= _BATCH_BYTES:
            self._request.pause_body()
        self._tell()

    def end(self) -> None:
        """That was all."""
        self._ended = True
        self._tell()

    def lose(self) -> None:
        """The connection is gone: what came is kept for the next try."""
        self._lost = True
        self._tell()

    def cut(self) -> None:
        """End this upload in favour of a newer connection."""
        self.lose()
        self._request.abort()

    def settled(self) -> Deferred[None]:
        """Fire when this upload touches its file no more. To cancel this ends the wait, not the upload."""
        waiting: Deferred[None] = Deferred()
        if self._settled:
            waiting.callback(None)
        else:
            self._waiting.append(waiting)
        return waiting

    async def _run(self, head: Head, admit: Callable[[], Awaitable[Destination | None]]) -> None:
        offset, total = _extent(head)
        destination = await admit()
        if destination is None:
            return
        limit = await self._uploads.take(destination, self, total)
        run = self._uploads.threads.run
        upload = await run(self._uploads.files.stage, destination.name, offset=offset, limit=limit, total=total)
        try:
            if not await self._receive(upload):
                return
            if total is not None and upload.received < total:
                raise WrongOffset(upload.received)  # only a part was sent: the rest is still to come
            await run(lambda: destination.keep(upload.complete(destination.digest)))
        finally:
            upload.close()

    async def _receive(self, upload: Upload) -> bool:
        """Write what comes. Return whether all of it came."""
        while True:
            # Small pieces wait for each other: a thread is not worth its while for 64 KiB.
            if self._size >= _BATCH_BYTES or (self._parts and (self._ended or self._lost)):
                data = b"".join(self._parts)
                self._parts.clear()
                self._size = 0
                self._request.resume_body()
                await self._uploads.threads.run(upload.write, data)
            elif self._ended or self._lost:
                return self._ended
            else:
                self._request.resume_body()
                self._news = Deferred()
                await self._news

    def _tell(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.callback(None)

    def _refuse(self, failure: Failure) -> None:
        self._request.refuse(http_answers.presentable(failure, "an upload failed"))

    def _settle(self, _result: None) -> None:
        self._settled = True
        self._parts.clear()
        self._uploads.release(self)
        self._request.resume_body()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


def _extent(head: Head) -> tuple[int, int | None]:
    """Return where the bytes begin, and how long the whole is, if the sender tells."""
    offset = head.count("Upload-Offset") or 0
    total = head.count("Upload-Length")
    if total is None:
        return offset, None if head.length is None else offset + head.length
    if head.length is not None and offset + head.length > total:
        raise BadInput(
            f"Upload-Offset {offset} and {head.length} bytes go beyond Upload-Length {total}: correct one of them"
        )
    return offset, total
