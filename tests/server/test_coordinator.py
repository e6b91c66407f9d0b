"""The whole decision, over real stores: votes, leases, crashes, restarts."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import select, update
from xwgrid_schema.tables import hosts, jobs, replicas, tasks
from xwgrid_server import job_views
from xwgrid_server.calls import Call
from xwgrid_server.database import open_engine

from tests.server.small_grid import REQUESTER, SPEC, SmallGrid, digest_job, finished, right
from xwgrid.errors import Conflict, Forbidden, NotFound
from xwgrid.model import Cause, HostId, JobId, JobState, ReplicaId, ReplicaState, TaskNumber, TaskState, UserId
from xwgrid.wire import Failed, HandedBack, TaskView, WorkAnswer


@pytest.fixture
def grid(database_url: str) -> Iterator[SmallGrid]:
    engine = open_engine(database_url)
    yield SmallGrid(engine)
    engine.dispose()


def task(grid: SmallGrid, job: JobId, number: int = 0, *, user: int = REQUESTER) -> TaskView:
    return job_views.task(grid.engine, UserId(user), job, TaskNumber(number), {})


def test_two_owners_who_agree_finish_a_task(grid: SmallGrid) -> None:
    """Two equal ballots of two owners make a task agreed, and the last task finishes its job."""
    job = grid.submit(digest_job(1))
    first, second = grid.take(1), grid.take(2)
    grid.do(1, first)
    assert task(grid, job).state is TaskState.OPEN
    assert task(grid, job).replicas[0].fingerprint is None, "a ballot is secret until the verdict"
    grid.do(2, second)
    agreed = task(grid, job)
    assert agreed.state is TaskState.AGREED
    assert agreed.value == right(0)
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).state is JobState.FINISHED


def test_a_liar_is_outvoted(grid: SmallGrid) -> None:
    """Two volunteers who agree outvote a third who does not."""
    job = grid.submit(digest_job(1))
    liar, honest = grid.take(1), grid.take(2)
    grid.do(1, liar, "0" * 64)
    answer, effects = grid.call_with_effects(2, reports=[(honest, finished(right(0)))])
    assert effects.wanted == 1, "the tie asks for one more ballot"
    assert answer.confirmed[0].accepted
    grid.do(3, grid.take(3))
    view = task(grid, job)
    assert view.value == right(0)
    assert [each.state for each in view.replicas] == [ReplicaState.OUTVOTED, ReplicaState.AGREED, ReplicaState.AGREED]
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).outvoted == 1


def test_an_owner_never_votes_twice(grid: SmallGrid) -> None:
    """An owner who holds a replica of a task, or voted on it, gets no other one of it."""
    grid.submit(digest_job(1))
    lease = grid.take(1)
    assert grid.call(1, want=1, held=[lease]).leases == ()
    grid.do(1, lease)
    nothing = grid.call(1, want=1)
    assert nothing.leases == ()
    assert "voted" in (nothing.reason or "")


def test_one_batch_gives_no_owner_two_replicas_of_a_task(grid: SmallGrid) -> None:
    """Calls of two hosts of one owner, decided together, do not share a task."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id == 2).values(owner_id=1))
    grid.restart()
    grid.submit(digest_job(1))
    calls = [Call(HostId(host), grid.request(host, want=1)) for host in (1, 2)]
    answers = grid.coordinator.serve(calls, [], grid.now).answers
    assert sorted(len(answer.leases) for answer in answers if isinstance(answer, WorkAnswer)) == [0, 1]


def test_in_a_private_job_the_owners_hosts_vote(grid: SmallGrid) -> None:
    """A private job runs on its owner's hosts only, and each of them has a vote of its own."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id == 2).values(owner_id=1))
    grid.restart()
    job = grid.submit(digest_job(1, private=True), owner=1)
    refused = grid.call(3, want=1)
    assert refused.leases == ()
    assert "private" in (refused.reason or "")
    for host in (1, 2):
        grid.do(host, grid.take(host))
    assert task(grid, job, user=1).state is TaskState.AGREED


def test_a_lost_answer_is_given_again(grid: SmallGrid) -> None:
    """A lease whose answer was lost is sent again, and only the host that has it twice acknowledges it once."""
    grid.submit(digest_job(1))
    lease = grid.take(1)
    assert grid.call(1).leases == (lease,)
    assert grid.call(1, held=[lease]).leases == ()


def test_a_restarted_volunteer_ends_its_old_lease_at_once(grid: SmallGrid) -> None:
    """A host that listed a lease and then calls without it has lost it: somebody else gets the task at once."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    lease = grid.take(1)
    grid.call(1, held=[lease])
    assert grid.call(2, want=1).leases == ()
    grid.call(1)
    assert grid.take(2).task == 0
    assert task(grid, job).replicas[0].cause is Cause.DROPPED
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).lost == 1


