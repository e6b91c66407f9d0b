"""The simulation itself: discrete events in virtual time around the coordinator that the server runs."""

from __future__ import annotations

import gc
import math
import resource
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import Final, TypeVar

from xwgrid_server.calls import Call, Effects, LeaseTerms, Reading, ReadOrder
from xwgrid_server.coordinator import Coordinator

from simulator.agenda import Agenda
from simulator.chance import mixed
from simulator.contents import alike, difference, fingerprint
from simulator.hosts import SimulatedHost, make_hosts
from simulator.jobs import SimulatedJob, Stream, simulated, streams
from simulator.memory_store import MemoryStore
from simulator.report import Cost, SimulationReport
from simulator.scenario import Scenario, seconds_of_work
from simulator.tally import Tally
from simulator.volunteers import Volunteers, World
from simulator.waiting import Waiting
from xwgrid.drawing import LEAST_OWNERS
from xwgrid.errors import Unavailable
from xwgrid.model import Instant, JobId, Seconds
from xwgrid.tolerances import LEAST_SAMPLES, MARGIN, WIDEST, Tolerance
from xwgrid.trust import Standing
from xwgrid.wire import WorkRequest

T = TypeVar("T")

# Nobody asks for the fingerprint of strips: they are laid beside frames.
_OF_STRIPS: Final = "f" * 64

# How a host stands that has done its part long since.
PROVEN: Final = Standing(proven=True, valid=100, streak=100, tested=True)
# As the server does: calls decided together at most.
MOST_CALLS_PER_BATCH: Final = 1_000
# When the simulated grid begins: any moment would do.
START: Final[Instant] = 1_800_000_000.0
# How often it is looked whether jobs are to be handed in, and how things stand.
LOOKS_EVERY: Final[Seconds] = 10.0
SAMPLES_EVERY: Final[Seconds] = 300.0
# Hosts that are set aside come back after some days; if no job ends for longer than this, none ever will.
GIVES_UP_AFTER: Final[Seconds] = 10 * 86_400.0


