"""Results fetched while the rest of the job is still being rendered."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from xwgrid import wire
from xwgrid.errors import GridError
from xwgrid.model import JobId, TaskNumber, TaskState
from xwgrid.requester.client import GridClient
from xwgrid.requester.results import Summary, fetch, places
from xwgrid.requester.transfer import download_blob
from xwgrid.requester.watching import watch


def watch_and_download(
    client: GridClient,
    job: JobId,
    folder: Path,
    *,
    connections: int,
    console: Console,
    said: Callable[[str], None],
    heard: Callable[[wire.Event], None] = lambda _event: None,
    idle: Callable[[], None] = lambda: None,
) -> Summary:
    """Show a job until it has ended, fetching each result as soon as it is agreed; return its summary.

    A result whose verdict is taken back is taken away, and another one that is accepted in its place is fetched.
    `heard` and `idle` are those of `watch`. Raises the GridError that ends the watching or the download.
    """
    downloads = _Downloads(client, folder, connections)

    def on_event(event: wire.Event) -> None:
        for task in event.tasks:
            downloads.hear(task)
        heard(event)

    try:
        last = watch(client, [job], console, on_event, idle)[job]
        downloads.finish()
    finally:
        downloads.stop()
    return fetch(client, last, folder, connections, said)


class _Downloads:
    """Keeps the files of agreed tasks as the last word on each says. One task is never worked on by two threads."""

    def __init__(self, client: GridClient, folder: Path, connections: int) -> None:
        self._client = client
        self._folder = folder
        self._pool = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="download")
        self._futures: list[Future[None]] = []
        self._lock = threading.Lock()
        self._wanted: dict[TaskNumber, wire.TaskView] = {}  # the last word
        self._there: dict[TaskNumber, wire.TaskView] = {}  # what lies, or may lie, in the folder
        self._busy: set[TaskNumber] = set()
        self._stopping = False

    def hear(self, task: wire.TaskView) -> None:
        """Take news of a task."""
        with self._lock:
            if task.state is not TaskState.AGREED and task.number not in self._wanted:
                return
            self._wanted[task.number] = task
            if task.number in self._busy:
                return  # whoever is at it looks again
            self._busy.add(task.number)
        self._futures.append(self._pool.submit(self._follow, task.number))

    def finish(self) -> None:
        """Return when all that was heard is done. What could not be fetched is for the sweep that follows."""
        for future in self._futures:
            with contextlib.suppress(GridError):
                future.result()

    def stop(self) -> None:
        """End, in the middle of what it is at if need be."""
        self._stopping = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _follow(self, number: TaskNumber) -> None:
        done: wire.TaskView | None = None
        try:
            while True:
                with self._lock:
                    wanted = self._wanted[number]
                    if wanted is done or self._stopping:
                        self._busy.discard(number)
                        return
                self._bring(wanted)
                done = wanted
        except BaseException:
            with self._lock:
                self._busy.discard(number)
            raise

    def _bring(self, task: wire.TaskView) -> None:
        before = self._there.get(task.number)
        if before is not None and before.files != task.files:
            for _file, path in places(self._folder, before):
                with contextlib.suppress(OSError):  # the sweep says what is left
                    path.unlink()
        if task.state is TaskState.AGREED:
            self._there[task.number] = task
            for file, path in places(self._folder, task):
                if not self._stopping:
                    download_blob(self._client, file, path, lambda _size: None)
