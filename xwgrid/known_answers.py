"""What a new host begins with: a task whose answer is known, or one that other new hosts are at.

Before the first answers are known new hosts do the same task, and its vote tells who of them is right: that costs no
more than a test, and nobody gets anything else until it has passed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from xwgrid.model import HostId, Instant, JobId, Seconds, TaskNumber, UserId
from xwgrid.policies import ENOUGH_NEW_HOSTS
from xwgrid.ready_tasks import JobCard

# Answers that are kept of each class, and how many of them are looked at for one that fits a host.
MOST_KEPT: Final = 64
_LOOKED_AT: Final = 8
# New hosts that begin with one and the same undecided task: when all have answered, their vote decides.
SEATS: Final = ENOUGH_NEW_HOSTS
# A new host whose first result still waits for others to vote goes on with other work after this long.
PATIENCE: Final[Seconds] = 120.0


class KnownAnswer(NamedTuple):
    """A decided task of an open job that more than one voter had a look at."""

    card: JobCard
    task: TaskNumber
    made: int
    result_class: str
    voters: frozenset[int]  # who took part in it, tests included


class KnownAnswers:
    """The answers that are known, and which hosts are being tested."""

    def __init__(self) -> None:
        self._known: dict[str, deque[KnownAnswer]] = {}  # by class
        self._nurseries: dict[str, KnownAnswer] = {}  # by class: the undecided task that new hosts are at
        self._tests: dict[HostId, tuple[JobId, Instant | None]] = {}  # hosts that are at their first task, and how long

    def keep(self, known: KnownAnswer) -> None:
        """Keep a task that was decided."""
        nursery = self._nurseries.get(known.result_class)
        if nursery is not None and (nursery.card.job, nursery.task) == (known.card.job, known.task):
            del self._nurseries[known.result_class]
            known = known._replace(made=max(known.made, nursery.made), voters=known.voters | nursery.voters)
        self._known.setdefault(known.result_class, deque(maxlen=MOST_KEPT)).append(known)

    def take(self, host: HostId, owner: UserId, result_class: str, fits: Callable[[JobId], bool]) -> KnownAnswer | None:
        """Return a task to test a host with, of a job that `fits`, if there is one its owner has no part in."""
        known = self._known.get(result_class, deque())
        for _ in range(min(len(known), _LOOKED_AT)):
            answer = known.popleft()
            if owner in answer.voters or owner == answer.card.owner or not fits(answer.card.job):
                known.append(answer)
                continue
            known.append(answer._replace(made=answer.made + 1, voters=answer.voters | {owner}))
            self.begin(host, answer.card.job)
            return answer
        return None

    def open_nursery(self, first: KnownAnswer) -> None:
        """Let further new hosts begin with a task that one of them has just taken."""
        self._nurseries[first.result_class] = first

    def join_nursery(
        self, host: HostId, owner: UserId, result_class: str, fits: Callable[[JobId], bool]
    ) -> KnownAnswer | None:
        """Return the undecided task that new hosts of a class are at, if there is a seat for one more."""
        task = self._nurseries.get(result_class)
        if task is None or not fits(task.card.job) or len(task.voters) >= SEATS:
            return None
        if owner in task.voters or owner == task.card.owner:
            return None
        self._nurseries[result_class] = task._replace(made=task.made + 1, voters=task.voters | {owner})
        self.begin(host, task.card.job)
        return task

    def known_of(
        self, job: JobId, result_class: str | None, number: TaskNumber, made: int, voters: frozenset[int]
    ) -> None:
        """Take how many replicas were made of a task, and by whom, in case new hosts are at it."""
        for pin, task in list(self._nurseries.items()) if self._nurseries else ():
            if task.card.job != job or task.task != number:
                continue
            if result_class in {None, pin}:
                self._nurseries[pin] = task._replace(made=max(made, task.made), voters=task.voters | voters)
            else:
                del self._nurseries[pin]  # it was lost, and begun anew in another class

    def begin(self, host: HostId, job: JobId) -> None:
        """Note that a host is at its first task."""
        self._tests[host] = (job, None)

    def is_tested(self, host: HostId, now: Instant) -> bool:
        """Say whether a host is at its first task, or waits for the word on it."""
        _, until = self._tests.get(host, (None, now))
        return until is None or now < until

    def handed_in(self, host: HostId, now: Instant) -> None:
        """Note that what a host made of its first task is in the box."""
        if host in self._tests:
            self._tests[host] = (self._tests[host][0], now + PATIENCE)

    def test_ended(self, host: HostId) -> bool:
        """Note that there is a word on a host's first task, or none will come; say whether it waited for one."""
        return self._tests.pop(host, None) is not None

    def forget_task(self, job: JobId, task: TaskNumber) -> None:
        """Forget a task whose verdict is taken back, or that is no nursery any more."""
        self._forget(lambda answer: answer.card.job == job and answer.task == task)

    def forget_job(self, job: JobId) -> None:
        """Forget everything of a job."""
        self._forget(lambda answer: answer.card.job == job)
        self._tests = {host: at for host, at in self._tests.items() if at[0] != job}

    def _forget(self, which: Callable[[KnownAnswer], bool]) -> None:
        for known in self._known.values():
            for answer in [answer for answer in known if which(answer)]:
                known.remove(answer)
        self._nurseries = {pin: task for pin, task in self._nurseries.items() if not which(task)}
