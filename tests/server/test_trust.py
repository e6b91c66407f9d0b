"""What results do to hosts, and what the standing of hosts does to results: over a real store."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec import structs
from sqlalchemy import func, insert, select, update
from xwgrid_schema.tables import host_credits, hosts, replicas, standings, users
from xwgrid_server import job_views
from xwgrid_server.calls import Call, Effects
from xwgrid_server.database import open_engine

from tests.server.painted_frames import HEIGHT, RIGHT, SPOILT, PaintedGrid, Picture, only, picture_job, strips_of
from tests.server.small_grid import REQUESTER, digest_job, finished, right
from xwgrid.auditing import STRIPS_AN_AUDIT, reach
from xwgrid.model import Audit, Cause, Credibility, HostId, JobId, JobState, ReplicaState, TaskNumber, TaskState, UserId
from xwgrid.trust import NEWCOMERS_DOUBT, QUARANTINE, Climate, Grid, Standing, friends_share, strips_needed
from xwgrid.wire import Failed, Finished, Lease, TaskView, WorkAnswer

# A frame that friends spoil in one way, so that they pass each other's audits.
LIE = Picture(0, HEIGHT, 7)
# Hosts that nobody doubts: one strip is enough for what they render.
TRUSTED = {"proven": True, "tested": True}


@pytest.fixture
def grid(database_url: str) -> Iterator[PaintedGrid]:
    """Six owners with a host each, new to everybody."""
    engine = open_engine(database_url)
    yield PaintedGrid(engine, owners=6)
    engine.dispose()


def task(grid: PaintedGrid, job: JobId, number: int = 0, user: int = REQUESTER) -> TaskView:
    return job_views.task(grid.engine, UserId(user), job, TaskNumber(number), {})


def standing(grid: PaintedGrid, host: int) -> Any:
    """Return a host's standing as it is stored; None for a new one."""
    with grid.engine.connect() as connection:
        return connection.execute(select(standings).where(standings.c.host_id == host)).one_or_none()


def credit(grid: PaintedGrid, host: int) -> float:
    """Return a host's credit: that in the table, which must be that of its replicas."""
    with grid.engine.connect() as connection:
        total = select(func.coalesce(func.sum(host_credits.c.seconds), 0.0)).where(host_credits.c.host_id == host)
        given = select(func.coalesce(func.sum(replicas.c.credit), 0.0)).where(replicas.c.host_id == host)
        kept = connection.execute(total).scalar_one()
        assert kept == pytest.approx(connection.execute(given).scalar_one())
        return float(kept)


def accept(grid: PaintedGrid, author: int, auditors: Sequence[int], picture: Picture = RIGHT) -> Lease:
    """Have a host render its next task, and others find it as it did, until it is accepted."""
    lease = grid.take(author)
    grid.paint(author, lease, picture)
    for auditor in auditors:
        for audit in grid.call(auditor, want=1).leases:
            assert audit.task == lease.task
            grid.paint(auditor, audit, picture)
    assert task(grid, lease.job, lease.task).state is TaskState.AGREED
    return lease


