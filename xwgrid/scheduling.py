"""The index of ready tasks, and which of them a host may take.

The index holds open jobs. Of each it knows a window of *fresh* tasks (no replica yet, in order of number, refilled
from the store) and all *begun* tasks that want more replicas or audits. Begun tasks are offered to owners drawn by lot
(`xwgrid.drawing`); where there are too few to draw from they lie in buckets of equal conditions, so that choosing costs
the same at a thousand and at a million open tasks. What is chosen leaves the index at once: two calls of one group
never get the same replica.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from random import Random
from typing import Final, TypeAlias

from msgspec import Struct, structs

from xwgrid.drawing import LEAST_OWNERS, Key
from xwgrid.eligibility import Census, Eligibility, HostCard, voter_of
from xwgrid.known_answers import SEATS, KnownAnswer, KnownAnswers
from xwgrid.model import (
    HostId,
    Instant,
    JobId,
    Seconds,
    TaskNumber,
    UserId,
)
from xwgrid.offers import Offers
from xwgrid.policies import uses_standing
from xwgrid.ready_tasks import JobCard, JobProgress, ReadyTask, ReadyTasks
from xwgrid.trust import is_quarantined, is_tested
from xwgrid.trust import told as told_standing
from xwgrid.turns import Turns
from xwgrid.voting import Attempt, AuditOrder

WINDOW: Final = 1_000
# Buckets a host looks at before it turns to fresh tasks. A voter is in few of them, so the first few nearly always fit.
BUCKETS_LOOKED_AT: Final = 64


class Choice(Struct, frozen=True):
    """One replica for one host. `number` is the replica's number within its task."""

    card: JobCard
    task: TaskNumber
    number: int
    voter: int
    result_class: str
    audit: AuditOrder | None = None  # the audit it is, None for a full replica
    left: tuple[AuditOrder, ...] = ()  # the task's other audits
    is_test: bool = False  # the answer is known
    is_beyond: bool = False  # more than the task asks for
    drawn: bool = True  # by lot; else the task was there for whoever asked
    pin: str | None = None  # the class that its first replica gave the task; None: this one's


# The tasks of a job that want replicas, in order of number, after a number, at most so many.
Source: TypeAlias = Callable[[JobId, int, int], Sequence[ReadyTask]]


