"""What is always so in a grid, whatever happened: the books of tasks, jobs, credit, and of the index in memory."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import Engine, Row, func, select
from xwgrid_schema.tables import host_credits, jobs, replicas, tasks
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.job_store import SqlStore
from xwgrid_server.store import TaskKey, TaskRow

from tests.server.painted_frames import HEIGHT
from xwgrid.applications.registry import application_of
from xwgrid.auditing import DENOISED, number_of_strips, reach
from xwgrid.lifecycle import IN_THE_BOX, LIVE
from xwgrid.model import Audit, Fixed, JobId, JobRequest, ReplicaId, ReplicaState, TaskState
from xwgrid.policies import policy_of, quorum_of
from xwgrid.ready_tasks import pinned
from xwgrid.trust import MOST_LAYERS
from xwgrid.voting import MOST_BALLOTS, Attempt, Undecided, decide

TAKES_PART = LIVE | IN_THE_BOX
# A task has at most so many full replicas out and wanted: as many as an undecided vote could need to be decided.
MOST_OUT = MOST_BALLOTS + 1


class Books:
    """Looks at a grid's database again and again, and remembers which results were accepted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._canonical: dict[TaskKey, ReplicaId] = {}
        self.retried: set[int] = set()  # jobs whose old ballots were cleared away
        self.met: Counter[str] = Counter()  # what happened, to see that a machine gets everywhere

    def jobs(self) -> list[Row[Any]]:
        """Return all jobs, oldest first."""
        with self._engine.connect() as connection:
            return list(connection.execute(select(jobs).order_by(jobs.c.id)))

    # --- tasks ------------------------------------------------------------------------------------------------------

    def check_tasks(self) -> None:
        """One canonical result, no voter twice, and what is wanted is what the policy asks for."""
        store = SqlStore(self._engine)
        with self._engine.connect() as connection:
            rows = {(row.job_id, row.number): row for row in connection.execute(select(tasks))}
        requests = {row.id: _request(store, row.id) for row in self.jobs()}
        for key, task in store.tasks(list(rows)).items():
            request, row = requests[key[0]], rows[key]
            _check_attempts(task)
            assert (row.state == "agreed") is (row.canonical_replica is not None)
            if task.state is TaskState.OPEN:
                _check_open(request, task, row)
            else:
                assert (task.wanted, task.audits) == (0, ())
            if task.state is TaskState.AGREED:
                self._check_agreed(request, task, row)

    def _check_agreed(self, request: JobRequest, task: TaskRow, row: Row[Any]) -> None:
        key = (task.job, task.number)
        right = [attempt for attempt in task.attempts if attempt.state is ReplicaState.AGREED]
        full = [attempt for attempt in right if attempt.audits is None]
        (canonical,) = [attempt for attempt in full if attempt.replica == row.canonical_replica]
        assert {attempt.fingerprint for attempt in full} == {canonical.fingerprint}, "there is one accepted result"
        before = self._canonical.get(key, canonical.replica)
        if before != canonical.replica:
            assert row.accepted_before is not None, "a verdict is final"
            assert not isinstance(policy_of(request), Fixed), "fixed replication takes nothing back"
            self.met["verdict changed"] += 1
        if row.accepted_before is not None:
            self.met["audited again"] += 1
        if any(attempt.is_test for attempt in task.attempts):
            self.met["test"] += 1
        if isinstance(policy_of(request), Fixed):
            assert len(full) >= request.quorum
        if isinstance(policy_of(request), Audit):
            audits = [attempt for attempt in right if attempt.audits is not None]
            assert len(full) >= quorum_of(request) or {attempt.voter for attempt in audits} - {canonical.voter}
            in_steps = bool(application_of(request).raw_names(request, task.number))
            if in_steps and len(full) < quorum_of(request):
                looked = {attempt.strips == DENOISED for attempt in audits if attempt.audits == canonical.replica}
                assert looked == {True, False}, "strips are of the raw passes, and say nothing of the picture"
                self.met["accepted in steps"] += 1
            self.met["accepted by audit"] += len(full) < quorum_of(request)
        self._canonical[key] = canonical.replica

    # --- jobs -------------------------------------------------------------------------------------------------------

    def check_counts(self) -> None:
        """A job's counts and its state follow from its tasks and replicas."""
        with self._engine.connect() as connection:
            for row in self.jobs():
                of_job = [each.state for each in connection.execute(select(tasks).where(tasks.c.job_id == row.id))]
                attempts = connection.execute(select(replicas).where(replicas.c.job_id == row.id)).all()
                assert row.agreed == of_job.count("agreed")
                assert row.failed == of_job.count("failed")
                assert row.leased == len(attempts)
                if row.id not in self.retried:
                    assert row.outvoted == sum(each.state == "outvoted" for each in attempts)
                    assert row.lost == sum(each.state == "lost" for each in attempts)
                assert (row.finished_at is None) is (row.state in {"entering", "open"})
                assert row.state != "open" or "open" in of_job
                assert row.state != "finished" or set(of_job) == {"agreed"}
                assert row.state != "incomplete" or ("failed" in of_job and "open" not in of_job)
                assert row.state != "cancelled" or "open" not in of_job
                if row.state == "cancelled":
                    assert not any(each.state in {"leased", "reading", "voting"} for each in attempts)

    # --- credit -----------------------------------------------------------------------------------------------------

    def check_credit(self) -> None:
        """Credit is for what a verdict found right in public jobs, and for nothing else; the sums agree."""
        given: defaultdict[int, list[float]] = defaultdict(list)
        with self._engine.connect() as connection:
            private = {row.id for row in connection.execute(select(jobs.c.id).where(jobs.c.private))}
            of_task = (tasks.c.job_id == replicas.c.job_id) & (tasks.c.number == replicas.c.task)
            query = select(replicas, tasks.c.accepted_before).join(tasks, of_task).where(replicas.c.credit != 0)
            for row in connection.execute(query):
                assert row.credit > 0
                assert row.job_id not in private
                # A verdict that was taken back leaves the credit until there is another one.
                taken_back = row.accepted_before is not None and row.state in {"voting", "cancelled"}
                assert row.state == "agreed" or taken_back, row
                given[row.host_id].append(row.credit)
            columns = (host_credits.c.host_id, func.sum(host_credits.c.seconds), func.sum(host_credits.c.results))
            for host, seconds, results in connection.execute(select(*columns).group_by(host_credits.c.host_id)):
                assert seconds == pytest.approx(sum(given.get(host, [])), abs=1e-6)
                # A result that took no time is one, and gives nothing.
                assert results >= len(given.pop(host, []))
        assert not given

    # --- the index --------------------------------------------------------------------------------------------------

    def check_index(self, coordinator: Coordinator) -> None:
        """What is in memory of open jobs is what the database says, and each begun task is for somebody."""
        index = coordinator._index
        open_jobs = {JobId(row.id) for row in self.jobs() if row.state == "open"}
        assert {card.job for card in index.jobs()} == open_jobs
        store = SqlStore(self._engine)
        drawn_for: set[TaskKey] = set()
        for job in open_jobs:
            ready = index._jobs[job]
            stored = {task.number: task for task in store.ready(job, -1, 1_000_000)}
            for number in ready.fresh:
                fresh = stored.pop(number)
                assert (fresh.made, fresh.wanted, fresh.audits) == (0, ready.fresh_wanted, ())
            for number, task in ready.begun.items():
                expected = stored.pop(number)
                expected = structs.replace(expected, result_class=pinned(ready.card.request, expected.result_class))
                assert task == expected, f"{task} should be {expected}"
                in_lottery = (job, number) in index._offers._lottery._expired
                assert ready.is_open_to_all(number) is not in_lottery, "drawn for, or for whoever asks"
                drawn_for |= {(job, number)} if in_lottery else set()
            assert all(number > ready.cursor and not ready.exhausted for number in stored), "the rest is still to come"
            assert _in_buckets(ready.buckets) <= set(ready.begun)
            assert ready.failures == store.host_failures(job)
            live = {ReplicaId(row.id) for row in _leased(self._engine, job)}
            assert index._turns.live(job) == len(live)
        assert set(index._offers._lottery._expired) == drawn_for
        assert set(coordinator.progress) <= {ReplicaId(row.id) for row in _leased(self._engine, None)}
        self.met["drawn for"] += len(drawn_for)


