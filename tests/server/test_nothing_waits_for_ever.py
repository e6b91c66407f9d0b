"""Nothing waits for ever for hosts that were switched off, are busy with something else, or hold what they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import pytest
from msgspec import structs
from sqlalchemy import Engine
from xwgrid_server import coordinator, job_views

from tests.server.painted_frames import HEIGHT, RIGHT, PaintedGrid, Picture, picture_job
from tests.server.small_grid import REQUESTER, digest_job
from tests.server.test_trust import TRUSTED, give_to, task
from xwgrid.drawing import LEAST_OWNERS
from xwgrid.model import Cause, Credibility, JobId, JobState, Limits, ReplicaState, Seconds, UserId
from xwgrid.wire import Failed, Finished, Lease, Outcome

HOUR = 3_600.0
STEP = 30.0

# What a host makes of a lease; of None it never takes any, though it is about.
Way: TypeAlias = Callable[[PaintedGrid, Lease], Outcome] | None


def grid_of(engine: Engine, owners: int, *, trusted: bool = False) -> PaintedGrid:
    """Return a grid that draws from as few others as a real one."""
    grid = PaintedGrid(engine, owners, draw_from=LEAST_OWNERS)
    if trusted:
        grid.stand(*range(1, owners + 1), **TRUSTED)
    return grid


def paints(picture: Picture = RIGHT) -> Way:
    """Return the way of a host that hands in this picture, whatever it is asked for."""

    def way(grid: PaintedGrid, lease: Lease) -> Finished:
        row = grid.coordinator._store.job(lease.job)
        assert row is not None
        return grid.painter.send(lease, row.request, picture, STEP)

    return way


def fails(_grid: PaintedGrid, _lease: Lease) -> Failed:
    """Fail whatever is asked for."""
    return Failed(cause=Cause.EXITED, message="no")


def state(grid: PaintedGrid, job: JobId, user: int) -> JobState:
    """Return a job's state."""
    return job_views.job(grid.engine, UserId(user), job, {}).state


def pass_time(grid: PaintedGrid) -> None:
    """Let half a minute pass, with what a server does of its own accord."""
    grid.now += STEP
    grid.coordinator.expire(grid.now)
    while (due := grid.coordinator.next_draw()) is not None and due <= grid.now:
        grid.coordinator.draw(grid.now)


def hours_until_finished(
    grid: PaintedGrid, job: JobId, ways: Mapping[int, Way], user: int = REQUESTER, *, busy: Seconds = 0.0
) -> float:
    """Have hosts call every half minute, and do what they took by their next call; return how long the job takes.

    The last of them wants nothing in the first `busy` seconds.
    """
    begun = grid.now
    held: dict[int, tuple[Lease, ...]] = {}
    while state(grid, job, user) is JobState.OPEN:
        assert grid.now < begun + 10 * HOUR, "nobody does anything any more"
        pass_time(grid)
        for host, way in ways.items():
            wants = way is not None and (host != max(ways) or grid.now >= begun + busy)
            outcomes = [] if way is None else [(lease, way(grid, lease)) for lease in held.get(host, ())]
            answer, effects = grid.call_with_effects(host, reports=outcomes, want=int(wants))
            held[host] = answer.leases
            grid.read(effects)
    assert state(grid, job, user) is JobState.FINISHED
    return (grid.now - begun) / HOUR


def agreed(grid: PaintedGrid, job: JobId) -> set[str]:
    """Return the names of the hosts that were right about a job's first task."""
    return {each.host for each in task(grid, job).replicas if each.state is ReplicaState.AGREED}


# --- those who never take it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [fails, None], ids=["failed", "idle"])
def test_a_vote_does_not_wait_for_who_never_takes_part(engine: Engine, last: Way) -> None:
    """Two of four are equal, and a fifth owner is about who failed the frame, or wants no work: they win."""
    grid = grid_of(engine, 5)
    grid.stand(*range(1, 6), tested=True)
    job = grid.submit(picture_job(1))
    liars = {host: paints(Picture(0, HEIGHT, host)) for host in (1, 2)}
    assert hours_until_finished(grid, job, {5: last, **liars, 3: paints(), 4: paints()}) < 1
    assert agreed(grid, job) == {"host3", "host4"}


