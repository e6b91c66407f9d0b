"""The working set of one batch: rows as they will be once it is written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs

from xwgrid.auditing import DENOISED
from xwgrid.lifecycle import REPLICA_MOVES, ReplicaEvent, move
from xwgrid.model import Audit, HostId, Instant, JobId, ReplicaId, ReplicaState
from xwgrid.policies import Lot, policy_of
from xwgrid.ready_tasks import JobCard
from xwgrid.scheduling import ReadyIndex
from xwgrid.tolerances import Tolerances
from xwgrid.voting import Attempt
from xwgrid_server.calls import Other, ReadOrder
from xwgrid_server.reputation import Reputation
from xwgrid_server.store import (
    BoxedResult,
    Changes,
    Claim,
    HostChange,
    JobChange,
    Renewal,
    ReplicaChange,
    ReplicaRow,
    Store,
    TaskChange,
    TaskKey,
    TaskRow,
)
from xwgrid_server.verdicts import Verdicts

# Of what is told of a replica, what its `Attempt` keeps.
_ATTEMPTS_OWN: Final = ("cause", "fingerprint", "differences", "seconds", "credit")
_differences: Final = msgspec.json.Decoder(dict[ReplicaId, float])
# Results one result is laid beside at most: each takes the time of decoding a picture.
MOST_OTHERS = 12


class Batch:
    """Collects what a batch changes. Moves go through the tables of `xwgrid.lifecycle`."""

    def __init__(
        self,
        store: Store,
        index: ReadyIndex,
        card: Callable[[JobId], JobCard],
        rows: Mapping[ReplicaId, ReplicaRow],
        *,
        reputation: Reputation,
        lot: Lot,
    ) -> None:
        self.now: Instant = reputation.grid.now
        self.renewals: dict[ReplicaId, Renewal] = {}
        self.hosts: dict[HostId, HostChange] = {}
        self.claims: list[Claim] = []
        self.touched: set[TaskKey] = set()
        self._to_decide: set[TaskKey] = set()
        self.newly_wanted = 0
        self.freed: list[HostId] = []  # hosts that may have more work now
        self.reputation = reputation
        self.index = index
        self.card = card
        self._store = store
        self._lot = lot
        self._rows = dict(rows)
        self._leases: dict[HostId, dict[ReplicaId, None]] = {}
        for replica, row in rows.items():
            if row.attempt.state is ReplicaState.LEASED:
                self._leases.setdefault(row.attempt.host, {})[replica] = None
        self._was: dict[ReplicaId, ReplicaState] = {}
        self._told: dict[ReplicaId, dict[str, Any]] = {}
        self._tasks: dict[TaskKey, TaskChange] = {}
        self._counts: dict[JobId, dict[str, float]] = {}
        self._to_read: list[ReadOrder] = []

    def row(self, replica: ReplicaId) -> ReplicaRow | None:
        """Return a replica as it stands in this batch."""
        return self._rows.get(replica)

    def leases_of(self, host: HostId) -> Sequence[ReplicaRow]:
        """Return the live leases of a host as they stand in this batch."""
        leases = self._leases.get(host)
        return [self._rows[replica] for replica in leases] if leases else ()

    def end(self, row: ReplicaRow, event: ReplicaEvent, **told: Any) -> None:
        """Move a replica on, with what is told of it: fields of `ReplicaChange`."""
        attempt = row.attempt
        if attempt.state is ReplicaState.LEASED:
            self.renewals.pop(attempt.replica, None)
            self._leases[attempt.host].pop(attempt.replica, None)
            self.index.lease_ended(self.card(row.job))
            told["ended_at"] = self.now
            if "seconds" in told:
                # What a host says of itself, but never more than the server saw pass.
                told["seconds"] = min(told["seconds"], max(0.0, self.now - row.leased_at))
        state = self.change(row, event, told)
        if state is ReplicaState.FAILED and attempt.audits is None:
            self.index.host_failed(row.job, attempt.host)
        if state is ReplicaState.LOST:
            self.count(row.job, lost=1)
        if event in _RESULT_CAME and attempt.audits is None and told["seconds"] > 0:
            self.count(row.job, timed=1, seconds=told["seconds"])
        self.touched.add((row.job, row.task))
        if event is not ReplicaEvent.FILES_REPORTED:  # which says nothing until the files are read
            self._to_decide.add((row.job, row.task))

    def think_over(self, tasks: Iterable[TaskKey]) -> None:
        """Have verdicts come to on tasks of which nothing new is known, since others may be about now."""
        self.touched.update(tasks)
        self._to_decide.update(tasks)

    def to_be_read(self, order: ReadOrder) -> None:
        """Have a result read once the batch is written."""
        self._to_read.append(order)

    def decide(self) -> None:
        """Come to a verdict on every task that anything happened to, and tell the index what is wanted now."""
        if self._to_decide:
            verdicts = Verdicts(self, self._lot)
            for task in self._known(self._to_decide):
                verdicts.decide(task)

    def look_again(self, keys: list[TaskKey]) -> None:
        """Open accepted tasks again, whose author was caught."""
        verdicts = Verdicts(self, self._lot)
        for task in self._known(keys):
            verdicts.reopen(task)
            self.touched.add((task.job, task.number))

    def read_orders(self) -> tuple[ReadOrder, ...]:
        """Return what must be read, each with the results it is to be laid beside."""
        across = len(self.index.eligible.tolerances) > 0
        compared = {(order.job, order.task) for order in self._to_read if across or is_audited(self.card(order.job))}
        if not compared:
            return tuple(self._to_read)
        boxes = self._store.boxed(compared)
        return tuple(self._beside(order, boxes.get((order.job, order.task), ())) for order in self._to_read)

    def _beside(self, order: ReadOrder, box: Sequence[BoxedResult]) -> ReadOrder:
        mine = self._rows[order.replica].attempt
        beside = others(self.card(order.job), order, mine, box, self.index.eligible.tolerances)
        return structs.replace(order, others=beside)

    def changes(self) -> Changes:
        """Return everything to be written."""
        return Changes(
            now=self.now,
            replicas=[
                ReplicaChange(id=replica, was=was, state=self._rows[replica].attempt.state, **self._told[replica])
                for replica, was in self._was.items()
            ],
            renewals=list(self.renewals.values()),
            tasks=list(self._tasks.values()),
            claims=self.claims,
            jobs=[structs.replace(JobChange(job=job), **added) for job, added in self._counts.items()],
            hosts=list(self.hosts.values()),
            standings=self.reputation.changes(),
            credits=self.reputation.credits(),
            climate=self.reputation.climate_change(),
        )

    def _known(self, keys: Collection[TaskKey]) -> list[TaskRow]:
        """Return tasks; from now on it is known how the hosts stand that took part."""
        tasks = list(self._store.tasks(keys).values())
        for standings in {id(task.standings): task.standings for task in tasks}.values():
            self.reputation.know(standings)
        return tasks

    # --- what a verdict changes ---------------------------------------------------------------------------------

    def present(self, attempt: Attempt) -> Attempt:
        """Return an attempt as it stands in this batch."""
        row = self._rows.get(attempt.replica)
        return attempt if row is None else row.attempt

    def put_task(self, change: TaskChange) -> None:
        """Write down the present truth about a task."""
        key = (change.job, change.number)
        before = self._tasks.get(key)
        self._tasks[key] = change if before is None else structs.replace(change, was=before.was)

    def judge(self, job: JobId, number: int, attempt: Attempt, event: ReplicaEvent, **told: Any) -> None:
        """Move a ballot or an audit on by a verdict."""
        row = self._rows.get(attempt.replica) or ReplicaRow(attempt, job, number, None, None)  # type: ignore[arg-type]
        was = row.attempt.state
        state = self.change(row, event, told)
        if (state is ReplicaState.OUTVOTED) is not (was is ReplicaState.OUTVOTED):
            self.count(job, outvoted=1 if state is ReplicaState.OUTVOTED else -1)

    def change(self, row: ReplicaRow, event: ReplicaEvent, told: dict[str, Any]) -> ReplicaState:
        """Move a replica by the table, and return the state it has now."""
        attempt = row.attempt
        state = move(REPLICA_MOVES, attempt.state, event)
        self._was.setdefault(attempt.replica, attempt.state)
        self._told.setdefault(attempt.replica, {}).update(told)
        if attempt.audits is None:
            if state is ReplicaState.VOTING:
                self.index.answers.handed_in(attempt.host, self.now)
            elif state is not ReplicaState.READING and self.index.answers.test_ended(attempt.host):
                self.freed.append(attempt.host)
        known = {name: told[name] for name in _ATTEMPTS_OWN if told.get(name) is not None}
        if "differences" in known:
            known["differences"] = _differences.decode(known["differences"])
        after = structs.replace(attempt, state=state, **known)
        self._rows[attempt.replica] = structs.replace(row, attempt=after)
        return state

    def count(self, job: JobId, **added: float) -> None:
        """Add to a job's counts."""
        counts = self._counts.setdefault(job, {})
        for name, by in added.items():
            counts[name] = counts.get(name, 0) + by
        ended = int(added.get("agreed", 0) + added.get("failed", 0))
        self.index.counted(job, ended=ended, timed=int(added.get("timed", 0)), seconds=added.get("seconds", 0.0))


