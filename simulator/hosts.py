"""Simulated hosts: what they are, and what they make of the replicas they are given."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from random import Random
from statistics import NormalDist
from typing import Final

from simulator.chance import log_normal, lot, mixed
from simulator.contents import Content, altered_all_over, lie
from simulator.jobs import SimulatedJob
from simulator.scenario import Costs, Hosts, Scenario
from xwgrid.auditing import Strip, parse_strips
from xwgrid.model import Digest, HostFacts, HostId, Instant, Program, Seconds, TaskNumber, UserId
from xwgrid.wire import Lease, WorkRequest

_NORMAL: Final = NormalDist()


class Draw(IntEnum):
    """What a chance is drawn for."""

    ERROR = 1
    LIE = 2
    PLACE = 3
    ACCUSE = 4
    FAIL = 5
    VANISH = 6
    WHEN = 7
    FRAME = 8


class End(IntEnum):
    """How the work on a replica ends."""

    RESULT = 0
    FAILURE = 1
    SILENCE = 2  # the host vanishes


class Made:
    """What a replica holds, and what it took."""

    __slots__ = ("content", "cost", "spent", "strips")

    def __init__(self, content: Content, strips: tuple[Strip, ...] | None, cost: float) -> None:
        self.content = content
        self.strips = strips  # of an audit
        self.cost = cost  # in frames
        self.spent = 0.0  # of this cost


class Making:
    """A replica in the hands of a host."""

    __slots__ = ("began_at", "end", "job", "lease", "made", "seconds")

    def __init__(self, job: SimulatedJob, lease: Lease, made: Made, seconds: Seconds, end: End) -> None:
        self.job = job
        self.lease = lease
        self.made = made
        self.seconds = seconds  # on its host, without loading the scene
        self.end = end
        self.began_at: Instant = 0.0


class SimulatedHost:
    """One host, as it is now."""

    __slots__ = (
        "asked",
        "calls",
        "done_at",
        "facts",
        "full",
        "group",
        "heartbeat",
        "leaves_at",
        "loaded",
        "making",
        "moves",
        "number",
        "online",
        "owner",
        "queue",
        "result_class",
        "ring",
        "speed",
        "taken",
        "wake_at",
    )

    def __init__(self, number: HostId, owner: UserId, group: Hosts, speed: float) -> None:
        self.number = number
        self.owner = owner
        self.group = group
        self.speed = speed
        self.ring = 0
        self.result_class = 0
        self.facts: HostFacts | None = None  # until it has told them
        self.online = False
        self.leaves_at: Instant = math.inf
        self.wake_at = -1  # the tick in which it does something next
        self.making: Making | None = None
        self.queue: tuple[Lease, ...] = ()  # what it makes next: a lease that nobody listed comes again
        self.done_at: Instant = math.inf
        self.heartbeat: Seconds = 0.0  # call within this time, the server said
        self.calls = 0
        self.taken = 0  # replicas of any kind
        self.full = 0  # full ones
        self.moves = 0  # times it came or left
        self.loaded: Digest | None = None  # the specification of the job whose scene it has
        self.asked: WorkRequest | None = None  # the call that is held

    @property
    def lies(self) -> bool:
        """Whether it ever means to."""
        return self.group.lie_rate > 0 or self.group.accuse_rate > 0


class Workshop:
    """Decides what hosts make of their leases."""

    def __init__(self, scenario: Scenario) -> None:
        self._seed = scenario.seed
        self._share = scenario.lie_share
        self._costs: Costs = scenario.costs
        self._right: dict[int, Content] = {}  # by class: most results are one of these

    def begin(self, host: SimulatedHost, lease: Lease, job: SimulatedJob) -> Making:
        """Return what a host will make of a lease."""
        written = lease.arguments.get("strips")
        strips = None if written is None else parse_strips(str(written), job.height)
        host.taken += 1
        if strips is None:
            content, cost = self._full(host, lease, job), 1.0
            host.full += 1
        else:
            content = self._audit(host, lease, job)
            cost = sum(self._costs.kappa + strip.rows / job.height for strip in strips)
        group = host.group
        end = End.RESULT
        if group.failure_rate and self._lot(Draw.FAIL, host) < group.failure_rate:
            end = End.FAILURE
        elif group.vanish_rate and self._lot(Draw.VANISH, host) < group.vanish_rate:
            end = End.SILENCE
        seconds = cost * self._frame_seconds(job, lease.task) / host.speed
        return Making(job, lease, Made(content, strips, cost), seconds, end)

    def loading(self, host: SimulatedHost, spec: Digest) -> Seconds:
        """Return how long a host takes to load the scene of a job; from then on it has it."""
        if host.loaded == spec:
            return 0.0
        host.loaded = spec
        return self._costs.load_seconds / host.speed

    def stops_after(self, host: SimulatedHost) -> float:
        """Return after which share of its present replica a host fails or vanishes."""
        return self._lot(Draw.WHEN, host)

    def _full(self, host: SimulatedHost, lease: Lease, job: SimulatedJob) -> Content:
        group = host.group
        if group.lie_rate and host.full >= group.honest_first:
            who = host.ring or -host.number
            if lot(self._seed, Draw.LIE, who, lease.job, lease.task) < group.lie_rate:
                place = lot(self._seed, Draw.PLACE, who, lease.job, lease.task)
                identity = mixed(self._seed, who, lease.job, lease.task)
                told = lie(host.result_class, identity, job.height, self._share, place)
                if host.ring:
                    job.lies[host.ring, lease.task] = told
                return told
        return self._honest(host, job)

    def _audit(self, host: SimulatedHost, lease: Lease, job: SimulatedJob) -> Content:
        """Who audits is not told whose result it is, but friends know on which tasks one of them lied."""
        friends_lie = job.lies.get((host.ring, lease.task)) if host.ring else None
        if friends_lie is not None:
            return friends_lie
        group = host.group
        dares = group.accuse_rate and host.full >= group.honest_first
        if dares and self._lot(Draw.ACCUSE, host) < group.accuse_rate:
            return altered_all_over(host.result_class, self._own(host), job.height)
        return self._honest(host, job)

    def _honest(self, host: SimulatedHost, job: SimulatedJob) -> Content:
        if host.group.honest_error_rate and self._lot(Draw.ERROR, host) < host.group.honest_error_rate:
            return altered_all_over(host.result_class, self._own(host), job.height)
        return self._right.setdefault(host.result_class, Content(host.result_class))

    def _own(self, host: SimulatedHost) -> int:
        return mixed(self._seed, -host.number, -host.taken)

    def _lot(self, draw: Draw, host: SimulatedHost) -> float:
        return lot(self._seed, draw, host.number, host.taken)

    def _frame_seconds(self, job: SimulatedJob, task: TaskNumber) -> Seconds:
        if not job.frame_spread:
            return job.frame_seconds
        z = _NORMAL.inv_cdf(min(max(lot(self._seed, Draw.FRAME, job.number, task), 1e-9), 1 - 1e-9))
        return job.frame_seconds * math.exp(job.frame_spread * z - job.frame_spread**2 / 2)


def make_hosts(scenario: Scenario, random: Random) -> Iterator[SimulatedHost]:
    """Yield all hosts of a scenario, those of one owner one after the other."""
    rings: dict[str, int] = {}
    classes: dict[str, int] = {}
    facts: dict[str, HostFacts] = {}
    number = owner = 0
    for group in scenario.hosts:
        owners = min(group.owners or group.count, group.count)
        ring = rings.setdefault(group.ring, len(rings) + 1) if group.ring is not None else 0
        names, weights = list(group.classes), list(group.classes.values())
        for index in range(group.count):
            number += 1
            host = SimulatedHost(
                HostId(number),
                UserId(owner + 1 + index * owners // group.count),
                group,
                log_normal(1.0, group.speed_spread, random),
            )
            host.ring = ring
            name = random.choices(names, weights)[0]
            host.result_class = classes.setdefault(name, len(classes))
            host.facts = facts.setdefault(name, _facts(name))
            yield host
        owner += owners


def _facts(result_class: str) -> HostFacts:
    return HostFacts(
        name="simulated",
        system="Linux x86_64",
        processor="simulated",
        cores=8,
        memory_bytes=16 << 30,
        programs=(Program(runtime="blender", version="4.5.15", result_class=result_class),),
        sandbox="bubblewrap 0.8.0",
        client_version="simulated",
    )
