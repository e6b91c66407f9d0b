"""Whose turn it is: which of the open jobs a host is offered first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop
from typing import Final, TypeAlias

from xwgrid.eligibility import HostCard
from xwgrid.model import Instant, JobId, UserId
from xwgrid.ready_tasks import JobCard, ReadyTasks

# A host that has a job's scene loaded counts as this many leases less for the job's owner: a scene load is worth that.
LOADED_BONUS: Final = 2

# Priority and time trouble, then the owner's leases, then age. The last one tells any two jobs apart.
_Rank: TypeAlias = tuple[int, bool, int, JobId]


class Turns:
    """Puts jobs in order: by priority, those in time trouble first, by how few leases their owner has, and by age."""

    def __init__(self) -> None:
        self._live: dict[JobId, int] = {}  # live leases of each job
        self._live_of: dict[UserId, int] = {}  # and of each requester

    def live(self, job: JobId) -> int:
        """Return how many live leases a job has."""
        return self._live.get(job, 0)

    def count(self, card: JobCard, leases: int) -> None:
        """Count so many live leases of a job more, or less."""
        self._live[card.job] = self._live.get(card.job, 0) + leases
        self._live_of[card.owner] = self._live_of.get(card.owner, 0) + leases
        if not self._live[card.job]:
            del self._live[card.job]
        if not self._live_of[card.owner]:
            del self._live_of[card.owner]

    def in_order(self, jobs: Mapping[JobId, ReadyTasks], host: HostCard, now: Instant) -> Iterator[ReadyTasks]:
        """Yield the jobs that may have something for whoever asks.

        Mostly the host takes the first: the others are put in order only as far as they are asked for.
        """
        ranks = [self._rank(job, host, now) for job in jobs.values() if job.has_any]
        heapify(ranks)
        while ranks:
            yield jobs[heappop(ranks)[-1]]

    def _rank(self, job: ReadyTasks, host: HostCard, now: Instant) -> _Rank:
        card = job.card
        leases = self._live_of.get(card.owner, 0) - (LOADED_BONUS if card.spec in host.loaded else 0)
        in_time = card.request.deadline is None or not job.is_late(self._live.get(card.job, 0), now)
        return (-card.request.priority, in_time, leases, card.job)
