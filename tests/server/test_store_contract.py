"""What the coordinator may rely on, whatever its store is: each promise is tried on both databases and in memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec import structs
from xwgrid_server.database import open_engine
from xwgrid_server.store import CreditChange, HostChange, JobChange, NewJob, Renewal

from tests.postgresql import PostgreSQL
from tests.server.small_grid import SPEC, digest_job, facts
from tests.server.stored_grid import (
    DIGEST,
    HOSTS,
    LEASE,
    NOW,
    OPERATOR,
    OTHER_DIGEST,
    REQUESTER,
    STRANGER,
    StoredGrid,
    changed,
    decided,
    in_memory,
    in_sql,
    seen,
    stands,
)
from xwgrid.errors import Conflict, NotFound
from xwgrid.model import Cause, HostId, JobId, JobState, ReplicaId, ReplicaState, ResultFile, TaskNumber, TaskState
from xwgrid.tolerances import Tolerance
from xwgrid.trust import Climate
from xwgrid.voting import AuditOrder

FILES = (ResultFile(name="frame_0001.png", sha256=DIGEST, size=3),)
FILES_TEXT = msgspec.json.encode(FILES).decode()
ORDER = AuditOrder(ReplicaId(1), "12+2,90+2")
ORDERS_TEXT = msgspec.json.encode([ORDER]).decode()


@pytest.fixture(params=["sqlite", "postgresql", "memory"])
def grid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoredGrid]:
    """A store of each kind, with hosts and users."""
    if request.param == "memory":
        yield in_memory()
        return
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("_migrated_sqlite"), tmp_path / "grid.sqlite")
        engine = open_engine(f"sqlite:///{tmp_path / 'grid.sqlite'}")
        yield in_sql(engine)
        engine.dispose()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql_server")
    name = server.create(template=request.getfixturevalue("_migrated_postgresql"))
    engine = open_engine(server.url(name))
    yield in_sql(engine)
    engine.dispose()
    server.drop(name)


# --- claims -----------------------------------------------------------------------------------------------------


def test_claim_makes_a_lease(grid: StoredGrid) -> None:
    """A claim that is won is a live lease of its host, and the task wants one replica less."""
    job = grid.job()
    replica = grid.lease(job, 1, host=2, result_class="a class")
    task = grid.task(job, 1)
    (attempt,) = task.attempts
    assert (task.state, task.wanted, task.made) == (TaskState.OPEN, 1, 1)
    assert attempt.replica == replica
    assert (attempt.host, attempt.voter, attempt.number) == (2, 2, 0)
    assert (attempt.state, attempt.result_class) == (ReplicaState.LEASED, "a class")
    row = grid.store.load([HostId(2)], []).replicas[replica]
    assert (row.job, row.task, row.leased_at, row.next_transition) == (job, 1, NOW, NOW + LEASE)
    assert row.acknowledged_call is None
    assert grid.store.live_leases(job) == 1
    assert grid.store.last_replica() == replica


@pytest.mark.parametrize("state", ["leased", "reading", "voting", "agreed", "outvoted"])
def test_voter_gets_one_replica_of_a_task(grid: StoredGrid, state: str) -> None:
    """Who has a task in hand, or voted on it, is refused another replica of it, and nothing changes."""
    job = grid.job()
    replica = grid.lease(job)
    if state != "leased":
        grid.move(replica, "leased", state)
    before = grid.task(job)
    again = grid.claim(job, host=2, voter=1)
    assert grid.save(claims=[again]).refused == {again.id}
    assert grid.task(job) == before
    assert grid.store.load([HostId(2)], []).replicas == {}


@pytest.mark.parametrize("state", ["failed", "handed_back", "lost", "cancelled"])
def test_voter_may_try_again(grid: StoredGrid, state: str) -> None:
    """Whose replica came to nothing may have another one of the same task."""
    job = grid.job()
    grid.move(grid.lease(job), "leased", state)
    grid.lease(job)
    assert [attempt.state for attempt in grid.task(job).attempts] == [state, "leased"]


def test_room_made_in_the_same_batch_counts(grid: StoredGrid) -> None:
    """A replica that ends makes room for another of the same voter within one batch."""
    job = grid.job()
    replica = grid.lease(job)
    again = grid.claim(job)
    saved = grid.save(replicas=[changed(replica, "leased", "lost")], claims=[again])
    assert saved.refused == frozenset()
    assert grid.attempt(again.id).state is ReplicaState.LEASED


def test_of_two_claims_of_a_voter_one_is_won(grid: StoredGrid) -> None:
    """Two claims of one task for one voter in one batch: the first is won, the other refused."""
    job = grid.job()
    claims = [grid.claim(job, host=1, number=0), grid.claim(job, host=2, voter=1, number=1)]
    assert grid.save(claims=claims).refused == {claims[1].id}
    assert (grid.task(job).made, grid.task(job).wanted) == (1, 1)


def test_replica_number_is_taken_once(grid: StoredGrid) -> None:
    """Two replicas of one number within a task are not both made; nor two with the same id."""
    job = grid.job()
    first = grid.lease(job)
    same_number = grid.claim(job, host=2, number=0)
    same_id = grid.claim(job, host=3, id=first)
    assert grid.save(claims=[same_number]).refused == {same_number.id}
    assert grid.save(claims=[same_id]).refused == {first}
    assert grid.attempt(first).host == 1


def test_closed_jobs_are_not_claimed(grid: StoredGrid) -> None:
    """A claim looks at its job again: one that was cancelled, or is not open yet, gives nothing."""
    cancelled = grid.job()
    entering = grid.store.create_job(NewJob(REQUESTER, digest_job(1), SPEC, [SPEC], 1, NOW))
    grid.store.enter_tasks(entering, 0, 0, 2)
    grid.store.cancel_job(cancelled, NOW)
    claims = [grid.claim(cancelled), grid.claim(entering)]
    assert grid.save(claims=claims).refused == {claim.id for claim in claims}


def test_audit_is_no_ballot(grid: StoredGrid) -> None:
    """An audit and a full replica of one voter go together; two audits, or two full ones, do not."""
    job = grid.job(wanted=3)
    author = grid.lease(job, host=1)
    grid.lease(job, host=2, audits=author, strips="12+2")
    grid.lease(job, host=2)
    again = grid.claim(job, host=3, voter=2, audits=author, strips="50+2")
    assert grid.save(claims=[again]).refused == {again.id}
    audit = grid.task(job).attempts[1]
    assert (audit.audits, audit.strips) == (author, "12+2")


def test_claim_says_which_audits_are_left(grid: StoredGrid) -> None:
    """A claim counts against what its task wants, and the audits it leaves are those that are still to be taken."""
    job = grid.job()
    author = grid.box(job)
    two = msgspec.json.encode([ORDER, AuditOrder(author, "30+2")]).decode()
    grid.save(tasks=[decided(job, 0, "open", "open", wanted=2, audits=two)])
    assert grid.task(job).audits == (ORDER, AuditOrder(author, "30+2"))
    grid.lease(job, host=2, audits=author, strips="30+2", audits_left=ORDERS_TEXT)
    assert (grid.task(job).wanted, grid.task(job).audits) == (1, (ORDER,))


@pytest.mark.parametrize("is_test", [True, False])
def test_replica_beyond_what_is_asked_for_changes_nothing_of_it(grid: StoredGrid, is_test: bool) -> None:
    """A replica beyond what its task asks for leaves what the task wants as it is, on a decided task or an open one."""
    job = grid.job()
    grid.accept(job, 0, grid.box(job))
    grid.save(tasks=[decided(job, 1, "open", "open", wanted=2, audits=ORDERS_TEXT)])
    decided_one = grid.lease(job, 0, host=3, is_test=is_test, is_beyond=True)
    open_one = grid.lease(job, 1, host=3, is_test=is_test, is_beyond=True)
    assert (grid.task(job).state, grid.task(job).wanted, grid.task(job).made) == (TaskState.AGREED, 0, 2)
    assert (grid.task(job, 1).wanted, grid.task(job, 1).audits, grid.task(job, 1).made) == (2, (ORDER,), 1)
    assert grid.attempt(decided_one).is_test is is_test
    assert grid.attempt(open_one).is_test is is_test


# --- batches ----------------------------------------------------------------------------------------------------


def test_replica_keeps_what_a_change_does_not_tell(grid: StoredGrid) -> None:
    """A move writes what it tells and leaves the rest."""
    job = grid.job()
    replica = grid.lease(job)
    grid.move(replica, "leased", "reading", ended_at=NOW, seconds=3.5, files=FILES_TEXT, message="said")
    told = msgspec.json.encode({7: 0.25}).decode()
    grid.move(replica, "reading", "voting", fingerprint=DIGEST, differences=told)
    grid.move(replica, "voting", "outvoted", credit=2.0)
    attempt = grid.attempt(replica)
    assert (attempt.state, attempt.fingerprint, attempt.seconds, attempt.credit) == ("outvoted", DIGEST, 3.5, 2.0)
    assert attempt.differences == {7: 0.25}
    assert attempt.cause is None
    assert grid.store.result(replica)[1] == FILES_TEXT
    assert grid.store.load([HostId(1)], []).replicas == {}


def test_failure_keeps_its_cause(grid: StoredGrid) -> None:
    """Why a replica ended can be read again."""
    replica = grid.lease(grid.job())
    grid.move(replica, "leased", "failed", cause=Cause.CRASHED, seconds=1.0)
    assert grid.attempt(replica).cause is Cause.CRASHED


@pytest.mark.parametrize("broken", ["replica", "unknown replica", "task", "unknown task"])
def test_conflict_writes_nothing(grid: StoredGrid, broken: str) -> None:
    """When one row is not in the state it should be in, nothing of its batch is written."""
    job = grid.job()
    ended, live = grid.lease(job, 0), grid.lease(job, 1)
    grid.move(ended, "leased", "lost")
    replicas = [changed(live, "leased", "failed", cause=Cause.EXITED)]
    tasks = [decided(job, 1, "open", "failed")]
    match broken:
        case "replica":
            replicas.append(changed(ended, "leased", "failed"))
        case "unknown replica":
            replicas.append(changed(ReplicaId(999), "leased", "failed"))
        case "task":
            tasks.append(decided(job, 0, "agreed", "open"))
        case "unknown task":
            tasks.append(decided(job, 99, "open", "failed"))
    before = grid.task(job, 0), grid.task(job, 1), grid.store.job(job)
    with pytest.raises(Conflict):
        grid.save(
            replicas=replicas,
            tasks=tasks,
            claims=[grid.claim(job, 2)],
            jobs=[JobChange(job=job, failed=1)],
            hosts=[seen(1, NOW + 5)],
            standings=[stands(1, wrong=1)],
            climate=Climate(1.0, 2.0, 3.0),
        )
    assert (grid.task(job, 0), grid.task(job, 1), grid.store.job(job)) == before
    assert grid.task(job, 2).attempts == ()
    assert grid.store.standings([HostId(1)]) == {}
    assert grid.store.climate() == Climate()
    assert grid.store.seen_since(NOW) == []


def test_load_tells_of_hosts_and_leases(grid: StoredGrid) -> None:
    """A batch learns of the hosts that call, of all their live leases, and of the replicas named, whoever has them."""
    job = grid.job()
    own, others, ended = grid.lease(job, 0, host=1), grid.lease(job, 0, host=2), grid.lease(job, 1, host=1)
    grid.move(ended, "leased", "handed_back")
    grid.save(standings=[stands(1, valid=4, earned='{"7":1.5}', suspected_until=NOW)])
    grid.around.arrived(own, job, [DIGEST, OTHER_DIGEST])
    known = grid.store.load([HostId(1), HostId(77)], [others, ReplicaId(555)])
    assert set(known.hosts) == {1}
    assert (known.hosts[HostId(1)].owner, known.hosts[HostId(1)].state) == (1, "active")
    assert known.hosts[HostId(1)].standing.valid == 4
    assert known.hosts[HostId(1)].standing.earned == {7: 1.5}
    assert set(known.replicas) == {own, others}
    assert known.uploaded == {}
    assert grid.store.load([], [own, ended]).uploaded == {own: {DIGEST, OTHER_DIGEST}}
    assert set(grid.store.load([], [own, ended]).replicas) == {own, ended}


def test_hosts_tell_what_they_are(grid: StoredGrid) -> None:
    """What a host says of itself is kept until it says something else."""
    assert grid.store.load([HostId(1)], []).hosts[HostId(1)].facts is None
    said = facts("a class")
    told = HostChange(id=HostId(1), last_seen_at=NOW, facts=msgspec.json.encode(said).decode())
    grid.save(hosts=[told, seen(3, NOW - 50)])
    grid.save(hosts=[seen(1, NOW + 10), seen(99, NOW)])
    host = grid.store.load([HostId(1)], []).hosts[HostId(1)]
    assert (host.facts, host.last_seen_at) == (said, NOW + 10)
    assert {row.host for row in grid.store.seen_since(NOW)} == {1}
    assert {row.host for row in grid.store.seen_since(NOW - 50)} == {1, 3}


def test_task_keeps_what_was_accepted_before(grid: StoredGrid) -> None:
    """A verdict that is taken back leaves an open task whose ballots are in the box again."""
    job = grid.job()
    replica = grid.box(job)
    grid.accept(job, 0, replica)
    grid.save(
        replicas=[changed(replica, "agreed", "voting")],
        tasks=[decided(job, 0, "agreed", "open", wanted=1)],
        jobs=[JobChange(job=job, agreed=-1)],
    )
    assert (grid.task(job).state, grid.task(job).wanted) == (TaskState.OPEN, 1)
    row = grid.store.job(job)
    assert row is not None
    assert (row.ended, row.state) == (0, JobState.OPEN)


def test_tasks_bring_the_standing_of_their_hosts(grid: StoredGrid) -> None:
    """A task comes with the standing of every host that tried it and has one."""
    job = grid.job()
    grid.box(job, host=1)
    grid.box(job, host=2)
    grid.save(standings=[stands(2, streak=3)])
    standings = grid.task(job).standings
    assert HostId(1) not in standings
    assert standings[HostId(2)].streak == 3


def test_unknown_tasks_are_left_out(grid: StoredGrid) -> None:
    """Asked for tasks that are not there, the store returns those that are."""
    job = grid.job(tasks=2)
    keys = [(job, TaskNumber(number)) for number in (-1, 0, 2)] + [(JobId(job + 7), TaskNumber(0))]
    assert set(grid.store.tasks(keys)) == {(job, 0)}


# --- leases and time --------------------------------------------------------------------------------------------


def test_due_leases_come_oldest_first(grid: StoredGrid) -> None:
    """Leases that ran out come in the order in which they did, at most as many as asked for, until they are ended."""
    job = grid.job()
    late, early, middle = (grid.lease(job, task, next_transition=NOW + at) for task, at in enumerate((30, 10, 20)))
    grid.lease(job, host=2, next_transition=NOW + 31)
    assert _ids(grid, NOW + 9) == []
    assert _ids(grid, NOW + 10) == [early]
    assert _ids(grid, NOW + 30, 2) == [early, middle]
    assert _ids(grid, NOW + 30) == [early, middle, late]
    assert _ids(grid, NOW + 30) == [early, middle, late]
    grid.move(middle, "leased", "lost")
    assert _ids(grid, NOW + 30) == [early, late]


def test_renewed_leases_live_on(grid: StoredGrid) -> None:
    """A renewal moves the end of a lease, to later or to sooner; the first call that listed it is remembered."""
    job = grid.job()
    first, second = grid.lease(job, 0), grid.lease(job, 1)
    grid.save(renewals=[_renewal(first, NOW + 200, 5), _renewal(second, NOW + 40, 6)])
    assert _ids(grid, NOW + LEASE) == [second]
    grid.save(renewals=[_renewal(second, NOW + 300, 7), _renewal(first, NOW + 150, 8)])
    assert _ids(grid, NOW + 149) == []
    assert _ids(grid, NOW + 300) == [first, second]
    rows = grid.store.load([HostId(1)], []).replicas
    assert [rows[replica].acknowledged_call for replica in (first, second)] == [5, 6]
    grid.save(renewals=[_renewal(second, NOW + 150, 9)])
    assert set(_ids(grid, NOW + 150)) == {first, second}


def test_ended_leases_are_not_renewed(grid: StoredGrid) -> None:
    """A renewal that comes too late, or for a lease nobody has, changes nothing."""
    job = grid.job()
    replica = grid.lease(job)
    grid.move(replica, "leased", "lost")
    grid.save(renewals=[_renewal(replica, NOW + 900, 2), _renewal(ReplicaId(404), NOW + 900, 2)])
    row = grid.store.load([], [replica]).replicas[replica]
    assert (row.next_transition, row.attempt.state) == (None, ReplicaState.LOST)
    assert _ids(grid, NOW + 10_000) == []


# --- what is ready ----------------------------------------------------------------------------------------------


def test_ready_tasks_come_in_order(grid: StoredGrid) -> None:
    """Tasks that want replicas come in order of number, from after a number on, at most so many."""
    job = grid.job(tasks=6)
    grid.lease(job, 2)
    grid.lease(job, 4)
    grid.lease(job, 4, host=2)
    assert [task.number for task in grid.store.ready(job, -1, 10)] == [0, 1, 2, 3, 5]
    assert [task.number for task in grid.store.ready(job, 1, 2)] == [2, 3]
    fresh, begun = grid.store.ready(job, 0, 2)
    assert (fresh.wanted, fresh.made, fresh.voters) == (2, 0, frozenset())
    assert (begun.wanted, begun.made, begun.result_class) == (1, 1, "python any")
    assert begun.voters == {1}


def test_ready_tells_audits_from_replicas(grid: StoredGrid) -> None:
    """A begun task says which audits it wants, and how many full replicas beside them."""
    job = grid.job(tasks=1)
    author = grid.box(job)
    grid.lease(job, host=2, audits=author, strips="1+2", audits_left=ORDERS_TEXT)
    grid.save(tasks=[decided(job, 0, "open", "open", wanted=2, audits=ORDERS_TEXT)])
    (task,) = grid.store.ready(job, -1, 5)
    assert (task.wanted, task.audits, task.made) == (1, (ORDER,), 2)
    assert (set(task.voters), set(task.auditors)) == ({1}, {2})


def test_ready_knows_who_failed(grid: StoredGrid) -> None:
    """A host that failed a task is known to have, and no longer keeps its voter out."""
    job = grid.job(tasks=1)
    grid.move(grid.lease(job), "leased", "failed")
    (task,) = grid.store.ready(job, -1, 5)
    assert (set(task.failed_hosts), set(task.voters), task.result_class) == ({1}, set(), None)


# --- results ----------------------------------------------------------------------------------------------------


def test_unread_results_are_known(grid: StoredGrid) -> None:
    """Results that wait to be read are found again, with their files."""
    job = grid.job()
    replicas = [grid.lease(job, task) for task in range(3)]
    for replica in reversed(replicas):
        grid.move(replica, "leased", "reading", files=FILES_TEXT)
    grid.move(replicas[1], "reading", "voting", fingerprint=DIGEST)
    assert grid.store.unread() == [replicas[0], replicas[2]]
    row, files = grid.store.result(replicas[0])
    assert (row.job, row.task, row.attempt.replica, files) == (job, 0, replicas[0], FILES_TEXT)


def test_unknown_result_is_refused(grid: StoredGrid) -> None:
    """Asked for the result of a replica that was never made, the store says so."""
    with pytest.raises(NotFound, match="there is no replica 12"):
        grid.store.result(ReplicaId(12))


def test_boxed_results_were_read(grid: StoredGrid) -> None:
    """Results to be laid beside others are those that were read, audits too, oldest first."""
    job = grid.job(wanted=6)
    states = ["voting", "agreed", "outvoted", "reading", "cancelled"]
    replicas = []
    for host, state in enumerate(states, start=1):
        replica = grid.lease(job, host=host)
        grid.move(replica, "leased", state, files=FILES_TEXT)
        replicas.append(replica)
    audit = grid.lease(job, host=6, audits=replicas[0], strips="12+2")
    grid.move(audit, "leased", "voting", files=FILES_TEXT)
    boxed = grid.store.boxed([(job, TaskNumber(0)), (job, TaskNumber(1))])
    assert [each.replica for each in boxed[job, TaskNumber(0)]] == [*replicas[:3], audit]
    assert boxed[job, TaskNumber(0)][0].files == FILES
    assert {each.result_class for each in boxed[job, TaskNumber(0)]} == {"python any"}
    assert [(each.audits, each.strips) for each in boxed[job, TaskNumber(0)]][2:] == [
        (None, None),
        (replicas[0], "12+2"),
    ]
    assert not boxed.get((job, TaskNumber(1)))
    assert grid.store.result(replicas[0])[1] == FILES_TEXT


# --- trust ------------------------------------------------------------------------------------------------------


def test_accepted_results_of_a_host_are_found(grid: StoredGrid) -> None:
    """What a host had accepted is found in open jobs alone, as long as it is what is accepted."""
    ended, job = grid.job(tasks=1), grid.job(tasks=4)
    grid.accept(ended, 0, grid.box(ended, 0))
    for task, host in ((2, 1), (0, 1), (1, 2)):
        grid.accept(job, task, grid.box(job, task, host))
    grid.box(job, 3)
    assert grid.store.job(ended).state is JobState.FINISHED  # type: ignore[union-attr]  # it is there
    assert sorted(grid.store.accepted_of(HostId(1))) == [(job, 0), (job, 2)]
    assert grid.store.accepted_of(HostId(5)) == []


def test_standing_is_kept(grid: StoredGrid) -> None:
    """A standing is written whole and read back; hosts that have none are left out."""
    told = {
        "earned": '{"5":4.0,"6":2.25}',
        "valid": 9,
        "wrong": 2,
        "streak": 1,
        "on_record": 1,
        "since_wrong": 0.5,
        "suspected_until": NOW + 1,
        "quarantined_until": NOW + 2,
        "quarantines": 1,
        "tested": True,
        "audit_again": True,
        "reason": "the operator said so",
    }
    grid.save(standings=[stands(3, **told), stands(4, proven=True, vouched=True)])
    found = grid.store.standings([HostId(2), HostId(3), HostId(4)])
    assert set(found) == {3, 4}
    assert structs.asdict(found[HostId(3)]) == {
        **told,
        "earned": {5: 4.0, 6: 2.25},
        "proven": False,
        "vouched": False,
        "edition": 0,
    }
    assert (found[HostId(4)].proven, found[HostId(4)].vouched, found[HostId(4)].suspected_until) == (True, True, None)
    assert grid.store.to_audit_again() == [3]
    grid.save(standings=[stands(3)])
    assert grid.store.to_audit_again() == []
    assert grid.store.standings([HostId(3)])[HostId(3)].wrong == 0


def test_operators_word_is_not_written_over(grid: StoredGrid) -> None:
    """A standing that was read before the operator changed it is not written."""
    grid.save(standings=[stands(3, valid=1)])
    grid.save(standings=[stands(3, valid=2, edition=7)])
    assert grid.store.standings([HostId(3)])[HostId(3)].valid == 1


def test_tolerances_are_told(grid: StoredGrid) -> None:
    """What was measured between classes is told, the newest of each two, by application and classes."""
    assert list(grid.store.tolerances()) == []
    measured = [_tolerance("avx2", "sse", 1.0), _tolerance("avx2", "neon", 2.0), _tolerance("avx2", "sse", 3.0)]
    for each in measured:
        grid.around.measured(each)
    assert list(grid.store.tolerances()) == [measured[1], measured[2]]


def test_climate_is_kept(grid: StoredGrid) -> None:
    """The climate is the neutral one at first, then what was written last."""
    assert grid.store.climate() == Climate()
    grid.save(climate=Climate(10.0, 0.5, 2.0))
    grid.save()
    assert grid.store.climate() == Climate(10.0, 0.5, 2.0)


def test_credit_may_be_written(grid: StoredGrid) -> None:
    """Credit goes with a batch, more of it and less."""
    grid.save(credits=[CreditChange(host=HostId(1), application="digest", seconds=5.0, results=1)])
    grid.save(credits=[CreditChange(host=HostId(1), application="digest", seconds=-5.0, results=-1)])


# --- jobs -------------------------------------------------------------------------------------------------------


def test_job_is_entered_in_slabs(grid: StoredGrid) -> None:
    """A job's tasks come in slabs; it is unfinished from the first on, and open once it is told to be."""
    request = digest_job(5)
    job = grid.store.create_job(NewJob(REQUESTER, request, SPEC, [SPEC], 5, NOW))
    assert grid.store.entered(job) == 0
    grid.store.enter_tasks(job, 0, 2, 2)
    assert (grid.store.entered(job), [task.number for task in grid.store.ready(job, -1, 9)]) == (3, [0, 1, 2])
    grid.store.enter_tasks(job, 3, 4, 2)
    row = grid.store.job(job)
    assert row is not None
    assert (row.owner, row.spec, row.tasks, row.ended, row.state) == (REQUESTER, SPEC, 5, 0, JobState.ENTERING)
    assert row.request == request
    assert grid.store.open_job(job)
    assert not grid.store.open_job(job)
    assert grid.store.job(job).state is JobState.OPEN  # type: ignore[union-attr]  # it is there


