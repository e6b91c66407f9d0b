"""What is said to the server, and when."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from xwgrid_volunteer import work_loop
from xwgrid_volunteer.work_loop import Line, Plan, Situation

from xwgrid.errors import Forbidden, Unavailable
from xwgrid.model import HostFacts, JobId, ReplicaId, TaskNumber
from xwgrid.wire import HandedBack, Held, Lease, Report, WorkAnswer, WorkRequest

ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)
FACTS = HostFacts(name="desk", system="Linux", processor="", cores=2, memory_bytes=1)
HEARTBEAT = 30.0


def settled(now: float = 0.0) -> Line:
    """Return a line on which everything was said just now."""
    return replace(Line(), heartbeat=HEARTBEAT, sent_at=now)


def report(replica: ReplicaId) -> Report:
    """Return something to report."""
    return Report(replica=replica, outcome=HandedBack())


def lease(replica: ReplicaId) -> Lease:
    """Return a lease."""
    return Lease(replica=replica, job=JobId(1), task=TaskNumber(0), spec="a" * 64, arguments={}, lease_seconds=90)


def test_the_first_call_introduces_the_host() -> None:
    """Facts go with the first call, which also asks for work, and is not held."""
    first = work_loop.plan(Line(), Situation(now=0.0, want=2, facts=FACTS)).short
    assert first is not None
    assert (first.facts, first.want, first.wait_seconds) == (FACTS, 2, 0.0)


def test_with_nothing_to_say_it_waits_for_work() -> None:
    """The poll is held by the server; while it is, nothing else is said by a host without leases."""
    situation = Situation(now=1.0, want=2)
    poll = work_loop.plan(settled(), situation).poll
    assert poll is not None
    assert (poll.want, poll.wait_seconds) == (2, 50.0)
    line = work_loop.sent(settled(), poll, 1.0)
    assert work_loop.plan(line, replace(situation, now=49.0)) == Plan()


def test_a_report_overtakes_the_poll() -> None:
    """A finished task is told at once on another connection, and asks for nothing that the poll asks for already."""
    line = work_loop.sent(settled(), WorkRequest(call=0, want=1, wait_seconds=50.0), 1.0)
    decided = work_loop.plan(line, Situation(now=2.0, want=2, reports=(report(ONE),), leases=(Held(replica=TWO),)))
    assert decided.poll is None
    assert decided.short is not None
    assert decided.short.want == 1
    assert decided.short.reports == (report(ONE),)
    assert decided.short.held == (Held(replica=TWO),)
    assert not decided.drop_poll


def test_what_is_reported_is_not_held_and_everything_else_is() -> None:
    """Running, checked and uploading leases are all listed; those reported in this very call are not."""
    situation = Situation(now=0.0, leases=(Held(replica=ONE, done=0.5),), finished=(TWO,), reports=(report(THREE),))
    call = work_loop.plan(Line(), situation).short
    assert call is not None
    assert {held.replica for held in call.held} == {ONE, TWO}
    poll = work_loop.plan(settled(), replace(situation, reports=(), want=1)).poll
    assert poll is not None
    assert {held.replica for held in poll.held} == {ONE, TWO}


def test_reports_that_do_not_fit_stay_held() -> None:
    """A host that was away for long reports in parts, and never forgets to list the rest."""
    reports = tuple(report(ReplicaId(n)) for n in range(100))
    call = work_loop.plan(Line(), Situation(now=0.0, reports=reports)).short
    assert call is not None
    said, held = {each.replica for each in call.reports}, {each.replica for each in call.held}
    assert said.isdisjoint(held)
    assert said | held == {each.replica for each in reports}


def test_leases_are_renewed_within_the_heartbeat() -> None:
    """With leases a call leaves before the heartbeat is over, though a poll is held; its time is known beforehand."""
    line = work_loop.sent(settled(), WorkRequest(call=0, want=1, wait_seconds=50.0), 0.0)
    situation = Situation(now=1.0, want=1, leases=(Held(replica=ONE, done=0.2),))
    decided = work_loop.plan(line, situation)
    assert decided.short is None
    assert decided.wake_at is not None
    assert decided.wake_at < HEARTBEAT
    due = work_loop.plan(line, replace(situation, now=decided.wake_at)).short
    assert due is not None
    assert due.held == situation.leases
    assert due.want == 0


def test_a_paused_host_hangs_up_the_poll() -> None:
    """When the owner comes back no more work is waited for."""
    line = work_loop.sent(settled(), WorkRequest(call=0, want=2, wait_seconds=50.0), 0.0)
    decided = work_loop.plan(line, Situation(now=1.0, want=0))
    assert decided.drop_poll
    assert decided.poll is None


def test_a_poll_is_widened_when_more_is_free() -> None:
    """A second free slot does not wait for the end of the first one's poll."""
    line = work_loop.sent(settled(), WorkRequest(call=0, want=1, wait_seconds=50.0), 0.0)
    decided = work_loop.plan(line, Situation(now=1.0, want=2))
    assert decided.drop_poll
    assert decided.poll is not None
    assert decided.poll.want == 2


