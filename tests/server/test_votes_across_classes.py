"""Votes of hosts whose results are not equal bit by bit, and may be called alike only by what was measured."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from msgspec import structs
from sqlalchemy import update
from xwgrid_schema.tables import hosts
from xwgrid_server import job_views, tolerance_store
from xwgrid_server.calls import Effects, Reading, ReadOrder
from xwgrid_server.database import open_engine

from tests.server.painted_frames import RIGHT, SPOILT, PaintedGrid, Picture, picture_job
from tests.server.small_grid import REQUESTER, facts
from xwgrid.model import Fixed, JobId, TaskNumber, TaskState, UserId
from xwgrid.tolerances import Tolerance
from xwgrid.wire import TaskView

HERE, THERE = "blender avx2", "blender sse42"
# As the other class renders it: a row looks a little different.
ROUNDED = Picture(10, 1, 2)


class TwoClasses(PaintedGrid):
    """Host 1 is the only one of its class, all others are of another one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        with self.engine.begin() as connection:
            for host in range(1, self.owners + 1):
                said = msgspec.json.encode(facts(pictures=HERE if host == 1 else THERE)).decode()
                connection.execute(update(hosts).where(hosts.c.id == host).values(facts=said))
        self.restart()

    def measure(self) -> None:
        """Store a tolerance between the two classes."""
        tolerance_store.keep(
            self.engine,
            Tolerance(
                application="blender",
                class_a=HERE,
                class_b=THERE,
                measured_at=self.now,
                samples=12,
                margin=2.0,
                share=0.01,
                largest=2.0,
                block=0.1,
            ),
        )
        self.restart()

    def read(self, *effects: Effects) -> None:
        """Read as the readers do: of another class, what lies within the tolerance differs by nothing."""
        for order in [order for each in effects for order in each.to_read]:
            self.coordinator.serve([], [self._seen(order)], self.now)

    def _seen(self, order: ReadOrder) -> Reading:
        seen = self.painter.read(order)
        measured = {other.replica for other in order.others if other.tolerance is not None}
        differences = {
            other: 0.0 if other in measured and share <= 0.01 else share for other, share in seen.differences.items()
        }
        return structs.replace(seen, differences=differences)

    def task(self, job: JobId) -> TaskView:
        """Return the job's only task."""
        return job_views.task(self.engine, UserId(REQUESTER), job, TaskNumber(0), {})


@pytest.fixture
def grid(database_url: str) -> Iterator[TwoClasses]:
    """A grid of two classes, between which nothing was measured."""
    engine = open_engine(database_url)
    yield TwoClasses(engine)
    engine.dispose()


def test_classes_do_not_vote_together_unless_that_was_measured(grid: TwoClasses) -> None:
    """The only host of its class gets nothing while nobody could be compared with it, and is told so."""
    grid.submit(picture_job(1, Fixed()))
    answer = grid.call(1, want=1)
    assert answer.leases == ()
    assert "2 voters" in (answer.reason or "")


def test_results_alike_within_the_tolerance_are_one_candidate(grid: TwoClasses) -> None:
    """Two honest hosts of two classes finish a task, though their pictures are not equal."""
    grid.measure()
    job = grid.submit(picture_job(1, Fixed()))
    first, second = grid.take(1), grid.take(2)
    grid.paint(1, first)
    grid.paint(2, second, ROUNDED)
    done = grid.task(job)
    assert done.state is TaskState.AGREED
    assert {replica.state.value for replica in done.replicas} == {"agreed"}


def test_a_lie_is_outvoted_across_classes(grid: TwoClasses) -> None:
    """What lies outside the tolerance finds nobody on its side: a third host decides.

    It is not blamed: honest results of two classes may lie further apart than was measured.
    """
    grid.measure()
    job = grid.submit(picture_job(1, Fixed()))
    first, second = grid.take(1), grid.take(2)
    grid.paint(1, first, SPOILT)
    grid.paint(2, second, ROUNDED)
    assert grid.task(job).state is TaskState.OPEN
    grid.paint(3, grid.take(3), ROUNDED)
    done = grid.task(job)
    assert done.state is TaskState.AGREED
    assert [replica.state.value for replica in done.replicas] == ["cancelled", "agreed", "agreed"]


def test_a_class_that_can_vote_alone_stays_by_itself(grid: TwoClasses) -> None:
    """A task that a common class began goes to hosts of that class, whatever was measured."""
    grid.measure()
    grid.submit(picture_job(1, Fixed()))
    grid.take(2)
    assert grid.call(1, want=1).leases == ()
    grid.paint(3, grid.take(3), RIGHT)
