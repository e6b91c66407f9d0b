"""Counts what happens in a simulation, for the report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from simulator.hosts import Made, SimulatedHost
from simulator.jobs import SimulatedJob
from simulator.memory_store import MemoryStore
from simulator.report import Figures, Sample
from xwgrid.model import HostId, Instant, ReplicaId, ReplicaState, Seconds, UserId

# Samples that are kept at most: with more, every second one is dropped.
MOST_SAMPLES = 400
_MINUTE: Seconds = 60.0


class Tally:
    """Sums over the whole run."""

    def __init__(self, start: Instant) -> None:
        self._start = start
        self.accepted = 0
        self.given_up = 0
        self.work = 0.0
        self.useful = 0.0
        self.full = 0
        self.audits = 0
        self.cold_audits = 0
        self.strips = 0
        self.wrong = 0
        self.reopened = 0
        self.changed = 0
        self.calls = 0
        self.jobs: list[SimulatedJob] = []
        self.first_frames: list[Seconds] = []
        self.samples: list[Sample] = []
        self._calls_in: dict[int, int] = {}  # by minute
        self._speed_there = 0.0  # of the hosts that are there
        self._capacity = 0.0  # what they could have done by now, in seconds of a host of speed 1
        self._capacity_at = start

    # --- as it happens ------------------------------------------------------------------------------------------

    def called(self, calls: int, now: Instant) -> None:
        """Count calls that hosts made."""
        self.calls += calls
        minute = int((now - self._start) // _MINUTE)
        self._calls_in[minute] = self._calls_in.get(minute, 0) + calls

    def held(self, since: Instant, every: Seconds, now: Instant) -> None:
        """Count how often a call that was held was repeated meanwhile."""
        for number in range(1, int((now - since) / every) + 1):
            self.called(1, since + number * every)

    def there(self, speed: float, now: Instant) -> None:
        """Count a host that came, or with a speed below 0 one that left."""
        self._capacity += self._speed_there * (now - self._capacity_at)
        self._capacity_at = now
        self._speed_there += speed

    def began(self, made: Made, *, cold: bool) -> None:
        """Count a replica that was begun."""
        if made.strips is None:
            self.full += 1
        else:
            self.audits += 1
            self.strips += len(made.strips)
            self.cold_audits += cold

    def spent(self, made: Made, share: float) -> None:
        """Count the work on a replica that ended after this share of it."""
        made.spent = made.cost * min(1.0, max(0.0, share))
        self.work += made.spent

    def job_ended(self, job: SimulatedJob, made: Mapping[ReplicaId, Made], store: MemoryStore) -> None:
        """Look at what a job's requester gets."""
        self.jobs.append(job)
        accepted = 0
        for each in store.accepted(job.number):
            accepted += 1
            self.wrong += not made[each.replica].content.is_right
            self.reopened += each.before is not None
            self.changed += each.before is not None and each.before != each.replica
        self.accepted += accepted
        self.given_up += job.frames - accepted
        first = store.first_agreed_at(job.number)
        if first is not None:
            self.first_frames.append(first - job.handed_in_at)

    def job_forgotten(self, job: SimulatedJob, made: Mapping[ReplicaId, Made], store: MemoryStore) -> None:
        """Count which work of a job was of use. Called once nothing of it is out any more."""
        for attempt in store.replicas_of(job.number):
            if attempt.state is ReplicaState.AGREED and attempt.replica in made:
                self.useful += made[attempt.replica].spent

    def sample(self, now: Instant, accepted: int, busy: int, there: int, caught: int) -> None:
        """Note how things stand."""
        self.samples.append(
            Sample(
                seconds=now - self._start,
                accepted=accepted,
                wrong_accepted=self.wrong,
                work=self.work,
                busy_share=busy / there if there else 0.0,
                caught=caught,
            )
        )
        if len(self.samples) > MOST_SAMPLES:
            self.samples = self.samples[::2]

    # --- in the end ---------------------------------------------------------------------------------------------

    def figures(
        self, tasks: int, frame_seconds: Seconds, hosts: Sequence[SimulatedHost], caught: set[HostId], now: Instant
    ) -> Figures:
        """Return the report's figures; `frame_seconds` is the work of all jobs, once, on a host of speed 1."""
        self.there(0.0, now)
        makespan = max(now - self._start, 1e-9)
        mean_speed = self._capacity / makespan
        ideal = frame_seconds / mean_speed if mean_speed else 0.0
        liars = {host.number for host in hosts if host.lies}
        promised = [job for job in self.jobs if job.request.deadline is not None]
        met = sum((job.ended_at or now) <= (job.request.deadline or 0.0) for job in promised)
        return Figures(
            tasks=tasks,
            accepted=self.accepted,
            given_up=self.given_up,
            replicas_per_task=self.work / tasks,
            full_replicas_per_task=self.full / tasks,
            audits_per_task=self.audits / tasks,
            strips_per_task=self.strips / tasks,
            cold_audits_share=self.cold_audits / self.audits if self.audits else 0.0,
            wrong_accepted=self.wrong,
            wrong_accepted_share=self.wrong / self.accepted if self.accepted else 0.0,
            wasted_work_share=max(0.0, 1.0 - self.useful / self.work) if self.work else 0.0,
            makespan_seconds=makespan,
            ideal_seconds=ideal,
            makespan_over_ideal=makespan / ideal if ideal else 0.0,
            first_frame_seconds=statistics.median(self.first_frames) if self.first_frames else 0.0,
            fairness=fairness(self._slowdowns(mean_speed)),
            deadlines_met_share=met / len(promised) if promised else None,
            calls=self.calls,
            calls_per_second=self.calls / makespan,
            most_calls_per_second=max(self._calls_in.values(), default=0) / _MINUTE,
            reopened=self.reopened,
            changed_verdicts=self.changed,
            liars=len(liars),
            liars_caught=len(liars & caught),
            honest_hosts_caught=len(caught - liars),
        )

    def _slowdowns(self, speed: float) -> list[float]:
        """Return by requester how much longer its jobs took than with the whole grid to themselves, on average."""
        by_requester: dict[UserId, list[float]] = {}
        for job in self.jobs:
            alone = job.frame_seconds * max(1.0, job.frames / speed if speed else 1.0)
            slowdown = ((job.ended_at or job.handed_in_at) - job.handed_in_at) / alone
            by_requester.setdefault(job.requester, []).append(slowdown)
        return [statistics.fmean(each) for each in by_requester.values()]


def fairness(values: Sequence[float]) -> float:
    """Return Jain's index of fairness, from 1 / n (one has it all) to 1 (all alike).

    Jain, Chiu and Hawe, A Quantitative Measure of Fairness, DEC Research Report TR-301, 1984.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0
