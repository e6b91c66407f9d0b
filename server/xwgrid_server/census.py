"""Which hosts were seen lately, of which classes their results are, and whom to draw from."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from random import Random
from typing import ClassVar, TypeVar

from msgspec import Struct, structs

from xwgrid.drawing import LEAST_OWNERS
from xwgrid.model import Digest, HostFacts, HostId, Instant, Program, Seconds, UserId
from xwgrid.trust import Standing, is_proven, is_quarantined, is_tested
from xwgrid_server.store import HostRow

Key = TypeVar("Key")


class _Known(Struct, frozen=True):
    """A host that was seen lately."""

    seen_at: Instant
    owner: UserId
    facts: HostFacts | None
    programs: Mapping[str, Program]  # by runtime


class _Urn:
    """Owners that can be drawn, each once however many hosts it has."""

    def __init__(self) -> None:
        self._owners: list[UserId] = []
        self._place: dict[UserId, int] = {}
        self._hosts: dict[UserId, int] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, owner: UserId) -> bool:
        return owner in self._place

    def put(self, owner: UserId) -> None:
        """Count one more host of an owner."""
        hosts = self._hosts[owner] = self._hosts.get(owner, 0) + 1
        if hosts == 1:
            self._place[owner] = len(self._owners)
            self._owners.append(owner)

    def take(self, owner: UserId) -> None:
        """Count one host of an owner less."""
        self._hosts[owner] -= 1
        if not self._hosts[owner]:
            del self._hosts[owner]
            place, last = self._place.pop(owner), self._owners.pop()
            if last != owner:
                self._owners[place] = last
                self._place[last] = place

    def draw(self, random: Random) -> UserId | None:
        """Return any owner, each with the same chance."""
        return self._owners[int(random.random() * len(self._owners))] if self._owners else None


class Census:
    """Counts the voters of each class of results: a job waits rather than pin a class that cannot form its quorum.

    The counts are kept, not made when asked for, and a host that was not seen for `MEMORY` is forgotten: a call costs
    the same with ten hosts and with a hundred thousand. Hosts that could still hold a lease are *about*: their owners
    are those from whom auditors are drawn.
    """

    MEMORY: ClassVar[Seconds] = 86_400.0

    def __init__(self, rows: Iterable[HostRow], now: Instant, settles_in: Seconds = 0.0) -> None:
        # Both in the order in which the hosts were last seen, and no host in both. In a plain dictionary whose first
        # entries were taken out again and again, every look for the first one walks over all the gaps.
        self._away: OrderedDict[HostId, _Known] = OrderedDict()
        self._about: OrderedDict[HostId, _Known] = OrderedDict()
        self._voters: dict[str, dict[UserId, int]] = {}  # by class: how many hosts each owner has of it
        self._urns: dict[str, _Urn] = {}  # by class, of the hosts that are about
        self._hosts_of: dict[UserId, dict[HostId, None]] = {}  # those that are about
        self._loaded: dict[HostId, tuple[Digest, ...]] = {}
        self._proven: dict[HostId, bool] = {}  # and whether the operator vouched for it
        self._proven_of: dict[str, Counter[UserId]] = {}  # by class and by runtime: how many of these each owner has
        self._vouched_of: Counter[str] = Counter()  # by class: those the operator vouched for
        self._tested: set[HostId] = set()
        self._drawable: set[HostId] = set()  # those about who are not set aside
        for row in sorted(rows, key=lambda row: row.last_seen_at or now):
            if row.state == "active":
                self.see(row, row.facts, row.last_seen_at or now, self.MEMORY)
                self.calls(row.host, (), row.standing, now)
        self._part(now)
        # Hosts could not call while there was no server: who is about is known when they had the time to.
        self.settled_at = now + settles_in if self._away else now

    def see(self, host: HostRow, facts: HostFacts | None, now: Instant, about_for: Seconds) -> list[str]:
        """Note that a host called, and what it says of itself; return the classes it was not known to be of.

        Others that did not call for `about_for` seconds are not about any more.
        """
        number = host.host
        before = self._about.pop(number, None)
        was_about = before is not None
        if before is None:
            before = self._away.pop(number, None)
        joined: list[str] = []
        if before is not None and host.owner == before.owner and (facts is None or facts == before.facts):
            known = structs.replace(before, seen_at=now)
            if not was_about:
                self._come(number, known)
        else:
            said = facts or (host.facts if before is None else before.facts)
            known = _Known(now, host.owner, said, _programs(said))
            if number in self._proven:
                self._count_proven(number, before, -1)
                self._count_proven(number, known, 1)
            joined = sorted(_classes(known) - _classes(before))
            for result_class in _classes(known):
                owners = self._voters.setdefault(result_class, {})
                owners[host.owner] = owners.get(host.owner, 0) + 1
            if before is not None:
                self._leave(before)
                if was_about:
                    self._go(number, before)
            self._come(number, known)
        self._about[number] = known
        self._part(now - about_for)
        self._forget(now - self.MEMORY)
        return joined

    def calls(self, host: HostId, loaded: tuple[Digest, ...], standing: Standing, now: Instant) -> None:
        """Note which jobs' scenes a host has loaded, and how it stands: one that is set aside is not drawn."""
        known = self._about.get(host) or self._away.get(host)
        if host in self._about and known is not None and is_quarantined(standing, now) == (host in self._drawable):
            (self._go if host in self._drawable else self._come)(host, known)
        if loaded:
            self._loaded[host] = loaded
        else:
            self._loaded.pop(host, None)
        vouched = standing.vouched if is_proven(standing) else None
        if vouched != self._proven.get(host):
            if host in self._proven:
                self._count_proven(host, known, -1)
                del self._proven[host]
            if vouched is not None:
                self._proven[host] = vouched
                self._count_proven(host, known, 1)
        if is_tested(standing) != (host in self._tested):
            (self._tested.discard if host in self._tested else self._tested.add)(host)

    def programs(self, host: HostId) -> Mapping[str, Program]:
        """Return what a host can start, by runtime."""
        known = self._about.get(host) or self._away.get(host)
        return {} if known is None else known.programs

    def seen(self, result_class: str, owner: UserId | None) -> int:
        """Return how many owners have hosts of a class, seen within `MEMORY`; given an owner, how many hosts it has."""
        owners = self._voters.get(result_class, {})
        return len(owners) if owner is None else owners.get(owner, 0)

    def is_established(self, result_class: str, runtime: str) -> bool:
        """Say whether a class is one that friends cannot have made up.

        The operator vouched for a host of it; or as many owners proved themselves with it as it takes for a draw, or
        all who did with any class of that runtime.
        """
        owners = len(self._proven_of.get(result_class, ()))
        enough = min(LEAST_OWNERS, len(self._proven_of.get(runtime, ())))
        return owners >= enough or self._vouched_of[result_class] > 0

    def hosts(self) -> int:
        """Return how many hosts were seen within `MEMORY`."""
        return len(self._about) + len(self._away)

    # --- to draw from (xwgrid.drawing.Owners) -------------------------------------------------------------------

    def count(self, result_class: str) -> int:
        """Return how many owners with hosts of a class are about."""
        urn = self._urns.get(result_class)
        return 0 if urn is None else len(urn)

    def is_about(self, result_class: str, owner: UserId) -> bool:
        """Say whether an owner has hosts of a class that are about."""
        urn = self._urns.get(result_class)
        return urn is not None and owner in urn

    def draw(self, result_class: str, random: Random) -> UserId | None:
        """Return any one of them, each with the same chance."""
        urn = self._urns.get(result_class)
        return None if urn is None else urn.draw(random)

    def hosts_of(self, owner: UserId) -> Iterable[HostId]:
        """Return an owner's hosts that are about."""
        return self._hosts_of.get(owner, ())

    def has_loaded(self, owner: UserId, spec: Digest) -> bool:
        """Say whether a host of an owner has a job's scene loaded."""
        return any(spec in self._loaded.get(host, ()) for host in self._hosts_of.get(owner, ()))

    def is_proven(self, owner: UserId) -> bool:
        """Say whether a host of an owner has proved itself."""
        return any(host in self._proven for host in self._hosts_of.get(owner, ()))

    def is_tested(self, owner: UserId) -> bool:
        """Say whether a host of an owner has been right once."""
        return not self._tested.isdisjoint(self._hosts_of.get(owner, ()))

    # --- coming and going ---------------------------------------------------------------------------------------

    def _come(self, host: HostId, known: _Known) -> None:
        self._drawable.add(host)
        self._hosts_of.setdefault(known.owner, {})[host] = None
        for result_class in _classes(known):
            urn = self._urns.get(result_class)
            if urn is None:
                urn = self._urns[result_class] = _Urn()
            urn.put(known.owner)

    def _go(self, host: HostId, known: _Known) -> None:
        if host not in self._drawable:
            return
        self._drawable.discard(host)
        hosts = self._hosts_of[known.owner]
        del hosts[host]
        if not hosts:
            del self._hosts_of[known.owner]
        for result_class in _classes(known):
            self._urns[result_class].take(known.owner)
            if not self._urns[result_class]:
                del self._urns[result_class]

    def _part(self, lately: Instant) -> None:
        while self._about:
            host, known = next(iter(self._about.items()))
            if known.seen_at >= lately:
                return
            del self._about[host]
            self._loaded.pop(host, None)
            self._go(host, known)
            self._away[host] = known

    def _forget(self, lately: Instant) -> None:
        while self._away:
            host, known = next(iter(self._away.items()))
            if known.seen_at >= lately:
                return
            del self._away[host]
            if host in self._proven:
                self._count_proven(host, known, -1)
                del self._proven[host]
            self._tested.discard(host)
            self._leave(known)

    def _count_proven(self, host: HostId, known: _Known | None, more: int) -> None:
        if known is None:
            return
        for program in known.programs.values():
            if self._proven[host]:
                _add(self._vouched_of, program.result_class, more)
            for name in (program.runtime, program.result_class):
                owners = self._proven_of.setdefault(name, Counter())
                _add(owners, known.owner, more)
                if not owners:
                    del self._proven_of[name]

    def _leave(self, known: _Known) -> None:
        for result_class in _classes(known):
            owners = self._voters[result_class]
            owners[known.owner] -= 1
            if not owners[known.owner]:
                del owners[known.owner]
            if not owners:
                del self._voters[result_class]


def _add(counts: Counter[Key], key: Key, more: int) -> None:
    """Count more, or fewer, and keep nothing of what there is none of."""
    counts[key] += more
    if not counts[key]:
        del counts[key]


def _programs(facts: HostFacts | None) -> dict[str, Program]:
    """Return what a host can start, by runtime. A class is of one runtime, whose name it begins with."""
    said = () if facts is None else facts.programs
    return {program.runtime: program for program in said if program.result_class.startswith(f"{program.runtime} ")}


def _classes(known: _Known | None) -> set[str]:
    return set() if known is None else {program.result_class for program in known.programs.values()}