def give_to(grid: PaintedGrid, owner: int, host: int) -> None:
    """Have a host belong to another owner."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id == host).values(owner_id=owner))
    grid.restart()


# --- newcomers --------------------------------------------------------------------------------------------------


def test_a_new_host_begins_with_a_task_whose_answer_is_known(grid: PaintedGrid) -> None:
    """It gets a decided task of an open job, nothing else until that is judged, and then work like everybody."""
    job = grid.submit(picture_job(9))
    grid.stand(1, 2, 3, **TRUSTED)
    known = accept(grid, 1, [2])
    test = grid.take(5)
    assert (test.task, strips_of([test])) == (known.task, [None])
    waits = grid.call(5, held=[test], want=3)
    assert waits.leases == ()
    assert "first result" in (waits.reason or "")
    grid.paint(5, test)
    assert bool(standing(grid, 5).tested)
    assert {lease.task for lease in grid.call(5, want=2).leases} == {1, 2}
    assert task(grid, job).replicas[-1].test


def test_a_new_host_that_is_wrong_is_set_aside(grid: PaintedGrid) -> None:
    """For a day, and it is told so; what it made of the test changes nothing for the requester."""
    job = grid.submit(picture_job(9))
    grid.stand(1, 2, 3, **TRUSTED)
    accept(grid, 1, [2])
    answer = grid.paint(5, grid.take(5), SPOILT)
    assert answer.confirmed[0].accepted
    refused = grid.call(5, want=1)
    assert refused.leases == ()
    assert "set aside for 24.0 more hours" in (refused.reason or "")
    assert task(grid, job).state is TaskState.AGREED
    assert credit(grid, 5) == 0.0
    grid.now += QUARANTINE
    for host in (2, 3):
        grid.call(host)
    known = accept(grid, 2, [3])
    assert grid.take(5).task == known.task, "it begins anew with a test"


def test_a_test_that_is_being_read_keeps_its_host_waiting(grid: PaintedGrid) -> None:
    """A host that reports its test and asks for more in one call gets nothing until the test was read."""
    grid.submit(picture_job(9))
    grid.stand(1, 2, 3, **TRUSTED)
    accept(grid, 1, [2])
    accept(grid, 2, [3])
    test = grid.take(5)
    grid.now += 60
    answer, effects = grid.report(5, test, want=2)
    assert answer.leases == ()
    assert grid.call(5, want=2).leases == ()
    grid.read(effects)
    assert len(grid.call(5, want=2).leases) == 2


def test_what_nobody_checked_is_no_known_answer(grid: PaintedGrid) -> None:
    """A result that a job took from one host alone is not held against a new one."""
    alone = grid.submit(digest_job(3, replicas=1, quorum=1))
    grid.submit(structs.replace(digest_job(3), policy=Credibility()))
    lease = grid.take(1)
    grid.do(1, lease, "f" * 64)
    assert (lease.job, task(grid, alone, lease.task).state) == (alone, TaskState.AGREED)
    given = [grid.take(host) for host in (4, 5, 6)]
    assert (alone, lease.task) not in {(each.job, each.task) for each in given}


def test_nobody_is_tested_with_what_it_took_part_in(grid: PaintedGrid) -> None:
    """A new host whose owner was an author or an auditor of a task is not given it as a test."""
    give_to(grid, 1, 5)
    give_to(grid, 2, 6)
    grid.submit(picture_job(9))
    grid.stand(1, 2, **TRUSTED)
    lease = accept(grid, 1, [2])
    assert lease.task not in {grid.take(5).task, grid.take(6).task}
    assert grid.take(4).task == lease.task


def test_new_hosts_begin_with_one_and_the_same_frame(grid: PaintedGrid) -> None:
    """Where no answer is known, the vote on their first frame tells who of them is right; then they have work."""
    job = grid.submit(picture_job(9))
    first = {host: grid.take(host) for host in (1, 2, 3)}
    assert {lease.task for lease in first.values()} == {0}
    assert strips_of(list(first.values())) == [None] * 3
    grid.paint(1, first[1], SPOILT)
    assert grid.call(1, want=1).leases == ()
    grid.paint(2, first[2])
    grid.paint(3, first[3])
    assert task(grid, job).state is TaskState.AGREED
    assert "set aside" in (grid.call(1, want=1).reason or "")
    assert {grid.take(2).task, grid.take(3).task} == {1, 2}


def test_a_grid_of_four_finds_its_two_cheats(database_url: str) -> None:
    """Two of four who are equal are no strict majority, but there is nobody else to ask: both others are set aside."""
    engine = open_engine(database_url)
    grid = PaintedGrid(engine, owners=4)
    job = grid.submit(picture_job(9))
    first = {host: grid.take(host) for host in (1, 2, 3, 4)}
    assert {lease.task for lease in first.values()} == {0}
    grid.paint(1, first[1], SPOILT)
    grid.paint(2, first[2], LIE)
    grid.paint(3, first[3])
    grid.paint(4, first[4])
    assert task(grid, job).accepted == "2 equal results among 4, and nobody else was about to decide"
    for cheat in (1, 2):
        assert "set aside" in (grid.call(cheat, want=1).reason or "")
    engine.dispose()


def test_who_might_have_decided_leaves(database_url: str) -> None:
    """A fifth owner is asked; when they are not about any more, what is undecided is thought over."""
    engine = open_engine(database_url)
    grid = PaintedGrid(engine, owners=5)
    job = grid.submit(picture_job(9))
    first = {host: grid.take(host) for host in (1, 2, 3, 4)}
    for host, picture in ((1, SPOILT), (2, LIE), (3, RIGHT), (4, RIGHT)):
        grid.call(5)
        grid.paint(host, first[host], picture)
    assert task(grid, job).state is TaskState.OPEN
    until = grid.now + 600.0
    while grid.now < until and task(grid, job).state is TaskState.OPEN:
        grid.now += 10.0
        for host in (1, 2, 3, 4):
            grid.call(host)
        if (due := grid.coordinator.next_draw()) is not None and due <= grid.now:
            grid.coordinator.draw(grid.now)
    assert task(grid, job).state is TaskState.AGREED
    engine.dispose()


def test_new_hosts_go_on_with_a_begun_frame_after_a_restart(database_url: str) -> None:
    """A restart forgets what new hosts were at; where nothing fresh is left they join what is begun."""
    engine = open_engine(database_url)
    grid = PaintedGrid(engine, owners=2)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    grid.restart()
    second = grid.take(2)
    assert (second.task, strips_of([second])) == (0, [None])
    grid.paint(2, second)
    assert task(grid, job).state is TaskState.AGREED
    engine.dispose()


def test_where_only_new_hosts_are_left_they_render_what_should_be_audited(grid: PaintedGrid) -> None:
    """A frame that wants strips is rendered once more as a whole, which tests the new host as well."""
    grid.stand(1, **TRUSTED)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    whole = grid.take(2)
    assert strips_of([whole]) == [None]
    grid.paint(2, whole)
    assert task(grid, job).state is TaskState.AGREED
    assert bool(standing(grid, 2).tested)


def test_an_owners_new_hosts_do_its_private_film_at_once(grid: PaintedGrid) -> None:
    """Between its own hosts an owner needs no tests: they render, and look at strips of each other's frames."""
    for host in (2, 3, 4):
        give_to(grid, 1, host)
    grid.submit(picture_job(9))
    job = grid.submit(picture_job(3, private=True), owner=1)
    given = {host: grid.take(host) for host in (1, 2, 3)}
    assert [lease.job for lease in given.values()] == [job] * 3
    for host, lease in given.items():
        grid.paint(host, lease)
    for host in (4, 1, 2, 3) * 2:
        for lease in grid.call(host, want=1).leases:
            grid.paint(host, lease)
    assert job_views.job(grid.engine, UserId(1), job, {}).state is JobState.FINISHED