def test_unfinished_jobs_come_oldest_first(grid: StoredGrid) -> None:
    """Jobs that are being entered or open are found again; ended ones are not among them."""
    cancelled, first, done = grid.job(), grid.job(), grid.job(tasks=1)
    entering = grid.store.create_job(NewJob(REQUESTER, digest_job(1), SPEC, [SPEC], 1, NOW))
    grid.store.cancel_job(cancelled, NOW)
    grid.accept(done, 0, grid.box(done))
    assert [row.job for row in grid.store.unfinished_jobs()] == [first, entering]
    assert grid.store.job(JobId(999)) is None


def test_job_ends_with_its_last_task(grid: StoredGrid) -> None:
    """A job whose tasks all agreed is finished, one of which some failed incomplete; the batch says so."""
    job, other = grid.job(tasks=2), grid.job(tasks=2)
    assert grid.save(jobs=[JobChange(job=job, agreed=1, timed=2, seconds=7.0)]).ended == {}
    both = [JobChange(job=job, agreed=1), JobChange(job=other, agreed=1, failed=1)]
    assert grid.save(jobs=both).ended == {job: JobState.FINISHED, other: JobState.INCOMPLETE}
    row = grid.store.job(job)
    assert row is not None
    assert (row.ended, row.timed, row.seconds) == (2, 2, 7.0)