def test_a_late_call_says_nothing_about_leases(grid: SmallGrid) -> None:
    """A call overtaken by the one that acknowledged a lease does not end that lease."""
    grid.submit(digest_job(1))
    lease = grid.take(1)
    grid.call(1, held=[lease], number=9)
    grid.call(1, number=5)
    assert grid.call(1, held=[lease], number=10).ended == ()


def test_a_lease_that_runs_out_is_issued_again(grid: SmallGrid) -> None:
    """A host that stops calling loses its lease after its time, not before; a renewed one goes on."""
    job = grid.submit(digest_job(2, replicas=1, quorum=1))
    grid.now += 1_000
    vanished, kept = grid.take(1), grid.take(2)
    grid.now += 80
    grid.call(2, held=[kept])
    assert not grid.coordinator.expire(grid.now).changed
    grid.now += 11
    effects = grid.coordinator.expire(grid.now)
    assert effects.changed == {(job, vanished.task)}
    assert effects.wanted == 1
    assert grid.take(3).task == vanished.task
    ended = grid.call(1, held=[vanished]).ended
    assert [each.replica for each in ended] == [vanished.replica]
    assert "lost" in ended[0].message


def test_nothing_expires_before_hosts_could_call_a_restarted_server(grid: SmallGrid) -> None:
    """After its own start the server waits one grace period before it takes a lease for lost."""
    grid.submit(digest_job(1))
    grid.take(1)
    grid.now += 10_000
    grid.restart()
    assert not grid.coordinator.expire(grid.now + 80).changed
    assert grid.coordinator.expire(grid.now + 100).changed


@pytest.mark.parametrize("when", ["never", "ended", "foreign"])
def test_a_report_for_a_lease_one_has_not_is_refused_and_explained(grid: SmallGrid, when: str) -> None:
    """A report for a lease that never was, has ended, or is another host's changes nothing and says why."""
    job = grid.submit(digest_job(2, replicas=1, quorum=1))
    lease = grid.take(1)
    if when == "never":
        lease = msgspec.structs.replace(lease, replica=ReplicaId(999))
    if when == "ended":
        grid.call(1, reports=[(lease, HandedBack())])
    before = task(grid, job, 0)
    (confirmation,) = grid.do(2 if when == "foreign" else 1, lease).confirmed
    assert not confirmation.accepted
    assert ("never leased" in confirmation.message) is (when != "ended")
    assert task(grid, job, 0) == before


def test_a_repeated_report_is_confirmed_and_counts_once(grid: SmallGrid) -> None:
    """A report whose confirmation was lost is confirmed again, and is still one ballot."""
    job = grid.submit(digest_job(1))
    lease = grid.take(1)
    for _ in range(3):
        (confirmation,) = grid.do(1, lease).confirmed
        assert confirmation.accepted
    assert len(task(grid, job).replicas) == 1
    assert task(grid, job).state is TaskState.OPEN


def failure(cause: Cause = Cause.EXITED) -> Failed:
    return Failed(cause=cause, message="it said no", log_tail="the last line")


def test_three_hosts_that_fail_end_a_task(grid: SmallGrid) -> None:
    """A task that three different hosts failed has failed, with their reasons; one host fails a task once."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    for host in (1, 2, 3):
        grid.call(host, reports=[(grid.take(host), failure())])
        assert grid.call(host, want=1).leases == ()
    view = task(grid, job)
    assert view.state is TaskState.FAILED
    assert "3 different hosts" in view.reason
    assert view.replicas[0].log_tail == "the last line"
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).state is JobState.INCOMPLETE


def test_an_owner_who_comes_back_is_never_blamed(grid: SmallGrid) -> None:
    """A lease handed back a hundred times leaves the task open, and its host may have it again."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    for _ in range(20):
        grid.call(1, reports=[(grid.take(1), HandedBack(cause=Cause.OWNER))])
    assert task(grid, job).state is TaskState.OPEN