class ReadyIndex:
    """Which tasks of which jobs want replicas. Not thread-safe: one thread decides."""

    def __init__(
        self,
        source: Source,
        census: Census,
        random: Random,
        *,
        window: int = WINDOW,
        draw_from: int = LEAST_OWNERS,
    ) -> None:
        self._source = source
        self._window = window
        self._jobs: dict[JobId, ReadyTasks] = {}
        self._offers = Offers(self._jobs, census, random, draw_from)
        self._turns = Turns()
        self.answers = KnownAnswers()
        self.eligible = Eligibility(census)

    # --- what the coordinator tells it -------------------------------------------------------------------------

    def add_job(self, card: JobCard, failures: Mapping[HostId, int], live: int, progress: JobProgress) -> None:
        """Take up an open job with what its hosts failed at, and its live leases. Again means: anew."""
        self.remove_job(card)
        self._jobs[card.job] = ReadyTasks(card, progress, failures=dict(failures))
        self._turns.count(card, live)

    def remove_job(self, card: JobCard) -> None:
        """Forget a job that ended."""
        job = self._jobs.pop(card.job, None)
        for number in () if job is None else job.begun:
            self._offers.withdraw((card.job, number))
        self._turns.count(card, -self._turns.live(card.job))
        self.answers.forget_job(card.job)

    def offer(self, job: JobId, task: ReadyTask, now: Instant) -> int:
        """Take the present truth about a begun task; one that wants nothing is taken out.

        Returns how many parts of it whoever asks may have now: those that are drawn for are none of these.
        """
        self.answers.known_of(job, task.result_class, task.number, task.made, task.voters)
        return self._offers.put(self._jobs[job], task, now) if job in self._jobs else 0

    def decided(self, known: KnownAnswer) -> None:
        """Keep a decided task of an open job for hosts that have to prove themselves."""
        if known.card.job in self._jobs and not known.card.request.private:
            self.answers.keep(known)

    def lease_ended(self, card: JobCard) -> None:
        """Count one live lease of a job less."""
        if self._turns.live(card.job) > 0:
            self._turns.count(card, -1)

    def host_failed(self, job: JobId, host: HostId) -> None:
        """Count a task of this job that this host failed."""
        if job in self._jobs:
            failures = self._jobs[job].failures
            failures[host] = failures.get(host, 0) + 1

    def counted(self, job: JobId, *, ended: int = 0, timed: int = 0, seconds: Seconds = 0.0) -> None:
        """Note that tasks of a job ended (less than 0: were opened again), and how long results of it took."""
        if job in self._jobs:
            before = self._jobs[job].progress
            self._jobs[job].progress = JobProgress(before.left - ended, before.timed + timed, before.seconds + seconds)

    def mean_seconds(self, job: JobId) -> Seconds:
        """Return how long a full replica of a job takes, 0 while that is not known."""
        return self._jobs[job].progress.mean_seconds if job in self._jobs else 0.0

    def jobs(self) -> Iterable[JobCard]:
        """Return the jobs it holds."""
        return [job.card for job in self._jobs.values()]

    def has_private(self, owner: UserId) -> bool:
        """Say whether an owner has an open job for their own hosts alone."""
        return any(job.card.owner == owner and job.card.request.private for job in self._jobs.values())

    def others(self, card: JobCard, number: TaskNumber, attempts: Sequence[Attempt], now: Instant) -> int:
        """Return how many owners (in a private job: hosts) are about who take no part in a task yet."""
        return self._offers.others(card, number, attempts, now)

    # --- the lottery --------------------------------------------------------------------------------------------

    def next_draw(self) -> Instant | None:
        """Return when `draw` should be called next."""
        return self._offers.next_due()

    def to_think_over(self, now: Instant) -> list[Key]:
        """Return tasks whose checks nobody took for a while."""
        return self._offers.to_think_over(now)

    def draw(self, now: Instant) -> tuple[list[UserId], int]:
        """Draw owners for the checks that are due; return them, and how many parts whoever asks may have now."""
        return self._offers.draw(now)

    # --- the choice ---------------------------------------------------------------------------------------------

    def choose(self, host: HostCard, wanted: int, now: Instant) -> list[Choice]:
        """Return at most `wanted` replicas for this host, and take them out of the index.

        What its owner was drawn for comes first. Then jobs go by priority, by how few leases their owner has, and by
        age; a voter never gets two full replicas of one task. A new host begins with a task whose answer is known.
        """
        if is_quarantined(host.standing, now):
            return []
        if not is_tested(host.standing):
            fitting = self._fitting(host)
            if fitting is not None:
                chosen = self._asked_for(host, wanted, now, private_only=True)
                if chosen or host.has_frame or self.answers.is_tested(host.host, now):
                    return chosen
                first = self._first_task(host, fitting, now) or self._of_fixed_job(host, now)
                return [] if first is None else [first]
        chosen = self._drawn(host, wanted, now)
        return chosen + self._asked_for(host, wanted - len(chosen), now)

    def reason(self, host: HostCard, now: Instant) -> str:
        """Return, in one sentence, why `choose` found nothing for this host."""
        if is_quarantined(host.standing, now):
            return f"this host is {told_standing(host.standing, now)}"
        if not is_tested(host.standing) and (host.has_frame or self.answers.is_tested(host.host, now)):
            return "this host is new, and more comes when its first result has proved right"
        if not self._jobs:
            return "there is no open job"
        reasons: dict[str, None] = {}
        for job in islice(self._jobs.values(), 20):
            refusal = self.eligible.refusal(job, host)
            reasons[
                refusal or "every open task is taken, or was voted on by this host's owner, or failed on this host"
            ] = None
        return "; ".join(islice(reasons, 3))

    def _fitting(self, host: HostCard) -> ReadyTasks | None:
        """Return a public job that goes by standing and that this host could have work of."""
        jobs = (job for job in self._jobs.values() if uses_standing(job.card.request) and not job.card.request.private)
        return next((job for job in jobs if self.eligible.refusal(job, host) is None), None)

    def _first_task(self, host: HostCard, fitting: ReadyTasks, now: Instant) -> Choice | None:
        """Return what a new host begins with: a known answer, what others are at, or a fresh or begun task."""
        result_class = self.eligible.class_of(fitting, host)

        def fits(job: JobId) -> bool:
            return job in self._jobs and self.eligible.refusal(self._jobs[job], host) is None

        known = self.answers.take(host.host, host.owner, result_class, fits)
        beside = known or self.answers.join_nursery(host.host, host.owner, result_class, fits)
        if beside is not None:
            return self._beyond(beside, host, now, is_test=known is not None)
        jobs = [job for job in self._turns.in_order(self._jobs, host, now) if self.eligible.refusal(job, host) is None]
        for job in jobs:
            while not job.fresh and not job.exhausted:
                self._refill(job, now)
            if not job.fresh:
                continue
            task = job.next_fresh()
            choice = self._take(job, host, task, drawn=False, now=now)
            self.answers.begin(host.host, job.card.job)
            if uses_standing(job.card.request) and not job.card.request.private:
                voters = frozenset({choice.voter})
                seat = KnownAnswer(job.card, task.number, task.made + 1, result_class, voters | task.voters)
                self.answers.open_nursery(seat)
            return choice
        # Nothing fresh is left, and nobody else may be here to check what is begun.
        for job in self._jobs.values():
            if uses_standing(job.card.request) and self.eligible.refusal(job, host) is None:
                for begun in job.begun.values():
                    suits = begun.suits(host.owner, host.host, self.eligible.class_of(job, host))
                    if suits and len(begun.voters) < SEATS and job.is_open_to_all(begun.number):
                        seat = KnownAnswer(job.card, begun.number, begun.made, result_class, begun.voters)
                        self.answers.begin(host.host, job.card.job)
                        return self._beyond(seat, host, now)
        return None

    def _of_fixed_job(self, host: HostCard, now: Instant) -> Choice | None:
        """Return a task of a job that does not ask how hosts stand."""
        jobs = (job for job in self._turns.in_order(self._jobs, host, now) if not uses_standing(job.card.request))
        return next(filter(None, (self._from_job(job, host, now) for job in jobs)), None)

    def _beyond(self, answer: KnownAnswer, host: HostCard, now: Instant, *, is_test: bool = False) -> Choice:
        """Return a replica of a task more than it asks for."""
        job = self._jobs[answer.card.job]
        result_class = self.eligible.class_of(job, host)
        begun = job.begun.get(answer.task)
        if begun is not None:
            voters = begun.voters | {host.owner}
            after = structs.replace(begun, made=answer.made + 1, result_class=result_class, voters=voters)
            self._offers.put(job, after, now)
        self._turns.count(answer.card, 1)
        return Choice(answer.card, answer.task, answer.made, host.owner, result_class, is_test=is_test, is_beyond=True)

    def _asked_for(self, host: HostCard, wanted: int, now: Instant, *, private_only: bool = False) -> list[Choice]:
        """Return what a host may have since it asks. What is private is between its owner's hosts, new or not."""
        chosen: list[Choice] = []
        while len(chosen) < wanted:
            for job in self._turns.in_order(self._jobs, host, now):
                if private_only and not job.card.request.private:
                    continue
                choice = self._from_job(job, host, now)
                if choice is not None:
                    chosen.append(choice)
                    break
            else:
                break
        return chosen

    def _drawn(self, host: HostCard, wanted: int, now: Instant) -> list[Choice]:
        chosen: list[Choice] = []
        for key in self._offers.of(host.owner):
            if len(chosen) >= wanted:
                break
            job = self._jobs[key[0]]
            task = job.begun[key[1]]
            if self.eligible.refusal(job, host) is not None or self.eligible.class_of(job, host) != task.result_class:
                continue
            if task.fits(host.owner, host.host, self.eligible.class_of(job, host)):
                self._offers.taken(host.owner, key)
                chosen.append(self._take(job, host, task, drawn=True, now=now))
        return chosen

    def _from_job(self, job: ReadyTasks, host: HostCard, now: Instant) -> Choice | None:
        if self.eligible.refusal(job, host) is not None:
            return None
        voter = voter_of(job.card.request, host)
        task = self._begun_for(job, host, voter)
        while task is None and not job.fresh and not job.exhausted:
            self._refill(job, now)
            task = self._begun_for(job, host, voter)
        if task is None and job.fresh:
            task = job.next_fresh()
        return None if task is None else self._take(job, host, task, drawn=False, now=now)

    def _take(self, job: ReadyTasks, host: HostCard, task: ReadyTask, *, drawn: bool, now: Instant) -> Choice:
        voter, result_class = voter_of(job.card.request, host), self.eligible.class_of(job, host)
        audit = task.audits[0] if task.has_audit_for(voter, result_class) else None
        after = task.after_audit(voter) if audit is not None else task.after_full(voter, result_class)
        self._offers.put(job, after, now)
        self._offers.somebody_took((job.card.job, task.number))
        self.answers.known_of(job.card.job, result_class, task.number, after.made, after.voters)
        self._turns.count(job.card, 1)
        number, check = task.made, bool(task.voters)
        return Choice(
            job.card,
            task.number,
            number,
            voter,
            result_class,
            audit,
            after.audits,
            drawn=drawn or not check,
            pin=after.result_class,
        )

    def _begun_for(self, job: ReadyTasks, host: HostCard, voter: int) -> ReadyTask | None:
        # Once there is nothing fresh to turn to, every bucket is looked at.
        most = None if job.exhausted and not job.fresh else BUCKETS_LOOKED_AT
        result_class = self.eligible.class_of(job, host)
        for task in job.open_tasks((result_class, None, *self.eligible.pins_alike(job, result_class)), most):
            if task.fits(voter, host.host, result_class):
                return task
        return None

    def _refill(self, job: ReadyTasks, now: Instant) -> None:
        tasks = self._source(job.card.job, job.cursor, self._window)
        job.exhausted = len(tasks) < self._window
        for begun in job.refill(tasks):
            self._offers.put(job, begun, now)