@pytest.mark.parametrize("last", [fails, None], ids=["failing", "idle"])
def test_two_owners_finish_what_wants_a_third(engine: Engine, last: Way) -> None:
    """Strips and denoising are for two others. A third owner is about, who wants no work, or fails until they are kept
    off the job: it ends all the same.
    """
    grid = grid_of(engine, 3, trusted=True)
    job = grid.submit(picture_job(5, in_steps=True))
    assert hours_until_finished(grid, job, {3: last, 1: paints(), 2: paints()}) < 1


def test_who_takes_it_late_is_waited_for(engine: Engine) -> None:
    """A third owner who was busy for some minutes does their part: no frame is rendered once more for that."""
    grid = grid_of(engine, 3, trusted=True)
    job = grid.submit(picture_job(1, in_steps=True))
    assert hours_until_finished(grid, job, {1: paints(), 2: paints(), 3: paints()}, busy=5 * STEP) * HOUR > 5 * STEP
    assert sum(each.strips is None for each in task(grid, job).replicas) == 1


def test_a_private_film_does_not_wait_for_who_was_switched_off(engine: Engine) -> None:
    """Of an owner's three hosts one was about an hour ago: the two that are do the film."""
    grid = grid_of(engine, 3)
    for host in (2, 3):
        give_to(grid, 1, host)
    grid.call(3)
    grid.now += HOUR
    for host in (1, 2):
        grid.call(host)
    job = grid.submit(picture_job(1, in_steps=True, private=True), owner=1)
    assert hours_until_finished(grid, job, {1: paints(), 2: paints()}, user=1) < 1


# --- few owners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("owners", "cheats", "epsilon"), [(4, (3, 4), 1e-3), (3, (), 1e-6), (2, (), 1e-4)])
def test_credibility_ends_with_everybodys_vote(
    engine: Engine, owners: int, cheats: tuple[int, ...], epsilon: float
) -> None:
    """Where nobody is left to ask, the most equal results are accepted, though the doubt is larger than was wished."""
    grid = grid_of(engine, owners)
    job = grid.submit(picture_job(2, Credibility(epsilon=epsilon)))
    ways = {host: paints(Picture(0, HEIGHT, host) if host in cheats else RIGHT) for host in range(1, owners + 1)}
    assert hours_until_finished(grid, job, ways) < 1
    assert agreed(grid, job) == {f"host{host}" for host in range(1, owners + 1) if host not in cheats}


def test_a_new_host_does_what_is_begun_of_a_fixed_job(engine: Engine) -> None:
    """It cannot begin with the job that goes by standing, whose only frame its owner's other host is at: it does the
    second replica of a task that asks nothing of its standing.
    """
    grid = grid_of(engine, 4)
    give_to(grid, 1, 2)
    grid.stand(3, **TRUSTED)
    audited, fixed = grid.submit(picture_job(1)), grid.submit(digest_job(1))
    assert (grid.take(1).job, grid.take(3).job) == (audited, fixed)
    assert grid.take(2).job == fixed


# --- leases -----------------------------------------------------------------------------------------------------


def test_a_lease_that_is_renewed_for_ever_ends(engine: Engine) -> None:
    """A host that says in every call that it goes on keeps its frame for as long as it can have a right to, not longer;
    then another has it.
    """
    grid = grid_of(engine, 2, trusted=True)
    limits = Limits(seconds=600.0)
    grid.submit(structs.replace(picture_job(1), limits=limits))
    lease = grid.take(1)
    until = grid.now + coordinator.LONGEST_LEASES * limits.seconds + coordinator.LEASE_SLACK
    while grid.now < until:
        grid.now += 2 * STEP
        grid.coordinator.expire(grid.now)
        assert grid.call(1, held=[lease]).ended == ()
    while grid.call(1, held=[lease]).ended == ():
        assert grid.now < until + 2 * lease.lease_seconds
        grid.now += 2 * STEP
        grid.coordinator.expire(grid.now)
    assert grid.take(2).task == lease.task
