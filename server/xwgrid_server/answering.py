"""An answer to a work call in the making, and how far running replicas are."""

from __future__ import annotations

from collections.abc import Sequence

from xwgrid.errors import Forbidden, GridError
from xwgrid.model import HostId, JobId, ReplicaId
from xwgrid.ready_tasks import JobCard
from xwgrid.wire import Confirmation, EndedLease
from xwgrid_server.calls import Call
from xwgrid_server.store import Claim, HostRow, ReplicaRow


class Answer:
    """What a call will be answered, gathered in the order in which it is decided."""

    def __init__(self, host: HostRow, call: Call) -> None:
        self.host = host
        self.call = call
        self.confirmed: list[Confirmation] = []
        self.ended: list[EndedLease] = []
        self.again: list[ReplicaRow] = []  # leases whose answer was lost
        self.given: list[tuple[Claim, JobCard]] = []
        self.reason: str | None = None


class Progress(dict[ReplicaId, float]):
    """How far live replicas are, 0 to 1, as their hosts last said. Forgotten with the lease."""

    def __init__(self) -> None:
        super().__init__()
        self._of_job: dict[JobId, set[ReplicaId]] = {}

    def note(self, job: JobId, replica: ReplicaId, done: float) -> None:
        """Keep what a host said."""
        self[replica] = done
        self._of_job.setdefault(job, set()).add(replica)

    def lease_ended(self, job: JobId, replica: ReplicaId) -> None:
        """Forget a replica."""
        if self.pop(replica, None) is not None:
            self._of_job[job].discard(replica)
            if not self._of_job[job]:
                del self._of_job[job]

    def leases_ended(self, job: JobId) -> None:
        """Forget all replicas of a job."""
        for replica in self._of_job.pop(job, ()):
            del self[replica]

    def begin_anew(self) -> None:
        """Forget everything: the hosts will say it again."""
        self.clear()
        self._of_job.clear()


def named(calls: Sequence[Call]) -> set[ReplicaId]:
    """Return the replicas that the calls report or list."""
    replicas: set[ReplicaId] = set()
    for call in calls:
        if call.news:
            replicas.update(report.replica for report in call.request.reports)
            replicas.update(held.replica for held in call.request.held)
    return replicas


def turned_away(host: HostId, row: HostRow | None) -> GridError:
    """Return the refusal for a host that is unknown, or banned."""
    if row is None:
        return Forbidden(f"host {host} is not known here any more: enrol again", host=host)
    why = f": {row.state_reason}" if row.state_reason else ""
    return Forbidden(f"this host was banned by the operator{why}", host=host)
