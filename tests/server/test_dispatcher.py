"""Group commit and the long poll. The writer's thread is one that the test lets run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine, event, update
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from xwgrid_schema.tables import jobs
from xwgrid_server.calls import LeaseTerms
from xwgrid_server.database import open_engine
from xwgrid_server.dispatcher import Dispatcher

from tests.server.small_grid import REQUESTER, SPEC, SmallGrid, digest_job, facts, finished, right
from xwgrid.errors import GridError, Unavailable
from xwgrid.model import Digest, HostId, JobId, JobRequest, ResultFile, TaskNumber, UserId
from xwgrid.wire import Report, WorkAnswer, WorkRequest


class Turns(Clock):
    """A reactor whose threads' results arrive at once."""

    def callFromThread(self, what: Callable[..., Any], *args: Any) -> None:  # noqa: N802  # Twisted's name
        what(*args)


class OneAtATime:
    """A thread pool that does its next piece of work when the test says so."""

    def __init__(self) -> None:
        self.work: deque[tuple[Callable[..., Any], Callable[..., Any]]] = deque()

    def start(self) -> None:
        """There is nothing to start."""

    def stop(self) -> None:
        """There is nothing to stop."""

    def callInThreadWithCallback(self, then: Callable[..., Any], what: Callable[..., Any], *args: Any) -> None:  # noqa: N802
        """Queue a piece of work."""
        self.work.append((lambda: what(*args), then))

    def step(self) -> bool:
        """Do the next piece; say whether there was one."""
        if not self.work:
            return False
        what, then = self.work.popleft()
        try:
            made = what()
        except Exception as error:  # noqa: BLE001  # as the real pool: whatever it was goes to the callback
            then(False, Failure(error))
        else:
            then(True, made)
        return True

    def run(self) -> None:
        """Do everything there is to do."""
        while self.step():
            pass


class NoPictures:
    """Digest jobs have nothing to read."""

    def read(self, _request: JobRequest, _number: TaskNumber, _files: tuple[ResultFile, ...]) -> Deferred[Digest]:
        """Never called."""
        raise AssertionError("a value has no files")


class Rig:
    """A dispatcher over a real store, with time, thread and chance in the test's hands."""

    def __init__(self, engine: Engine, draw_from: int = 1_000) -> None:
        self.grid = SmallGrid(engine, owners=8)
        self.reactor = Turns()
        self.reactor.advance(self.grid.now)
        self.writer = OneAtATime()
        writer: Any = self.writer
        reader: Any = NoPictures()
        terms = LeaseTerms(draw_from=draw_from)
        self.dispatcher = Dispatcher(self.reactor, engine, reader, terms, writer=writer, random=self.grid.random)
        started = Deferred.fromCoroutine(self.dispatcher.start())
        self.writer.run()
        assert started.called

    def submit(self, request: JobRequest) -> Deferred[JobId]:
        return self.dispatcher.submit(UserId(REQUESTER), request, SPEC, {SPEC})

    def ask(self, host: int, wait: float = 50.0) -> Deferred[WorkAnswer]:
        call = msgspec.structs.replace(self.grid.request(host, want=1), wait_seconds=wait, facts=facts())
        return self.dispatcher.work(HostId(host), call)


def result(answer: Deferred[Any]) -> Any:
    """Return what a Deferred has, without failing when it failed."""
    out: list[Any] = []
    answer.addBoth(out.append)
    return out[0] if out else None


@pytest.fixture
def rig(database_url: str) -> Iterator[Rig]:
    engine = open_engine(database_url)
    yield Rig(engine)
    engine.dispose()


def test_calls_that_come_during_a_commit_are_one_batch(rig: Rig) -> None:
    """While one batch is being written the next gathers; each call is answered after its own commit."""
    commits: list[None] = []
    event.listen(rig.grid.engine, "commit", lambda _: commits.append(None))
    rig.submit(digest_job(9, replicas=1, quorum=1))
    rig.writer.run()
    answers = [rig.ask(host, wait=0) for host in (1, 2, 3, 4, 5)]
    before = len(commits)
    assert rig.writer.step()
    assert [answer.called for answer in answers] == [True, False, False, False, False]
    assert len(commits) > before, "the answer left after a commit"
    assert rig.writer.step()
    tasks = [result(answer).leases[0].task for answer in answers]
    assert tasks == [0, 1, 2, 3, 4]