def test_leases_and_failures_of_a_job_are_counted(grid: StoredGrid) -> None:
    """A job's live leases, and how many of its tasks each host failed, can be asked for."""
    job, other = grid.job(), grid.job()
    for task in (0, 0, 1):
        grid.move(grid.lease(job, task), "leased", "failed")
    grid.move(grid.lease(job, 1, host=2), "leased", "lost")
    grid.lease(job, 2, host=3)
    grid.lease(other, 0, host=3)
    assert grid.store.live_leases(job) == 1
    assert grid.store.host_failures(job) == {1: 2}
    assert grid.store.host_failures(other) == {}


def test_cancelled_job_is_over(grid: StoredGrid) -> None:
    """Cancelling ends a job, its open tasks, and its replicas that have no verdict; verdicts stay."""
    job = grid.job(tasks=4)
    agreed, leased, reading, voting = (grid.lease(job, task) for task in (0, 1, 2, 2 + 1))
    grid.move(agreed, "leased", "voting", fingerprint=DIGEST)
    grid.accept(job, 0, agreed)
    grid.move(reading, "leased", "reading")
    grid.move(voting, "leased", "voting", fingerprint=DIGEST)
    grid.save(tasks=[decided(job, 3, "open", "open", wanted=1, audits=ORDERS_TEXT)])
    assert grid.store.cancel_job(job, NOW)
    assert [grid.task(job, task).state for task in range(4)] == ["agreed", "cancelled", "cancelled", "cancelled"]
    assert [grid.task(job, task).wanted for task in range(4)] == [0, 0, 0, 0]
    assert grid.task(job, 3).audits == ()
    assert grid.attempt(agreed).state is ReplicaState.AGREED
    for replica in (leased, reading, voting):
        assert (grid.attempt(replica).state, grid.attempt(replica).cause) == ("cancelled", "cancelled")
    assert grid.store.load([HostId(1)], []).replicas == {}
    assert grid.store.ready(job, -1, 9) == []
    assert _ids(grid, NOW + 9_999) == []
    assert not grid.store.cancel_job(job, NOW)
    assert not grid.store.cancel_job(JobId(999), NOW)


