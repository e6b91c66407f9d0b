"""A job's progress as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.web.http import Request

from xwgrid import wire
from xwgrid.model import JobState, Seconds, TaskNumber
from xwgrid.wire import Event
from xwgrid_server.http_answers import SECURITY_HEADERS, Valve
from xwgrid_server.http_threads import Clock

ENDED = frozenset({JobState.FINISHED, JobState.INCOMPLETE, JobState.CANCELLED})
# Four pictures of the state a second are as much as a person can follow; changes in between come together.
LEAST_PAUSE_SECONDS: Seconds = 0.25
# Proxies close connections that say nothing; many do after 30 or 60 s.
KEEP_ALIVE_SECONDS: Seconds = 15.0
# A slow client gets the tasks of so many changes at once. Beyond that it gets the job alone, and reads the pages.
MOST_TASKS = 500


class News:
    """Which tasks changed since the last event: a set, however often each changed, of at most `MOST_TASKS`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed: set[TaskNumber] = set()
        self._any = False
        self._too_many = False
        self._waiting: Deferred[bool] | None = None

    def add(self, changed: frozenset[TaskNumber]) -> None:
        """Note that the job changed, and these of its tasks."""
        self._any = True
        if self._too_many or len(self._changed | changed) > MOST_TASKS:
            self._too_many = True
            self._changed.clear()
        else:
            self._changed |= changed
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(True)

    def take(self) -> frozenset[TaskNumber]:
        """Return the tasks that changed, and begin anew."""
        taken = frozenset(self._changed)
        self._changed.clear()
        self._any = self._too_many = False
        return taken

    async def come(self, seconds: Seconds) -> bool:
        """Wait for news; return False when there were none for so long."""
        if self._any:
            return True
        waiting = self._waiting = Deferred()
        late = self._clock.callLater(seconds, waiting.callback, False)
        try:
            return await waiting
        finally:
            self._waiting = None
            if late.active():
                late.cancel()


async def _pause(clock: Clock, seconds: Seconds) -> None:
    over: Deferred[None] = Deferred()
    timer = clock.callLater(seconds, over.callback, None)
    try:
        await over
    finally:
        if timer.active():
            timer.cancel()


async def stream(
    request: Request,
    clock: Clock,
    subscribe: Callable[[Callable[[frozenset[TaskNumber]], None]], Callable[[], None]],
    look: Callable[[frozenset[TaskNumber]], Deferred[Event]],
) -> None:
    """Answer with a job's events until it has ended; the last one tells so.

    `look` reads the job and the tasks named; it may fail with NotFound, and then nothing was answered yet.
    """
    news = News(clock)
    unsubscribe = subscribe(news.add)  # before the first look: a change between the two is told twice, not never
    valve = Valve(request, clock)
    try:
        event = await look(frozenset())
        put = request.responseHeaders.setRawHeaders
        for name, value in SECURITY_HEADERS:
            put(name, [value])
        put(b"Content-Type", [b"text/event-stream"])
        put(b"X-Accel-Buffering", [b"no"])  # what reverse proxies of the nginx kind ask for
        while True:
            request.write(b"event: job\ndata: " + wire.encode(event) + b"\n\n")
            if event.job.state in ENDED:
                break
            await valve.opened()
            await _pause(clock, LEAST_PAUSE_SECONDS)
            while not await news.come(KEEP_ALIVE_SECONDS):
                request.write(b": still here\n\n")
                await valve.opened()
            event = await look(news.take())
    finally:
        valve.remove()
        unsubscribe()
    request.finish()
