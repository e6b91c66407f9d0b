"""Anything that may happen to a grid, in any order: whatever was, honest hosts that keep calling finish every job."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, event, insert, select
from xwgrid_schema.tables import hosts, jobs, replicas, tasks, users
from xwgrid_server.calls import Call
from xwgrid_server.database import open_engine
from xwgrid_server.job_store import SqlStore
from xwgrid_server.store import TaskKey

from tests.server.small_grid import SPEC, digest_job, facts, finished, right
from tests.server.unlucky_grid import UnluckyGrid, Volunteer, outcome_of
from xwgrid.errors import Conflict
from xwgrid.lifecycle import IN_THE_BOX, LIVE
from xwgrid.model import HostId, JobId, ReplicaState, TaskState, UserId
from xwgrid.voting import Undecided, decide
from xwgrid.wire import WorkAnswer, WorkRequest

OWNERS = 4
# Hosts 1 … 4 are of the owners 1 … 4; owner 1 has a second one of the same class, owner 2 one of another.
CLASS_OF = {1: "any", 2: "any", 3: "any", 4: "odd", 5: "any", 6: "odd"}
OWNER_OF = {1: 1, 2: 2, 3: 3, 4: 4, 5: 1, 6: 2}
TAKES_PART = LIVE | IN_THE_BOX


_VOLUNTEER = st.sampled_from(sorted(CLASS_OF))
_OUTCOMES = st.sampled_from(["right", "right", "right", "lie", "other lie", "fail", "hand back"])
# Tasks, quorum, replicas beyond it, whether it is private, whose it is.
_JOB = st.tuples(st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.booleans(), st.integers(1, 2))
MOST_JOBS = 5
_FAILS = st.sampled_from(["before save", "after save", "tasks", "job"])
# Host, leases wanted, whether the answer is lost, whether it is a held call looked at again.
_CALL = st.tuples(
    _VOLUNTEER, st.integers(0, 3), st.booleans(), st.booleans()
)  # host, want, answer lost, looked at again


class AnyGrid(RuleBasedStateMachine):
    """Volunteers of several owners, honest or not, and a server that is killed now and then."""

    engine: Engine

    def __init__(self, migrated: Path, folder: Path) -> None:
        super().__init__()
        database = folder / "grid.sqlite"
        for old in folder.glob("grid.sqlite*"):
            old.unlink()
        shutil.copy(migrated, database)
        self.engine = open_engine(f"sqlite:///{database}")
        event.listen(self.engine, "connect", _without_syncing)
        self.grid = UnluckyGrid(self.engine, owners=OWNERS)
        self.volunteers = {host: Volunteer(host) for host in CLASS_OF}
        with self.engine.begin() as connection:
            for host in (5, 6):
                connection.execute(insert(hosts).values(_host(host, OWNER_OF[host], self.grid.now)))
        for host, result_class in CLASS_OF.items():
            said = WorkRequest(call=0, facts=facts(result_class))
            self.grid.coordinator.serve([Call(HostId(host), said)], [], self.grid.now)
        self.canonical: dict[TaskKey, int] = {}
        self.retried: set[int] = set()

    # --- requesters ---------------------------------------------------------------------------------------------

    @initialize(jobs=st.lists(_JOB, min_size=1, max_size=3))
    def begin(self, jobs: list[tuple[int, int, int, bool, int]]) -> None:
        """Begin with open jobs."""
        for job in jobs:
            self.submit(job)
        self.enter(4)

    @rule(job=_JOB)
    @precondition(lambda self: len(self._jobs()) < MOST_JOBS)
    def submit(self, job: tuple[int, int, int, bool, int]) -> None:
        """Hand a job in; its tasks are entered later."""
        count, quorum, more, private, owner = job
        request = digest_job(count, replicas=quorum + more, quorum=quorum, private=private)
        self.grid.coordinator.begin_job(UserId(owner), request, SPEC, frozenset(), self.grid.now)

    @rule(slab=st.integers(1, 3))
    def enter(self, slab: int) -> None:
        """Enter some tasks of the jobs that are not open yet."""
        for job in self.grid.coordinator.entering():
            self.grid.coordinator.enter(job, slab)

    @rule(data=st.data(), what=st.sampled_from(["cancel", "retry", "retry", "retry"]))
    @precondition(lambda self: self._jobs())
    def steer(self, data: st.DataObject, what: str) -> None:
        """Cancel a job, or retry one."""
        row = data.draw(st.sampled_from(self._jobs()))
        try:
            if what == "cancel":
                self.grid.coordinator.cancel_job(UserId(row.owner_id), JobId(row.id), self.grid.now)
            else:
                self.grid.coordinator.retry_job(UserId(row.owner_id), JobId(row.id))
                self.retried.add(row.id)
        except Conflict:
            assert row.state in {"finished", "cancelled"} or what == "retry"

    # --- volunteers ---------------------------------------------------------------------------------------------

    @rule(host=_VOLUNTEER, outcomes=st.lists(_OUTCOMES, min_size=1, max_size=4))
    def work(self, host: int, outcomes: list[str]) -> None:
        """End some leases, in one way or another; the next call tells."""
        volunteer = self.volunteers[host]
        running = [lease for replica, lease in volunteer.held.items() if replica not in volunteer.outbox]
        for lease, how in zip(running, outcomes, strict=False):
            volunteer.outbox[lease.replica] = (lease, outcome_of(how, lease))

    @rule(turns=st.lists(st.tuples(_VOLUNTEER, _OUTCOMES), min_size=1, max_size=8), want=st.integers(0, 3))
    def take_turns(self, turns: list[tuple[int, str]], want: int) -> None:
        """Hosts end what they have, report it, and take more, one after the other."""
        for host, how in turns:
            self.work(host, [how] * 8)
            self._serve([(host, want, False, False)])

    @rule(how=_OUTCOMES)
    def all_alike(self, how: str) -> None:
        """All hosts take work, and all meet the same fate."""
        for want in (3, 0):
            for host in CLASS_OF:
                self.work(host, [how] * 8)
            self._serve([(host, want, False, False) for host in CLASS_OF])

    @rule(calls=st.lists(_CALL, min_size=1, max_size=4))
    def call(self, calls: list[tuple[int, int, bool, bool]]) -> None:
        """Some hosts call, and are answered in one batch; answers get lost on the way."""
        self._serve(calls)

    @rule(host=_VOLUNTEER, want=st.integers(0, 2))
    def call_once_more(self, host: int, want: int) -> None:
        """A host calls twice at once, on two connections; its answers arrive in the wrong order."""
        volunteer = self.volunteers[host]
        requests = [volunteer.request(want), volunteer.request(want)]
        served = self.grid.coordinator.serve([Call(HostId(host), each) for each in requests], [], self.grid.now)
        for answer in reversed(served.answers):
            assert isinstance(answer, WorkAnswer)
            volunteer.hear(answer)

    @rule(host=_VOLUNTEER)
    def forget(self, host: int) -> None:
        """A volunteer's disk is wiped: it comes back without its leases and results."""
        self.volunteers[host].held.clear()
        self.volunteers[host].outbox.clear()

    # --- time and trouble ---------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 40.0, 100.0, 1_000.0]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass; leases that ran out are ended."""
        self.grid.now += seconds
        self.grid.coordinator.expire(self.grid.now)

    @rule()
    def restart(self) -> None:
        """Kill the server and start it again."""
        self.grid.restart()

    @rule(
        calls=st.lists(_CALL, min_size=1, max_size=4),
        fails=_FAILS,
        twice=st.booleans(),
    )
    def fail(self, calls: list[tuple[int, int, bool, bool]], fails: str, twice: bool) -> None:
        """The database fails in a batch, in expiry, or in the reading of jobs that comes after."""
        self.grid.store.fails = fails
        try:
            self._serve(calls)
            if twice:
                self.grid.coordinator.expire(self.grid.now)
        except OSError:
            pass
        self.grid.store.fails = ""

    @rule(data=st.data(), expire_first=st.booleans(), fails=_FAILS)
    @precondition(lambda self: self._jobs())
    def fail_elsewhere(self, data: st.DataObject, expire_first: bool, fails: str) -> None:
        """The database fails while a job is cancelled, retried or opened, or while leases run out."""
        self.grid.store.fails = fails
        self.grid.now += 1_000
        try:
            if expire_first:
                self.grid.coordinator.expire(self.grid.now)
            for job in self.grid.coordinator.entering():
                self.grid.coordinator.enter(job)
            self.grid.coordinator.expire(self.grid.now)
            row = data.draw(st.sampled_from(self._jobs()))
            self.grid.coordinator.retry_job(UserId(row.owner_id), JobId(row.id))
        except (OSError, Conflict):
            pass
        self.retried.update(row.id for row in self._jobs())
        self.grid.store.fails = ""

    # --- what is always so --------------------------------------------------------------------------------------

    @invariant()
    def tasks_are_what_their_attempts_say(self) -> None:
        """One canonical result for ever, no voter twice, and `wanted` is what the vote asks for."""
        with self.engine.connect() as connection:
            keys = [(row.job_id, row.number) for row in connection.execute(select(tasks.c.job_id, tasks.c.number))]
            canonical = {(row.job_id, row.number): row.canonical_replica for row in connection.execute(select(tasks))}
        requests = {row.id: SqlStore(self.engine).job(JobId(row.id)) for row in self._jobs()}
        for key, task in SqlStore(self.engine).tasks(keys).items():
            request = requests[key[0]].request  # type: ignore[union-attr]  # the job of a task is there
            voters = [attempt.voter for attempt in task.attempts if attempt.state in TAKES_PART]
            assert len(voters) == len(set(voters))
            assert task.made == len(task.attempts)
            assert not any(a.state is ReplicaState.VOTING for a in task.attempts) or task.state is TaskState.OPEN
            if task.state is TaskState.OPEN:
                assert decide(task.attempts, replicas=request.replicas, quorum=request.quorum) == Undecided(task.wanted)
            else:
                assert task.wanted == 0
            if key in self.canonical:
                assert canonical[key] == self.canonical[key], "a verdict is final"
            if task.state is TaskState.AGREED:
                self.canonical[key] = canonical[key]
                (winner,) = [attempt for attempt in task.attempts if attempt.replica == canonical[key]]
                assert winner.state is ReplicaState.AGREED

    @invariant()
    def counts_are_what_the_rows_say(self) -> None:
        """A job's counts and its state follow from its tasks and replicas."""
        with self.engine.connect() as connection:
            for row in self._jobs():
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

    @invariant()
    def nothing_is_kept_of_what_has_ended(self) -> None:
        """Progress is known of live leases only."""
        with self.engine.connect() as connection:
            live = set(connection.execute(select(replicas.c.id).where(replicas.c.state == "leased")).scalars())
        assert set(self.grid.coordinator.progress) <= live

    # --- the end ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Honest hosts that keep calling, some of them new, finish every job that is not ended."""
        try:
            for job in self.grid.coordinator.entering():
                while self.grid.coordinator.enter(job).left:
                    pass
            self._bring_new_hosts()
            for _ in range(60):
                if not any(row.finished_at is None for row in self._jobs()):
                    break
                self.grid.now += 40
                self.grid.coordinator.expire(self.grid.now)
                for volunteer in self.volunteers.values():
                    for lease in volunteer.held.values():
                        volunteer.outbox.setdefault(lease.replica, (lease, finished(right(lease.task))))
                self._serve([(host, 5, False, False) for host in self.volunteers])
            self.tasks_are_what_their_attempts_say()
            self.counts_are_what_the_rows_say()
            assert [row.id for row in self._jobs() if row.finished_at is None] == []
        finally:
            self.engine.dispose()

    def _bring_new_hosts(self) -> None:
        with self.engine.begin() as connection:
            for new in range(101, 107):
                connection.execute(insert(users).values(id=new, name=f"user{new}", created_at=self.grid.now))
            # For the private jobs of owners 1 and 2 as well; each owner with a host of each class.
            owners = [*range(101, 107), 1, 1, 1, 2, 2, 2]
            for number, (owner, result_class) in enumerate(
                [(owner, result_class) for owner in owners for result_class in ("any", "odd")], start=200
            ):
                connection.execute(insert(hosts).values(_host(number, owner, self.grid.now, result_class)))
                self.volunteers[number] = Volunteer(number)
        for number in range(200, 200 + 2 * len(owners)):
            self._serve([(number, 0, False, False)])

    def _serve(self, calls: Sequence[tuple[int, int, bool, bool]]) -> None:
        made = [
            Call(HostId(host), self.volunteers[host].request(want), news=not again) for host, want, _, again in calls
        ]
        served = self.grid.coordinator.serve(made, [], self.grid.now)
        for (host, _, lost, _), answer in zip(calls, served.answers, strict=True):
            assert isinstance(answer, WorkAnswer)
            if not lost:
                self.volunteers[host].hear(answer)

    def _jobs(self) -> list[Any]:
        with self.engine.connect() as connection:
            return list(connection.execute(select(jobs).order_by(jobs.c.id)))


def _host(number: int, owner: int, now: float, result_class: str = "any") -> dict[str, Any]:
    said = msgspec.json.encode(facts(result_class)).decode()
    seen = {"enrolled_at": now, "last_seen_at": now}
    return {"id": number, "owner_id": owner, "name": f"host{number}", "facts": said, **seen}


def _without_syncing(connection: Any, _entry: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF").close()


def test_whatever_happens_every_job_ends_and_nothing_is_counted_twice(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Any interleaving of calls, lies, failures, lost answers, kills and orders keeps the books and reaches the end."""
    migrated = request.getfixturevalue("_migrated_sqlite")

    class HereAndNow(AnyGrid):
        def __init__(self) -> None:
            super().__init__(migrated, tmp_path)

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
