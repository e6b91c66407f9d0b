"""Tasks whose answer is known: what a new host makes of one tells what it is worth."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from typing import Final, NamedTuple

from xwgrid.model import HostId, JobId, TaskNumber, UserId
from xwgrid.ready_tasks import JobCard

# Answers that are kept of each class, and how many of them are looked at for one that fits a host.
MOST_KEPT: Final = 64
_LOOKED_AT: Final = 8


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
        self._tests: dict[HostId, JobId] = {}  # hosts that are at one

    def keep(self, known: KnownAnswer) -> None:
        """Keep a task that was decided."""
        self._known.setdefault(known.result_class, deque(maxlen=MOST_KEPT)).append(known)

    def take(self, host: HostId, owner: UserId, result_class: str, open_jobs: Container[JobId]) -> KnownAnswer | None:
        """Return a task of an open job for a host to be tested with, if there is one that its owner has no part in."""
        known = self._known.get(result_class, deque())
        for _ in range(min(len(known), _LOOKED_AT)):
            answer = known.popleft()
            if answer.card.job not in open_jobs:
                continue
            if owner in answer.voters or owner == answer.card.owner:
                known.append(answer)
                continue
            known.append(answer._replace(made=answer.made + 1, voters=answer.voters | {owner}))
            self._tests[host] = answer.card.job
            return answer
        return None

    def is_tested(self, host: HostId) -> bool:
        """Say whether a host is at such a task, or what it made of it is being read."""
        return host in self._tests

    def test_ended(self, host: HostId) -> None:
        """Note that a host's test is over."""
        self._tests.pop(host, None)

    def forget_task(self, job: JobId, task: TaskNumber) -> None:
        """Forget a task whose verdict is taken back."""
        self._forget(lambda answer: answer.card.job == job and answer.task == task)

    def forget_job(self, job: JobId) -> None:
        """Forget everything of a job."""
        self._forget(lambda answer: answer.card.job == job)
        self._tests = {host: of for host, of in self._tests.items() if of != job}

    def _forget(self, which: Callable[[KnownAnswer], bool]) -> None:
        for known in self._known.values():
            for answer in [answer for answer in known if which(answer)]:
                known.remove(answer)
