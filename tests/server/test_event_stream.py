"""Server-sent events over a connection in memory, with time and the client's appetite in the test's hands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, HTTPFactory
from xwgrid_server import event_stream
from xwgrid_server.http_answers import STALLED_SECONDS
from xwgrid_server.http_bodies import Body, Head, MemoryBody, StreamingRequest

from xwgrid import wire
from xwgrid.errors import NotFound
from xwgrid.model import JobId, JobState, TaskNumber, TaskState

Listener = Callable[[frozenset[TaskNumber]], None]


def view(agreed: int, state: JobState = JobState.OPEN) -> wire.JobView:
    """Return a job of ten tasks."""
    return wire.JobView(
        id=JobId(1), name="job", owner="me", application="digest", state=state, tasks=10, agreed=agreed, failed=0,
        running=0, replicas=0, outvoted=0, lost=0, created_at=0.0, finished_at=None, quorum=1, spec="0" * 64,
    )  # fmt: skip


class Watched:
    """A job that a client watches by a real HTTP channel."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.job: wire.JobView | None = view(0)
        self.listeners: list[Listener] = []
        self.looks = 0
        watched = self

        class Request(StreamingRequest):
            def choose_body(self, head: Head) -> Body:  # noqa: ARG002
                return MemoryBody(self, 0)

            def respond(self) -> None:
                self.start(event_stream.stream(self, watched.clock, watched.subscribe, watched.look))

        class Site(HTTPFactory):
            protocol: Any = HTTPChannel

            def buildProtocol(self, addr: Any) -> Any:  # Twisted's name
                channel: Any = super().buildProtocol(addr)
                channel.requestFactory = Request
                return channel

            def log(self, request: Any) -> None:
                """Write no log."""

        self.transport = StringTransport()
        site = Site(reactor=self.clock)  # type: ignore[arg-type]  # a reactor's time is all it takes
        self.channel: Any = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Keep a listener."""
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def look(self, changed: frozenset[TaskNumber]) -> Deferred[wire.Event]:
        """Tell the job as it is, with the tasks asked for."""
        self.looks += 1
        if self.job is None:
            raise NotFound("there is no such job")
        tasks = (
            wire.TaskView(job=JobId(1), number=number, label="task", state=TaskState.AGREED)
            for number in sorted(changed)
        )
        return succeed(wire.Event(job=self.job, tasks=tuple(tasks)))

    def change(self, agreed: int, *tasks: int, state: JobState = JobState.OPEN) -> None:
        """Let the job become another."""
        self.job = view(agreed, state)
        for listener in list(self.listeners):
            listener(frozenset(TaskNumber(task) for task in tasks))

    def told(self) -> list[wire.Event]:
        """Return the events told since the last time."""
        text = self.transport.value().decode()
        self.transport.clear()
        return [wire.decode(line[6:].strip(), wire.Event) for line in text.split("\n") if line.startswith("data: ")]


def test_the_first_event_is_the_present_state() -> None:
    """It comes at once and names no tasks; the next change is told within a quarter of a second."""
    watched = Watched()
    assert [(event.job.agreed, event.tasks) for event in watched.told()] == [(0, ())]
    watched.change(1, 4)
    assert watched.told() == []
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    (event,) = watched.told()
    assert event.job.agreed == 1
    assert [task.number for task in event.tasks] == [4]


def test_changes_in_quick_succession_come_together() -> None:
    """A hundred changes a second make four events a second, and none of the tasks is left out."""
    watched = Watched()
    watched.told()
    for number in range(100):
        watched.change(number + 1, number)
        watched.clock.advance(0.01)
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    events = watched.told()
    assert len(events) <= 5
    assert sorted(task.number for event in events for task in event.tasks) == list(range(100))
    assert events[-1].job.agreed == 100


def test_more_changes_than_can_be_kept_leave_the_job() -> None:
    """A client far behind is told how the job stands, without a list of tasks that has no bound."""
    watched = Watched()
    watched.told()
    watched.change(5, *range(event_stream.MOST_TASKS + 1))
    watched.change(6, 1)
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    (event,) = watched.told()
    assert (event.job.agreed, event.tasks) == (6, ())


def test_silence_is_kept_alive() -> None:
    """Every 15 s without news a comment tells proxies that the connection is in use."""
    watched = Watched()
    watched.told()
    watched.clock.pump([event_stream.LEAST_PAUSE_SECONDS, *[1.0] * 31])
    assert watched.transport.value().count(b": still here\n\n") == 2
    assert watched.looks == 1


def test_the_end_is_told_and_ends_the_stream() -> None:
    """The last event says how the job ended; then the answer is complete and nobody listens any more."""
    watched = Watched()
    watched.told()
    watched.change(10, 9, state=JobState.FINISHED)
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    assert watched.transport.value().endswith(b"0\r\n\r\n")
    assert [event.job.state for event in watched.told()] == [JobState.FINISHED]
    assert watched.listeners == []
    assert watched.channel.requests == []


def test_a_slow_client_holds_nothing_up() -> None:
    """While a client takes nothing it is sent nothing; afterwards it gets all of it in one event."""
    watched = Watched()
    watched.told()
    watched.channel.pauseProducing()
    for number in range(20):
        watched.change(number + 1, number)
        watched.clock.advance(1.0)
    assert len(watched.told()) <= 1
    watched.channel.resumeProducing()
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    (event,) = watched.told()
    assert event.job.agreed == 20
    assert len(event.tasks) >= 19


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    """After two minutes its connection is ended."""
    watched = Watched()
    watched.channel.pauseProducing()
    watched.clock.pump([1.0] * int(STALLED_SECONDS - 1))
    assert not watched.transport.disconnecting
    watched.change(1, 1)
    watched.clock.pump([1.0] * int(STALLED_SECONDS + 16))
    assert watched.transport.disconnecting


def test_a_client_that_goes_away_is_forgotten() -> None:
    """Nothing listens, waits or looks for it any more."""
    watched = Watched()
    watched.clock.advance(event_stream.LEAST_PAUSE_SECONDS)
    watched.channel.connectionLost(Failure(ConnectionError()))
    assert watched.listeners == []
    watched.clock.advance(60.0)
    assert watched.looks == 1
    assert watched.clock.getDelayedCalls() == []


def test_a_job_that_cannot_be_seen_is_refused_as_a_whole() -> None:
    """404 instead of a stream, when the first look finds nothing."""

    class Gone(Watched):
        def look(self, changed: frozenset[TaskNumber]) -> Deferred[wire.Event]:  # noqa: ARG002
            raise NotFound("there is no such job")

    gone = Gone()
    assert gone.transport.value().startswith(b"HTTP/1.1 404 ")
    assert gone.listeners == []
