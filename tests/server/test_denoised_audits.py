"""Frames that are denoised in a step of its own: their raw passes are audited by strips, the step by doing it again."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import Engine, select
from xwgrid_schema.tables import replicas
from xwgrid_server import job_views
from xwgrid_server.batch import may_be_compared
from xwgrid_server.calls import Effects
from xwgrid_server.store import BoxedResult

from tests.server.painted_frames import HEIGHT, RIGHT, PaintedGrid, Picture, only, picture_job, strips_of
from tests.server.small_grid import REQUESTER
from xwgrid.auditing import DENOISED
from xwgrid.model import (
    Cause,
    Fixed,
    HostId,
    InputFile,
    JobId,
    ReplicaId,
    ReplicaState,
    ResultFile,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.voting import Attempt
from xwgrid.wire import Lease, TaskView

PICTURE, RAW = "frame_0001.png", "frame_0001_raw.exr"
# Right until it was denoised, and then altered by hand.
TOUCHED = Picture(touched=1)
# Raw passes that are wrong everywhere, and the picture that follows from them.
WRONG = Picture(0, HEIGHT, 1)


class Grid(PaintedGrid):
    """Six owners whose hosts nobody doubts: one strip and one denoising are enough for what they render."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.stand(*range(1, self.owners + 1), proven=True, tested=True)

    def task(self, job: JobId, user: int = REQUESTER) -> TaskView:
        """Return the job's first task."""
        return job_views.task(self.engine, UserId(user), job, TaskNumber(0), {})


class Audited(NamedTuple):
    """A frame that one host rendered, and the two audits of it that others hold."""

    job: JobId
    author: Lease
    strips: Lease
    denoised: Lease
    strips_host: int
    denoised_host: int


@pytest.fixture
def grid(engine: Engine) -> Grid:
    return Grid(engine, owners=6)


def audited(grid: Grid, picture: Picture = RIGHT) -> Audited:
    """Have host 1 render a frame, and hosts 2 and 3 take what is asked of others then."""
    job = grid.submit(picture_job(1, in_steps=True))
    author = grid.take(1)
    grid.paint(1, author, picture)
    found = {str(strips_of([lease])[0]): (host, lease) for host in (2, 3) for lease in grid.call(host, want=3).leases}
    denoised_host, denoised = found.pop(DENOISED)
    strips_host, strips = only(found.values())
    return Audited(job, author, strips, denoised, strips_host, denoised_host)


def files_of(grid: Grid, replica: ReplicaId) -> dict[str, str]:
    """Return the names of a result's blobs by the names of its files."""
    with grid.engine.connect() as connection:
        text = connection.execute(select(replicas.c.files).where(replicas.c.id == replica)).scalar_one()
    return {file.name: file.sha256 for file in msgspec.json.decode(text, type=tuple[ResultFile, ...])}


# --- leases -----------------------------------------------------------------------------------------------------


def test_who_denoises_once_more_is_given_the_raw_passes(grid: Grid) -> None:
    """Strips and denoising go to two owners; the lease of the second brings the author's raw passes, nothing else."""
    found = audited(grid)
    assert found.strips_host != found.denoised_host
    assert found.author.inputs == found.strips.inputs == ()
    raw = InputFile(path=RAW, sha256=files_of(grid, found.author.replica)[RAW], size=1)
    assert found.denoised.inputs == (raw,)
    assert found.denoised.arguments == {"frame": 1, "strips": DENOISED}


def test_nobody_is_given_both(grid: Grid) -> None:
    """Whoever has the raw passes could copy strips from them: an owner that asks for all there is gets one of the two,
    and no other one afterwards, whichever it took.
    """
    job = grid.submit(picture_job(1, in_steps=True))
    grid.paint(1, grid.take(1))
    first = only(grid.call(2, want=5).leases)
    assert grid.call(2, want=5, held=[first]).leases == ()
    second = only(grid.call(3, want=5).leases)
    assert {*strips_of([first]), *strips_of([second])} > {DENOISED}
    grid.paint(3, second)
    grid.paint(2, first)
    assert grid.call(2, want=5).leases == ()
    assert grid.task(job).state is TaskState.AGREED


def test_a_lost_answer_brings_the_raw_passes_again(grid: Grid) -> None:
    """A lease that is sent again, by a server that was started anew as well, is the same one, inputs and all."""
    found = audited(grid)
    for _ in range(2):
        assert grid.call(found.denoised_host).leases == (found.denoised,)
        assert grid.call(found.strips_host).leases == (found.strips,)
        grid.restart()


def test_replicated_frames_bring_their_raw_passes_to_nobody(grid: Grid) -> None:
    """Where a job is voted on, each of its results is a picture with raw passes, and no lease has inputs."""
    job = grid.submit(picture_job(1, Fixed(), in_steps=True))
    leases = {host: grid.take(host) for host in (1, 2)}
    for host, lease in leases.items():
        assert (lease.inputs, strips_of([lease])) == ((), [None])
        grid.paint(host, lease)
    done = grid.task(job)
    assert done.state is TaskState.AGREED
    assert [file.name for file in done.files] == [PICTURE]


# --- results ----------------------------------------------------------------------------------------------------