class Simulation:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._step = scenario.server.batch_seconds
        self._tick = 0
        self._store = MemoryStore(forgives=not scenario.server.sets_aside)
        self._agenda, self._waiting, self._tally = Agenda(), Waiting(), Tally(START)
        world = World(self._store, self._agenda, self._waiting, self._tally, START)
        self._jobs, self._made = world.jobs, world.made
        self._volunteers = Volunteers(scenario, world)
        self._hosts: list[SimulatedHost] = []
        self._streams = list(streams(scenario, START))
        self._stream_of: dict[JobId, Stream] = {}
        self._closing: dict[JobId, SimulatedJob] = {}  # ended, but late results may come
        self._readings: list[Reading] = []
        self._look_at = self._sample_at = self._expire_at = self._ended_at = START
        self._in_coordinator: Seconds = 0.0
        random = Random(mixed(scenario.seed, 1))
        for host in make_hosts(scenario, random):
            self._hosts.append(host)
            self._store.add_host(host.number, host.owner, host.facts, PROVEN if host.group.proven else None)
            self._volunteers.at(host, START + random.random() * host.group.joins_within_seconds)
        for pair in scenario.tolerances:
            self._store.measured(_tolerance(*sorted(pair)))
        terms = LeaseTerms(
            heartbeat_seconds=scenario.server.heartbeat_seconds,
            draw_from=LEAST_OWNERS if scenario.server.draws else len(self._hosts) + 1,
        )
        self._coordinator = Coordinator(self._store, terms, START, Random(mixed(scenario.seed, 2)))

    @property
    def now(self) -> Instant:
        """What the simulated clocks show."""
        return START + self._tick * self._step

    def run(self) -> SimulationReport:
        """Run until the last job has ended. Raises Unavailable when nothing happens any more and jobs are open."""
        began, computed = time.perf_counter(), time.process_time()
        while not self._is_done():
            self._one_tick()
        self._close(at_once=True)
        return self._report(time.perf_counter() - began, time.process_time() - computed)

    def _is_done(self) -> bool:
        return all(stream.is_done and not stream.open for stream in self._streams)

    def _one_tick(self) -> None:
        self._tick = max(self._tick, self._next_tick())
        now = self.now
        if now >= self._look_at:
            self._look(now)
        draw_at = self._coordinator.next_draw()
        if draw_at is not None and draw_at <= now:
            self._follow(self._timed(lambda: self._coordinator.draw(now)))
        if now >= self._expire_at:
            self._expire_at = now + self._scenario.server.expire_every
            self._follow(self._timed(lambda: self._coordinator.expire(now)))
        calls = []
        for host in self._agenda.take(self._tick):
            request = self._volunteers.act(host, now)
            if request is not None:
                calls.append((host, request))
        self._tally.called(len(calls), now)
        for first in range(0, len(calls), MOST_CALLS_PER_BATCH):
            self._serve(calls[first : first + MOST_CALLS_PER_BATCH])
        if self._readings and not calls:
            self._serve([])
        while woken := self._waiting.take_woken(MOST_CALLS_PER_BATCH):
            self._look_again(woken)
        self._tick += 1

    def _next_tick(self) -> int:
        """Return the next tick in which anything happens; every look is one."""
        moments = [self._look_at]
        draw_at = self._coordinator.next_draw()
        if draw_at is not None:
            moments.append(draw_at)
        ticks = [math.ceil((moment - START) / self._step) for moment in moments]
        host_tick = self._agenda.next_tick()
        if host_tick is not None:
            ticks.append(host_tick)
        return self._tick if self._readings else min(ticks)

    # --- the server's side --------------------------------------------------------------------------------------

    def _serve(self, calls: Sequence[tuple[SimulatedHost, WorkRequest]]) -> None:
        readings, self._readings = self._readings, []
        asked = [Call(host.number, request) for host, request in calls]
        served = self._timed(lambda: self._coordinator.serve(asked, readings, self.now))
        for (host, request), answer in zip(calls, served.answers, strict=True):
            self._volunteers.hear(host, request, answer, self.now)
        self._follow(served.effects)

    def _look_again(self, hosts: Sequence[SimulatedHost]) -> None:
        """Look at held calls again; of each that still finds nothing, at the next one in its place."""
        asked = [Call(host.number, host.asked, news=False) for host in hosts if host.asked is not None]
        served = self._timed(lambda: self._coordinator.serve(asked, [], self.now))
        for host, answer in zip(hosts, served.answers, strict=True):
            if isinstance(answer, Exception) or not answer.leases:
                self._waiting.pass_on()
            elif host.asked is not None:
                self._volunteers.wake(host, self.now)
                self._volunteers.hear(host, host.asked, answer, self.now)
        self._follow(served.effects)

    def _timed(self, step: Callable[[], T]) -> T:
        began = time.perf_counter()
        made = step()
        self._in_coordinator += time.perf_counter() - began
        return made

    def _follow(self, effects: Effects) -> None:
        for order in effects.to_read:
            self._readings.append(self._read(order))
        for job in effects.ended:
            self._job_ended(job)
        if effects.wanted:
            self._waiting.wake(effects.wanted)
        if effects.drawn:
            self._waiting.wake_these(effects.drawn)

    def _read(self, order: ReadOrder) -> Reading:
        """Do what a reader process does: look at a result, and lay others beside it."""
        made = self._made[order.job]
        one = made[order.replica]
        height = self._jobs[order.job].height
        differences = {}
        for other in order.others:
            beside = made[other.replica]
            if other.tolerance is None:
                strips = beside.strips if one.strips is None else one.strips
                differences[other.replica] = difference(one.content, beside.content, height, strips)
            elif alike(one.content, beside.content):
                differences[other.replica] = 0.0
        if one.strips is None:
            return Reading(order.replica, fingerprint(one.content, order.job, order.task), differences)
        return Reading(order.replica, _OF_STRIPS, differences)

    # --- the requesters' side -----------------------------------------------------------------------------------

    def _look(self, now: Instant) -> None:
        self._look_at = now + LOOKS_EVERY
        for stream in self._streams:
            while stream.hands_in(now, self._open_frames(stream), len(self._hosts)):
                self._hand_in(stream, now)
            due_at = stream.due_at()
            if due_at is not None and due_at > now:
                self._look_at = min(self._look_at, due_at)
        self._close(at_once=False)
        if now >= self._sample_at:
            self._sample_at = now + SAMPLES_EVERY
            self._sample(now)
        if now - self._ended_at > GIVES_UP_AFTER:
            left = ", ".join(str(job) for job in list(self._stream_of)[:5])
            raise Unavailable(f"no job of the scenario has ended for ten days; among those that are open: {left}")

    def _open_frames(self, stream: Stream) -> int:
        return sum(job.frames - self._store.ended_tasks(job.number) for job in stream.open.values())

    def _hand_in(self, stream: Stream, now: Instant) -> None:
        requester, request = stream.request(now)
        stream.handed_in += 1
        spec = f"{mixed(self._scenario.seed, 3, len(self._stream_of), stream.handed_in, requester):064x}"
        number = self._coordinator.begin_job(requester, request, spec, frozenset((spec,)), now)
        job = simulated(stream.jobs, number, requester, request, now)
        self._jobs[number] = stream.open[number] = job
        self._made[number] = {}
        self._stream_of[number] = stream
        entered = self._coordinator.enter(number)
        while entered.left:
            entered = self._coordinator.enter(number)
        self._waiting.wake(entered.replicas)

    def _job_ended(self, number: JobId) -> None:
        stream = self._stream_of.pop(number, None)
        if stream is None:
            return  # late results of a job that had ended
        job = stream.open.pop(number)
        job.ended_at = self._ended_at = self.now
        self._tally.job_ended(job, self._made[number], self._store)
        self._closing[number] = job

    def _close(self, *, at_once: bool) -> None:
        """Forget jobs of which nothing more can come."""
        if at_once:
            for host in self._hosts:
                self._volunteers.stop(host, self.now)
        for number, job in list(self._closing.items()):
            if at_once or self._store.is_over(number):
                self._tally.job_forgotten(job, self._made[number], self._store)
                self._store.forget(number)
                del self._closing[number], self._made[number], self._jobs[number]

    # --- the report ---------------------------------------------------------------------------------------------

    def _sample(self, now: Instant) -> None:
        accepted = self._tally.accepted + sum(self._store.agreed_tasks(job) for job in self._stream_of)
        there = sum(host.online for host in self._hosts)
        busy = sum(host.making is not None for host in self._hosts)
        self._tally.sample(now, accepted, busy, there, len(self._store.caught()))

    def _report(self, wall: Seconds, processor: Seconds) -> SimulationReport:
        scenario = self._scenario
        tasks = sum(jobs.count * jobs.frames for jobs in scenario.jobs)
        work = sum(map(seconds_of_work, scenario.jobs))
        self._sample(self._ended_at)
        figures = self._tally.figures(tasks, work, self._hosts, self._store.caught(), self._ended_at)
        replicas = self._tally.full + self._tally.audits
        return SimulationReport(
            scenario=scenario.name,
            seed=scenario.seed,
            policy=scenario.policy,
            hosts=len(self._hosts),
            lie_share=scenario.lie_share,
            kappa=scenario.costs.kappa,
            figures=figures,
            samples=tuple(self._tally.samples),
            cost=Cost(
                wall_seconds=wall,
                processor_seconds=processor,
                coordinator_share=self._in_coordinator / wall,
                microseconds_per_replica=1e6 * processor / max(1, replicas),
                peak_memory_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1_024,
            ),
        )


def _tolerance(class_a: str, class_b: str) -> Tolerance:
    """Return a tolerance between two classes; how close is close the simulated contents say."""
    return Tolerance(
        application="blender",
        class_a=class_a,
        class_b=class_b,
        share=WIDEST.share,
        largest=WIDEST.largest,
        block=WIDEST.block,
        measured_at=START,
        samples=LEAST_SAMPLES,
        margin=MARGIN,
    )


def simulate(scenario: Scenario) -> SimulationReport:
    """Run a scenario from beginning to end. Raises Unavailable when it comes to none."""
    simulation = Simulation(scenario)
    # Nothing here is kept in cycles, and looking for some among a hundred thousand hosts takes as long as all the rest.
    gc.collect()
    gc.disable()
    try:
        return simulation.run()
    finally:
        gc.enable()