def test_fresh_tasks_are_cancelled_too(grid: StoredGrid) -> None:
    """A task nobody ever touched is cancelled with its job, entered or being entered."""
    job = grid.job()
    entering = grid.store.create_job(NewJob(REQUESTER, digest_job(1), SPEC, [SPEC], 1, NOW))
    grid.store.enter_tasks(entering, 0, 0, 2)
    for each in (job, entering):
        assert grid.store.cancel_job(each, NOW)
        assert (grid.task(each).state, grid.task(each).wanted) == (TaskState.CANCELLED, 0)


def test_finished_job_is_not_cancelled(grid: StoredGrid) -> None:
    """What is delivered stays; an incomplete job can be cancelled."""
    job, incomplete = grid.job(tasks=1), grid.job(tasks=1)
    grid.accept(job, 0, grid.box(job))
    grid.save(tasks=[decided(incomplete, 0, "open", "failed")], jobs=[JobChange(job=incomplete, failed=1)])
    assert not grid.store.cancel_job(job, NOW)
    assert grid.store.cancel_job(incomplete, NOW)
    assert grid.task(incomplete).state is TaskState.FAILED


def test_retry_begins_a_new_vote(grid: StoredGrid) -> None:
    """A retry opens failed tasks: old ballots leave the box, live replicas go on and count against what is wanted."""
    job = grid.job(tasks=3, wanted=3)
    grid.accept(job, 0, grid.box(job, 0))
    old, lost, live = grid.box(job, 1, 1), grid.lease(job, 1, 2), grid.lease(job, 1, 3)
    grid.move(lost, "leased", "lost")
    handed_back = grid.lease(job, 2)
    grid.move(handed_back, "leased", "handed_back")
    assert grid.store.retry_job(job) == 0
    failed = [decided(job, task, "open", "failed", reason="hopeless") for task in (1, 2)]
    grid.save(replicas=[changed(old, "voting", "outvoted")], tasks=failed, jobs=[JobChange(job=job, failed=2)])
    assert grid.store.retry_job(job) == 2
    assert [grid.attempt(each).state for each in (old, lost, live, handed_back)] == [
        "cancelled",
        "cancelled",
        "leased",
        "handed_back",
    ]
    assert [(grid.task(job, task).state, grid.task(job, task).wanted) for task in range(3)] == [
        ("agreed", 0),
        ("open", 1),
        ("open", 2),
    ]
    row = grid.store.job(job)
    assert row is not None
    assert (row.state, row.ended) == (JobState.OPEN, 1)
    assert [each.job for each in grid.store.unfinished_jobs()] == [job]
    grid.lease(job, 1, 1)
    assert grid.store.retry_job(job) == 0