def test_a_frame_is_accepted_when_both_fit(grid: Grid) -> None:
    """Strips alone decide nothing, nor does denoising; then both are told, and the requester is given the picture."""
    found = audited(grid)
    grid.paint(found.strips_host, found.strips)
    assert grid.task(found.job).state is TaskState.OPEN
    grid.paint(found.denoised_host, found.denoised)
    done = grid.task(found.job)
    assert done.state is TaskState.AGREED
    assert done.accepted is not None
    assert done.accepted.startswith("1 strip by 1 other owner fits and denoising by 1 other owner fits;")
    assert [(file.name, file.sha256) for file in done.files] == [
        (PICTURE, files_of(grid, found.author.replica)[PICTURE])
    ]
    assert [replica.differed for replica in done.replicas] == [None, 0.0, 0.0]
    assert {replica.strips for replica in done.replicas} == {None, DENOISED, str(found.strips.arguments["strips"])}


@pytest.mark.parametrize(
    ("picture", "strips_fit", "denoising_fits"), [(TOUCHED, True, False), (WRONG, False, True)], ids=["after", "before"]
)
def test_a_lie_is_met_where_it_was_told(grid: Grid, picture: Picture, strips_fit: bool, denoising_fits: bool) -> None:
    """What was altered after denoising fits every strip and is met by denoising it again; wrong raw passes are met by
    strips, though the picture follows from them. Either way others render the frame, and the author loses.
    """
    found = audited(grid, picture)
    grid.paint(found.strips_host, found.strips)
    grid.paint(found.denoised_host, found.denoised)
    assert grid.task(found.job).state is TaskState.OPEN
    for host in (4, 5, 6):
        for lease in grid.call(host, want=1).leases:
            assert strips_of([lease]) == [None]
            grid.paint(host, lease)
    done = grid.task(found.job)
    assert done.state is TaskState.AGREED
    told = {replica.replica: replica for replica in done.replicas}
    assert told[found.author.replica].state is ReplicaState.OUTVOTED
    assert (told[found.strips.replica].differed == 0.0) is strips_fit
    assert (told[found.denoised.replica].differed == 0.0) is denoising_fits
    assert done.files[0].sha256 != files_of(grid, found.author.replica)[PICTURE]


@pytest.mark.parametrize("brings", [(PICTURE, RAW), (RAW,), ()])
def test_a_denoising_is_the_picture_alone(grid: Grid, brings: tuple[str, ...]) -> None:
    """Raw passes beside the picture, or in its place, or nothing: such a report fails the audit, and is not read."""
    found = audited(grid)
    whole = grid.painter.send(found.denoised, picture_job(1, in_steps=True), RIGHT, 60.0)
    picture = only(whole.files)
    files = tuple(structs.replace(picture, name=name) for name in brings)
    report = (found.denoised, structs.replace(whole, files=files))
    _, effects = grid.call_with_effects(found.denoised_host, reports=[report])
    assert effects.to_read == ()
    grid.paint(found.strips_host, found.strips)
    assert grid.task(found.job).state is TaskState.OPEN
    grid.paint(4, only(grid.call(4, want=1).leases))
    ended = {replica.replica: replica for replica in grid.task(found.job).replicas}[found.denoised.replica]
    assert (ended.cause, ended.message) == (Cause.BAD_RESULT, f"the result should be the files {PICTURE}")


# --- what is laid beside what -----------------------------------------------------------------------------------


def attempt(number: int, audits: int | None = None, strips: str | None = None) -> Attempt:
    """Return a replica of the voter of the same number."""
    return Attempt(
        replica=ReplicaId(number),
        number=number,
        host=HostId(number),
        voter=number,
        state=ReplicaState.VOTING,
        cause=None,
        fingerprint=None,
        result_class="any",
        audits=None if audits is None else ReplicaId(audits),
        strips=strips,
    )


def boxed(one: Attempt) -> BoxedResult:
    """Return the same replica as one that was read."""
    return BoxedResult(one.replica, one.audits, one.strips, (), one.result_class)


def test_what_was_denoised_is_laid_beside_its_authors_picture_alone() -> None:
    """Full results lie beside full ones and strips, strips beside full ones of anybody, a denoising beside the result
    whose raw passes it was made of; it does not matter which of the two came first.
    """
    author, other = attempt(1), attempt(2)
    strips, denoised, second = attempt(3, 1, "0+2"), attempt(4, 1, DENOISED), attempt(5, 2, DENOISED)
    everything = [author, other, strips, denoised, second]
    pairs = {
        frozenset((one.replica, each.replica))
        for one in everything
        for each in everything
        if one is not each and may_be_compared(one, boxed(each))
    }
    assert pairs == {frozenset(pair) for pair in ((1, 2), (1, 3), (2, 3), (1, 4), (2, 5))}
    for one in everything:
        for each in everything:
            assert may_be_compared(one, boxed(each)) == may_be_compared(each, boxed(one)) or one is each


def test_readers_are_told_what_to_lay_beside(grid: Grid) -> None:
    """Of a frame with two authors, a denoising is read beside the picture of its own; so it is after a restart."""
    found = audited(grid, TOUCHED)
    _, denoised = grid.report(found.denoised_host, found.denoised)
    order = only(denoised.to_read)
    assert [each.replica for each in order.others] == [found.author.replica]
    grid.read(denoised)
    second = only(grid.call(4, want=1).leases)
    assert strips_of([second]) == [None]
    _, full = grid.report(4, second)
    for each in (only(full.to_read), *grid.coordinator.unread()):
        assert [(other.replica, other.strips) for other in each.others] == [(found.author.replica, None)]
    grid.restart()
    assert [each.replica for each in only(grid.coordinator.unread()).others] == [found.author.replica]
    grid.read(Effects(to_read=tuple(grid.coordinator.unread())))
    _, late = grid.report(found.strips_host, found.strips)
    assert {each.replica for each in only(late.to_read).others} == {found.author.replica, second.replica}
