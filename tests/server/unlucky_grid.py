"""A small grid whose database fails when it is told to, and volunteers who keep their leases on a disk."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from xwgrid_server.calls import LeaseTerms
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.job_store import SqlStore
from xwgrid_server.store import Changes, JobRow, Saved, TaskKey, TaskRow

from tests.server.small_grid import SmallGrid, finished, right
from xwgrid.model import Cause, JobId, ReplicaId
from xwgrid.wire import Failed, HandedBack, Held, Lease, Outcome, Report, WorkAnswer, WorkRequest

LIES = ("0" * 64, "1" * 64)


class Unlucky(SqlStore):
    """The real store on a bad day: `fails` names what fails next, before or after it was written."""

    fails: str = ""

    def _fail(self, what: str) -> None:
        if self.fails == what:
            self.fails = ""
            raise OSError(f"the database went away: {what}")

    def save(self, changes: Changes) -> Saved:
        """Write a batch, or seem not to."""
        self._fail("before save")
        saved = super().save(changes)
        self._fail("after save")
        return saved

    def tasks(self, keys: Collection[TaskKey]) -> dict[TaskKey, TaskRow]:
        """Return tasks."""
        self._fail("tasks")
        return dict(super().tasks(keys))

    def job(self, job: JobId) -> JobRow | None:
        """Return a job."""
        self._fail("job")
        return super().job(job)


class UnluckyGrid(SmallGrid):
    """A small grid whose store may fail."""

    def restart(self) -> None:
        """Begin anew from what is in the database."""
        self.store = Unlucky(self.engine)
        self.coordinator = Coordinator(self.store, LeaseTerms(draw_from=self.draw_from), self.now, self.random)


@dataclass
class Volunteer:
    """What a host has on its disk, and the number of its last call."""

    host: int
    call: int = 0
    held: dict[ReplicaId, Lease] = field(default_factory=dict)
    outbox: dict[ReplicaId, tuple[Lease, Outcome]] = field(default_factory=dict)

    def request(self, want: int) -> WorkRequest:
        """Return the next call."""
        self.call += 1
        return WorkRequest(
            call=self.call,
            want=want,
            held=tuple(Held(replica=each, done=0.5) for each in self.held if each not in self.outbox),
            reports=tuple(Report(replica=each, outcome=outcome) for each, (_, outcome) in self.outbox.items()),
        )

    def hear(self, answer: WorkAnswer) -> None:
        """Take an answer in."""
        for ended in answer.ended:
            self.held.pop(ended.replica, None)
            self.outbox.pop(ended.replica, None)
        for confirmed in answer.confirmed:
            self.held.pop(confirmed.replica, None)
            self.outbox.pop(confirmed.replica, None)
        for lease in answer.leases:
            self.held[lease.replica] = lease


def outcome_of(how: str, lease: Lease) -> Outcome:
    """Return how a task ends: "right", "lie", "other lie", "late lie" (here: right), "fail" or "hand back"."""
    if how == "fail":
        return Failed(cause=Cause.EXITED, message="it said no")
    if how == "hand back":
        return HandedBack()
    return finished({"lie": LIES[0], "other lie": LIES[1]}.get(how) or right(lease.task))
