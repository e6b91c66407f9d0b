"""Calls that found no work and are held: the long poll."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred

from xwgrid.model import HostId
from xwgrid.wire import WorkAnswer
from xwgrid_server.calls import Call


@dataclass
class _Waiting:
    call: Call
    answer: Deferred[WorkAnswer]
    nothing: WorkAnswer  # what to say if no work comes
    timer: Any
    woken: bool = False  # it is being looked at again


class WaitingHosts:
    """Held calls, oldest first. New work wakes as many of them as there are replicas to give.

    A woken call that finds nothing goes on waiting and the next one is woken in its place, until the work is placed or
    every host has been asked.
    """

    def __init__(self, clock: Any, look_again: Callable[[Call, Deferred[WorkAnswer]], None]) -> None:
        self._clock = clock
        self._look_again = look_again
        self._waiting: dict[HostId, _Waiting] = {}
        self._to_ask: deque[HostId] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def hold(self, call: Call, answer: Deferred[WorkAnswer], nothing: WorkAnswer) -> None:
        """Keep a call until there is work or its time is up."""
        waiting = self._waiting.get(call.host)
        if waiting is not None and waiting.answer is answer:
            waiting.nothing = nothing  # it was woken in vain, and has waited a part of its time
            waiting.woken = False
            self.pass_on()
            return
        self.release(call.host)
        timer = self._clock.callLater(call.request.wait_seconds, self.release, call.host)
        self._waiting[call.host] = _Waiting(call, answer, nothing, timer)

    def release(self, host: HostId) -> None:
        """End a host's held call without work."""
        waiting = self._waiting.pop(host, None)
        if waiting is not None:
            _stop(waiting)
            if not waiting.answer.called:
                waiting.answer.callback(waiting.nothing)

    def release_all(self) -> None:
        """End every held call without work."""
        for host in list(self._waiting):
            self.release(host)

    def forget(self, host: HostId, answer: Deferred[WorkAnswer]) -> None:
        """Drop a held call that was answered, or whose caller went away."""
        waiting = self._waiting.get(host)
        if waiting is not None and waiting.answer is answer:
            del self._waiting[host]
            _stop(waiting)

    def wake(self, replicas: int | None) -> None:
        """Look again for as many held calls as there are new replicas; None: for all."""
        self._to_ask = deque(self._waiting)
        for _ in range(len(self._to_ask) if replicas is None else min(replicas, len(self._to_ask))):
            self.pass_on()

    def wake_these(self, hosts: Iterable[HostId]) -> None:
        """Look again for the held calls of these hosts: there is work for them alone."""
        for host in hosts:
            waiting = self._waiting.get(host)
            if waiting is not None and not waiting.woken and not waiting.answer.called:
                waiting.woken = True
                self._look_again(waiting.call, waiting.answer)

    def pass_on(self) -> None:
        """Look again for the next held call, since one that was woken took nothing."""
        while self._to_ask:
            waiting = self._waiting.get(self._to_ask.popleft())
            # One that is being looked at already stands for the work that woke it, not for this.
            if waiting is not None and not waiting.woken and not waiting.answer.called:
                waiting.woken = True
                self._look_again(waiting.call, waiting.answer)
                return


def _stop(waiting: _Waiting) -> None:
    if waiting.timer.active():
        waiting.timer.cancel()