def test_a_host_that_fails_three_tasks_is_kept_off_the_job(grid: SmallGrid) -> None:
    """A host that failed three tasks of a job gets no more of it, and is told why; a restart does not forget that."""
    grid.submit(digest_job(10, replicas=1, quorum=1))
    for _ in range(3):
        grid.call(1, reports=[(grid.take(1), failure(Cause.CRASHED))])
    for _ in range(2):
        answer = grid.call(1, want=1)
        assert answer.leases == ()
        assert "kept off" in (answer.reason or "")
        grid.restart()
    assert grid.take(2)


def test_retry_opens_failed_tasks_for_everybody(grid: SmallGrid) -> None:
    """After a retry the failed tasks are open again, old failures do not count, and the job can finish."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    with pytest.raises(Conflict):
        grid.coordinator.retry_job(UserId(REQUESTER), job)
    for host in (1, 2, 3):
        grid.call(host, reports=[(grid.take(host), failure())])
    assert grid.coordinator.retry_job(UserId(REQUESTER), job) == 1
    grid.do(1, grid.take(1))
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).state is JobState.FINISHED


def test_cancelling_ends_leases_and_leaves_verdicts(grid: SmallGrid) -> None:
    """A cancelled job gives no more leases, ends the live ones, and keeps what was agreed."""
    job = grid.submit(digest_job(3, replicas=1, quorum=1))
    grid.do(1, grid.take(1))
    lease = grid.take(1)
    with pytest.raises(NotFound):
        grid.coordinator.cancel_job(UserId(2), job, grid.now)
    grid.coordinator.cancel_job(UserId(REQUESTER), job, grid.now)
    answer = grid.call(1, held=[lease], want=1)
    assert [each.replica for each in answer.ended] == [lease.replica]
    assert answer.leases == ()
    states = [each.state for each in job_views.tasks_of(grid.engine, UserId(REQUESTER), job, {}).tasks]
    assert states == [TaskState.AGREED, TaskState.CANCELLED, TaskState.CANCELLED]
    with pytest.raises(Conflict):
        grid.coordinator.cancel_job(UserId(REQUESTER), job, grid.now)


def test_a_restart_loses_nothing(grid: SmallGrid) -> None:
    """A server that is started again at every step brings the job to the same end."""
    job = grid.submit(digest_job(3))
    for host in (1, 2):
        for _ in range(3):
            grid.restart()
            lease = grid.take(host)
            grid.restart()
            grid.do(host, lease)
    view = job_views.job(grid.engine, UserId(REQUESTER), job, {})
    assert (view.state, view.agreed, view.replicas) == (JobState.FINISHED, 3, 6)


def test_a_half_entered_job_is_opened_after_a_restart(grid: SmallGrid) -> None:
    """A server killed while it enters a large job goes on where it was; nobody got a task before."""
    request = digest_job(25, replicas=1, quorum=1)
    job = grid.coordinator.begin_job(UserId(REQUESTER), request, SPEC, frozenset(), grid.now)
    assert grid.coordinator.enter(job, slab=10).left == 15
    assert grid.call(1, want=1).leases == ()
    grid.restart()
    assert grid.coordinator.entering() == [job]
    while grid.coordinator.enter(job, slab=10).left:
        pass
    assert len(grid.call(1, want=30).leases) == 25


def test_a_banned_host_is_turned_away(grid: SmallGrid) -> None:
    """A host that was banned gets a refusal with the operator's reason at its next call."""
    grid.submit(digest_job(1))
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id == 1).values(state="banned", state_reason="bad disk"))
    with pytest.raises(Forbidden, match="bad disk"):
        grid.call(1, want=1)


def test_a_class_that_cannot_form_a_quorum_is_not_pinned(grid: SmallGrid) -> None:
    """A host whose class has too few owners waits, and is told so; the others finish the job."""
    with grid.engine.begin() as connection:
        text = connection.execute(select(hosts.c.facts).where(hosts.c.id == 1)).scalar_one()
        odd = text.replace("python any", "python odd")
        connection.execute(update(hosts).where(hosts.c.id == 1).values(facts=odd))
    grid.restart()
    job = grid.submit(digest_job(1))
    answer = grid.call(1, want=1)
    assert answer.leases == ()
    assert "python odd" in (answer.reason or "")
    for host in (2, 3):
        grid.do(host, grid.take(host))
    assert task(grid, job).state is TaskState.AGREED


