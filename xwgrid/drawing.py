"""Who checks whom: a lottery among the owners who were seen lately.

A replica beyond a task's first, and every audit, is offered to an owner drawn by lot, after a delay that is short
against the task. Nobody receives one by asking first: friends who ask together are not drawn together. An offer that
is not taken in time goes to another owner; after MOST_DRAWS, or with fewer than LEAST_OWNERS to draw from, whoever asks
may have it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from random import Random
from typing import Final, NamedTuple, Protocol, TypeAlias

from xwgrid.model import Digest, HostId, Instant, JobId, Seconds, TaskNumber, UserId

# A check comes at a moment nobody can foretell, up to this share of the job's mean time of a task later.
DELAY_SHARE: Final = 0.1
LONGEST_DELAY: Final[Seconds] = 60.0
# A drawn owner is busy for the length of a task, and one more may be waiting on its machine already.
PATIENCE_TASKS: Final = 2.0
PATIENCE: Final[Seconds] = 30.0
# With fewer others about, a liar's friend is as good as certain to be drawn.
LEAST_OWNERS: Final = 3
MOST_DRAWS: Final = 3  # times that offers of one task may run out
# Checks that nobody takes are thought over after this long: those who could have done them may have left, or lied.
REMINDER: Final[Seconds] = 30.0
LONGEST_REMINDER: Final[Seconds] = 3_600.0
# After so many reminders nobody is counted on any more, whoever is about.
REMINDERS_IN_VAIN: Final = 3
# Owners looked at for one that has the scene loaded, or is proven; and for one that may have it at all.
_LOOKED_AT: Final = 8
_MOST_LOOKED_AT: Final = 24

Key: TypeAlias = tuple[JobId, TaskNumber]


class Reminders:
    """Checks that anybody may have and nobody takes: they are thought over after a while, and then ever more seldom."""

    def __init__(self) -> None:
        self._due: list[tuple[Instant, Seconds, Key]] = []
        self._watched: dict[Key, int] = {}  # how often it was reminded of a task

    def watch(self, key: Key, now: Instant, after: Seconds = REMINDER) -> None:
        """Remind of a task after `after` seconds, unless it is watched already."""
        if key not in self._watched:
            self._watched[key] = 0
            heapq.heappush(self._due, (now + after, after, key))

    def are_in_vain(self, key: Key) -> bool:
        """Say whether nobody took a task in all the time it was reminded of."""
        return self._watched.get(key, 0) >= REMINDERS_IN_VAIN

    def forget(self, key: Key) -> None:
        """Begin anew with a task somebody took."""
        if key in self._watched:
            self._watched[key] = 0

    def next_due(self) -> Instant | None:
        """Return when `due` should be asked next."""
        return self._due[0][0] if self._due else None

    def due(self, now: Instant, is_open: Callable[[Key], bool]) -> list[Key]:
        """Return the tasks to think over, of those that are still open to all."""
        found = []
        while self._due and self._due[0][0] <= now:
            _, after, key = heapq.heappop(self._due)
            if is_open(key):
                found.append(key)
                self._watched[key] += 1
                after = min(2 * after, LONGEST_REMINDER)
                heapq.heappush(self._due, (now + after, after, key))
            else:
                del self._watched[key]
        return found


class Lots:
    """Numbers in [0, 1) that depend on what they are drawn for and on a secret. See `xwgrid.policies.Lot`."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def __call__(self, *what: str | int) -> float:
        """Return the number drawn for `what`."""
        digest = blake2b(repr(what).encode(), key=self._secret, digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / (1 << 53)


class Owners(Protocol):
    """The owners that were seen lately with hosts of a class."""

    def count(self, result_class: str) -> int:
        """Return how many there are."""

    def is_about(self, result_class: str, owner: UserId) -> bool:
        """Say whether an owner is one of them."""

    def draw(self, result_class: str, random: Random) -> UserId | None:
        """Return any one of them, each with the same chance."""

    def hosts_of(self, owner: UserId) -> Iterable[HostId]:
        """Return an owner's hosts that are about."""

    def has_loaded(self, owner: UserId, spec: Digest) -> bool:
        """Say whether a host of an owner has a job's scene loaded."""

    def is_proven(self, owner: UserId) -> bool:
        """Say whether a host of an owner has proved itself."""

    def is_tested(self, owner: UserId) -> bool:
        """Say whether a host of an owner has been right once."""


class Wish(NamedTuple):
    """What is looked for: owners for the open parts of one task."""

    key: Key
    result_class: str
    spec: Digest
    proven: bool  # rather a proven owner than one with the scene loaded
    mean_seconds: Seconds  # of the job's tasks
    may: Callable[[UserId], bool]
    parts: int


class Lottery:
    """Draws owners and keeps what was offered to whom. Not thread-safe."""

    def __init__(self, owners: Owners, random: Random, least_owners: int = LEAST_OWNERS) -> None:
        self._least_owners = least_owners
        self._owners = owners
        self._random = random
        self._due: list[tuple[Instant, Key]] = []
        self._offers: dict[UserId, dict[Key, Instant]] = {}
        self._offered: dict[Key, dict[UserId, Instant]] = {}
        self._expired: dict[Key, int] = {}  # of every task in the lottery: times that offers of it ran out
        self._awaited: set[Key] = set()  # tasks for which a draw is coming

    def enough(self, result_class: str, besides: int) -> bool:
        """Say whether there are enough owners of a class, besides so many that took part, to draw from."""
        return self._owners.count(result_class) - besides >= self._least_owners

    def enter(self, key: Key, parts: int, mean_seconds: Seconds, now: Instant, not_before: Instant = 0.0) -> None:
        """Have owners drawn for a task's open parts, after a short delay, beyond those drawn already."""
        self._expired.setdefault(key, 0)
        if key not in self._awaited and parts > len(self._offered.get(key, ())):
            self._awaited.add(key)
            delay = self._random.random() * min(DELAY_SHARE * mean_seconds, LONGEST_DELAY)
            heapq.heappush(self._due, (max(now, not_before) + delay, key))

    def withdraw(self, key: Key) -> None:
        """Take a task out, with what was offered of it."""
        if self._expired.pop(key, None) is not None:
            self._awaited.discard(key)
            for owner in self._offered.pop(key, ()):
                self._forget(owner, key)

    def next_due(self) -> Instant | None:
        """Return when `due` should be asked next."""
        return self._due[0][0] if self._due else None

    def due(self, now: Instant) -> Iterator[Key]:
        """Yield the tasks for which somebody is to be drawn now; offers that were not taken in time are withdrawn."""
        while self._due and self._due[0][0] <= now:
            _, key = heapq.heappop(self._due)
            if key not in self._expired:
                continue
            self._awaited.discard(key)
            offered = self._offered.get(key, {})
            expired = [owner for owner, until in offered.items() if until <= now]
            for owner in expired:
                del offered[owner]
                self._forget(owner, key)
            self._expired[key] += bool(expired)
            yield key

    def draw(self, wish: Wish, now: Instant) -> list[UserId] | None:
        """Offer a task's open parts; return the owners drawn, or None when whoever asks is to have it."""
        offered = self._offered.setdefault(wish.key, {})
        missing = wish.parts - len(offered)
        if missing <= 0:
            return []
        if self._expired[wish.key] >= MOST_DRAWS:
            return None
        until = now + PATIENCE + PATIENCE_TASKS * wish.mean_seconds
        drawn = []
        for _ in range(missing):
            owner = self._one(wish, offered)
            if owner is None:
                break
            offered[owner] = until
            self._offers.setdefault(owner, {})[wish.key] = until
            drawn.append(owner)
        if not offered:
            return None
        heapq.heappush(self._due, (until, wish.key))
        return drawn

    def offers(self, owner: UserId) -> list[Key]:
        """Return what is offered to an owner, oldest first."""
        return list(self._offers.get(owner, ()))

    def taken(self, owner: UserId, key: Key) -> None:
        """Note that an owner took what it was offered."""
        self._offered.get(key, {}).pop(owner, None)
        self._forget(owner, key)

    def _forget(self, owner: UserId, key: Key) -> None:
        offers = self._offers.get(owner)
        if offers is not None:
            offers.pop(key, None)
            if not offers:
                del self._offers[owner]

    def _one(self, wish: Wish, offered: dict[UserId, Instant]) -> UserId | None:
        """Return an owner who may have it, the best of a few drawn."""
        best: UserId | None = None
        seen = 0
        for _ in range(_MOST_LOOKED_AT):
            owner = self._owners.draw(wish.result_class, self._random)
            if owner is None:
                return None
            if owner in offered or not wish.may(owner):
                continue
            best = owner
            seen += 1
            good = self._owners.is_proven(owner) if wish.proven else self._owners.has_loaded(owner, wish.spec)
            if good or seen >= _LOOKED_AT:
                return owner
        return best
