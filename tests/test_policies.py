"""What each policy makes of a task's attempts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from xwgrid.auditing import DENOISED, parse_strips, reach
from xwgrid.drawing import Lots
from xwgrid.lifecycle import LIVE
from xwgrid.model import (
    Audit,
    BlenderWork,
    Boinc,
    Credibility,
    Fixed,
    Frames,
    HostId,
    JobRequest,
    Policy,
    ReplicaId,
    ReplicaState,
)
from xwgrid.policies import Case, decide, how_caught, quorum_of, replicas_at_first
from xwgrid.trust import Climate, Grid, Standing, accused, friends_share, quarantined
from xwgrid.voting import LEASES_THAT_MAY_BE_LOST, Agreed, Attempt, AuditOrder, Hopeless, Undecided, Verdict

NOW = 1_000_000.0
GRID = Grid(Climate(), 1_000, NOW)
ROWS = 1_000  # a strip is two of them, and meets a twentieth of the frame with a chance of 0.051
LOT = Lots(b"secret")
PROVEN = Standing(proven=True, tested=True, valid=20, streak=20)
VOTING, LEASED, FAILED, LOST = ReplicaState.VOTING, ReplicaState.LEASED, ReplicaState.FAILED, ReplicaState.LOST


def request(policy: Policy | None, *, replicas: int = 2, quorum: int = 2) -> JobRequest:
    """Return a film checked by a policy."""
    return JobRequest(
        name="film",
        work=BlenderWork(scene_file="scene.blend", width=8, height=ROWS),
        split=Frames(first=1, last=9),
        policy=policy,
        replicas=replicas,
        quorum=quorum,
    )


def ballot(number: int, fingerprint: str = "true", state: ReplicaState = VOTING, **differences: float) -> Attempt:
    """Return a full replica of the host and owner of the same number: r2=0.1 differs from 2 in a tenth of its rows."""
    found = fingerprint if state is VOTING else None
    return Attempt(
        ReplicaId(number),
        number,
        HostId(number),
        number,
        state,
        None,
        found,
        "class",
        differences={ReplicaId(int(name[1:])): share for name, share in differences.items()},
    )


def audit(number: int, strips: int = 1, state: ReplicaState = VOTING, of: int = 1, **differences: float) -> Attempt:
    """Return an audit of replica `of`, which it fits unless something else is said."""
    told = differences or {f"r{of}": 0.0}
    made = ballot(number, f"strips{number}", state, **(told if state is VOTING else {}))
    return structs.replace(made, audits=ReplicaId(of), strips=",".join(f"{40 * each}+2" for each in range(strips)))


def case(
    policy: Policy,
    attempts: Sequence[Attempt],
    standings: Mapping[int, Standing] | None = None,
    *,
    ordered: Sequence[AuditOrder] = (),
    rows: int | None = ROWS,
    others: int = 1_000,
    **votes: int,
) -> Case:
    """Return a case of a film; hosts are proven unless their standing is given."""
    stands = {attempt.host: PROVEN for attempt in attempts} | {HostId(n): s for n, s in (standings or {}).items()}
    return Case(request(policy, **votes), rows, attempts, ordered, stands, others)


def verdict(policy: Policy, attempts: Sequence[Attempt], *more: Any, **facts: Any) -> Verdict:
    """Return what a policy says of some attempts."""
    return decide(case(policy, attempts, *more, **facts), GRID, LOT)


def strips_of(found: Verdict) -> int:
    """Return how many strips an undecided task wants."""
    assert isinstance(found, Undecided)
    assert found.wanted == 0
    return sum(order.strips.count(",") + 1 for order in found.audits)


# --- what is wanted at first ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "at_first"), [(None, 3), (Fixed(), 3), (Credibility(), 1), (Audit(), 1), (Boinc(), 1)]
)
def test_a_fresh_task_wants_one_replica_unless_they_are_fixed(policy: Policy | None, at_first: int) -> None:
    """What `replicas_at_first` says is what the policy asks for, before anything happened and while it is out."""
    asked = request(policy, replicas=3)
    assert replicas_at_first(asked) == at_first
    fresh = Case(asked, ROWS, (), (), {})
    assert decide(fresh, GRID, LOT) == Undecided(at_first)
    out = structs.replace(fresh, attempts=[ballot(number, state=LEASED) for number in range(at_first)])
    assert decide(out, GRID, LOT) == Undecided(0)


def test_whatever_differs_is_settled_by_two_at_least() -> None:
    """A job with a quorum of one is not taken at its word once results differ, unless it chose fixed replication."""
    assert quorum_of(request(Audit(), quorum=1)) == 2
    assert quorum_of(request(Fixed(), quorum=1)) == 1
    for policy in (Audit(), Credibility(), Boinc()):
        differ = [ballot(1, "lie"), ballot(2)]
        assert verdict(policy, differ, quorum=1) == Undecided(1)
        found = verdict(policy, [*differ, ballot(3)], quorum=1)
        assert isinstance(found, Agreed)
        assert (found.fingerprint, found.losers) == ("true", (1,))


def test_fixed_replication_does_not_look_at_standing() -> None:
    """Two equal results of hosts that are set aside are two equal results."""
    aside = {number: quarantined(PROVEN, NOW) for number in (1, 2)}
    assert isinstance(verdict(Fixed(), [ballot(1), ballot(2)], aside), Agreed)


# --- audits -----------------------------------------------------------------------------------------------------


def test_a_proven_hosts_frame_is_accepted_after_one_strip() -> None:
    """One is asked for, one out is waited for, one that fits is enough; author and auditor were right."""
    assert strips_of(verdict(Audit(), [ballot(1)])) == 1
    assert verdict(Audit(), [ballot(1), audit(2, state=LEASED)]) == Undecided(0)
    assert verdict(Audit(), [ballot(1), audit(2)]) == Agreed("true", ReplicaId(1), (ReplicaId(1), ReplicaId(2)), ())


def test_a_newcomers_frame_wants_as_many_strips_as_epsilon_asks() -> None:
    """The same strips are asked for whether some of them are done, out or ordered; enough of them are enough."""
    new = {1: Standing()}
    strict, lax = (strips_of(verdict(Audit(epsilon=each), [ballot(1)], new)) for each in (0.001, 0.02))
    assert strict > lax > 1
    assert strips_of(verdict(Audit(), [ballot(1), audit(2, 5), audit(3, 4, LEASED)], new)) == strict - 9
    ordered = [AuditOrder(ReplicaId(1), "3+2,9+2")]
    assert strips_of(verdict(Audit(), [ballot(1)], new, ordered=ordered)) == strict
    assert verdict(Audit(), [ballot(1), audit(2, strict - 2)], new, ordered=ordered) == Undecided(0, tuple(ordered))
    assert isinstance(verdict(Audit(), [ballot(1), audit(2, strict)], new), Agreed)


def test_where_strips_lie_cannot_be_foretold_and_is_spread() -> None:
    """Places hang on a secret and on the replica; they are even over the height, and inside the picture."""
    new = {1: Standing()}
    found = [decide(case(Audit(), [ballot(1)], new), GRID, Lots(secret)) for secret in (b"one", b"one", b"two")]
    written = [[order.strips for order in each.audits] for each in found if isinstance(each, Undecided)]
    assert written[0] == written[1] != written[2]
    places = sorted(strip.first for order in written[0] for strip in parse_strips(order, ROWS))
    gaps = {after - before for before, after in pairwise(places)}
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("others", [1, 2, 3, 50])
def test_strips_are_dealt_to_as_many_as_are_about(others: int) -> None:
    """Never more audits than there are owners to do them, and none without strips."""
    found = verdict(Audit(epsilon=1e-5), [ballot(1)], {1: accused(PROVEN, NOW)}, others=others)
    assert isinstance(found, Undecided)
    assert 1 <= len(found.audits) <= others
    assert all(order.strips for order in found.audits)
    apart = verdict(Audit(epsilon=1e-5), [ballot(1)], {1: accused(PROVEN, NOW)}, others=50)
    assert strips_of(found) == strips_of(apart)


def test_a_layer_of_strips_is_never_one_owners_with_the_next() -> None:
    """What one strip meets for certain is looked at again by another owner, where one lie in two is expected."""
    found = verdict(Audit(share=1.0, epsilon=1e-5), [ballot(1)], {1: accused(PROVEN, NOW)})
    assert isinstance(found, Undecided)
    assert [order.strips.count(",") for order in found.audits] == [0, 0]


def test_an_audit_that_differs_sends_the_frame_to_a_vote() -> None:
    """No more strips are asked for, but full replicas; the auditor's witness counts in it."""
    disputed = [ballot(1, "lie"), audit(2, r1=0.1)]
    assert verdict(Audit(), disputed) == Undecided(1)
    assert verdict(Audit(), [*disputed, ballot(3, state=LEASED)]) == Undecided(0)
    found = verdict(Audit(), [*disputed, ballot(3, r1=0.05, r2=0.0)])
    assert found == Agreed("true", ReplicaId(3), (ReplicaId(3), ReplicaId(2)), (ReplicaId(1),))