def test_owner_and_operator_may_steer(grid: StoredGrid) -> None:
    """A job is steered by its owner and by operators, and a job that is not there by nobody."""
    job = grid.job()
    allowed = [grid.store.may_steer(user, job) for user in (REQUESTER, OPERATOR, STRANGER)]
    assert allowed == [True, True, False]
    assert not grid.store.may_steer(OPERATOR, JobId(999))


def test_nothing_is_there_at_first(grid: StoredGrid) -> None:
    """An empty store answers every question."""
    assert grid.store.last_replica() == 0
    assert grid.store.unread() == []
    assert grid.store.due(NOW, 10) == []
    assert grid.store.to_audit_again() == []
    assert grid.store.unfinished_jobs() == []
    assert set(grid.store.load([HostId(number) for number in range(1, HOSTS + 1)], []).hosts) == set(
        range(1, HOSTS + 1)
    )


def _ids(grid: StoredGrid, now: float, most: int = 100) -> list[ReplicaId]:
    return [row.attempt.replica for row in grid.store.due(now, most)]


def _renewal(replica: ReplicaId, until: float, call: int) -> Renewal:
    return Renewal(id=replica, next_transition=until, acknowledged_call=call)


def _tolerance(class_a: str, class_b: str, largest: float) -> Tolerance:
    return Tolerance(
        application="blender",
        class_a=class_a,
        class_b=class_b,
        share=0.01,
        largest=largest,
        block=0.5,
        measured_at=NOW,
        samples=24,
        margin=2.0,
        excepted=("hair",),
    )