def _request(store: SqlStore, job: int) -> JobRequest:
    row = store.job(JobId(job))
    assert row is not None
    return row.request


def _check_attempts(task: TaskRow) -> None:
    for audits in (False, True):
        voters = [a.voter for a in task.attempts if a.state in TAKES_PART and (a.audits is not None) is audits]
        assert len(voters) == len(set(voters)), "no voter twice"
    assert task.made == len(task.attempts)
    assert sorted(attempt.number for attempt in task.attempts) == sorted({a.number for a in task.attempts})
    assert task.state is TaskState.OPEN or not any(a.state is ReplicaState.VOTING for a in task.attempts)


def _check_open(request: JobRequest, task: TaskRow, row: Row[Any]) -> None:
    if isinstance(policy_of(request), Fixed):
        assert not task.audits
        assert decide(task.attempts, replicas=request.replicas, quorum=request.quorum) == Undecided(task.wanted)
    assert row.state == "open"
    box = {attempt.replica for attempt in task.attempts if attempt.state in IN_THE_BOX and attempt.audits is None}
    assert all(order.audits in box for order in task.audits), "only what was handed in is audited"
    full = [attempt for attempt in task.attempts if attempt.audits is None]
    voting = sum(attempt.state is ReplicaState.VOTING for attempt in full)
    out = sum(attempt.state in LIVE for attempt in full)
    wanted = task.wanted - len(task.audits)
    assert wanted >= 0
    assert voting < MOST_BALLOTS
    assert out + wanted <= MOST_OUT
    assert _strips_out(task) <= math.ceil(MOST_LAYERS / _reach(request))
    if not any(attempt.state in LIVE for attempt in task.attempts):
        assert task.wanted > 0, "a task that nobody has is wanted"


def _strips_out(task: TaskRow) -> int:
    live: Iterable[Attempt] = (a for a in task.attempts if a.state in LIVE and a.strips is not None)
    written = [attempt.strips or "" for attempt in live] + [order.strips for order in task.audits]
    return sum(number_of_strips(each) for each in written)


def _reach(request: JobRequest) -> float:
    policy = policy_of(request)
    return reach(policy.share, HEIGHT) if isinstance(policy, Audit) else 1.0


def _in_buckets(buckets: dict[str | None, dict[Any, dict[Any, None]]]) -> set[Any]:
    return {number for of_class in buckets.values() for bucket in of_class.values() for number in bucket}


def _leased(engine: Engine, job: JobId | None) -> list[Row[Any]]:
    query = select(replicas.c.id).where(replicas.c.state == "leased")
    with engine.connect() as connection:
        return list(connection.execute(query if job is None else query.where(replicas.c.job_id == job)))