def test_an_auditor_who_errs_loses_the_vote() -> None:
    """A frame that was right is accepted when a second one equals it, and the auditor is the one who was wrong."""
    disputed = [ballot(1), audit(2, r1=1.0)]
    found = verdict(Audit(), [*disputed, ballot(3, r1=0.0, r2=1.0)])
    assert found == Agreed("true", ReplicaId(1), (ReplicaId(1), ReplicaId(3)), (ReplicaId(2),))


def test_a_friend_who_passes_a_lie_is_wrong_with_it() -> None:
    """Two liars are outvoted by an honest auditor and two honest replicas, and both are blamed."""
    lie, friend, honest = ballot(1, "lie"), audit(2, r1=0.0), audit(3, r1=0.2)
    box = [lie, friend, honest]
    assert verdict(Audit(), box) == Undecided(1)
    box.append(ballot(4, r1=0.05, r2=0.3, r3=0.0))
    assert verdict(Audit(), box) == Undecided(1), "two against two"
    found = verdict(Audit(), [*box, ballot(5, r1=0.05, r2=0.3, r3=0.0, r4=0.0)])
    assert isinstance(found, Agreed)
    assert (found.fingerprint, found.losers) == ("true", (1, 2))
    assert found.winners == (4, 5, 3)


def test_a_suspects_strips_count_for_nothing() -> None:
    """An auditor who was wrong lately, or is accused, does not help to accept; others are asked."""
    for suspect in (Standing(on_record=1), accused(PROVEN, NOW), quarantined(PROVEN, NOW - 1)):
        found = verdict(Audit(), [ballot(1), audit(2, 30)], {2: suspect})
        assert strips_of(found) == 1
    assert isinstance(verdict(Audit(), [ballot(1), audit(2, 30), audit(3)], {2: Standing(on_record=1)}), Agreed)