def test_a_server_that_does_not_hold_is_not_hammered() -> None:
    """A poll that comes back empty at once is not repeated at once; one that was held is."""
    poll = WorkRequest(call=0, want=1, wait_seconds=50.0)
    empty = WorkAnswer(heartbeat_seconds=HEARTBEAT, reason="nothing")
    situation = Situation(now=0.1, want=1)
    at_once = work_loop.answered(work_loop.sent(settled(), poll, 0.0), poll, empty, 0.1)
    decided = work_loop.plan(at_once, situation)
    assert decided.poll is None
    assert decided.wake_at is not None
    assert decided.wake_at > 1.0
    held = work_loop.answered(work_loop.sent(settled(), poll, 0.0), poll, empty, 50.0)
    assert work_loop.plan(held, replace(situation, now=50.0)).poll is not None
    assert held.reason == "nothing"


def test_what_the_server_thinks_of_the_host_is_kept() -> None:
    """It is said now and then: what was said last holds until something else is said."""
    call = WorkRequest(call=0, want=1)
    line = work_loop.answered(settled(), call, WorkAnswer(heartbeat_seconds=HEARTBEAT, standing="new: 0.0 of 10"), 0.0)
    line = work_loop.answered(line, call, WorkAnswer(heartbeat_seconds=HEARTBEAT, reason="nothing"), 1.0)
    assert line.standing == "new: 0.0 of 10"
    line = work_loop.answered(line, call, WorkAnswer(heartbeat_seconds=HEARTBEAT, standing="proven"), 2.0)
    assert line.standing == "proven"


def test_a_server_that_is_away_is_tried_with_growing_random_pauses() -> None:
    """Nothing is said until the pause is over; pauses stay under a bound that doubles up to two minutes."""
    line, now, bounds = settled(), 0.0, []
    call = WorkRequest(call=0)

    def most(low: float, high: float) -> float:
        bounds.append(high)
        return high

    for _ in range(12):
        line = work_loop.failed(work_loop.sent(line, call, now), call, Unavailable("away"), now, most)
        assert work_loop.plan(line, Situation(now=now, want=2, reports=(report(ONE),))) == Plan(wake_at=line.retry_at)
        now = line.retry_at
        assert work_loop.plan(line, Situation(now=now, want=2)).short is not None
    assert bounds[:3] == [0.5, 1.0, 2.0]
    assert max(bounds) == 60.0
    answered = work_loop.answered(line, call, WorkAnswer(heartbeat_seconds=HEARTBEAT), now)
    assert (answered.failures, answered.trouble) == (0, None)


def test_two_calls_that_fail_together_count_once() -> None:
    """The held poll and a report both fail when the server goes; the pause is not doubled by that."""
    poll, short = WorkRequest(call=0, want=1, wait_seconds=50.0), WorkRequest(call=0)
    line = work_loop.sent(work_loop.sent(settled(), poll, 0.0), short, 0.0)
    line = work_loop.failed(line, poll, Unavailable("away"), 1.0, lambda _low, high: high)
    line = work_loop.failed(line, short, Unavailable("away"), 1.0, lambda _low, high: high)
    assert line.failures == 1
    assert (line.short, line.poll_want) == (False, None)


