"""Hosts whose calls the server holds since they found no work: `xwgrid_server.waiting_hosts`, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from simulator.hosts import SimulatedHost
from xwgrid.model import HostId


class Waiting:
    """Held calls, oldest first. New work wakes as many as there are replicas to give; who takes none wakes the next."""

    def __init__(self) -> None:
        self._waiting: dict[HostId, SimulatedHost] = {}
        self._to_ask: deque[HostId] = deque()
        self._woken: dict[HostId, SimulatedHost] = {}

    def hold(self, host: SimulatedHost) -> None:
        """Keep a host's call."""
        self._waiting.pop(host.number, None)
        self._waiting[host.number] = host

    def release(self, host: SimulatedHost) -> None:
        """Answer a host's call, or notice that it is gone."""
        self._waiting.pop(host.number, None)
        self._woken.pop(host.number, None)

    def wake(self, replicas: int) -> None:
        """Look again at as many held calls as there are new replicas."""
        if self._waiting:
            self._to_ask = deque(self._waiting)
            for _ in range(min(replicas, len(self._to_ask))):
                self.pass_on()

    def wake_these(self, hosts: Iterable[HostId]) -> None:
        """Look again at the held calls of these hosts: there is work for them alone."""
        for number in hosts:
            host = self._waiting.get(number)
            if host is not None:
                self._woken[number] = host

    def pass_on(self) -> None:
        """Look at the next held call, since one that was woken took nothing."""
        while self._to_ask:
            host = self._waiting.get(self._to_ask.popleft())
            if host is not None and host.number not in self._woken:
                self._woken[host.number] = host
                return

    def take_woken(self, most: int) -> list[SimulatedHost]:
        """Return woken hosts, at most so many; they go on waiting until they are released."""
        return [self._woken.pop(number) for number in list(self._woken)[:most]]
