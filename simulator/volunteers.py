"""What simulated hosts do when their time comes, and what they make of the server's answers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random
from typing import Final

from simulator.agenda import Agenda
from simulator.chance import mixed, time_away, time_there
from simulator.contents import fingerprint
from simulator.hosts import End, Made, Making, SimulatedHost, Workshop
from simulator.jobs import SimulatedJob
from simulator.memory_store import MemoryStore
from simulator.scenario import Scenario
from simulator.tally import Tally
from simulator.waiting import Waiting
from xwgrid.applications.registry import application_of
from xwgrid.auditing import audit_names
from xwgrid.errors import GridError
from xwgrid.model import Cause, Instant, JobId, ReplicaId, ResultFile, Seconds
from xwgrid.trust import is_quarantined
from xwgrid.wire import MAX_WAIT_SECONDS, Failed, Finished, HandedBack, Held, Lease, Report, WorkAnswer, WorkRequest

# A volunteer calls before the time is up: a tenth is left for the way.
HEARTBEAT_SHARE: Final = 0.9
# Friends call together, at moments that are so many seconds apart.
RINGS_CALL_EVERY: Final = 10.0
_FRAME_BYTES: Final = 2_000_000
_STRIP_BYTES: Final = 20_000


@dataclass
class World:
    """What the hosts' side and the server's side of a simulation share."""

    store: MemoryStore
    agenda: Agenda
    waiting: Waiting
    tally: Tally
    start: Instant
    jobs: dict[JobId, SimulatedJob] = field(default_factory=dict)  # those that are not forgotten
    made: dict[JobId, dict[ReplicaId, Made]] = field(default_factory=dict)  # all that was made for them


class Volunteers:
    """The hosts' side of the conversation."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._seed = scenario.seed
        self._server = scenario.server
        self._store, self._agenda, self._waiting, self._tally = world.store, world.agenda, world.waiting, world.tally
        self._jobs, self._made = world.jobs, world.made
        self._start = world.start
        self._workshop = Workshop(scenario)

    def at(self, host: SimulatedHost, moment: Instant) -> None:
        """Have a host do something at a moment, or when it leaves if that is sooner."""
        tick = math.ceil((min(moment, host.leaves_at) - self._start) / self._server.batch_seconds)
        self._agenda.put(host, tick)

    def act(self, host: SimulatedHost, now: Instant) -> WorkRequest | None:
        """Do what is due, and return the call that a host makes, None for none."""
        self.wake(host, now)
        if not host.online:
            return self._come(host, now)
        if now >= host.leaves_at:
            return self._leave(host, now)
        making = host.making
        if making is None:
            return self._ask(host)
        if now < host.done_at:
            done = Held(replica=making.lease.replica, done=self._done(making, now))
            return self._call(host, held=(done, *_listed(host.queue)))
        return self._finish(host, making, now)

    def hear(self, host: SimulatedHost, request: WorkRequest, answer: WorkAnswer | GridError, now: Instant) -> None:
        """Take an answer in."""
        if not host.online:
            return  # it has left; what it was given runs out
        if isinstance(answer, GridError):
            self.at(host, now + self._server.turned_away_seconds)
            return
        host.heartbeat = answer.heartbeat_seconds
        if answer.ended:
            self._drop(host, {ended.replica for ended in answer.ended}, now)
        for lease in answer.leases:
            if host.making is None or host.making.lease.replica != lease.replica:
                host.queue = (*(each for each in host.queue if each.replica != lease.replica), lease)
        if host.making is not None:
            self._next_call(host, now)
        elif host.queue:
            self._begin(host, now)
        elif is_quarantined(self._store.standing(host.number), now):
            self.at(host, now + self._server.turned_away_seconds)
        elif request.reports or answer.ended:
            self.at(host, now + self._server.batch_seconds)  # such a call is not held: it asks at once
        else:
            host.asked = request
            self._waiting.hold(host, now)
            self.at(host, now + max(self._server.ask_again_seconds, host.heartbeat * HEARTBEAT_SHARE))

    def wake(self, host: SimulatedHost, now: Instant) -> None:
        """End a host's held call, if it has one, and count how often it was repeated meanwhile."""
        held_since = self._waiting.release(host)
        if held_since is not None:
            self._tally.held(held_since, self._server.ask_again_seconds, now)

    def stop(self, host: SimulatedHost, now: Instant) -> None:
        """End the simulation for a host: count what it did of what it has in hand."""
        if host.making is not None:
            self._tally.spent(host.making.made, self._done(host.making, now))

    # --- coming and going ---------------------------------------------------------------------------------------

    def _come(self, host: SimulatedHost, now: Instant) -> WorkRequest:
        host.online = True
        self._tally.there(host.speed, now)
        availability = host.group.availability
        host.leaves_at = math.inf if availability is None else now + time_there(availability, self._luck(host))
        return self._ask(host)

    def _leave(self, host: SimulatedHost, now: Instant) -> WorkRequest | None:
        availability = host.group.availability
        luck = self._luck(host)
        away = time_away(availability, luck) if availability is not None else host.group.vanish_seconds
        leases = host.queue if host.making is None else (host.making.lease, *host.queue)
        self._go(host, now, away)
        if not leases or availability is None or luck.random() >= availability.hands_back:
            return None
        outcome = HandedBack(cause=Cause.SHUTDOWN)
        return self._call(host, reports=tuple(Report(replica=lease.replica, outcome=outcome) for lease in leases))

    def _go(self, host: SimulatedHost, now: Instant, away: Seconds) -> None:
        if host.making is not None:
            self._tally.spent(host.making.made, self._done(host.making, now))
        host.making, host.queue = None, ()
        host.online = False
        host.leaves_at = math.inf
        host.loaded = None
        self._tally.there(-host.speed, now)
        self.at(host, now + away)

    def _luck(self, host: SimulatedHost) -> Random:
        """Return chances for a host's coming and going, the same whatever it was given to do."""
        host.moves += 1
        return Random(mixed(self._seed, host.number, host.moves))

    # --- work ---------------------------------------------------------------------------------------------------

    def _begin(self, host: SimulatedHost, now: Instant) -> None:
        lease, *queue = host.queue
        host.queue = tuple(queue)
        job = self._jobs[lease.job]
        making = self._workshop.begin(host, lease, job)
        self._made[lease.job][lease.replica] = making.made
        self._tally.began(making.made, cold=host.loaded != lease.spec)
        making.began_at = now + self._workshop.loading(host, lease.spec)
        time = making.seconds
        if making.end is not End.RESULT:
            time *= self._workshop.stops_after(host)
        host.making, host.asked = making, None
        host.done_at = making.began_at + time
        if host.ring:
            host.done_at = math.ceil(host.done_at / RINGS_CALL_EVERY) * RINGS_CALL_EVERY
        self._next_call(host, now)

    def _next_call(self, host: SimulatedHost, now: Instant) -> None:
        self.at(host, min(host.done_at, now + host.heartbeat * HEARTBEAT_SHARE))

    def _drop(self, host: SimulatedHost, ended: set[ReplicaId], now: Instant) -> None:
        """Stop with what the server does not want any more."""
        host.queue = tuple(lease for lease in host.queue if lease.replica not in ended)
        if host.making is not None and host.making.lease.replica in ended:
            self._tally.spent(host.making.made, self._done(host.making, now))
            host.making = None

    def _done(self, making: Making, now: Instant) -> float:
        """Return which share of a replica is done."""
        if not making.seconds:
            return 1.0
        return min(1.0, max(0.0, (now - making.began_at) / making.seconds))

    def _finish(self, host: SimulatedHost, making: Making, now: Instant) -> WorkRequest | None:
        if making.end is End.SILENCE:
            self._go(host, now, host.group.vanish_seconds)
            return None
        share = self._done(making, now) if making.end is End.FAILURE else 1.0
        self._tally.spent(making.made, share)
        host.making = None
        outcome = self._failed(making, share) if making.end is End.FAILURE else self._result(making)
        report = Report(replica=making.lease.replica, outcome=outcome)
        return self._call(host, held=_listed(host.queue), reports=(report,), want=0 if host.queue else 1)

    def _failed(self, making: Making, share: float) -> Failed:
        seconds = making.seconds * share
        return Failed(cause=Cause.CRASHED, message="the program was ended by signal 11", seconds=seconds)

    def _result(self, making: Making) -> Finished:
        job, lease = making.job, making.lease
        names = application_of(job.request).result_names(job.request, lease.task)
        if making.made.strips is not None:
            names = audit_names(names, making.made.strips)
        digest = f"{lease.replica:064x}"
        size = _FRAME_BYTES if making.made.strips is None else _STRIP_BYTES
        self._store.arrived(lease.replica, frozenset((digest,)))
        return Finished(
            fingerprint=fingerprint(making.made.content, lease.job, lease.task),
            files=tuple([ResultFile(name=name, sha256=digest, size=size) for name in names]),
            seconds=making.seconds,
        )

    # --- calls --------------------------------------------------------------------------------------------------

    def _ask(self, host: SimulatedHost) -> WorkRequest:
        return self._call(host, want=1, wait=min(self._server.ask_again_seconds, MAX_WAIT_SECONDS))

    def _call(
        self,
        host: SimulatedHost,
        *,
        held: tuple[Held, ...] = (),
        reports: tuple[Report, ...] = (),
        want: int = 0,
        wait: Seconds = 0.0,
    ) -> WorkRequest:
        facts, host.facts = host.facts, None
        host.calls += 1
        loaded = () if host.loaded is None else (host.loaded,)
        return WorkRequest(
            call=host.calls, held=held, reports=reports, want=want, wait_seconds=wait, facts=facts, loaded=loaded
        )


def _listed(leases: tuple[Lease, ...]) -> tuple[Held, ...]:
    return tuple([Held(replica=lease.replica) for lease in leases]) if leases else ()