def test_a_new_job_wakes_the_hosts_that_wait(rig: Rig) -> None:
    """Hosts without work are held, and as many are answered as the new job has replicas, the first come first."""
    held = [rig.ask(host) for host in (1, 2, 3)]
    rig.writer.run()
    assert not any(answer.called for answer in held)
    submitted = rig.submit(digest_job(1, replicas=2, quorum=2))
    rig.writer.run()
    assert submitted.called
    assert [answer.called for answer in held] == [True, True, False]
    rig.reactor.advance(50)
    rig.writer.run()
    assert result(held[2]).leases == ()


def test_a_host_that_cannot_take_the_work_passes_the_wake_on(rig: Rig) -> None:
    """When the first of those that wait finds nothing for itself, the next is asked."""
    rig.submit(digest_job(1, replicas=2, quorum=2))
    first = rig.ask(1)
    rig.writer.run()
    (lease,) = result(first).leases
    voted = rig.dispatcher.work(
        HostId(1),
        msgspec.structs.replace(
            rig.grid.request(1), reports=(Report(replica=lease.replica, outcome=finished(right(0))),)
        ),
    )
    rig.writer.run()
    assert voted.called
    second = rig.ask(2)
    rig.writer.run()
    (taken,) = result(second).leases
    waiting = [rig.ask(1), rig.ask(3)]
    rig.writer.run()
    handed_back = Report(replica=taken.replica, outcome=finished("f" * 64))
    rig.dispatcher.work(HostId(2), msgspec.structs.replace(rig.grid.request(2), reports=(handed_back,)))
    rig.writer.run()
    assert not waiting[0].called, "host 1 voted on the task"
    assert [each.task for each in result(waiting[1]).leases] == [0]


def test_a_second_held_call_ends_the_first(rig: Rig) -> None:
    """A host waits on one connection only."""
    first = rig.ask(1)
    rig.writer.run()
    second = rig.ask(1)
    rig.writer.run()
    assert result(first).leases == ()
    assert not second.called


def test_a_caller_that_went_away_leaves_its_work_to_others(rig: Rig) -> None:
    """A cancelled call is not given work; the next host is."""
    gone, there = rig.ask(1), rig.ask(2)
    rig.writer.run()
    gone.addErrback(lambda _: None)
    gone.cancel()
    rig.submit(digest_job(1, replicas=1, quorum=1))
    rig.writer.run()
    assert len(result(there).leases) == 1