# --- lies -------------------------------------------------------------------------------------------------------


def disputed(grid: PaintedGrid, liar: int, honest: Sequence[int]) -> Lease:
    """Have a host spoil its next frame, an honest one meet it, and others outvote it."""
    lease = grid.take(liar)
    grid.paint(liar, lease, SPOILT)
    for host in honest:
        for found in grid.call(host, want=1).leases:
            assert found.task == lease.task
            grid.paint(host, found)
    view = task(grid, lease.job, lease.task)
    assert view.state is TaskState.AGREED
    assert only(each for each in view.replicas if each.replica == lease.replica).state is ReplicaState.OUTVOTED
    return lease


def test_one_strip_of_an_honest_owner_gives_a_spoilt_frame_away(grid: PaintedGrid) -> None:
    """The audit differs, the frame goes to full replicas, and whoever lost that vote pays for it."""
    grid.submit(picture_job(9))
    grid.stand(*range(1, 7), **TRUSTED)
    grid.paint(1, grid.take(1), SPOILT)
    audit = grid.take(2)
    assert strips_of([audit]) != [None]
    grid.paint(2, audit)
    assert standing(grid, 1).suspected_until > grid.now
    assert standing(grid, 2).suspected_until > grid.now
    second = grid.take(3)
    assert strips_of([second]) == [None]
    grid.paint(3, second)
    view = task(grid, second.job)
    assert view.state is TaskState.AGREED, "the auditor's witness decides between the two"
    assert [each.state for each in view.replicas] == [ReplicaState.OUTVOTED, ReplicaState.AGREED, ReplicaState.AGREED]
    assert (standing(grid, 1).wrong, standing(grid, 2).wrong, standing(grid, 2).suspected_until) == (1, 0, None)
    assert credit(grid, 1) == 0.0
    assert credit(grid, 3) > credit(grid, 2) > 0.0


