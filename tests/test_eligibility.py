"""Which hosts may have work of a job, over the real census: classes that nobody has proved themselves with."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from msgspec import structs
from xwgrid_server.census import Census
from xwgrid_server.store import HostRow

from tests.server.small_grid import facts
from tests.test_scheduling import REQUESTER
from xwgrid.eligibility import LEAST_VOTERS_OF_ODD_CLASS, Eligibility, HostCard
from xwgrid.model import (
    Audit,
    BlenderWork,
    Credibility,
    Fixed,
    Frames,
    HostId,
    JobId,
    JobRequest,
    Policy,
    UserId,
)
from xwgrid.ready_tasks import JobCard, JobProgress, ReadyTasks
from xwgrid.tolerances import Tolerance, Tolerances
from xwgrid.trust import NEWCOMER, Standing

NOW = 1_000_000.0
COMMON, ODD = "blender any", "blender odd"
PROVEN = Standing(proven=True)


def census(*, common: int, odd: int, standing: Standing = PROVEN, odd_standing: Standing = NEWCOMER) -> Census:
    """Return a census of so many owners with a host of the common class each, and then so many of the odd one."""
    kinds = [(COMMON, standing)] * common + [(ODD, odd_standing)] * odd
    return Census(
        [
            HostRow(HostId(number), UserId(number), "active", "", NOW, facts(pictures=result_class), stands)
            for number, (result_class, stands) in enumerate(kinds, start=1)
        ],
        NOW,
    )


def film(policy: Policy, *, owner: int = REQUESTER, private: bool = False) -> ReadyTasks:
    """Return an open job of ten frames."""
    work = BlenderWork(scene_file="scene.blend", width=64, height=100)
    request = JobRequest(name="film", work=work, split=Frames(first=1, last=10), policy=policy, private=private)
    card = JobCard(JobId(1), UserId(owner), request, "0" * 64, "blender", None, 100, "blender")
    return ReadyTasks(card, JobProgress(10))


def host(number: int, about: Census) -> HostCard:
    """Return a host of the census as the choice knows it."""
    return HostCard(HostId(number), UserId(number), about.programs(HostId(number)))


def refused(about: Census, job: ReadyTasks, number: int) -> str:
    """Return why a host gets nothing of a job; "" when it may."""
    return Eligibility(about).refusal(job, host(number, about)) or ""


@pytest.mark.parametrize("policy", [Audit(), Credibility()], ids=["audit", "credibility"])
@pytest.mark.parametrize("odd", range(2, LEAST_VOTERS_OF_ODD_CLASS + 1))
def test_an_odd_class_needs_as_many_owners_as_a_draw(policy: Policy, odd: int) -> None:
    """Beside others that proved themselves; these have work whatever the odd ones do."""
    about = census(common=2, odd=odd)
    reason = refused(about, film(policy), 3)
    if odd < LEAST_VOTERS_OF_ODD_CLASS:
        assert reason.startswith(f"too few have proved themselves with results of the class '{ODD}' yet: {odd} owners")
    else:
        assert reason == ""
    assert refused(about, film(policy), 1) == ""


def test_the_jobs_owner_makes_no_class_larger() -> None:
    """Who hands the job in is no voter of it."""
    about = census(common=2, odd=LEAST_VOTERS_OF_ODD_CLASS)
    assert refused(about, film(Audit(), owner=REQUESTER), 4) == ""
    assert "too few have proved themselves" in refused(about, film(Audit(), owner=3), 4)
    assert "needs 2 voters" in refused(census(common=2, odd=2), film(Audit(), owner=3), 4)


@pytest.mark.parametrize(
    "standings",
    [{"standing": NEWCOMER}, {"odd_standing": Standing(vouched=True)}],
    ids=["nobody", "vouched"],
)
def test_a_class_is_not_odd(standings: Mapping[str, Standing]) -> None:
    """Where nobody has proved themselves, or the operator vouches for one of its own hosts."""
    assert refused(census(common=2, odd=2, **standings), film(Audit()), 3) == ""


def test_three_that_proved_themselves_make_a_class() -> None:
    """Two may be friends."""
    assert refused(census(common=4, odd=3, odd_standing=PROVEN), film(Audit()), 5) == ""
    assert "too few" in refused(census(common=4, odd=2, odd_standing=PROVEN), film(Audit()), 5)


def test_what_does_not_go_by_standing_takes_any_class() -> None:
    """A replicated job, and one that is between its owner's own hosts."""
    about = census(common=2, odd=2)
    assert refused(about, film(Fixed()), 3) == ""
    owned = [
        HostRow(HostId(number), UserId(3), "active", "", NOW, facts(pictures=ODD), NEWCOMER) for number in (3, 4, 5)
    ]
    for row in owned:
        about.see(row, row.facts, NOW, 90.0)
    card = HostCard(HostId(4), UserId(3), about.programs(HostId(4)))
    assert Eligibility(about).refusal(film(Audit(), owner=3, private=True), card) is None


def test_a_tolerance_makes_a_class_less_odd() -> None:
    """Of the same application, and with a class that others are of."""
    about = census(common=2, odd=2)
    eligible = Eligibility(about)
    measured = Tolerance(
        application="digest",
        class_a=COMMON,
        class_b=ODD,
        share=0.01,
        largest=2.0,
        block=0.1,
        measured_at=NOW,
        samples=12,
        margin=2.0,
    )
    for application, opens in (("digest", False), ("blender", True)):
        eligible.tolerances = Tolerances([structs.replace(measured, application=application)])
        assert (eligible.refusal(film(Audit()), host(3, about)) is None) is opens
