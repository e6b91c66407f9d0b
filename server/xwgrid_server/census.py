"""Which hosts were seen lately, and of which classes their results are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from xwgrid.model import HostFacts, HostId, Instant, Program, Seconds, UserId
from xwgrid_server.store import HostRow


class _Known(NamedTuple):
    """A host that was seen lately."""

    seen_at: Instant
    owner: UserId
    facts: HostFacts | None
    programs: Mapping[str, Program]  # by runtime


class Census:
    """Counts the voters of each class of results: a job waits rather than pin a class that cannot form its quorum.

    The counts are kept, not made when asked for, and a host that was not seen for `MEMORY` is forgotten: a call costs
    the same with ten hosts and with a hundred thousand.
    """

    MEMORY: ClassVar[Seconds] = 86_400.0

    def __init__(self, rows: Iterable[HostRow], now: Instant) -> None:
        self._known: dict[HostId, _Known] = {}  # the longest unseen first
        self._voters: dict[str, dict[UserId, int]] = {}  # by class: how many hosts each owner has of it
        for row in sorted(rows, key=lambda row: row.last_seen_at or now):
            if row.state == "active":
                self.see(row, row.facts, row.last_seen_at or now)

    def see(self, host: HostRow, facts: HostFacts | None, now: Instant) -> list[str]:
        """Note that a host called, and what it says of itself; return the classes it was not known to be of."""
        before = self._known.pop(host.host, None)
        said = facts or (host.facts if before is None else before.facts)
        if before is not None and said == before.facts and host.owner == before.owner:
            self._known[host.host] = before._replace(seen_at=now)
            joined = []
        else:
            classes = _classes(said)
            for result_class in classes:
                owners = self._voters.setdefault(result_class, {})
                owners[host.owner] = owners.get(host.owner, 0) + 1
            if before is not None:
                self._leave(before)
            programs = {program.runtime: program for program in said.programs} if said is not None else {}
            self._known[host.host] = _Known(now, host.owner, said, programs)
            joined = sorted(classes - _classes(None if before is None else before.facts))
        self._forget_the_long_unseen(now - self.MEMORY)
        return joined

    def programs(self, host: HostId) -> Mapping[str, Program]:
        """Return what a host can start, by runtime."""
        known = self._known.get(host)
        return {} if known is None else known.programs

    def seen(self, result_class: str, owner: UserId | None) -> int:
        """Return how many owners have hosts of a class, seen within `MEMORY`; given an owner, how many hosts it has."""
        owners = self._voters.get(result_class, {})
        return len(owners) if owner is None else owners.get(owner, 0)

    def hosts(self) -> int:
        """Return how many hosts were seen within `MEMORY`."""
        return len(self._known)

    def _forget_the_long_unseen(self, lately: Instant) -> None:
        while self._known:
            host, known = next(iter(self._known.items()))
            if known.seen_at >= lately:
                return
            del self._known[host]
            self._leave(known)

    def _leave(self, known: _Known) -> None:
        for result_class in _classes(known.facts):
            owners = self._voters[result_class]
            owners[known.owner] -= 1
            if not owners[known.owner]:
                del owners[known.owner]
            if not owners:
                del self._voters[result_class]


def _classes(facts: HostFacts | None) -> set[str]:
    return set() if facts is None else {program.result_class for program in facts.programs}