def test_who_is_caught_has_what_was_accepted_of_it_looked_at_again(grid: PaintedGrid) -> None:
    """A lie that a friend passed is found after all when its author is caught with others, and the verdict changes."""
    grid.stand(*range(1, 7), **TRUSTED)
    job = grid.submit(picture_job(4))
    lied = accept(grid, 1, [2], LIE)
    before = credit(grid, 1), credit(grid, 2)
    assert min(before) > 0.0
    for _ in range(2):
        disputed(grid, 1, [3, 4])
    assert standing(grid, 1).quarantined_until > grid.now
    for host in (3, 4, 5, 6) * 4:
        for lease in grid.call(host, want=1).leases:
            if lease.task == lied.task:
                assert task(grid, job, lied.task).state is TaskState.OPEN
            grid.paint(host, lease)
    view = task(grid, job, lied.task)
    assert view.state is TaskState.AGREED
    assert view.accepted_before == lied.replica
    ballots = {each.replica: each.state for each in view.replicas}
    assert ballots[lied.replica] is ReplicaState.OUTVOTED
    assert (credit(grid, 1), standing(grid, 1).wrong) == (0.0, 3)
    assert standing(grid, 2).wrong == 1, "the friend passed a lie"
    assert credit(grid, 2) == 0.0
    assert standing(grid, 3).wrong == standing(grid, 4).wrong == 0
    assert not standing(grid, 1).audit_again


def test_a_delivered_job_is_not_looked_at_again(grid: PaintedGrid) -> None:
    """A verdict of a job that is done stays, whoever is caught later."""
    grid.stand(*range(1, 7), **TRUSTED)
    done = grid.submit(picture_job(1))
    accept(grid, 1, [2], LIE)
    assert job_views.job(grid.engine, UserId(REQUESTER), done, {}).state is JobState.FINISHED
    grid.submit(picture_job(4))
    for _ in range(2):
        disputed(grid, 1, [3, 4])
    grid.call(5)
    assert task(grid, done).state is TaskState.AGREED


def test_a_restart_does_not_forget_who_was_caught(grid: PaintedGrid) -> None:
    """A server that is killed between catching a host and looking at its results again does so after its start."""
    grid.stand(*range(1, 7), **TRUSTED)
    job = grid.submit(picture_job(4))
    lied = accept(grid, 1, [2], LIE)
    for _ in range(2):
        disputed(grid, 1, [3, 4])
    assert task(grid, job, lied.task).state is TaskState.AGREED
    grid.restart()
    grid.call(5)
    assert task(grid, job, lied.task).state is TaskState.OPEN


def test_nobody_is_blamed_twice_for_one_result(grid: PaintedGrid) -> None:
    """A vote that is taken again because its winner was caught costs its loser nothing more, if it loses again."""
    grid.stand(*range(1, 7), **TRUSTED)
    job = grid.submit(picture_job(4))
    lease = grid.take(1)
    grid.paint(1, lease)
    grid.paint(5, grid.take(5), SPOILT)  # an audit that was wrong
    grid.paint(3, grid.take(3))
    assert task(grid, job).state is TaskState.AGREED
    assert standing(grid, 5).wrong == 1
    outvoted = job_views.job(grid.engine, UserId(REQUESTER), job, {}).outvoted
    for _ in range(2):
        disputed(grid, 1, [3, 4])
    grid.call(2)
    for host in (3, 4, 6) * 2:
        for found in grid.call(host, want=1).leases:
            grid.paint(host, found)
    assert standing(grid, 5).wrong == 1
    assert standing(grid, 5).quarantined_until is None
    assert job_views.job(grid.engine, UserId(REQUESTER), job, {}).outvoted == outvoted + 2


def test_who_was_outvoted_by_a_lie_is_cleared(grid: PaintedGrid) -> None:
    """When a verdict changes, who was blamed by the first one is not set aside any more, and has its credit."""
    grid.stand(1, 2, 3, 4, 6, **TRUSTED)
    job = grid.submit(picture_job(4))
    lied = accept(grid, 1, [2], LIE)
    test = grid.take(5)
    assert test.task == lied.task
    grid.paint(5, test)
    assert standing(grid, 5).quarantined_until is not None, "it was honest, and the known answer a lie"
    for _ in range(2):
        disputed(grid, 1, [3, 4])
    grid.call(2)
    for host in (3, 4, 6) * 2:
        for found in grid.call(host, want=1).leases:
            grid.paint(host, found)
    assert only(e for e in task(grid, job, lied.task).replicas if e.test).state is ReplicaState.AGREED
    assert (standing(grid, 5).wrong, standing(grid, 5).quarantined_until) == (0, None)
    assert credit(grid, 5) > 0.0