def test_a_batch_that_fails_is_tried_call_by_call(rig: Rig) -> None:
    """One call that the database refuses fails alone; the others of its batch are answered."""
    rig.submit(digest_job(9, replicas=1, quorum=1))
    rig.writer.run()
    blocker = rig.ask(8, wait=0)
    poisoned = rig.dispatcher.work(HostId(2), WorkRequest(call=1, want=1, facts=None))
    healthy = rig.ask(3, wait=0)

    def refuse(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if "INSERT INTO replicas" in statement and '"host":2,' in str(parameters):
            raise RuntimeError("the disk says no")

    event.listen(rig.grid.engine, "before_cursor_execute", refuse)
    rig.writer.run()
    event.remove(rig.grid.engine, "before_cursor_execute", refuse)
    assert blocker.called
    assert len(result(healthy).leases) == 1
    failure = result(poisoned)
    assert isinstance(failure.value, Unavailable)
    again = rig.ask(2, wait=0)
    rig.writer.run()
    assert len(result(again).leases) == 1


def test_changes_are_told_to_who_listens(rig: Rig) -> None:
    """A listener hears of the tasks of its job that a commit changed, and nothing after it unsubscribed."""
    submitted = rig.submit(digest_job(2, replicas=1, quorum=1))
    rig.writer.run()
    job = result(submitted)
    heard: list[frozenset[TaskNumber]] = []
    unsubscribe = rig.dispatcher.subscribe(job, heard.append)
    rig.ask(1, wait=0)
    rig.writer.run()
    assert heard == [{0}]
    unsubscribe()
    rig.ask(2, wait=0)
    rig.writer.run()
    assert heard == [{0}]


def test_a_huge_job_does_not_hold_calls_up(rig: Rig) -> None:
    """While the tasks of a huge job are entered, calls of other jobs are answered between its slabs."""
    rig.submit(digest_job(5, replicas=1, quorum=1))
    rig.writer.run()
    huge = rig.submit(digest_job(100_000, replicas=1, quorum=1))
    while not huge.called:
        rig.writer.step()
    answer = rig.ask(1, wait=0)
    for _ in range(3):
        rig.writer.step()
    assert answer.called
    with rig.grid.engine.connect() as connection:
        state = connection.execute(jobs.select().where(jobs.c.id == result(huge))).one().state
    assert state == "entering"
    rig.writer.run()


def test_a_lease_that_runs_out_goes_to_a_host_that_waits(rig: Rig) -> None:
    """The timer ends a lease and wakes who waits, without anybody calling."""
    rig.submit(digest_job(1, replicas=1, quorum=1))
    vanished = rig.ask(1)
    rig.writer.run()
    assert len(result(vanished).leases) == 1
    for _ in range(8):
        rig.reactor.advance(10)
        rig.writer.run()
    waiting = rig.ask(2)
    rig.writer.run()
    for _ in range(4):
        rig.reactor.advance(10)
        rig.writer.run()
    assert len(result(waiting).leases) == 1


def test_stopping_refuses_what_is_not_written(rig: Rig) -> None:
    """A server that stops writes its batch in flight, ends held calls, and refuses the rest by name."""
    held = rig.ask(1)
    rig.writer.run()
    in_flight, queued = rig.ask(2, wait=0), rig.ask(3, wait=0)
    stopped = Deferred.fromCoroutine(rig.dispatcher.stop())
    assert isinstance(result(queued).value, Unavailable)
    rig.writer.run()
    assert stopped.called
    assert isinstance(result(in_flight), WorkAnswer)
    assert isinstance(result(held), WorkAnswer)
    late = result(rig.ask(4))
    assert isinstance(late.value, GridError)


def test_a_failed_update_of_jobs_is_not_silent(rig: Rig) -> None:
    """Cancelling a job that has ended fails with a sentence."""
    submitted = rig.submit(digest_job(1))
    rig.writer.run()
    job = result(submitted)
    with rig.grid.engine.begin() as connection:
        connection.execute(update(jobs).values(state="finished", finished_at=1.0))
    cancelled = rig.dispatcher.cancel(UserId(REQUESTER), job)
    rig.writer.run()
    assert "nothing to cancel" in str(result(cancelled).value)


def test_two_jobs_wake_two_hosts(rig: Rig) -> None:
    """A host that was woken for one job is not woken for the next one in another's stead."""
    held = [rig.ask(1), rig.ask(2)]
    rig.writer.run()
    for _ in range(2):
        rig.submit(digest_job(1, replicas=1, quorum=1))
    rig.writer.run()
    assert [len(result(answer).leases) for answer in held] == [1, 1]


def test_a_woken_host_that_goes_away_passes_the_wake_on(rig: Rig) -> None:
    """When a caller goes away between being woken and being looked at, the next one is asked."""
    first, gone, last = rig.ask(1), rig.ask(2), rig.ask(3)
    gone.addErrback(lambda _: None)
    rig.writer.run()
    submitted = rig.submit(digest_job(2, replicas=1, quorum=1))
    while not submitted.called:
        rig.writer.step()
    gone.cancel()  # the first is being looked at, this one stands behind it
    rig.writer.run()
    assert [len(result(answer).leases) for answer in (first, last)] == [1, 1]


def test_a_voter_that_completes_a_class_wakes_those_that_waited_for_it(rig: Rig) -> None:
    """A host alone in its class waits; when a second owner of the class calls, both have work at once."""
    rig.submit(digest_job(1))
    rig.writer.run()

    def odd(host: int) -> Deferred[WorkAnswer]:
        call = msgspec.structs.replace(rig.grid.request(host, want=1), wait_seconds=50.0, facts=facts("python odd"))
        return rig.dispatcher.work(HostId(host), call)

    first = odd(1)
    rig.writer.run()
    assert not first.called
    second = odd(2)
    rig.writer.run()
    assert len(result(first).leases) == len(result(second).leases) == 1


def test_a_job_whose_entering_failed_is_entered_later(rig: Rig) -> None:
    """A database that refuses a job's tasks for a moment delays the job, and loses it not."""
    refusals: list[None] = []

    def refuse(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        if "INSERT INTO tasks" in statement and not refusals:
            refusals.append(None)
            raise RuntimeError("the disk says no")

    event.listen(rig.grid.engine, "before_cursor_execute", refuse)
    submitted = rig.submit(digest_job(1, replicas=1, quorum=1))
    rig.writer.run()
    assert result(submitted) == len(refusals) == 1
    waiting = rig.ask(1)
    rig.writer.run()
    assert not waiting.called
    rig.reactor.advance(5)
    rig.writer.run()
    assert len(result(waiting).leases) == 1
