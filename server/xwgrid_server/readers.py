"""Reading results: strangers' files are decoded in sandboxed processes, each driven by a thread of the server."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from xwgrid.errors import UnreadableResult
from xwgrid.model import JobRequest, ResultFile, TaskNumber
from xwgrid.reading import Read, Stored
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.calls import Reading, ReadOrder
from xwgrid_server.http_threads import Threads


class BlockingReader(Protocol):
    """One reader process, as `xwgrid.reading.Reader`."""

    def read(
        self,
        request: JobRequest,
        number: TaskNumber,
        files: Mapping[str, Path],
        strips: str | None = None,
        others: Sequence[Stored] = (),
    ) -> Read:
        """Return the fingerprint of a result, and how far it is from others. Raises GridError."""

    def close(self) -> None:
        """End the process."""


class ReaderPool:
    """Reads results, as many at a time as there are processes; others wait their turn."""

    def __init__(
        self,
        reactor: IReactorFromThreads,
        files: BlobFiles,
        make_reader: Callable[[], BlockingReader],
        processes: int,
    ) -> None:
        self._files = files
        self._threads = Threads(reactor, "readers", processes)
        self._readers = [make_reader() for _ in range(processes)]
        self._idle: SimpleQueue[BlockingReader] = SimpleQueue()
        for reader in self._readers:
            self._idle.put(reader)

    def start(self) -> None:
        """Take work from now on."""
        self._threads.start()

    def stop(self) -> None:
        """Finish what was begun and end the processes: blocks."""
        self._threads.stop()
        for reader in self._readers:
            reader.close()

    def read(self, order: ReadOrder) -> Deferred[Reading]:
        """Fire with what was seen of a result, and how far it is from the others of its order.

        An other that is not there, or cannot be read, is left out. Fails with UnreadableResult when the result is not
        what the job asked for, Unavailable when no process can be started.
        """
        return self._threads.run(self._read, order)

    def _read(self, order: ReadOrder) -> Reading:
        paths = self._paths(order.files)
        compared = []
        others = []
        for other in order.others:
            with contextlib.suppress(UnreadableResult):
                others.append(Stored(self._paths(other.files), other.strips, other.tolerance))
                compared.append(other.replica)
        reader = self._idle.get()  # never waits: there are as many readers as threads
        try:
            seen = reader.read(order.request, order.task, paths, order.strips, others)
        finally:
            self._idle.put(reader)
        told = zip(compared, seen.shares, strict=True)
        differences = {replica: share for replica, share in told if share is not None}
        return Reading(order.replica, seen.fingerprint, differences)

    def _paths(self, files: tuple[ResultFile, ...]) -> dict[str, Path]:
        """Return where a result's files lie, by name. Raises UnreadableResult when one is not there as it was told."""
        paths = {file.name: self._files.path(file.sha256) for file in files}
        if len(paths) < len(files):
            raise UnreadableResult("two files of the result have one name")
        for file in files:
            size = self._files.size(file.sha256)
            if size != file.size:
                found = "was not sent" if size is None else f"has {size} bytes"
                raise UnreadableResult(f"the result's file {file.name} of {file.size} bytes {found}", file=file.name)
        return paths