# --- what counts ------------------------------------------------------------------------------------------------


def test_a_private_job_gives_no_standing_and_no_credit(grid: PaintedGrid) -> None:
    """Whatever an owner's hosts tell each other about their own job, nobody else counts it."""
    grid.stand(1, 2, 3, **TRUSTED)
    job = grid.submit(digest_job(2, private=True), owner=1)
    before = standing(grid, 1)
    give_to(grid, 1, 2)
    give_to(grid, 1, 3)
    grid.do(1, grid.take(1), "0" * 64)
    grid.do(2, grid.take(2))
    grid.do(3, grid.take(3))
    assert task(grid, job, user=1).state is TaskState.AGREED
    assert standing(grid, 1) == before
    assert sum(credit(grid, host) for host in (1, 2, 3)) == 0.0


def test_one_ballot_that_decides_alone_is_worth_nothing(grid: PaintedGrid) -> None:
    """Where nobody else looked there is no credit, and no standing is earned."""
    grid.submit(digest_job(2, replicas=1, quorum=1))
    lease = grid.take(1)
    grid.now += 60
    grid.do(1, lease)
    assert credit(grid, 1) == 0.0
    assert standing(grid, 1) is None


def test_an_auditor_is_paid_for_its_strips(grid: PaintedGrid) -> None:
    """The author of an accepted frame gets the mean time of a frame, an auditor its share of that."""
    grid.stand(1, 2, **TRUSTED)
    grid.submit(picture_job(4))
    accept(grid, 1, [2])
    assert credit(grid, 1) == pytest.approx(60.0)
    assert credit(grid, 2) == pytest.approx(60.0 * 0.02)


def test_three_requesters_make_a_host_proven(grid: PaintedGrid) -> None:
    """Twenty minutes for one requester prove nothing; four, four and two for three of them do."""
    with grid.engine.begin() as connection:
        for user in (2_000, 3_000):
            connection.execute(insert(users).values(id=user, name=f"requester {user}", created_at=grid.now))
    for requester, frames, proven in ((REQUESTER, 8, False), (2_000, 4, False), (3_000, 2, True)):
        grid.submit(digest_job(frames), owner=requester)
        for _ in range(frames):
            one, two = grid.take(1), grid.take(2)
            grid.now += 60
            for host, lease in ((1, one), (2, two)):
                grid.call(host, reports=[(lease, minute(lease))])
        assert bool(standing(grid, 1).proven) is proven


def minute(lease: Lease) -> Finished:
    """Return the report of a right value that took a minute."""
    return structs.replace(finished(right(lease.task)), seconds=60.0)


def test_a_time_that_cannot_be_is_cut_to_what_the_server_saw(grid: PaintedGrid) -> None:
    """A host that says its task took a minute is credited with the seconds since its lease began."""
    grid.submit(digest_job(1))
    one, two = grid.take(1), grid.take(2)
    grid.now += 5
    for host, lease in ((1, one), (2, two)):
        grid.call(host, reports=[(lease, minute(lease))])
    assert credit(grid, 1) == credit(grid, 2) == pytest.approx(5.0)


# --- policies at work -------------------------------------------------------------------------------------------


def test_a_proven_hosts_result_may_be_enough(grid: PaintedGrid) -> None:
    """By credibility, the result of a host that proved itself is accepted alone; a new one's is laid beside another."""
    grid.stand(1, **TRUSTED)
    job = grid.submit(picture_job(2, Credibility()))
    grid.paint(1, grid.take(1))
    assert task(grid, job, 0).state is TaskState.AGREED
    grid.paint(3, grid.take(3))
    assert task(grid, job, 1).state is TaskState.OPEN
    grid.paint(4, grid.take(4))
    assert task(grid, job, 1).state is TaskState.AGREED


