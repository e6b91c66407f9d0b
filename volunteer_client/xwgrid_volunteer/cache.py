"""Blobs on this volunteer's disk, named by their SHA-256, within a quota.

A blob enters only when its bytes hash to its name, in one step, and leaves (least recently used first) when room is
needed and no job has it pinned. A download that was broken off, by kill -9 too, is taken up where it stopped.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Collection
from pathlib import Path

from xwgrid.errors import NotFound, OutOfSpace, TooLarge, WrongBytes
from xwgrid.model import Digest
from xwgrid_volunteer import durable

_READ_BYTES = 1 << 20
_PARTIAL_SECONDS = 86_400.0


class BlobCache:
    """The cache in one folder. One process at a time; the daemon's lock sees to that."""

    def __init__(self, folder: Path, quota_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._partial = folder / "partial"
        self._quota = quota_bytes
        self._clock = clock
        self._pins: dict[str, frozenset[Digest]] = {}
        self._sizes: dict[Digest, int] = {}
        self._used: dict[Digest, float] = {}
        self._partial.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("??/*"):
            if len(file.name) == 64:
                found = file.stat()
                self._sizes[file.name], self._used[file.name] = found.st_size, found.st_mtime

    @property
    def bytes_used(self) -> int:
        """Size of all blobs together, unfinished downloads left out."""
        return sum(self._sizes.values())

    def has(self, digest: Digest) -> bool:
        """Return whether a blob is here."""
        return digest in self._sizes

    def path(self, digest: Digest) -> Path:
        """Return the file of a blob, which counts as use. Raises NotFound."""
        if digest not in self._sizes:
            raise NotFound(f"blob {digest} is not in the cache", digest=digest)
        self._used[digest] = self._clock()
        place = self._place(digest)
        os.utime(place, (self._used[digest], self._used[digest]))
        return place

    def pin(self, holder: str, digests: Collection[Digest]) -> None:
        """Keep these blobs until `release(holder)`, those that are yet to come as well."""
        self._pins[holder] = frozenset(digests)

    def release(self, holder: str) -> None:
        """Give a holder's blobs free. One that is not known is no error."""
        self._pins.pop(holder, None)

    def incoming(self, digest: Digest, size: int | None, *, limit: int) -> Incoming:
        """Begin, or go on with, a download of `size` bytes (None: not known, at most `limit`).

        Raises TooLarge, or OutOfSpace when the quota, pinned blobs in it, leaves no room.
        """
        if size is not None and size > limit:
            raise TooLarge(f"blob {digest} has {size} bytes, the limit is {limit}", digest=digest)
        self._make_room(0 if size is None else size)
        return Incoming(self._partial / digest, digest, size, limit if size is None else size)

    def enter(self, incoming: Incoming) -> Path:
        """Take a finished download in. Raises WrongBytes (and forgets it) when the bytes are not those of the name."""
        incoming.finish()
        size = incoming.offset
        try:
            self._make_room(size)
        except OutOfSpace:
            incoming.drop()
            raise
        place = self._place(incoming.digest)
        place.parent.mkdir(exist_ok=True)
        incoming.file.chmod(0o444)
        incoming.file.replace(place)
        durable.sync(place.parent)
        self._sizes[incoming.digest] = size
        return self.path(incoming.digest)

    def forget(self, digest: Digest) -> None:
        """Remove a blob, one that turned out to be damaged for instance. One that is not here is no error."""
        self._sizes.pop(digest, None)
        self._used.pop(digest, None)
        self._place(digest).unlink(missing_ok=True)

    def drop_old_partial(self) -> None:
        """Remove unfinished downloads that nobody went on with for a day."""
        for file in self._partial.iterdir():
            if self._clock() - file.stat().st_mtime > _PARTIAL_SECONDS:
                file.unlink(missing_ok=True)

    def _place(self, digest: Digest) -> Path:
        return self._folder / digest[:2] / digest

    def _make_room(self, size: int) -> None:
        pinned = frozenset[Digest]().union(*self._pins.values())
        over = self.bytes_used + size - self._quota
        if over <= 0:
            return
        free = [digest for digest in sorted(self._used, key=self._used.__getitem__) if digest not in pinned]
        if sum(self._sizes[digest] for digest in free) < over:
            raise OutOfSpace(
                f"{size} bytes do not fit into the cache: {self._quota} bytes are given to it and what is in use "
                "cannot go; the setting is cache_bytes",
                quota=self._quota,
            )
        for digest in free:
            if over <= 0:
                break
            over -= self._sizes[digest]
            self.forget(digest)


class Incoming:
    """An unfinished download: bytes go in, the hash is taken along the way."""

    def __init__(self, file: Path, digest: Digest, size: int | None, limit: int) -> None:
        self.file = file
        self.digest = digest
        self._size = size
        self._limit = limit
        self._hash = hashlib.sha256()
        self._offset = 0
        self._stream = file.open("ab")
        with file.open("rb") as there:
            while part := there.read(_READ_BYTES):
                self._hash.update(part)
                self._offset += len(part)
        if self._offset > limit:
            self.restart()

    @property
    def offset(self) -> int:
        """Return how many bytes are here."""
        return self._offset

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises WrongBytes when they are more than announced, OutOfSpace when the disk is full.

        A download that is refused here is forgotten: what is on the disk would never become the blob.
        """
        if self._offset + len(data) > self._limit:
            self.drop()
            raise WrongBytes(f"more than the {self._limit} bytes announced came for blob {self.digest}")
        try:
            self._stream.write(data)
            self._stream.flush()
        except OSError as error:
            self.drop()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"the disk is full: blob {self.digest} was not kept") from error
            raise
        self._hash.update(data)
        self._offset += len(data)

    def restart(self) -> None:
        """Forget what is here and begin again."""
        self._stream.truncate(0)
        self._hash, self._offset = hashlib.sha256(), 0

    def close(self) -> None:
        """Leave it for later: the next download of this blob goes on from here."""
        self._stream.close()

    def drop(self) -> None:
        """Remove it."""
        with contextlib.suppress(OSError):  # a full disk is told once more at closing
            self._stream.close()
        self.file.unlink(missing_ok=True)

    def finish(self) -> None:
        """Put the bytes on the disk, if they are the right ones.

        Raises WrongBytes, and removes them, if not; OutOfSpace when the disk is full.
        """
        if self._hash.hexdigest() != self.digest or self._size not in (None, self._offset):
            self.drop()
            raise WrongBytes(f"what the server sent for blob {self.digest} are other bytes", digest=self.digest)
        try:
            os.fsync(self._stream.fileno())
            self._stream.close()
        except OSError as error:
            self.drop()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"the disk is full: blob {self.digest} was not kept") from error
            raise