def test_losing_the_only_replica_unpins_the_class(grid: SmallGrid) -> None:
    """A task pinned to a class by a replica that was handed back is free for any class again."""
    job = grid.submit(digest_job(1))
    grid.call(1, reports=[(grid.take(1), HandedBack())])
    with grid.engine.connect() as connection:
        pinned = connection.execute(select(tasks.c.result_class).where(tasks.c.job_id == job)).scalar_one()
    assert pinned is None


def test_one_deciding_ballot_pins_no_class_even_after_a_restart(grid: SmallGrid) -> None:
    """Where one ballot decides, a second replica may go to a host of any class, before and after a restart."""
    with grid.engine.begin() as connection:
        text = connection.execute(select(hosts.c.facts).where(hosts.c.id == 2)).scalar_one()
        odd = text.replace("python any", "python odd")
        connection.execute(update(hosts).where(hosts.c.id.in_([2, 4])).values(facts=odd))
    grid.submit(digest_job(2, replicas=2, quorum=1))
    grid.restart()
    grid.take(1)
    assert grid.take(2).task == 0
    grid.take(3)
    grid.restart()
    assert grid.take(4).task == 1


def test_a_late_ballot_leaves_the_verdict(grid: SmallGrid) -> None:
    """A ballot that comes after the verdict is judged by it and changes nothing."""
    job = grid.submit(digest_job(1, replicas=3))
    leases = {host: grid.take(host) for host in (1, 2, 3)}
    for host in (1, 2):
        grid.do(host, leases[host])
    grid.do(3, leases[3], "f" * 64)
    view = task(grid, job)
    assert view.value == right(0)
    assert view.replicas[2].state is ReplicaState.OUTVOTED
    counts = job_views.job(grid.engine, UserId(REQUESTER), job, {})
    assert (counts.agreed, counts.outvoted, counts.state) == (1, 1, JobState.FINISHED)


def test_a_batch_that_cannot_be_written_changes_nothing(grid: SmallGrid) -> None:
    """When a row changed under way the whole batch is refused, and the next one finds the truth."""
    job = grid.submit(digest_job(1, replicas=1, quorum=1))
    lease = grid.take(1)

    class Meddling(type(grid.coordinator._store)):  # type: ignore[misc]
        def save(self, changes: object) -> object:
            with grid.engine.begin() as connection:
                connection.execute(update(replicas).values(state="cancelled"))
            return super().save(changes)

    grid.coordinator._store = Meddling(grid.engine)
    with pytest.raises(Conflict, match="not written"):
        grid.do(1, lease)
    grid.restart()
    (confirmation,) = grid.do(1, lease).confirmed
    assert not confirmation.accepted
    with grid.engine.connect() as connection:
        assert connection.execute(select(jobs.c.agreed).where(jobs.c.id == job)).scalar_one() == 0


def test_a_lost_race_drops_one_claim_and_not_the_batch(grid: SmallGrid) -> None:
    """A claim refused by the keys is dropped; the other calls of the batch keep theirs."""
    job = grid.submit(digest_job(2, replicas=1, quorum=1))
    with grid.engine.begin() as connection:
        connection.execute(
            replicas.insert().values(
                id=5_000, job_id=job, task=0, number=0, host_id=4, voter=4, state="leased", leased_at=grid.now
            )
        )
    calls = [Call(HostId(host), grid.request(host, want=1)) for host in (1, 2)]
    answers = grid.coordinator.serve(calls, [], grid.now).answers
    given = [lease.task for answer in answers if isinstance(answer, WorkAnswer) for lease in answer.leases]
    assert given == [1]


def test_users_do_not_see_each_others_jobs(grid: SmallGrid) -> None:
    """Somebody else's job is answered like one that does not exist; an operator sees it."""
    job = grid.submit(digest_job(1))
    with pytest.raises(NotFound):
        job_views.job(grid.engine, UserId(2), job, {})
    assert job_views.jobs_of(grid.engine, UserId(2), 10, {}).jobs == ()
    assert [each.id for each in job_views.jobs_of(grid.engine, UserId(REQUESTER), 10, {}).jobs] == [job]
