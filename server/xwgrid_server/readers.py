"""Reading results: strangers' files are decoded in sandboxed processes, each driven by a thread of the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads

from xwgrid.errors import UnreadableResult
from xwgrid.model import Digest, JobRequest, ResultFile, TaskNumber
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.http_threads import Threads


class BlockingReader(Protocol):
    """One reader process, as `xwgrid.reading.Reader`."""

    def read(self, request: JobRequest, number: TaskNumber, files: Mapping[str, Path]) -> Digest:
        """Return the fingerprint of a result. Raises GridError."""

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

    def read(self, request: JobRequest, number: TaskNumber, files: tuple[ResultFile, ...]) -> Deferred[Digest]:
        """Fire with the fingerprint of task `number`'s result, made of these files.

        Fails with UnreadableResult when it is not what the job asked for, Unavailable when no process can be started.
        """
        return self._threads.run(self._read, request, number, files)

    def _read(self, request: JobRequest, number: TaskNumber, files: tuple[ResultFile, ...]) -> Digest:
        paths = {file.name: self._files.path(file.sha256) for file in files}
        if len(paths) < len(files):
            raise UnreadableResult("two files of the result have one name")
        for file in files:
            size = self._files.size(file.sha256)
            if size != file.size:
                found = "was not sent" if size is None else f"has {size} bytes"
                raise UnreadableResult(f"the result's file {file.name} of {file.size} bytes {found}", file=file.name)
        reader = self._idle.get()  # never waits: there are as many readers as threads
        try:
            return reader.read(request, number, paths)
        finally:
            self._idle.put(reader)
