"""The memory store under the real coordinator, beside the store in SQL; and what the simulator alone asks of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from msgspec import structs
from xwgrid_server.calls import Call, Effects, LeaseTerms, Reading, ReadOrder
from xwgrid_server.coordinator import Coordinator
from xwgrid_server.database import open_engine
from xwgrid_server.store import JobChange

from simulator.memory_store import MemoryStore
from tests.server.small_grid import SPEC
from tests.server.stored_grid import DIGEST, HOSTS, NOW, REQUESTER, StoredGrid, changed, decided, in_memory, in_sql
from xwgrid.applications.registry import application_of
from xwgrid.auditing import audit_names, parse_strips
from xwgrid.errors import Conflict, UnreadableResult
from xwgrid.model import (
    Audit,
    BlenderWork,
    Boinc,
    Cause,
    Credibility,
    Fixed,
    Frames,
    HostFacts,
    HostId,
    JobId,
    JobRequest,
    JobState,
    Policy,
    Program,
    ReplicaId,
    ResultFile,
)
from xwgrid.wire import Failed, Finished, HandedBack, Held, Lease, Outcome, Report, WorkAnswer, WorkRequest

POLICIES: tuple[Policy, ...] = (Fixed(), Audit(), Credibility(epsilon=0.01), Boinc(trusted_after=2))
FACTS = HostFacts(
    name="host",
    system="Linux x86_64",
    processor="one",
    cores=2,
    memory_bytes=1 << 32,
    programs=(Program(runtime="blender", version="4.5.15", result_class="blender 4.5 cpu avx2"),),
)


@dataclass
class Told:
    """A grid that does as it is told, and whose coordinator and hosts say all they do."""

    stored: StoredGrid
    seed: int
    now: float = NOW
    readings: list[Reading] = field(default_factory=list)
    said: list[object] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held: dict[int, dict[ReplicaId, Lease]] = {host: {} for host in range(1, HOSTS + 1)}
        self.calls = 0
        self.jobs: list[JobId] = []
        self.requests: dict[JobId, JobRequest] = {}
        self.restart()

    def restart(self) -> None:
        """Begin anew from what is in the store."""
        terms = LeaseTerms(draw_from=2)
        self.coordinator = Coordinator(self.stored.store, terms, self.now, Random(self.seed))
        self.readings.clear()
        for order in self.coordinator.unread():
            self.read(order)

    def step(self, chance: Random) -> None:
        """Let one thing happen."""
        self.now += chance.choice([0.5, 5.0, 40.0])
        match chance.choice(["call", "call", "call", "call", "submit", "draw", "expire", "lose", "end", "restart"]):
            case "call":
                self.call(chance.randint(1, HOSTS), chance)
            case "submit" if len(self.jobs) < 6:
                self.submit(chance)
            case "draw":
                self.follow(self.coordinator.draw(self.now))
            case "expire":
                self.follow(self.coordinator.expire(self.now))
            case "lose":
                self.held[chance.randint(1, HOSTS)].clear()
            case "end" if self.jobs and chance.random() < 0.2:
                self.steer(chance)
            case "restart" if chance.random() < 0.1:
                self.restart()

    def submit(self, chance: Random) -> None:
        """Hand a job in."""
        request = JobRequest(
            name="frames",
            work=BlenderWork(scene_file="scene.blend", width=64, height=48),
            split=Frames(first=1, last=chance.randint(1, 5)),
            policy=chance.choice(POLICIES),
        )
        job = self.coordinator.begin_job(REQUESTER, request, SPEC, frozenset({SPEC}), self.now)
        self.coordinator.enter(job)
        self.jobs.append(job)
        self.requests[job] = request

    def steer(self, chance: Random) -> None:
        """Cancel a job, or retry one."""
        job = chance.choice(self.jobs)
        try:
            if chance.random() < 0.5:
                self.coordinator.cancel_job(REQUESTER, job, self.now)
            else:
                self.said.append(self.coordinator.retry_job(REQUESTER, job))
        except Conflict as error:
            self.said.append(error.message)

    def call(self, host: int, chance: Random) -> None:
        """A host calls: it reports some of what it has, and asks for more."""
        self.calls += 1
        held = self.held[host]
        reports = [Report(replica=each, outcome=self.outcome(held[each], chance)) for each in list(held)[:2]]
        for report in reports:
            del held[report.replica]
        request = WorkRequest(
            call=self.calls,
            facts=FACTS if self.calls <= 4 * HOSTS else None,
            held=tuple(Held(replica=each) for each in held),
            reports=tuple(reports),
            want=chance.randint(0, 3),
        )
        served = self.coordinator.serve([Call(HostId(host), request)], self.readings, self.now)
        self.readings = []
        (answer,) = served.answers
        assert isinstance(answer, WorkAnswer)
        self.said.append(answer)
        held.update({lease.replica: lease for lease in answer.leases})
        self.follow(served.effects)

    def outcome(self, lease: Lease, chance: Random) -> Outcome:
        """End a replica in one way or another; of most results the files arrive."""
        how = chance.random()
        if how < 0.08:
            return Failed(cause=Cause.CRASHED, message="it crashed")
        if how < 0.14:
            return HandedBack()
        request = self.requests[lease.job]
        names = application_of(request).result_names(request, lease.task)
        if "strips" in lease.arguments:
            names = audit_names(names, parse_strips(str(lease.arguments["strips"])))
        files = tuple(ResultFile(name=name, sha256=DIGEST, size=1) for name in names)
        if how < 0.95:
            self.stored.around.arrived(lease.replica, lease.job, [DIGEST])
        return Finished(fingerprint=DIGEST, files=files, seconds=20.0)

    def follow(self, effects: Effects) -> None:
        """Do what follows from a batch."""
        self.said.append(effects)
        for order in effects.to_read:
            self.read(order)

    def read(self, order: ReadOrder) -> None:
        """Read a result: one in eight is wrong, one in twenty is no picture."""
        chance = Random(order.replica)
        wrong = chance.random() < 1 / 8
        fingerprint = f"{order.replica if wrong or order.strips else 0:064x}"
        differences = {other.replica: float(wrong) for other in order.others}
        unreadable = UnreadableResult("this is no picture") if chance.random() < 1 / 20 else None
        self.readings.append(Reading(order.replica, unreadable or fingerprint, differences))


@pytest.mark.parametrize("seed", range(8))
def test_coordinator_decides_alike_over_either_store(seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whatever happens to a grid, its hosts are answered alike whether it is kept in SQL or in memory."""
    shutil.copy(request.getfixturevalue("_migrated_sqlite"), tmp_path / "grid.sqlite")
    engine = open_engine(f"sqlite:///{tmp_path / 'grid.sqlite'}")
    grids = [Told(in_sql(engine), seed), Told(in_memory(), seed)]
    for number in range(220):
        for grid in grids:
            grid.step(Random(seed * 1_000 + number))
        assert grids[0].said == grids[1].said, number
        assert grids[0].coordinator.next_draw() == grids[1].coordinator.next_draw()
        grids[0].said.clear()
        grids[1].said.clear()
    stores = [grid.stored.store for grid in grids]
    keys = [(job, task) for job in grids[0].jobs for task in range(5)]
    one, other = (store.tasks(keys) for store in stores)  # type: ignore[arg-type]  # task numbers
    assert {key: structs.replace(row, standings={}) for key, row in one.items()} == {
        key: structs.replace(row, standings={}) for key, row in other.items()
    }
    hosts = [HostId(host) for host in range(1, HOSTS + 1)]
    assert stores[0].standings(hosts) == stores[1].standings(hosts)
    assert [stores[0].job(job) for job in grids[0].jobs] == [stores[1].job(job) for job in grids[0].jobs]
    assert stores[0].climate() == stores[1].climate()
    engine.dispose()


