"""Small grids from beginning to end: who pays what, who gets away with what, and that all of it can be repeated."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from xwgrid_server.settings import Settings

from simulator.grid import simulate
from simulator.scenario import ONE_CLASS, Availability, Costs, Hosts, Jobs, Server
from simulator.tally import fairness
from tests.simulator.small import FIXED, HONEST, JOBS, figures, scenario
from xwgrid.errors import Unavailable
from xwgrid.model import Audit, Boinc, Credibility, Policy

POLICIES: tuple[Policy, ...] = (FIXED, Audit(), Credibility(), Boinc(trusted_after=3))
TASKS = JOBS.count * JOBS.frames
ERRING = replace(HONEST, honest_error_rate=0.05, failure_rate=0.02, vanish_rate=0.02, vanish_seconds=500.0)
CHURN = Availability(mean_seconds=2_000.0, shape=0.6, away_mean_seconds=1_000.0)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.__struct_config__.tag))
def test_runs_repeat(policy: Policy) -> None:
    """Two runs of one scenario find the same to the last digit, whatever goes wrong in it; another seed does not."""
    wild = scenario(replace(ERRING, availability=CHURN), jobs=(replace(JOBS, frames=8),), policy=policy)
    once, again, other = simulate(wild), simulate(wild), simulate(replace(wild, seed=2))
    assert once.repeatable() == again.repeatable()
    assert once.repeatable() != other.repeatable()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: str(policy.__struct_config__.tag))
def test_every_task_ends(policy: Policy) -> None:
    """Hosts that err, crash, vanish, come and go get every task done, under each policy."""
    found = figures(replace(ERRING, availability=CHURN), policy=policy)
    assert found.tasks == TASKS
    assert found.accepted + found.given_up == TASKS
    assert found.given_up <= 2
    assert found.calls > TASKS
    assert 0 < found.first_frame_seconds < found.makespan_seconds


def test_two_of_two_cost_two() -> None:
    """Among hosts that never err, fixed replication costs two frames a frame, none of them in vain."""
    found = figures(policy=FIXED)
    assert found.replicas_per_task == 2.0
    assert (found.accepted, found.wrong_accepted, found.audits_per_task) == (TASKS, 0, 0)
    assert found.wasted_work_share == 0.0


def test_audits_are_counted_at_their_cost() -> None:
    """Each strip costs kappa and its area, whatever else was done."""
    proven = replace(HONEST, proven=True)
    found = figures(proven, policy=Audit())
    kappa = Costs().kappa
    assert found.strips_per_task >= 1
    area = 2 / JOBS.height
    expected = found.full_replicas_per_task + found.strips_per_task * (kappa + area)
    assert found.replicas_per_task == pytest.approx(expected)
    dear = simulate(replace(scenario(proven, policy=Audit()), costs=Costs(kappa=0.5))).figures
    assert dear.replicas_per_task == pytest.approx(dear.full_replicas_per_task + dear.strips_per_task * (0.5 + area))


def test_friends_beat_two_of_two() -> None:
    """A ring that holds most of a grid has its lies accepted by vote; a grid without one accepts none."""
    ring = Hosts(name="ring", count=30, lie_rate=0.5, ring="friends", honest_error_rate=0.0)
    found = figures(replace(HONEST, count=5), ring, policy=FIXED)
    assert found.wrong_accepted > TASKS / 10
    assert found.wrong_accepted_share == found.wrong_accepted / found.accepted
    assert figures(policy=FIXED).wrong_accepted == 0


def test_lone_liars_agree_with_nobody() -> None:
    """Liars who do not know each other never win a vote."""
    liars = Hosts(name="liars", count=5, lie_rate=1.0, honest_error_rate=0.0)
    found = figures(HONEST, liars, policy=FIXED)
    assert found.wrong_accepted == 0
    assert found.wasted_work_share > 0
    assert found.liars == 5


def test_first_tasks_are_done_well() -> None:
    """Hosts that lie only after more tasks than there are never lie."""
    sleepers = Hosts(name="sleepers", count=20, lie_rate=1.0, honest_first=1_000, ring="one", honest_error_rate=0.0)
    found = figures(sleepers, policy=FIXED)
    assert (found.wrong_accepted, found.replicas_per_task) == (0, 2.0)


def test_audits_catch_liars() -> None:
    """Under the default policy liars are found out and set aside, and honest hosts are not."""
    liars = Hosts(name="liars", count=3, lie_rate=0.5, honest_error_rate=0.0)
    jobs = (replace(JOBS, count=20),)
    found = figures(HONEST, liars, jobs=jobs)
    assert found.liars_caught >= 2
    assert found.honest_hosts_caught == 0
    assert found.wrong_accepted_share < 0.02


def test_friends_pass_each_others_audits() -> None:
    """A grid of friends alone accepts its lies under audits as well: nobody else is there to look."""
    ring = Hosts(name="ring", count=20, lie_rate=1.0, ring="friends", honest_error_rate=0.0)
    found = figures(ring, policy=Audit())
    assert found.wrong_accepted == found.accepted == TASKS


def test_hosts_of_one_owner_do_not_check_each_other() -> None:
    """Where one owner has nearly all hosts, two of two come from two owners all the same."""
    farm = replace(HONEST, name="farm", count=15, owners=1)
    found = figures(farm, replace(HONEST, count=2), policy=FIXED)
    assert found.replicas_per_task == 2.0


def test_rare_classes_do_not_hold_a_job_up() -> None:
    """Hosts of several classes finish a job; those whose class no other owner has get none of it."""
    mixed = replace(HONEST, count=30, classes={"blender avx2": 20.0, "blender sse": 10.0, "blender neon": 0.3})
    found = figures(mixed, policy=FIXED)
    assert (found.accepted, found.wrong_accepted) == (TASKS, 0)


def test_host_that_is_alone_of_its_class_works_by_a_tolerance() -> None:
    """Votes of two classes mix where a tolerance was measured; elsewhere a host alone of its class gets nothing."""
    two = scenario(
        replace(HONEST, count=1),
        replace(HONEST, name="alone", count=1, classes={"blender neon": 1.0}),
        jobs=(Jobs(count=1, frames=4),),
        policy=FIXED,
    )
    with pytest.raises(Unavailable):
        simulate(two)
    measured = simulate(replace(two, tolerances=((ONE_CLASS, "blender neon"),))).figures
    assert (measured.accepted, measured.replicas_per_task, measured.wrong_accepted) == (4, 2.0, 0)


def test_hopeless_tasks_are_given_up() -> None:
    """Where every host fails, every task ends without a result."""
    found = figures(replace(HONEST, failure_rate=1.0, count=12), jobs=(Jobs(count=1, frames=3, requesters=1),))
    assert (found.accepted, found.given_up) == (0, 3)
    assert found.wasted_work_share == 1.0
    assert found.first_frame_seconds == 0.0


def test_grid_where_nothing_can_happen_is_refused() -> None:
    """A scenario whose jobs cannot end says so, and does not run for ever."""
    alone = replace(HONEST, count=1)
    with pytest.raises(Unavailable, match=r"no job .* has ended for ten days; among those that are open: 1"):
        figures(alone, jobs=(Jobs(count=1, frames=2),), policy=FIXED)


def test_fast_hosts_take_less_time() -> None:
    """The ideal is the work once, by all hosts together; twice the hosts halve it, and nothing beats it."""
    few, many = figures(policy=FIXED), figures(replace(HONEST, count=40), policy=FIXED)
    assert 1.6 < few.ideal_seconds / many.ideal_seconds < 2.4
    assert few.makespan_over_ideal > 2.0
    assert few.makespan_seconds == pytest.approx(few.ideal_seconds * few.makespan_over_ideal)


def test_huge_job_does_not_starve_a_small_one() -> None:
    """A short animation is done in a fraction of the time of a huge one that came before."""
    huge = Jobs(name="huge", count=1, frames=1_000, requesters=1)
    small = Jobs(name="small", count=5, frames=20, requesters=5, begin=2_000.0, every=500.0)
    report = simulate(scenario(jobs=(huge, small), policy=FIXED))
    assert report.figures.accepted == 1_100
    assert report.figures.first_frame_seconds < 1_500
    assert report.figures.fairness > 0.5


def test_deadlines_are_told() -> None:
    """Of jobs with a deadline the report says how many met it; without any it says nothing."""
    easy = replace(JOBS, deadline_seconds=1e6)
    hard = replace(JOBS, deadline_seconds=1.0)
    assert figures(jobs=(easy,)).deadlines_met_share == 1.0
    assert figures(jobs=(easy, hard)).deadlines_met_share == 0.5
    assert figures().deadlines_met_share is None


def test_smaller_lies_are_harder_to_find() -> None:
    """How much of a frame a lie alters decides how many get through audits."""
    liars = Hosts(name="liars", count=6, lie_rate=0.3, honest_error_rate=0.0, honest_first=5)
    jobs = (replace(JOBS, count=30),)
    small, large = (
        simulate(replace(scenario(HONEST, liars, jobs=jobs), lie_share=share)).figures for share in (0.001, 1.0)
    )
    assert small.wrong_accepted > large.wrong_accepted


def test_calls_are_counted_as_a_server_would_see_them() -> None:
    """A host that idles repeats its held call every so often; each counts."""
    idle = replace(HONEST, count=200)
    one_job = (Jobs(count=1, frames=20, requesters=1),)
    often = scenario(idle, jobs=one_job, policy=FIXED)
    seldom = replace(often, server=Server(ask_again_seconds=300.0))
    assert simulate(often).figures.calls > 1.5 * simulate(seldom).figures.calls


def test_fairness_is_jains() -> None:
    """Alike is 1; one of n who has it all is 1 / n; nothing to share is fair."""
    assert fairness([3.0, 3.0, 3.0]) == 1.0
    assert fairness([1.0, 0.0, 0.0, 0.0]) == 0.25
    assert fairness([]) == 1.0


def test_default_policy_is_the_servers() -> None:
    """A scenario that says nothing of it runs under what a server does when nobody says anything."""
    assert scenario().policy == Settings().trust.default
