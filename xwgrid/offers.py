"""To whom begun tasks are offered: to owners drawn by lot, or to whoever asks where too few are about to draw from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from xwgrid.drawing import REMINDER, Key, Lottery, Reminders, Wish
from xwgrid.eligibility import Census, voter_of_host
from xwgrid.model import Credibility, Instant, JobId, TaskNumber, UserId
from xwgrid.policies import policy_of, uses_standing
from xwgrid.ready_tasks import JobCard, ReadyTask, ReadyTasks, takes_part
from xwgrid.voting import Attempt


class Offers:
    """What the checks of all begun tasks wait for. `jobs` is the index's own."""

    def __init__(self, jobs: Mapping[JobId, ReadyTasks], census: Census, random: Random, draw_from: int) -> None:
        self._jobs = jobs
        self._census = census
        self._draw_from = draw_from
        self._lottery = Lottery(census, random, draw_from)
        self._reminders = Reminders()

    def of(self, owner: UserId) -> list[Key]:
        """Return what an owner was drawn for, oldest first."""
        return self._lottery.offers(owner)

    def taken(self, owner: UserId, key: Key) -> None:
        """Note that an owner took what it was drawn for."""
        self._lottery.taken(owner, key)

    def somebody_took(self, key: Key) -> None:
        """Note that a task is not there in vain."""
        self._reminders.forget(key)

    def withdraw(self, key: Key) -> None:
        """Offer nothing of a task any more."""
        self._lottery.withdraw(key)

    def others(self, card: JobCard, number: TaskNumber, attempts: Sequence[Attempt], now: Instant) -> int:
        """Return how many owners (in a private job: hosts) are about who take no part in a task yet.

        None when they were waited for in vain: they want no work, or may not have this.
        """
        if self._reminders.are_in_vain((card.job, number)):
            return 0
        taking_part = {attempt.voter: attempt.result_class for attempt in attempts if takes_part(attempt)}
        result_class = next(iter(taking_part.values()), "")
        if now < self._census.settled_at:
            seen = self._census.seen(result_class, card.owner if card.request.private else None)
            return max(0, seen - len(taking_part))
        if card.request.private:
            return sum(voter_of_host(host) not in taking_part for host in self._census.hosts_of(card.owner))
        kept_out = {card.owner, *taking_part}
        return self._census.count(result_class) - sum(
            self._census.is_about(result_class, UserId(owner)) for owner in kept_out
        )

    def next_due(self) -> Instant | None:
        """Return when `draw` or `to_think_over` should be called next."""
        return min(filter(None, (self._lottery.next_due(), self._reminders.next_due())), default=None)

    def to_think_over(self, now: Instant) -> list[Key]:
        """Return tasks whose checks nobody took for a while."""
        return self._reminders.due(now, self._has_open_checks)

    def _has_open_checks(self, key: Key) -> bool:
        job = self._jobs.get(key[0])
        return job is not None and key[1] in job.begun and job.is_open_to_all(key[1])

    def draw(self, now: Instant) -> tuple[list[UserId], int]:
        """Draw owners for the checks that are due; return them, and how many parts whoever asks may have now."""
        drawn: list[UserId] = []
        opened = 0
        for key in self._lottery.due(now):
            job = self._jobs[key[0]]
            task = job.begun[key[1]]
            owners = self._lottery.draw(self._wish(job, task), now) if self._is_drawn_for(job, task) else None
            if owners is None:
                self._lottery.withdraw(key)
                self._open_to_all(job, task, now)
                opened += task.parts
            else:
                drawn += owners
        return drawn, opened

    def _wish(self, job: ReadyTasks, task: ReadyTask) -> Wish:
        card = job.card

        by_standing = uses_standing(card.request)

        def may(owner: UserId) -> bool:
            if owner == card.owner or owner in task.voters or (by_standing and not self._census.is_tested(owner)):
                return False
            # Who looked at a part of a frame votes on all of it only if nobody else can.
            return owner not in task.auditors

        return Wish(
            key=(card.job, task.number),
            result_class=task.result_class or "",
            spec=card.spec,
            proven=isinstance(policy_of(card.request), Credibility),
            mean_seconds=job.progress.mean_seconds,
            may=may,
            parts=task.parts,
        )

    def put(self, job: ReadyTasks, task: ReadyTask, now: Instant) -> int:
        """Take the present truth about a begun task; return how many parts of it whoever asks may have now."""
        key = (job.card.job, task.number)
        task = job.put(task)
        if task.parts == 0:
            self._lottery.withdraw(key)
        elif self._is_drawn_for(job, task):
            self._lottery.enter(key, task.parts, job.progress.mean_seconds, now)
        elif now < self._census.settled_at and self._may_be_drawn_for(job, task):
            self._lottery.enter(key, task.parts, job.progress.mean_seconds, now, self._census.settled_at)
        else:
            self._lottery.withdraw(key)
            self._open_to_all(job, task, now)
            return task.parts
        return 0

    def _open_to_all(self, job: ReadyTasks, task: ReadyTask, now: Instant) -> None:
        job.open_to_all(task.number)
        # Whether more will come of a task whose results differ hangs on who is about.
        if task.audits or (len(task.voters) > 1 and uses_standing(job.card.request)):
            self._reminders.watch((job.card.job, task.number), now, max(REMINDER, job.progress.mean_seconds))

    def _is_drawn_for(self, job: ReadyTasks, task: ReadyTask) -> bool:
        """Say whether a task's checks are drawn: those of a public job, when enough others are about."""
        if job.card.request.private or not task.voters or task.result_class is None:
            return False
        return self._lottery.enough(task.result_class, len(task.voters | task.auditors))

    def _may_be_drawn_for(self, job: ReadyTasks, task: ReadyTask) -> bool:
        """Say whether there were enough others before the server's last start, who have still to call."""
        if job.card.request.private or not task.voters or task.result_class is None:
            return False
        return self._census.seen(task.result_class, None) - len(task.voters | task.auditors) >= self._draw_from