# --- what the simulator alone asks ------------------------------------------------------------------------------


def test_accepted_results_are_listed() -> None:
    """Each accepted result is listed once, with the one its task had before its verdict was taken back."""
    grid, store = _grid()
    job = grid.job(tasks=3)
    first, second = grid.box(job, 0, 1), grid.box(job, 0, 2)
    grid.accept(job, 0, first)
    grid.save(
        replicas=[changed(first, "agreed", "voting")],
        tasks=[decided(job, 0, "agreed", "open")],
        jobs=[JobChange(job=job, agreed=-1)],
    )
    assert list(store.accepted(job)) == []
    grid.accept(job, 0, second)
    other = grid.box(job, 2)
    grid.accept(job, 2, other)
    assert list(store.accepted(job)) == [(0, second, first), (2, other, None)]
    assert store.first_agreed_at(job) == NOW


def test_ended_job_is_forgotten() -> None:
    """The rows of a job that has ended are dropped, but not before its last lease has ended."""
    grid, store = _grid()
    job = grid.job(tasks=1, wanted=3)
    replica, late = grid.box(job, 0, 1), grid.lease(job, 0, 2)
    assert not store.is_over(job)
    grid.accept(job, 0, replica)
    assert not store.is_over(job)
    grid.move(late, "leased", "lost")
    assert store.is_over(job)
    assert len(list(store.replicas_of(job))) == 2
    store.forget(job)
    assert list(store.replicas_of(job)) == []
    assert store.load([], [replica]).replicas == {}
    row = store.job(job)
    assert row is not None
    assert row.state is JobState.FINISHED


def test_tasks_nobody_touched_take_no_memory() -> None:
    """A job of a million tasks is stored at once, and its tasks are there."""
    grid, store = _grid()
    job = grid.job(tasks=1_000_000)
    assert store.entered(job) == 1_000_000
    assert [task.number for task in store.ready(job, 999_997, 9)] == [999_998, 999_999]
    assert grid.task(job, 567_890).wanted == 2
    assert store._jobs[job].begun == {}


def test_slabs_are_entered_in_order() -> None:
    """A slab that is not the next is refused: tasks would be missing."""
    grid, store = _grid()
    job = grid.job(tasks=2)
    with pytest.raises(ValueError, match="the next task of job 1 to be entered is 2, not 5"):
        store.enter_tasks(job, 5, 6, 2)


def _grid() -> tuple[StoredGrid, MemoryStore]:
    grid = in_memory()
    assert isinstance(grid.store, MemoryStore)
    return grid, grid.store