def test_a_banned_host_asks_rarely() -> None:
    """A refusal of the host itself is not answered with a storm."""
    call = WorkRequest(call=0)
    line = work_loop.failed(
        work_loop.sent(settled(), call, 0.0), call, Forbidden("banned"), 0.0, lambda low, _high: low
    )
    assert line.retry_at > 10.0
    assert line.trouble == "banned"


def test_call_numbers_grow_whatever_the_clock_does() -> None:
    """They follow the clock in milliseconds, and never go back with it."""
    first = work_loop.next_call(0, 1_000.0)
    assert first == 1_000_000
    assert work_loop.next_call(first, 1_000.0) == first + 1
    assert work_loop.next_call(first, 1.0) == first + 1
    assert work_loop.next_call(first, 1_001.0) == 1_001_000


class _Host:
    """A host that follows the plans against a server that answers, loses and delays as told."""

    def __init__(self, room: int) -> None:
        self.now, self.line = 0.0, Line()
        self.room, self.leases, self.next = room, set[ReplicaId](), 1
        self.calls: dict[str, WorkRequest] = {}
        self.promised = 0  # what there was room for when the short call under way was sent; it cannot be taken back

    def situation(self) -> Situation:
        held = tuple(Held(replica=replica) for replica in sorted(self.leases))
        return Situation(now=self.now, leases=held, want=max(0, self.room - len(self.leases)))

    def look(self) -> None:
        for _ in range(4):
            decided = work_loop.plan(self.line, self.situation())
            if decided.drop_poll:
                self.calls.pop("poll", None)
                self.line = work_loop.dropped(self.line)
            for name, call in (("short", decided.short), ("poll", decided.poll)):
                if call is not None:
                    assert name not in self.calls
                    self.calls[name] = call
                    self.promised = self.room if name == "short" else self.promised
                    self.line = work_loop.sent(self.line, call, self.now)
            if decided.short is None and decided.poll is None:
                if "short" not in self.calls and self.room > len(self.leases) and self.now >= self.line.retry_at:
                    # Someone is asked for work, or will be at a known time.
                    assert "poll" in self.calls or decided.wake_at is not None
                return

    def answer(self, name: str, leases: int) -> None:
        call = self.calls.pop(name, None)
        if call is None:
            return
        given = min(leases, call.want)
        new = [ReplicaId(self.next + n) for n in range(given)]
        self.next += given
        self.leases |= set(new)
        answer = WorkAnswer(heartbeat_seconds=HEARTBEAT, leases=tuple(lease(replica) for replica in new))
        self.line = work_loop.answered(self.line, call, answer, self.now)

    def lose(self, name: str) -> None:
        call = self.calls.pop(name, None)
        if call is not None:
            uniform = random.Random(1).uniform  # noqa: S311  # jitter, not a secret
            self.line = work_loop.failed(self.line, call, Unavailable("lost"), self.now, uniform)


events = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.sampled_from(["short", "poll"]), st.integers(0, 5)),
        st.tuples(st.just("lose"), st.sampled_from(["short", "poll"]), st.just(0)),
        st.tuples(st.just("pass"), st.just(""), st.integers(0, 60)),
        st.tuples(st.just("finish"), st.just(""), st.just(0)),
        st.tuples(st.just("room"), st.just(""), st.integers(0, 4)),
    ),
    max_size=40,
)


@given(st.integers(1, 4), events)
def test_a_host_never_takes_more_than_it_asked_room_for(room: int, steps: list[tuple[str, str, int]]) -> None:
    """Whatever is answered, lost or late: two calls together never ask for more than is free (or was, when a call left
    that is answered at once), at most one of each kind is under way, and a host with room is always waiting for work
    or about to ask."""
    host = _Host(room)
    host.look()
    for what, name, number in steps:
        if what == "answer":
            before = len(host.leases)
            host.answer(name, number)
            assert len(host.leases) <= max(before, host.room, host.promised)
        elif what == "lose":
            host.lose(name)
        elif what == "pass":
            host.now += number
        elif what == "finish" and host.leases:
            host.leases.pop()
        elif what == "room":
            host.room = number
        host.look()
        if "short" not in host.calls:
            host.promised = 0
        asked = sum(call.want for call in host.calls.values())
        assert asked <= max(0, max(host.room, host.promised) - len(host.leases))