def test_a_new_hosts_frame_is_looked_at_closely(grid: PaintedGrid) -> None:
    """One result of a newcomer in twenty passes for a lie, so that a layer of strips is laid over its frame."""
    grid.stand(*range(1, 7), tested=True)
    job = grid.submit(picture_job(1, Audit(epsilon=0.001)))
    grid.paint(1, grid.take(1))
    given = {host: lease for host in range(2, 7) for lease in grid.call(host, want=2).leases}
    places = [place for strips in strips_of(list(given.values())) for place in (strips or "").split(",")]
    friends = friends_share(Grid(Climate(), 6, grid.now))
    assert len(places) == len(set(places)) == strips_needed(NEWCOMERS_DOUBT, 0.001, reach(0.05, HEIGHT), friends) == 17
    assert len(given) == math.ceil(17 / STRIPS_AN_AUDIT)
    for host, audit in given.items():
        assert task(grid, job).state is TaskState.OPEN
        grid.paint(host, audit)
    assert task(grid, job).state is TaskState.AGREED


def test_audits_that_fail_end_in_replicas(grid: PaintedGrid) -> None:
    """A frame whose parts two hosts could not render is rendered once more as a whole."""
    grid.stand(*range(1, 5), **TRUSTED)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    for host in (2, 3):
        audit = grid.take(host)
        assert strips_of([audit]) != [None]
        grid.call(host, reports=[(audit, Failed(cause=Cause.EXITED, message="no border"))])
    whole = grid.take(4)
    assert strips_of([whole]) == [None]
    grid.paint(4, whole)
    assert task(grid, job).state is TaskState.AGREED


def test_where_no_auditor_is_left_auditors_vote(grid: PaintedGrid) -> None:
    """With three owners, and both auditors under suspicion, the frame ends all the same."""
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id > 3).values(last_seen_at=0.0))
    grid.restart()
    grid.stand(1, **TRUSTED)
    grid.stand(2, 3, on_record=1, tested=True)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    for _ in range(4):
        for host in (2, 3):
            for lease in grid.call(host, want=1).leases:
                grid.paint(host, lease)
    assert task(grid, job).state is TaskState.AGREED


def test_votes_are_secret_until_the_verdict(grid: PaintedGrid) -> None:
    """A requester sees neither the ballot nor the strips of a frame that is looked at, and all of it afterwards."""
    grid.stand(1, 2, **TRUSTED)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    audit = grid.take(2)
    before = task(grid, job)
    assert {(each.fingerprint, each.strips, each.audits) for each in before.replicas} == {(None, None, None)}
    grid.paint(2, audit)
    author, auditor = task(grid, job).replicas
    assert author.fingerprint is not None
    assert (auditor.audits, auditor.strips) == (author.replica, only(strips_of([audit])))


def test_a_host_is_told_how_it_stands_when_it_reports(grid: PaintedGrid) -> None:
    """With the confirmation of a report comes a sentence on its standing."""
    grid.submit(digest_job(1))
    answer = grid.do(1, grid.take(1))
    assert (answer.standing or "").startswith("new: 0.0 of 10 units")


def test_hosts_that_ask_together_are_not_drawn_together(grid: PaintedGrid) -> None:
    """With enough owners about a check goes to who is drawn, and who asks first gets none of it."""
    grid.draw_from = 3
    grid.restart()
    grid.stand(*range(1, 7), **TRUSTED)
    job = grid.submit(picture_job(1))
    grid.paint(1, grid.take(1))
    calls = [Call(HostId(host), grid.request(host, want=1)) for host in range(2, 7)]
    answers = grid.coordinator.serve(calls, [], grid.now).answers
    assert all(isinstance(answer, WorkAnswer) and not answer.leases for answer in answers)
    due = grid.coordinator.next_draw()
    assert due is not None
    assert grid.now <= due <= grid.now + 6.0, "a tenth of the time a frame takes"
    grid.now = due
    drawn: Effects = grid.coordinator.draw(grid.now)
    host = only(drawn.drawn)
    others = [each for each in range(2, 7) if each != host]
    assert all(not grid.call(each, want=1).leases for each in others)
    grid.paint(host, grid.take(host))
    assert task(grid, job).state is TaskState.AGREED
    assert task(grid, job).undrawn == 0


def test_standing_is_the_sum_of_what_was_decided(grid: PaintedGrid) -> None:
    """What is stored of a host reads back as the coordinator's own noun."""
    grid.submit(digest_job(1))
    grid.do(1, grid.take(1), "0" * 64)
    for host in (2, 3):
        grid.do(host, grid.take(host))
    stored = grid.coordinator._store.standings([HostId(1), HostId(2)])
    assert stored[HostId(1)] == Standing(wrong=1, on_record=1)
    assert (stored[HostId(2)].valid, stored[HostId(2)].streak) == (1, 1)
