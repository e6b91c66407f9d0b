"""When hosts do something next, in ticks: everything within one tick is decided in one batch."""

from __future__ import annotations

import heapq

from simulator.hosts import SimulatedHost


class Agenda:
    """Each host is in it once at most: with what it does next, and none of what it meant to do before."""

    def __init__(self) -> None:
        self._hosts: dict[int, list[SimulatedHost]] = {}
        self._ticks: list[int] = []

    def put(self, host: SimulatedHost, tick: int) -> None:
        """Have a host do something in a tick, instead of whatever it meant to do."""
        host.wake_at = tick
        hosts = self._hosts.get(tick)
        if hosts is None:
            self._hosts[tick] = [host]
            heapq.heappush(self._ticks, tick)
        else:
            hosts.append(host)

    def next_tick(self) -> int | None:
        """Return the next tick in which a host does something."""
        return self._ticks[0] if self._ticks else None

    def take(self, tick: int) -> list[SimulatedHost]:
        """Return the hosts that do something by a tick, in the order in which they were put."""
        due: list[SimulatedHost] = []
        while self._ticks and self._ticks[0] <= tick:
            at = heapq.heappop(self._ticks)
            for host in self._hosts.pop(at):
                if host.wake_at == at:
                    host.wake_at = -1
                    due.append(host)
        return due
