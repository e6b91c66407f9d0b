"""Blobs on the local disk, named by their SHA-256, and the uploads that become blobs.

Everything here blocks: call it in a thread. A blob is whole and right from the moment its name exists:
`blobs/ab/abcdef…`. Until then its bytes grow in `staging/`, under a name that tells one sender's upload from
another's, so that nobody can add to, or learn of, what somebody else sends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from xwgrid.errors import Conflict, GridError, OutOfSpace, TooLarge, WrongBytes
from xwgrid.model import Digest, Instant, ReplicaId, UserId

DIGEST = re.compile(r"[0-9a-f]{64}")
_STAGING_NAME = re.compile(r"[a-z0-9-]{1,200}")
_CHUNK = 1 << 20
# The disk, a user's share of it, or the size of one file: whichever ended, there is no room for the upload.
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class WrongOffset(Conflict):
    """An upload went on at another byte than the server has: ask with HEAD, and go on from the `Upload-Offset` told."""

    def __init__(self, offset: int) -> None:
        super().__init__(f"{offset} bytes of this upload are here: go on with Upload-Offset: {offset}", offset=offset)
        self.offset = offset


def user_upload(user: UserId, digest: Digest) -> str:
    """Return the staging name of what a user sends."""
    return f"user-{user}-{digest}"


def replica_upload(replica: ReplicaId, digest: Digest) -> str:
    """Return the staging name of a file of a replica's result."""
    return replica_uploads(replica) + digest


def replica_uploads(replica: ReplicaId) -> str:
    """Return what the staging names of all files of a replica's result begin with."""
    return f"replica-{replica}-"


class BlobFiles:
    """The folders `blobs` and `staging` of a server. They must lie on one file system."""

    def __init__(self, blobs: Path, staging: Path) -> None:
        self._blobs = blobs
        self._staging = staging

    def prepare(self) -> None:
        """Make the folders where they are missing."""
        for folder in (self._blobs, self._staging):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Return where the blob is, or would be.

        Raises ValueError for what is not a SHA-256 in lower-case hexadecimal.
        """
        if not DIGEST.fullmatch(digest):
            raise ValueError(f"not the name of a blob: {digest!r}")
        return self._blobs / digest[:2] / digest

    def size(self, digest: Digest) -> int | None:
        """Return how many bytes the blob has, None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, digest: Digest) -> BinaryIO:
        """Open the blob for reading. Raises FileNotFoundError."""
        return self.path(digest).open("rb")

    def add(self, data: bytes) -> Digest:
        """Store a blob that is small enough to be in memory; return its name.

        Raises OutOfSpace, with nothing kept.
        """
        digest = hashlib.sha256(data).hexdigest()
        with self.stage(f"own-{os.getpid()}-{os.urandom(8).hex()}", offset=0, limit=len(data)) as upload:
            upload.write(data)
            upload.complete(digest)
        return digest

    def staged(self, name: str) -> int:
        """Return how many bytes of this upload are here; 0 too when it was never begun."""
        try:
            return self._staging_path(name).stat().st_size
        except FileNotFoundError:
            return 0

    def staged_together(self, prefix: str, *, without: Collection[str]) -> int:
        """Return how many bytes lie in the uploads whose names begin with `prefix`, but for those named."""
        _check_staging_name(prefix)
        total = 0
        with os.scandir(self._staging) as entries:
            for entry in entries:
                if entry.name.startswith(prefix) and entry.name not in without:
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat().st_size
        return total

    def stage(self, name: str, *, offset: int, limit: int, total: int | None = None) -> Upload:
        """Begin an upload, or go on with it at `offset`; it may grow to `limit` bytes, and ends at `total` if known.

        The bytes that are here already are hashed again. Raises WrongOffset when they are not `offset` many,
        TooLarge when `total` is over `limit`, OutOfSpace when the disk has no room for `total`.
        """
        if total is not None and total > limit:
            raise too_large(limit)
        path = self._staging_path(name)
        present = self.staged(name)
        if present != offset:
            raise WrongOffset(present)
        if total is not None and total - offset > shutil.disk_usage(self._staging).free:
            path.unlink(missing_ok=True)
            raise _out_of_space()
        return Upload(self, path, offset, limit)

    def discard(self, name: str) -> None:
        """Throw an upload away."""
        self._staging_path(name).unlink(missing_ok=True)

    def sweep(self, before: Instant) -> int:
        """Throw away the uploads that nobody added to since `before`; return how many."""
        swept = 0
        with os.scandir(self._staging) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < before:
                        Path(entry.path).unlink()
                        swept += 1
        return swept

    def _staging_path(self, name: str) -> Path:
        _check_staging_name(name)
        return self._staging / name


class Upload:
    """One upload while its connection lives. Close it in any case: what was received stays for the next try."""

    def __init__(self, files: BlobFiles, path: Path, offset: int, limit: int) -> None:
        self._files = files
        self._path = path
        self._limit = limit
        self.received = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO = path.open("a+b", buffering=0)
        try:
            path.chmod(0o600)
            self._file.seek(0)
            while data := self._file.read(_CHUNK):
                self._hash.update(data)
                self.received += len(data)
            if self.received != offset:
                raise WrongOffset(self.received)
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Add bytes at the end.

        Raises TooLarge when they are over the limit, OutOfSpace when there is no room: nothing of the upload is kept.
        """
        if self.received + len(data) > self._limit:
            self._discard()
            raise too_large(self._limit)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise self._refused_by_disk(error) from error
        self._hash.update(data)
        self.received += len(data)

    def complete(self, digest: Digest) -> int:
        """Make the upload the blob `digest`, safe on the disk; return its size.

        Raises WrongBytes when the bytes are others, OutOfSpace; then nothing of the upload is kept.
        """
        found = self._hash.hexdigest()
        if found != digest:
            self._discard()
            raise WrongBytes(
                f"the {self.received} bytes received hash to {found}, not to {digest}: send them again from the start",
                received=self.received,
                sha256=found,
            )
        target = self._files.path(digest)
        try:
            os.fsync(self._file.fileno())
            if not target.parent.exists():
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_folder(target.parent.parent)
            self._path.replace(target)
            sync_folder(target.parent)
        except OSError as error:
            raise self._refused_by_disk(error) from error
        self.close()
        return self.received

    def close(self) -> None:
        """Let go of the file. Does nothing the second time."""
        self._file.close()

    def __enter__(self) -> Upload:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    def _discard(self) -> None:
        self.close()
        self._path.unlink(missing_ok=True)

    def _refused_by_disk(self, error: OSError) -> GridError:
        self._discard()
        if error.errno in _NO_ROOM:
            return _out_of_space()
        return GridError(f"the server's disk failed ({error.strerror}); nothing was kept of this upload")


def too_large(limit: int) -> TooLarge:
    """Return the refusal of an upload of more than `limit` bytes."""
    return TooLarge(f"this is more than the {limit} bytes allowed here: nothing was kept of it", limit=limit)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _out_of_space() -> OutOfSpace:
    return OutOfSpace("the server's disk is full: nothing was kept of this upload; tell the operator, and try again")


def _check_staging_name(name: str) -> None:
    if not _STAGING_NAME.fullmatch(name):
        raise ValueError(f"not the name of an upload: {name!r}")
