"""Which hosts were seen lately, and of which classes their results are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import ClassVar

from xwgrid.model import HostFacts, HostId, Instant, Program, Seconds, UserId
from xwgrid_server.store import HostRow


class Census:
    """Counts the voters of each class of results: a job waits rather than pin a class that cannot form its quorum."""

    MEMORY: ClassVar[Seconds] = 86_400.0

    def __init__(self, rows: Iterable[HostRow], now: Instant) -> None:
        self._facts: dict[HostId, HostFacts] = {}
        self._programs: dict[HostId, dict[str, Program]] = {}
        self._seen: dict[HostId, Instant] = {}
        self._owner: dict[HostId, UserId] = {}
        self._hosts_of: defaultdict[str, set[HostId]] = defaultdict(set)
        self._counts: dict[tuple[str, UserId | None], int] = {}
        self._counted_at = now
        for row in rows:
            if row.state == "active":
                self.see(row, row.facts, row.last_seen_at or now)

    def see(self, host: HostRow, facts: HostFacts | None, now: Instant) -> HostFacts | None:
        """Note that a host called, and what it says of itself; return what was known of it before."""
        known = self._facts.get(host.host)
        self._seen[host.host] = now
        self._owner[host.host] = host.owner
        news = facts or (host.facts if known is None else None)
        if news is not None and news != known:
            for program in known.programs if known is not None else ():
                self._hosts_of[program.result_class].discard(host.host)
            for program in news.programs:
                self._hosts_of[program.result_class].add(host.host)
            self._facts[host.host] = news
            self._programs[host.host] = {program.runtime: program for program in news.programs}
            self._counts.clear()
        # Counts go stale as hosts go away; a quarter of an hour is short against a day.
        if now - self._counted_at > self.MEMORY / 96:
            self._counts.clear()
            self._counted_at = now
        return known

    def programs(self, host: HostId) -> Mapping[str, Program]:
        """Return what a host can start, by runtime."""
        return self._programs.get(host, {})

    def seen(self, result_class: str, owner: UserId | None) -> int:
        """Return how many owners have hosts of a class, seen within `MEMORY`; given an owner, how many hosts it has."""
        key = (result_class, owner)
        count = self._counts.get(key)
        if count is None:
            lately = self._counted_at - self.MEMORY
            there = [host for host in self._hosts_of.get(result_class, ()) if self._seen[host] >= lately]
            if owner is None:
                count = len({self._owner[host] for host in there})
            else:
                count = sum(self._owner[host] == owner for host in there)
            self._counts[key] = count
        return count

    def hosts(self) -> int:
        """Return how many hosts are known."""
        return len(self._seen)
