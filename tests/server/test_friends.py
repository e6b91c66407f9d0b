"""What friends, the lazy and the careless try so that a wrong result is accepted, or a right one is not."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import Engine, update
from xwgrid_schema.tables import hosts
from xwgrid_server import tolerance_store
from xwgrid_server.calls import Call

from tests.server.painted_frames import RIGHT, SPOILT, PaintedGrid, Picture, only, picture_job, strips_of
from tests.server.small_grid import digest_job, facts
from tests.server.test_trust import LIE, TRUSTED, accept, credit, standing, task
from xwgrid.auditing import DENOISED
from xwgrid.model import (
    Credibility,
    Fixed,
    HostFacts,
    HostId,
    Program,
    ReplicaState,
    TaskState,
)
from xwgrid.tolerances import Tolerance
from xwgrid.wire import HandedBack, Lease, WorkAnswer

COMMON, MADE_UP = "blender any", "blender made up"
# Right until it was denoised, and then altered by hand.
TOUCHED = Picture(touched=5)
# Longer than hosts are given to call after a restart, and than any draw is put off.
LATER = 100.0


@pytest.fixture
def grid(engine: Engine) -> PaintedGrid:
    """Ten owners with a host each: the first six are trusted, the others new."""
    made = PaintedGrid(engine, owners=10)
    made.stand(*range(1, 7), **TRUSTED)
    made.restart()
    return made


def say(grid: PaintedGrid, pictures: str, *which: int) -> None:
    """Have hosts be of a class."""
    with grid.engine.begin() as connection:
        said = msgspec.json.encode(facts(pictures=pictures)).decode()
        connection.execute(update(hosts).where(hosts.c.id.in_(which)).values(facts=said))
    grid.restart()


def leave(grid: PaintedGrid, *which: int) -> None:
    """Have hosts not have called for a long time."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id.in_(which)).values(last_seen_at=0.0))
    grid.restart()


def draw_from(grid: PaintedGrid, owners: int) -> None:
    """Have checks drawn where so many others are about."""
    grid.draw_from = owners
    grid.restart()


def call(grid: PaintedGrid, *which: int) -> None:
    """Have hosts be about."""
    for host in which:
        grid.call(host)


def draw(grid: PaintedGrid) -> list[HostId]:
    """Let the time of the next draw come; return who is drawn."""
    due = grid.coordinator.next_draw()
    assert due is not None
    grid.now = max(grid.now, due)
    return list(grid.coordinator.draw(grid.now).drawn)


def hand_back(grid: PaintedGrid, host: int, lease: Lease) -> None:
    """Give a lease back once it has come."""
    grid.call(host, held=[lease])
    grid.call(host, reports=[(lease, HandedBack())])


def drop(grid: PaintedGrid, host: int) -> Lease:
    """Take a lease and forget it."""
    lease = grid.take(host)
    grid.call(host, held=[lease])
    grid.call(host)
    return lease


# --- classes ----------------------------------------------------------------------------------------------------


def test_two_who_make_up_a_class_get_no_work(grid: PaintedGrid) -> None:
    """Where others have proved themselves, two owners alone with each other's results have none of a job that goes by
    standing, and are told why; of a replicated one they have.
    """
    say(grid, MADE_UP, 9, 10)
    audited = grid.submit(picture_job(9))
    for host in (9, 10):
        refused = grid.call(host, want=1)
        assert refused.leases == ()
        assert refused.reason == (
            f"too few have proved themselves with results of the class '{MADE_UP}' yet: 2 owners have such hosts; it "
            "takes 4, a measured tolerance, or the operator's word"
        )
    assert grid.take(1).job == audited
    replicated = grid.submit(picture_job(9, Fixed()))
    assert {grid.take(host).job for host in (9, 10)} == {replicated}


def test_four_owners_make_a_class(grid: PaintedGrid) -> None:
    """As many as checks can be drawn from may vote among each other, three may not."""
    say(grid, MADE_UP, 8, 9, 10)
    grid.submit(picture_job(9))
    assert grid.call(10, want=1).leases == ()
    say(grid, MADE_UP, 7)
    assert grid.take(10).task == 0


def test_the_operators_word_opens_a_class(grid: PaintedGrid) -> None:
    """With one host of it that an operator vouches for, its other hosts begin like all new ones."""
    grid.stand(9, vouched=True)
    say(grid, MADE_UP, 9, 10)
    grid.submit(picture_job(9))
    assert grid.take(10).task == 0


def test_a_measured_tolerance_opens_a_class(grid: PaintedGrid) -> None:
    """Where results of a class can be laid beside those of another, its hosts are not alone with each other."""
    tolerance = Tolerance(
        application="blender",
        class_a=COMMON,
        class_b=MADE_UP,
        share=0.01,
        largest=2.0,
        block=0.1,
        measured_at=grid.now,
        samples=12,
        margin=2.0,
    )
    tolerance_store.keep(grid.engine, tolerance)
    say(grid, MADE_UP, 9, 10)
    grid.submit(picture_job(9))
    assert grid.take(10).task == 0