def others(
    card: JobCard, order: ReadOrder, mine: Attempt, box: Sequence[BoxedResult], tolerances: Tolerances
) -> tuple[Other, ...]:
    """Return the results of a task that the one of `mine` is laid beside.

    Within its class, in an audited job: an audit beside full results, these beside all. Full results of other classes
    where a tolerance was measured for the two.
    """
    fitting = []
    for each in box:
        if each.replica == order.replica:
            continue
        if each.result_class == mine.result_class:
            if is_audited(card) and may_be_compared(mine, each):
                fitting.append(Other(each.replica, each.files, each.strips))
        elif order.strips is None and each.audits is None:
            tolerance = tolerances.between(card.application, mine.result_class, each.result_class)
            if tolerance is not None:
                fitting.append(Other(each.replica, each.files, tolerance=tolerance))
    return tuple(fitting[:MOST_OTHERS])


def may_be_compared(one: Attempt, other: BoxedResult) -> bool:
    """Say whether two results of one class have anything in common that says something of one of them.

    What was denoised of somebody's raw passes says nothing of anybody else's picture.
    """
    if one.audits is not None and other.audits is not None:
        return False
    if DENOISED in {one.strips, other.strips}:
        return one.audits == other.replica or other.audits == one.replica
    return True


def is_audited(card: JobCard) -> bool:
    """Say whether a job's results are looked at in parts."""
    return isinstance(policy_of(card.request), Audit) and card.rows is not None


_RESULT_CAME = frozenset({ReplicaEvent.VALUE_REPORTED, ReplicaEvent.FILES_REPORTED})
