"""One writer, group commit: what arrives while a batch is being written is decided together in the next.

The reactor's thread collects; one writer thread runs the coordinator. An answer leaves after its commit. Calls that
find no work wait here, and are looked at again when there is some.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random, SystemRandom
from typing import Any, Final, TypeVar

from msgspec import structs
from sqlalchemy import Engine
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from xwgrid.errors import GridError, Unavailable
from xwgrid.model import Digest, HostId, Instant, JobId, JobRequest, ReplicaId, Seconds, TaskNumber, UserId
from xwgrid.wire import WorkAnswer, WorkRequest
from xwgrid_server.calls import Call, Effects, Entered, LeaseTerms, Reading, ReadOrder, Served
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.job_store import SqlStore
from xwgrid_server.result_readings import Reader, ResultReadings
from xwgrid_server.waiting_hosts import WaitingHosts

T = TypeVar("T")
Listener = Callable[[frozenset[TaskNumber]], None]

# Calls decided together at most: bounds the time that one batch holds all others up.
MOST_CALLS_PER_BATCH: Final = 1_000
EXPIRE_EVERY: Final[Seconds] = 1.0
# What the database refused is tried again after this long.
AGAIN_AFTER: Final[Seconds] = 5.0


class Dispatcher:
    """Hands calls to the coordinator in groups and keeps those that wait for work."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        engine: Engine,
        reader: Reader,
        terms: LeaseTerms,
        *,
        writer: ThreadPool | None = None,
        random: Random | None = None,
    ) -> None:
        self._reactor = reactor
        self._engine = engine
        self._terms = terms
        self._random = random or SystemRandom()
        self._writer = writer or ThreadPool(minthreads=1, maxthreads=1, name="xwgrid-writer")
        self._coordinator: Coordinator | None = None
        self._calls: deque[tuple[Call, Deferred[WorkAnswer]]] = deque()
        self._readings: deque[Reading] = deque()
        self._orders: deque[tuple[Callable[[Coordinator], Any], Deferred[Any]]] = deque()
        self._writing = False
        self._orders_turn = False
        self._stopping = False
        self._idle: Deferred[None] | None = None
        self._waiting = WaitingHosts(reactor, self._look_again)
        self._listeners: dict[JobId, list[Listener]] = {}
        self._readers = ResultReadings(reactor, reader, self._take_reading)
        self._timer: Any = None
        self._drawing: Any = None  # when owners are drawn next

    # --- from start to stop -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the open jobs, take up what was left undone, and begin."""
        self._writer.start()
        now = self._now()
        self._coordinator = await self._in_writer(
            lambda: Coordinator(SqlStore(self._engine), self._terms, now, self._random)
        )
        for order in await self._in_writer(self._coordinator.unread):
            self._readers.send(order)
        for job in await self._in_writer(self._coordinator.entering):
            self._enter(job)
        self._tick()

    async def stop(self) -> None:
        """Finish the batch in flight and refuse the rest; nothing that was answered is lost."""
        self._stopping = True
        self._readers.stop()
        for timer in (self._timer, self._drawing):
            if timer is not None and timer.active():
                timer.cancel()
        self._waiting.release_all()
        while self._calls:
            _, answer = self._calls.popleft()
            if not answer.called:
                answer.errback(Unavailable("the server is stopping; call again in a moment"))
        while self._orders:
            _, done = self._orders.popleft()
            done.errback(Unavailable("the server is stopping; try again in a moment"))
        self._readings.clear()  # they are read again after the next start
        if self._writing:
            self._idle = Deferred()
            await self._idle
        self._writer.stop()

    # --- volunteers ---------------------------------------------------------------------------------------------

    def work(self, host: HostId, request: WorkRequest) -> Deferred[WorkAnswer]:
        """Answer a work call after its commit, or hold it while there is no work. Cancel it when its caller is gone."""
        answer: Deferred[WorkAnswer] = Deferred(lambda gone: self._waiting.forget(host, gone))
        if self._stopping or self._coordinator is None:
            answer.errback(Unavailable("the server is not ready; call again in a moment"))
            return answer
        if request.want and request.wait_seconds:
            self._waiting.release(host)
        self._calls.append((Call(host, request), answer))
        self._pump()
        return answer

    @property
    def progress(self) -> Mapping[ReplicaId, float]:
        """How far running replicas are, 0 to 1, as their hosts last said."""
        return {} if self._coordinator is None else self._coordinator.progress

    def _look_again(self, call: Call, answer: Deferred[WorkAnswer]) -> None:
        """Ask once more for a held call: it only takes now, its news was dealt with when it came."""
        self._calls.append((structs.replace(call, news=False), answer))
        self._pump()

    # --- requesters ---------------------------------------------------------------------------------------------

    def submit(self, owner: UserId, request: JobRequest, spec: Digest, blobs: Collection[Digest]) -> Deferred[JobId]:
        """Store a job and open it; the tasks of a big one are entered in slabs, between other work."""
        readable = frozenset(blobs)
        created: Deferred[JobId] = self._order(
            lambda coordinator: coordinator.begin_job(owner, request, spec, readable, self._now())
        )
        return created.addCallback(self._enter_first)

    def cancel(self, user: UserId, job: JobId) -> Deferred[None]:
        """Cancel a job. Fails with Conflict when it has ended, NotFound when it is not this user's."""
        done: Deferred[None] = self._order(lambda coordinator: coordinator.cancel_job(user, job, self._now()))
        return done.addCallback(lambda _: self._tell(job, frozenset()))

    def retry(self, user: UserId, job: JobId) -> Deferred[int]:
        """Open a job's failed tasks again, and return how many. Fails with Conflict when there are none."""

        def opened(tasks: int) -> int:
            self._waiting.wake(None)
            self._tell(job, frozenset())
            return tasks

        return self._order(lambda coordinator: coordinator.retry_job(user, job)).addCallback(opened)

    def subscribe(self, job: JobId, listener: Listener) -> Callable[[], None]:
        """Call `listener` with the tasks that changed, after each commit that changed any; return how to stop that."""
        self._listeners.setdefault(job, []).append(listener)

        def unsubscribe() -> None:
            listeners = self._listeners.get(job, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                self._listeners.pop(job, None)

        return unsubscribe

    def _enter_first(self, job: JobId) -> Deferred[JobId]:
        def next_slab(entered: Entered) -> JobId:
            if entered.left:
                self._enter(job)
            else:
                self._waiting.wake(entered.replicas)
                self._tell(job, frozenset())
            return job

        def later(failure: Failure) -> JobId:
            # The job itself is stored: it is opened when the database can be written again.
            if not self._stopping:
                self.log.failure("entering the tasks of job {job}", failure, job=job)
                self._later(AGAIN_AFTER, lambda: self._enter(job))
            return job

        return self._order(lambda coordinator: coordinator.enter(job)).addCallbacks(next_slab, later)

    def _enter(self, job: JobId) -> None:
        self._enter_first(job).addErrback(
            lambda failure: self.log.failure("entering the tasks of job {job}", failure, job=job)
        )

    # --- the writer ---------------------------------------------------------------------------------------------

    def _order(self, what: Callable[[Coordinator], T]) -> Deferred[T]:
        """Have the writer do something between two batches."""
        done: Deferred[T] = Deferred()
        if self._stopping or self._coordinator is None:
            done.errback(Unavailable("the server is not ready; try again in a moment"))
            return done
        self._orders.append((what, done))
        self._pump()
        return done

    def _in_writer(self, what: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._writer, what)

    def _pump(self) -> None:
        """Write the next batch, if none is being written."""
        if self._writing or self._coordinator is None:
            return
        # Taking turns, neither the tasks of a huge job nor a flood of calls holds the other up.
        self._orders_turn = not self._orders_turn
        if self._orders and (self._orders_turn or not (self._calls or self._readings)):
            what, done = self._orders.popleft()
            self._write(functools.partial(what, self._coordinator), done.callback, done.errback)
        elif self._calls or self._readings:
            calls = [self._calls.popleft() for _ in range(min(len(self._calls), MOST_CALLS_PER_BATCH))]
            live = [(call, answer) for call, answer in calls if not answer.called]
            for call, answer in calls:
                if answer.called and not call.news:
                    self._waiting.pass_on()  # it was woken, and its caller went away before it was looked at
            readings = [self._readings.popleft() for _ in range(len(self._readings))]
            self._write(
                functools.partial(self._coordinator.serve, [call for call, _ in live], readings, self._now()),
                lambda served: self._served(live, served),
                lambda failure: self._not_served(live, readings, failure),
            )

    def _write(self, what: Callable[[], T], then: Callable[[T], Any], failed: Callable[[Failure], Any]) -> None:
        self._writing = True
        done = self._in_writer(what)
        done.addBoth(self._written)
        done.addCallbacks(then, failed)
        done.addErrback(lambda failure: self.log.failure("after a batch", failure))
        done.addBoth(lambda _: self._pump())

    def _written(self, outcome: T) -> T:
        self._writing = False
        self._await_draw()
        if self._idle is not None:
            self._idle.callback(None)
            self._idle = None
        return outcome

    def _served(self, calls: Sequence[tuple[Call, Deferred[WorkAnswer]]], served: Served) -> None:
        for (call, answer), made in zip(calls, served.answers, strict=True):
            if answer.called:
                # Its caller went away; what it was given is sent again at the host's next call.
                if not call.news and (isinstance(made, GridError) or not made.leases):
                    self._waiting.pass_on()
            elif isinstance(made, GridError):
                self._waiting.forget(call.host, answer)
                answer.errback(made)
                if not call.news:
                    self._waiting.pass_on()
            elif self._to_be_held(call.request, made):
                self._waiting.hold(call, answer, made)
            else:
                self._waiting.forget(call.host, answer)
                answer.callback(made)
        self._follow(served.effects)

    def _to_be_held(self, request: WorkRequest, made: WorkAnswer) -> bool:
        nothing = not (made.leases or made.ended or made.confirmed or request.reports)
        return nothing and request.want > 0 and request.wait_seconds > 0 and not self._stopping

    def _not_served(
        self, calls: Sequence[tuple[Call, Deferred[WorkAnswer]]], readings: Sequence[Reading], failure: Failure
    ) -> None:
        """Nothing of the batch was written. Try its parts one by one, so that one bad call fails alone."""
        self.log.failure("a batch of {calls} calls was not written", failure, calls=len(calls))
        if len(calls) + len(readings) == 1:
            for call, answer in calls:
                self._waiting.forget(call.host, answer)
                if not answer.called:
                    answer.errback(Unavailable("the server could not write this down; call again"))
            for reading in readings:
                self._later(AGAIN_AFTER, functools.partial(self._take_reading, reading))
            # It may have been written after all, and only the news of it was lost.
            self._later(AGAIN_AFTER, self._read_what_is_unread)
            return
        for each_reading in readings:
            self._alone([], [each_reading])
        for each_call in calls:
            self._alone([each_call], [])

    def _alone(self, calls: list[tuple[Call, Deferred[WorkAnswer]]], readings: list[Reading]) -> None:
        done = self._order(lambda coordinator: coordinator.serve([call for call, _ in calls], readings, self._now()))
        done.addCallbacks(
            lambda served: self._served(calls, served), lambda failure: self._not_served(calls, readings, failure)
        )

    # --- what follows from a batch ------------------------------------------------------------------------------

    def _follow(self, effects: Effects) -> None:
        for order in effects.to_read:
            self._readers.send(order)
        if effects.wanted:
            self._waiting.wake(effects.wanted)
        if effects.drawn:
            self._waiting.wake_these(effects.drawn)
        if self._listeners:
            changed: dict[JobId, set[TaskNumber]] = {}
            for job, task in effects.changed:
                if job in self._listeners:
                    changed.setdefault(job, set()).add(task)
            for job in set(changed) | set(effects.ended):
                self._tell(job, frozenset(changed.get(job, ())))

    def _tell(self, job: JobId, tasks: frozenset[TaskNumber]) -> None:
        for listener in list(self._listeners.get(job, ())):
            listener(tasks)

    def _read_what_is_unread(self) -> None:
        def send(orders: Sequence[ReadOrder]) -> None:
            for order in orders:
                self._readers.send(order)

        unread = self._order(lambda coordinator: coordinator.unread())
        unread.addCallback(send)
        unread.addErrback(lambda failure: self.log.failure("looking for results to be read", failure))

    def _later(self, seconds: Seconds, what: Callable[[], Any]) -> None:
        self._reactor.callLater(seconds, lambda: None if self._stopping else what())

    def _take_reading(self, reading: Reading) -> None:
        self._readings.append(reading)
        self._pump()

    def _tick(self) -> None:
        done = self._order(lambda coordinator: coordinator.expire(self._now()))
        done.addCallbacks(self._follow, lambda failure: self.log.failure("ending leases that ran out", failure))
        self._timer = self._reactor.callLater(EXPIRE_EVERY, self._tick)

    def _await_draw(self) -> None:
        """Have owners drawn for checks when they are due. Called while nobody writes."""
        due = None if self._coordinator is None or self._stopping else self._coordinator.next_draw()
        if due is None:
            return
        if self._drawing is not None and self._drawing.active():
            if self._drawing.getTime() <= due:
                return
            self._drawing.cancel()
        self._drawing = self._reactor.callLater(max(0.0, due - self._now()), self._draw)

    def _draw(self) -> None:
        done = self._order(lambda coordinator: coordinator.draw(self._now()))
        done.addCallbacks(self._follow, lambda failure: self.log.failure("drawing who checks whom", failure))

    def _now(self) -> Instant:
        return float(self._reactor.seconds())