def test_where_nobody_has_proved_themselves_two_may_begin(engine: Engine) -> None:
    """On a young grid every class is as good as another."""
    grid = PaintedGrid(engine, owners=4)
    say(grid, MADE_UP, 3, 4)
    grid.submit(picture_job(9))
    assert {grid.take(3).task, grid.take(4).task} == {0}


def test_a_class_of_another_runtimes_name_is_none(grid: PaintedGrid) -> None:
    """A host that says its Python makes what others' Blender makes gets no work for that, is answered all the same,
    and leaves what is known of the class as it was.
    """
    grid.submit(picture_job(9))
    grid.submit(structs.replace(digest_job(9), policy=Credibility()))
    known = accept(grid, 1, [2])
    program = Program(runtime="python", version="3.11", result_class=COMMON)
    said = HostFacts(name="host", system="x", processor="x", cores=1, memory_bytes=1, programs=(program,))
    for _ in range(2):
        request = structs.replace(grid.request(10, want=1), facts=said)
        (answer,) = grid.coordinator.serve([Call(HostId(10), request)], [], grid.now).answers
        assert isinstance(answer, WorkAnswer)
        assert answer.leases == ()
        assert "which this host has not got" in (answer.reason or "")
    assert grid.take(9).task == known.task


# --- new hosts --------------------------------------------------------------------------------------------------


def test_friends_who_hand_tests_back_are_not_believed(grid: PaintedGrid) -> None:
    """Two new hosts that wait for a frame of which nothing is known are equal, and decide nothing while others are
    about: these render it, and set both aside.
    """
    job = grid.submit(picture_job(9))
    accept(grid, 1, [2])
    lies = {}
    for friend in (9, 10):
        hand_back(grid, friend, grid.take(friend))
        lies[friend] = grid.take(friend)
    assert {lease.task for lease in lies.values()} == {1}
    for friend, lease in lies.items():
        call(grid, *range(1, 7))
        grid.paint(friend, lease, LIE)
    assert task(grid, job, 1).state is TaskState.OPEN
    for host in (3, 4, 5):
        call(grid, *range(1, 7))
        lease = grid.take(host)
        assert lease.task == 1
        grid.paint(host, lease)
    assert task(grid, job, 1).state is TaskState.AGREED
    for friend in (9, 10):
        assert "set aside" in (grid.call(friend, want=1).reason or "")
        assert credit(grid, friend) == 0.0


def test_new_hosts_are_not_given_what_is_drawn_for(grid: PaintedGrid) -> None:
    """At the end of a job nothing fresh is left; a new host that asks first has nothing of the frame whose checks
    others are drawn for.
    """
    draw_from(grid, 3)
    job = grid.submit(picture_job(1))
    grid.paint(6, grid.take(6), LIE)
    assert grid.call(10, want=1).leases == ()
    host = only(draw(grid))
    assert host in range(1, 6)
    assert grid.call(10, want=1).leases == ()
    audit = grid.take(host)
    assert (audit.job, strips_of([audit])) != (job, [None])
    grid.paint(host, audit)
    assert task(grid, job).state is TaskState.OPEN


# --- raw passes -------------------------------------------------------------------------------------------------


def begun_in_steps(grid: PaintedGrid, picture: Picture = RIGHT) -> tuple[Lease, dict[bool, tuple[int, Lease]]]:
    """Have host 1 render a frame, and 2 and 3 take its audits; return it, and by whether they denoise the audits."""
    grid.submit(picture_job(1, in_steps=True))
    author = grid.take(1)
    grid.paint(1, author, picture)
    taken = [(host, grid.take(host)) for host in (2, 3)]
    return author, {strips_of([lease]) == [DENOISED]: (host, lease) for host, lease in taken}


def test_who_handed_raw_passes_back_cuts_no_strips_from_them(grid: PaintedGrid) -> None:
    """The host that was to denoise has the raw passes still: it gets nothing more of that frame, others do."""
    _, audits = begun_in_steps(grid)
    for host, lease in audits.values():
        hand_back(grid, host, lease)
    denoiser, _ = audits[True]
    assert grid.call(denoiser, want=5).leases == ()
    assert None not in strips_of([grid.take(host) for host in (4, 5)])


def test_who_had_raw_passes_is_nobody_to_wait_for(grid: PaintedGrid) -> None:
    """When nobody else is about who may have the strips, the frame goes to whole replicas."""
    leave(grid, *range(3, 11))
    grid.submit(picture_job(1, in_steps=True))
    grid.paint(1, grid.take(1))
    had = []
    while DENOISED not in had:
        lease = grid.take(2)
        had += strips_of([lease])
        hand_back(grid, 2, lease)
    assert strips_of([grid.take(3)]) == [None]


