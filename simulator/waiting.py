"""Hosts whose calls the server holds since they found no work: `xwgrid_server.waiting_hosts`, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from simulator.hosts import SimulatedHost
from xwgrid.model import HostId, Instant


class Waiting:
    """Held calls, oldest first. New work wakes as many as there are replicas to give; who takes none wakes the next."""

    def __init__(self) -> None:
        self._waiting: dict[HostId, tuple[SimulatedHost, Instant]] = {}
        self._to_ask: deque[HostId] = deque()
        self._woken: dict[HostId, SimulatedHost] = {}

    def hold(self, host: SimulatedHost, now: Instant) -> None:
        """Keep a host's call."""
        self._waiting[host.number] = (host, now)

    def release(self, host: SimulatedHost) -> Instant | None:
        """Answer a host's call, or notice that it is gone; return since when it was held, None if it was not."""
        self._woken.pop(host.number, None)
        held = self._waiting.pop(host.number, None)
        return None if held is None else held[1]

    def wake(self, replicas: int) -> None:
        """Look again at as many held calls as there are new replicas."""
        if self._waiting:
            self._to_ask = deque(self._waiting)
            for _ in range(min(replicas, len(self._to_ask))):
                self.pass_on()

    def wake_these(self, hosts: Iterable[HostId]) -> None:
        """Look again at the held calls of these hosts: there is work for them alone."""
        for number in hosts:
            if number in self._waiting:
                self._woken[number] = self._waiting[number][0]

    def pass_on(self) -> None:
        """Look at the next held call, since one that was woken took nothing."""
        while self._to_ask:
            number = self._to_ask.popleft()
            if number in self._waiting and number not in self._woken:
                self._woken[number] = self._waiting[number][0]
                return

    def take_woken(self, most: int) -> list[SimulatedHost]:
        """Return woken hosts, at most so many; they go on waiting until they are released."""
        return [self._woken.pop(number) for number in list(self._woken)[:most]]
