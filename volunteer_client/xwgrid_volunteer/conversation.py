"""Holds the conversation with the server that work_loop.py decides: makes the calls, passes the answers on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred

from xwgrid.errors import GridError
from xwgrid.model import Instant
from xwgrid.wire import WorkAnswer, WorkRequest
from xwgrid_volunteer import work_loop
from xwgrid_volunteer.work_loop import Line, Situation

_log = logging.getLogger(__name__)


class Server(Protocol):
    """The one call this needs of `grid_api.GridApi`."""

    async def work(self, request: WorkRequest) -> WorkAnswer:
        """Report, renew, take."""


class CallNumbers:
    """The numbers of calls, growing over restarts even when the clock was set back in between."""

    def __init__(self, file: Path, clock: Callable[[], Instant]) -> None:
        self._file = file
        self._clock = clock
        try:
            self._last = int(file.read_text())
        except (OSError, ValueError):
            self._last = 0

    def take(self) -> int:
        """Return the next number. It is on the disk, as far as kill -9 goes, before it is used."""
        self._last = work_loop.next_call(self._last, self._clock())
        fresh = self._file.with_suffix(".new")
        fresh.write_text(str(self._last))
        fresh.replace(self._file)
        return self._last


class Conversation:
    """Talks to the server as long as it is open. `nudge` whenever there may be something new to say."""

    def __init__(
        self,
        reactor: Any,
        server: Server,
        numbers: CallNumbers,
        *,
        situation: Callable[[], Situation],
        take: Callable[[WorkRequest, WorkAnswer], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._numbers = numbers
        self._situation = situation
        self._take = take
        self._uniform = uniform
        self._poll: Deferred[None] | None = None
        self._short: Deferred[None] | None = None
        self._timer: Any = None
        self._nudged: Any = None
        self._open = False
        self.line = Line()

    def start(self) -> None:
        """Begin to talk."""
        self._open = True
        self.nudge()

    def stop(self) -> None:
        """Make no more calls, and hang up on those under way."""
        self._open = False
        for timer in (self._timer, self._nudged):
            if timer is not None and timer.active():
                timer.cancel()
        for call in (self._poll, self._short):
            if call is not None:
                call.cancel()

    def nudge(self, *, hurry: bool = False) -> None:
        """Look soon whether a call is due; with `hurry` one is."""
        if hurry:
            self.line = work_loop.hurried(self.line)
        if self._open and (self._nudged is None or not self._nudged.active()):
            self._nudged = self._reactor.callLater(0, self._look)

    async def say_goodbye(self) -> None:
        """Make one last call with all there is to report, nothing else under way. Failures are only logged."""
        self.stop()
        self.line = Line(heartbeat=self.line.heartbeat)
        call = work_loop.plan(self.line, self._situation()).short
        if call is not None:
            await self._make(call)

    def _look(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        situation = self._situation()
        decided = work_loop.plan(self.line, situation)
        if decided.drop_poll and self._poll is not None:
            hung_up, self._poll = self._poll, None
            self.line = work_loop.dropped(self.line)
            hung_up.cancel()
        if decided.short is not None:
            self._short = self._begin(decided.short)
        if decided.poll is not None:
            self._poll = self._begin(decided.poll)
        if decided.short is not None or decided.poll is not None:
            self.nudge()
        elif decided.wake_at is not None:
            self._timer = self._reactor.callLater(max(0.0, decided.wake_at - situation.now), self.nudge)

    def _begin(self, call: WorkRequest) -> Deferred[None]:
        return Deferred.fromCoroutine(self._make_or_hang_up(call))

    async def _make_or_hang_up(self, call: WorkRequest) -> None:
        try:
            await self._make(call)
        except CancelledError:
            return  # hung up on by us
        except Exception as error:  # noqa: BLE001  # a fault in one answer must not end the conversation
            _log.exception("a work call ended in a fault of the program")
            fault = GridError(f"a fault of the volunteer's program: {type(error).__name__}: {error}")
            self.line = work_loop.failed(self.line, call, fault, self._situation().now, self._uniform)
            self.nudge()

    async def _make(self, call: WorkRequest) -> None:
        numbered = replace(call, call=self._numbers.take())
        self.line = work_loop.sent(self.line, call, self._situation().now)
        try:
            answer = await self._server.work(numbered)
        except GridError as error:
            before = self.line.trouble
            now = self._situation().now
            self.line = work_loop.failed(self.line, call, error, now, self._uniform)
            if before != self.line.trouble:
                _log.warning("%s (next try in %.1f s)", error.message, self.line.retry_at - now)
        else:
            if self.line.trouble is not None:
                _log.info("the server answers again")
            self.line = work_loop.answered(self.line, call, answer, self._situation().now)
            self._take(numbered, answer)
        self.nudge()
