"""A timer that can be paused, for programs that are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xwgrid.model import Seconds


class StoppableTimer:
    """Calls once, after a span in which it was not paused. `reactor` gives the clock (IReactorTime)."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._call: Any = None
        self._act: Callable[[], None] | None = None
        self._left: Seconds = 0.0
        self._spent: Seconds = 0.0
        self._since: Seconds | None = None  # None while paused or not started
        self._paused = False

    @property
    def elapsed(self) -> Seconds:
        """Time since the start, pauses left out."""
        return self._spent + (0.0 if self._since is None else self._reactor.seconds() - self._since)

    def start(self, seconds: Seconds, act: Callable[[], None]) -> None:
        """Start anew; a paused timer stays paused."""
        self.cancel()
        self._act, self._left, self._spent = act, seconds, 0.0
        if not self._paused:
            self._run()

    def cancel(self) -> None:
        """Forget the call; `elapsed` keeps its value until the next start."""
        self._halt()
        self._act = None

    def pause(self) -> None:
        """Stand still until `go_on`."""
        self._halt()
        self._paused = True

    def go_on(self) -> None:
        """Run on, if there is something to run for."""
        self._paused = False
        if self._act is not None and self._since is None:
            self._run()

    def _run(self) -> None:
        self._since = self._reactor.seconds()
        self._call = self._reactor.callLater(max(0.0, self._left), self._fire)

    def _halt(self) -> None:
        if self._since is not None:
            passed = self._reactor.seconds() - self._since
            self._spent += passed
            self._left -= passed
            self._since = None
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _fire(self) -> None:
        act = self._act
        self.cancel()
        if act is not None:
            act()
