"""Results fetched while the rest of the job is still being rendered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from xwgrid import wire
from xwgrid.errors import GridError
from xwgrid.model import JobId, TaskState
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

    `heard` and `idle` are those of `watch`. Raises the GridError that ends the watching or the download.
    """
    stopping = threading.Event()
    begun: set[int] = set()
    pool = ThreadPoolExecutor(max_workers=connections, thread_name_prefix="download")

    def fetch_one(task: wire.TaskView) -> None:
        for file, path in places(folder, task):
            if not stopping.is_set():
                download_blob(client, file, path, lambda _size: None)

    futures: list[Future[None]] = []

    def on_event(event: wire.Event) -> None:
        for task in event.tasks:
            if task.state is TaskState.AGREED and task.number not in begun:
                begun.add(task.number)
                futures.append(pool.submit(fetch_one, task))
        heard(event)

    try:
        last = watch(client, [job], console, on_event, idle)[job]
        for future in futures:
            try:
                future.result()
            except GridError:
                # The sweep below fetches it again, and says what is wrong if it still is.
                continue
    finally:
        stopping.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return fetch(client, last, folder, connections, said)