def test_a_suspects_frame_is_looked_at_more_closely() -> None:
    """More strips the more speaks against its author; at most three layers."""
    ladder = [
        strips_of(verdict(Audit(), [ballot(1)], {1: standing}))
        for standing in (PROVEN, Standing(), Standing(on_record=1), accused(PROVEN, NOW), quarantined(PROVEN, NOW))
    ]
    assert ladder == sorted(ladder)
    assert ladder[0] == 1
    assert ladder[-1] <= -(-3 // 0.0509)


def test_a_grid_in_which_lies_were_met_looks_closely_at_everybody() -> None:
    """The climate raises the doubt of proven hosts too."""
    stormy = Grid(Climate(results=1_000.0, wrong=50.0, lies=50.0, liars=5.0), 1_000, NOW)
    found = decide(case(Audit(), [ballot(1)]), stormy, LOT)
    assert strips_of(found) > 10


@pytest.mark.parametrize(
    "audits",
    [
        pytest.param([audit(2, state=FAILED), audit(3, state=FAILED)], id="two that failed"),
        pytest.param([audit(2, r9=0.0), audit(3, r9=0.0)], id="two that nobody could compare"),
        pytest.param([audit(n, state=LOST) for n in range(2, 2 + LEASES_THAT_MAY_BE_LOST)], id="ten that vanished"),
    ],
)
def test_audits_that_lead_nowhere_end_in_a_second_replica(audits: list[Attempt]) -> None:
    """A frame whose parts cannot be had is rendered once more as a whole, and then agreed."""
    assert strips_of(verdict(Audit(), [ballot(1), *audits[:1]])) == 1
    assert verdict(Audit(), [ballot(1), *audits]) == Undecided(1)
    assert isinstance(verdict(Audit(), [ballot(1), *audits, ballot(20)]), Agreed)


def test_a_picture_that_has_no_parts_is_replicated() -> None:
    """Where there are no rows there are no strips."""
    assert verdict(Audit(), [ballot(1)], rows=None) == Undecided(1)
    assert isinstance(verdict(Audit(), [ballot(1), ballot(2)], rows=None), Agreed)


def test_where_nobody_is_left_to_look_auditors_render_the_whole() -> None:
    """Strips that count for nothing, and no other owner about: a second replica may be an auditor's."""
    suspects = {2: Standing(on_record=1)}
    assert verdict(Audit(), [ballot(1), audit(2, 30)], suspects, others=0) == Undecided(1)
    assert strips_of(verdict(Audit(), [ballot(1), audit(2, 30)], suspects, others=1)) == 1
    assert isinstance(verdict(Audit(), [ballot(1), audit(2, 1)], others=0), Agreed), "enough is enough"


def test_a_full_replica_on_its_way_is_waited_for() -> None:
    """It says more than strips."""
    assert verdict(Audit(), [ballot(1), ballot(2, state=LEASED)], {1: Standing()}) == Undecided(0)


def test_who_is_set_aside_has_no_voice_in_a_vote() -> None:
    """Two results of hosts that were caught do not outvote anybody; two others decide, and all are judged."""
    aside = {1: quarantined(PROVEN, NOW), 2: quarantined(PROVEN, NOW)}
    box = [ballot(1, "lie"), ballot(2, "lie"), ballot(3)]
    assert verdict(Audit(), box, aside) == Undecided(1)
    found = verdict(Audit(), [*box, ballot(4)], aside)
    assert isinstance(found, Agreed)
    assert (found.fingerprint, found.winners, found.losers) == ("true", (3, 4), (1, 2))


def test_the_result_of_one_who_is_set_aside_is_looked_at() -> None:
    """It is not thrown away unseen: strips by others may show that it is right."""
    aside = {1: quarantined(PROVEN, NOW)}
    wanted = strips_of(verdict(Audit(), [ballot(1)], aside))
    assert wanted > 19
    assert isinstance(verdict(Audit(), [ballot(1), audit(2, wanted)], aside), Agreed)


def test_a_frame_that_hosts_fail_at_is_given_up_with_or_without_strips() -> None:
    """Three hosts that fail to render it end it, unless it is accepted."""
    failed = [ballot(number, state=FAILED) for number in (11, 12, 13)]
    assert isinstance(verdict(Audit(), failed), Hopeless)
    assert isinstance(verdict(Audit(), [*failed, ballot(1)]), Hopeless)
    assert isinstance(verdict(Audit(), [*failed, ballot(1), audit(2)]), Agreed)


@pytest.mark.parametrize(("altered", "chance"), [(1.0, 1.0), (0.2, 0.602), (0.05, 0.153)])
def test_a_caught_lie_tells_how_many_were_not(altered: float, chance: float) -> None:
    """Three strips meet what a second replica shows to be altered with three times its reach."""
    loser = ballot(1, "lie")
    box = [loser, audit(2, 3, r1=altered), ballot(3, r1=altered), ballot(4)]
    caught = how_caught(request(Audit()), ROWS, box, loser)
    assert caught.chance == pytest.approx(chance, abs=1e-3)
    assert caught.missed_by_one == pytest.approx(1.0 - reach(altered, ROWS))
    assert how_caught(request(Credibility()), ROWS, box, loser).chance == 1.0


# --- credibility ------------------------------------------------------------------------------------------------


def test_a_proven_hosts_result_is_accepted_alone_where_few_lie() -> None:
    """One result in 2,000 is doubted before any was met: that is below one in a thousand."""
    assert isinstance(verdict(Credibility(epsilon=0.001), [ballot(1)]), Agreed)
    assert verdict(Credibility(epsilon=0.0001), [ballot(1)]) == Undecided(1)


def test_what_agrees_is_wrong_only_if_all_are_friends() -> None:
    """The least doubted voter lies, and every other one is its friend."""
    doubted, friends = 0.05, friends_share(GRID)
    new = {number: Standing(tested=True) for number in (1, 2, 3)}
    for voters in (1, 2, 3):
        wrong = doubted * friends ** (voters - 1)
        box = [ballot(number) for number in range(1, voters + 1)]
        assert isinstance(verdict(Credibility(epsilon=wrong * 1.001), box, new), Agreed)
        assert verdict(Credibility(epsilon=wrong * 0.999), box, new) == Undecided(1)


def test_five_that_agree_are_enough_for_any_epsilon() -> None:
    """Beyond that the doubts are of another kind."""
    box = [ballot(number) for number in range(1, 6)]
    assert isinstance(verdict(Credibility(epsilon=1e-15), box, {n: Standing(tested=True) for n in range(1, 6)}), Agreed)


# --- new hosts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [Audit(), Credibility()])
def test_new_hosts_that_agree_may_be_friends(policy: Policy) -> None:
    """Where others are about, what two of them have alike is looked at as if one had it; eight that have all answered
    are believed, and so is everybody where nobody else is.
    """
    new = {number: Standing() for number in range(1, 9)}
    pair = [ballot(1), ballot(2)]
    assert isinstance(verdict(policy, pair, new), Undecided)
    assert isinstance(verdict(policy, pair, new, others=0), Agreed)
    eight = [*pair, *(ballot(number) for number in range(3, 7)), ballot(7, "lie"), ballot(8, "lie")]
    assert isinstance(verdict(policy, eight[:7], new), Undecided)
    assert isinstance(verdict(policy, [*eight, ballot(9, state=LEASED)], new), Undecided)
    found = verdict(policy, eight, new)
    assert isinstance(found, Agreed)
    assert found.losers == (7, 8)


@pytest.mark.parametrize("policy", [Audit(), Credibility()])
def test_new_hosts_decide_nothing_beside_others(policy: Policy) -> None:
    """Two new ones who agree do not outvote one that was right before: others that were decide, and all are judged."""
    known = Standing(tested=True)
    box = [ballot(1, "lie"), ballot(2, "lie"), ballot(3)]
    assert verdict(policy, box, {1: Standing(), 2: Standing(), 3: known}) == Undecided(1)
    found = verdict(policy, [*box, ballot(4)], {1: Standing(), 2: Standing(), 3: known, 4: known})
    assert isinstance(found, Agreed)
    assert (found.winners, found.losers) == ((3, 4), (1, 2))


# --- BOINC's rule -----------------------------------------------------------------------------------------------


def test_boinc_replicates_what_is_not_trusted() -> None:
    """Before ten valid results in a row every one is laid beside another."""
    nine = {1: Standing(streak=9)}
    for secret in range(50):
        assert decide(case(Boinc(), [ballot(1)], nine), GRID, Lots(bytes([secret]))) == Undecided(1)
    assert isinstance(verdict(Boinc(), [ballot(1), ballot(2)], nine), Agreed)


def test_boinc_checks_a_trusted_host_now_and_then() -> None:
    """With n valid results in a row, one result in n is replicated."""
    hundred = {1: Standing(streak=20)}
    found = [decide(case(Boinc(), [ballot(1)], hundred), GRID, Lots(f"{n}".encode())) for n in range(4_000)]
    assert 150 <= sum(isinstance(each, Undecided) for each in found) <= 250


# --- whatever happens -------------------------------------------------------------------------------------------

_STANDINGS = st.sampled_from(
    [PROVEN, Standing(), Standing(on_record=1), accused(PROVEN, NOW), quarantined(PROVEN, NOW)]
)
_POLICIES = st.sampled_from([Audit(), Audit(epsilon=0.3), Credibility(), Credibility(epsilon=0.2), Boinc()])
_STATES = st.sampled_from([VOTING, VOTING, VOTING, *LIVE, FAILED, LOST, ReplicaState.HANDED_BACK])


@st.composite
def _boxes(draw: st.DrawFn) -> tuple[list[Attempt], dict[int, Standing]]:
    """Return attempts as a task may have them: ballots, and audits of the first one."""
    full = draw(st.lists(st.tuples(_STATES, st.sampled_from("aab")), min_size=1, max_size=7))
    attempts = [ballot(number, fingerprint, state) for number, (state, fingerprint) in enumerate(full, start=1)]
    voting = [attempt for attempt in attempts if attempt.state is VOTING]
    if voting:
        for number in range(20, 20 + draw(st.integers(0, 4))):
            shares = {f"r{each.replica}": draw(st.sampled_from([0.0, 0.0, 0.1])) for each in voting}
            attempts.append(audit(number, draw(st.integers(1, 20)), draw(_STATES), voting[0].replica, **shares))
    return attempts, {attempt.host: draw(_STANDINGS) for attempt in attempts}


@given(_POLICIES, _boxes())
def test_what_is_wanted_can_decide(policy: Policy, box: tuple[list[Attempt], dict[int, Standing]]) -> None:
    """An undecided task is decided when all that is out and wanted comes, equal to the leader: it is never stuck."""
    attempts, standings = box
    for _ in range(4):
        found = verdict(policy, attempts, standings)
        if not isinstance(found, Undecided):
            return
        attempts = [_come(attempt, attempts) if attempt.state in LIVE else attempt for attempt in attempts]
        number = 100 + len(attempts)
        attempts += [_come(ballot(number + each, state=LEASED), attempts) for each in range(found.wanted)]
        for each, order in enumerate(found.audits, start=number + found.wanted):
            late = structs.replace(audit(each, of=order.audits, state=LEASED), strips=order.strips)
            attempts.append(_come(late, attempts))
        standings = standings | {attempt.host: PROVEN for attempt in attempts if attempt.host >= 100}
    assert isinstance(verdict(policy, attempts, standings), (Agreed, Hopeless))


def _come(attempt: Attempt, box: list[Attempt]) -> Attempt:
    """Return an attempt that comes in, and fits what those say who are not set aside."""
    ballots = [each for each in box if each.state is VOTING and each.audits is None]
    votes = [each.fingerprint for each in ballots]
    leader = max(sorted({vote for vote in votes if vote is not None}), key=votes.count, default="a")
    told = {each.replica: 0.0 if each.fingerprint == leader else 0.1 for each in ballots}
    fingerprint = leader if attempt.audits is None else f"strips{attempt.replica}"
    return structs.replace(attempt, state=VOTING, fingerprint=fingerprint, differences=told)


@given(_POLICIES, _boxes())
def test_an_accepted_result_has_somebodys_word(policy: Policy, box: tuple[list[Attempt], dict[int, Standing]]) -> None:
    """The winner is a ballot that is there, winners and losers are of the box, and nobody is both."""
    attempts, standings = box
    found = verdict(policy, attempts, standings)
    if isinstance(found, Agreed):
        voting = {attempt.replica: attempt for attempt in attempts if attempt.state is VOTING}
        assert voting[found.canonical].fingerprint == found.fingerprint
        assert voting[found.canonical].audits is None
        assert set(found.winners) | set(found.losers) <= set(voting)
        assert not set(found.winners) & set(found.losers)
        if isinstance(policy, Audit):
            assert len({voting[each].voter for each in found.winners}) > 1, "somebody else looked at it"


# --- where everybody has voted ----------------------------------------------------------------------------------


def test_where_nobody_is_left_to_ask_the_most_equal_results_win() -> None:
    """Two of four are no strict majority: another owner decides. Where none is about, two that are equal are enough,
    but not two against two, nor while a result is still to come.
    """
    differ = [ballot(1, "lie"), ballot(2), ballot(3, "slip"), ballot(4)]
    assert verdict(Audit(), differ, others=1) == Undecided(1)
    found = verdict(Audit(), differ, others=0)
    assert isinstance(found, Agreed)
    assert (found.winners, found.losers) == ((2, 4), (1, 3))
    assert verdict(Audit(), [*differ[:3], ballot(4, "lie"), ballot(5)], others=0) == Undecided(2)
    assert isinstance(verdict(Audit(), [*differ, ballot(5, state=LEASED)], others=0), Undecided)
    assert isinstance(verdict(Audit(), differ[:2], others=0), Undecided)


def test_fixed_replication_waits_for_a_strict_majority() -> None:
    """Who asks for fixed replication gets it, however long that takes."""
    differ = [ballot(1, "lie"), ballot(2), ballot(3, "slip"), ballot(4)]
    assert verdict(Fixed(), differ, others=0) == Undecided(1)


# --- pictures that are denoised in a step of their own ----------------------------------------------------------


def denoising(number: int, state: ReplicaState = VOTING, of: int = 1, **differences: float) -> Attempt:
    """Return an audit that made the picture of replica `of` once more of its raw passes."""
    return structs.replace(audit(number, 1, state, of, **differences), strips=DENOISED)


def in_steps(attempts: Sequence[Attempt], *more: Any, **facts: Any) -> Verdict:
    """Return what is said of the attempts at a frame that is denoised in a step of its own."""
    return decide(structs.replace(case(Audit(), attempts, *more, **facts), in_steps=True), GRID, LOT)


def test_raw_passes_and_denoising_are_looked_at_by_different_owners() -> None:
    """A strip is looked for in the raw passes, and the picture is made of them once more: two audits, never one, since
    who denoises has the raw passes to copy from.
    """
    found = in_steps([ballot(1)])
    assert isinstance(found, Undecided)
    assert [order.strips == DENOISED for order in found.audits] == [False, True]
    assert in_steps([ballot(1)], ordered=found.audits) == found
    assert isinstance(in_steps([ballot(1), audit(2)]), Undecided)
    assert isinstance(in_steps([ballot(1), denoising(2)]), Undecided)
    assert isinstance(in_steps([ballot(1), audit(2), denoising(3)]), Agreed)


def test_denoising_is_ordered_once() -> None:
    """What is out is waited for; what nobody took, or was lost, is asked for again."""
    assert in_steps([ballot(1), audit(2), denoising(3, LEASED)]) == Undecided(0)
    lost = in_steps([ballot(1), audit(2), denoising(3, LOST)])
    assert isinstance(lost, Undecided)
    assert [order.strips for order in lost.audits] == [DENOISED]


def test_a_suspects_denoising_counts_for_nothing() -> None:
    """Who was wrong lately may say that it fits: somebody else is asked."""
    suspect = {3: accused(PROVEN, NOW)}
    found = in_steps([ballot(1), audit(2), denoising(3)], suspect)
    assert isinstance(found, Undecided)
    assert [order.strips for order in found.audits] == [DENOISED]


def test_a_picture_that_is_not_what_its_raw_passes_give_is_disputed() -> None:
    """The frame is rendered in full by others, and whoever did not do as told loses the vote: author, or auditor."""
    liar = [ballot(1, "lie"), audit(2), denoising(3, r1=0.2)]
    assert in_steps(liar) == Undecided(1)
    found = in_steps([*liar, ballot(4), ballot(5)])
    assert isinstance(found, Agreed)
    assert (found.winners, found.losers) == ((4, 5, 3), (1,))
    accuser = [ballot(1), audit(2), denoising(3, r1=0.2), ballot(4)]
    found = in_steps(accuser)
    assert isinstance(found, Agreed)
    assert (found.winners, found.losers) == ((1, 4, 2), (3,))


def test_no_audit_of_a_part_bears_witness_for_the_whole() -> None:
    """That a picture was made of its raw passes does not say that these are right, nor that strips of these fit what
    was made of them: the vote is of full results.
    """
    disputed = [ballot(1, "lie"), audit(2, r1=0.5, r4=0.0, r5=0.0), denoising(3)]
    assert in_steps(disputed) == Undecided(1)
    assert in_steps([*disputed, ballot(4)]) == Undecided(1)
    found = in_steps([*disputed, ballot(4), ballot(5)])
    assert isinstance(found, Agreed)
    assert (found.winners, found.losers) == ((4, 5, 2), (1,))


def test_a_lie_in_the_denoising_is_caught_for_certain() -> None:
    """It stands for no other that slipped through; one in the raw passes that a strip met stands for many."""
    wrong = ballot(1, "lie")
    film = request(Audit())
    assert how_caught(film, ROWS, [wrong, denoising(2, r1=0.2)], wrong).chance == 1.0
    assert how_caught(film, ROWS, [wrong, audit(2, r1=0.5), denoising(3)], wrong).chance < 0.1