def test_who_denoised_and_found_the_lie_is_right(grid: PaintedGrid) -> None:
    """Nobody else's picture can be laid beside theirs: when the author loses, they are paid and doubted no more."""
    author, audits = begun_in_steps(grid, TOUCHED)
    for host, lease in audits.values():
        grid.paint(host, lease)
    denoiser, denoised = audits[True]
    assert standing(grid, denoiser).suspected_until > grid.now
    for host in (4, 5):
        for lease in grid.call(host, want=1).leases:
            grid.paint(host, lease)
    view = task(grid, author.job)
    ballots = {each.replica: each.state for each in view.replicas}
    assert (ballots[author.replica], ballots[denoised.replica]) == (ReplicaState.OUTVOTED, ReplicaState.AGREED)
    assert (standing(grid, denoiser).suspected_until, standing(grid, denoiser).wrong) == (None, 0)
    assert credit(grid, denoiser) > 0.0


# --- disputes ---------------------------------------------------------------------------------------------------


def test_a_strip_elsewhere_washes_no_suspicion_off(grid: PaintedGrid) -> None:
    """Who is accused stays so while the vote is out, whatever they are right about meanwhile; the vote ends it."""
    job = grid.submit(picture_job(9))
    grid.paint(1, grid.take(1), SPOILT)
    audit = grid.take(2)
    grid.paint(2, audit)
    third = grid.take(4)
    assert (third.task, strips_of([third])) == (audit.task, [None])
    other = grid.take(3)
    grid.paint(3, other)
    for host in (1, 5):  # an accused host's word is not enough, nor is one strip of what it looked at
        elsewhere = grid.take(host)
        assert elsewhere.task == other.task
        grid.paint(host, elsewhere)
    assert task(grid, job, other.task).state is TaskState.AGREED
    assert standing(grid, 1).valid == 1
    assert standing(grid, 1).suspected_until > grid.now
    grid.paint(4, third)
    assert task(grid, job, audit.task).state is TaskState.AGREED
    assert standing(grid, 2).suspected_until is None
    assert standing(grid, 1).on_record == 1


def test_one_host_cannot_bring_a_task_down(grid: PaintedGrid) -> None:
    """However often it takes a task and forgets it, others do it."""
    job = grid.submit(digest_job(1))
    assert {drop(grid, 1).task for _ in range(12)} == {0}
    assert task(grid, job).state is TaskState.OPEN
    for host in (2, 3):
        grid.do(host, grid.take(host))
    assert task(grid, job).state is TaskState.AGREED


def test_a_task_that_brings_four_hosts_down_ends(grid: PaintedGrid) -> None:
    """With the tenth loss, of which no host had more than three, and a reason that tells how many hosts it were."""
    job = grid.submit(digest_job(1))
    for host in (1, 2, 3) * 3:
        drop(grid, host)
    assert task(grid, job).state is TaskState.OPEN
    drop(grid, 4)
    view = task(grid, job)
    assert view.state is TaskState.FAILED
    assert view.reason == "4 hosts vanished while they had it, some of them again and again"


# --- restarts ---------------------------------------------------------------------------------------------------


def test_after_a_restart_nobody_checks_by_asking_first(grid: PaintedGrid) -> None:
    """While those who were there have still to call there is nobody to draw from, and a friend who waits for just that
    gets no check; when the time to call is over owners are drawn as before.
    """
    grid.stand(*range(7, 11), **TRUSTED)
    draw_from(grid, 3)
    job = grid.submit(picture_job(5))
    lie = grid.take(1)
    grid.now += 20
    grid.call(1, held=[lie])
    grid.restart()
    grid.paint(1, lie, LIE)
    assert {lease.task for lease in grid.call(2, want=3).leases} == {1, 2, 3}
    grid.now += LATER - 60
    call(grid, *range(3, 11))
    drawn = only(draw(grid))
    audit = grid.take(drawn)
    assert (audit.task, strips_of([audit]) == [None]) == (lie.task, False)
    grid.paint(drawn, audit)
    assert task(grid, job).undrawn == 0


def test_after_a_restart_whoever_is_left_gets_the_checks(grid: PaintedGrid) -> None:
    """When the time to call is over and only one host did, it has the check after all."""
    draw_from(grid, 3)
    job = grid.submit(picture_job(1))
    frame = grid.take(1)
    grid.now += 20
    grid.restart()
    grid.paint(1, frame)
    assert grid.call(2, want=1).leases == ()
    grid.now += LATER
    grid.call(2)
    draw(grid)
    grid.paint(2, grid.take(2))
    assert task(grid, job).state is TaskState.AGREED
