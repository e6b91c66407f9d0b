"""How far a host is trusted, kept by small steps, and how closely its results must be looked at.

Three facts decide how likely a result is a lie before anybody looked at it (`doubt`): whether its host has proved
itself (`Standing`), whether it was wrong lately, and how many lies of proven hosts the whole grid has met lately
(`Climate`). The last one is what makes checking cheap: as long as nobody lies one strip a frame is enough, and with the
first lie that is caught everybody is looked at closely, until no more are found. docs/trust.md has the arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from msgspec import Struct, structs

from xwgrid.auditing import number_of_strips
from xwgrid.model import Instant, Seconds, UserId

# --- what a host has to do to be trusted ------------------------------------------------------------------------

# A validated result is worth one unit when it took a minute of the device; less when it took less.
UNIT: Final[Seconds] = 60.0
# Units until a host counts as proven.
PROVEN: Final = 10.0
# One requester's jobs are worth this much at most: PROVEN takes three requesters at least.
UNITS_A_REQUESTER: Final = 4.0
# A proven host that was wrong once is looked at as closely as a new one for so many units.
PROBATION: Final = 20.0
# Wrong results on a host's record that set it aside. A failed test does so at once.
WRONG_RESULTS: Final = 2
# The first time a host is set aside it is for a day, then for two, four, …
QUARANTINE: Final[Seconds] = 86_400.0
_MOST_DOUBLINGS: Final = 6
LONGEST_QUARANTINE: Final[Seconds] = QUARANTINE * 2**_MOST_DOUBLINGS
# A host whose result differs from an audit is under suspicion until the vote, or at most so long.
SUSPICION: Final[Seconds] = 86_400.0

# What a strip costs its host, in frames: about 0.015 beside its area (facts in docs/trust.md).
STRIP_WORTH: Final = 0.02

# --- how likely a lie is ----------------------------------------------------------------------------------------

# Of a host that has proved nothing, one result in twenty is taken for a lie.
NEWCOMERS_DOUBT: Final = 0.05
# Of one that was wrong lately, one in ten: bad memory and bad intentions look alike at first.
SUSPECTS_DOUBT: Final = 0.1
# Where a result and an audit differ, one of the two is wrong.
ACCUSED_DOUBT: Final = 0.5
# Before anything is known of a grid, one result in 2,000 is taken for a lie: a Gamma prior with shape 1/2, rate 1000.
LIES_BEFOREHAND: Final = 0.5
RESULTS_BEFOREHAND: Final = 1_000.0
# Results after which what was met before counts by 1/e.
MEMORY_OF_RESULTS: Final = 20_000.0
# One host in a hundred is taken for a liar's friend beforehand, with the weight of a hundred hosts.
FRIENDS_BEFOREHAND: Final = 1.0
HOSTS_BEFOREHAND: Final = 100.0
# A host that is caught is rarely alone, but half of the grid lying together is beyond any vote.
MOST_FRIENDS: Final = 0.5
# Layers of strips over one frame: beyond this a full replica says more.
MOST_LAYERS: Final = 3


class Standing(Struct, frozen=True):
    """What a host's results so far say of it. One row of the table `standings`; a new host has none."""

    # Units of validated device time, by requester, none counting for more than UNITS_A_REQUESTER. No longer kept when
    # they make PROVEN.
    earned: Mapping[UserId, float] = MappingProxyType({})
    proven: bool = False
    valid: int = 0
    wrong: int = 0  # results that lost a vote or failed a test, all in all
    streak: int = 0  # valid results since the last wrong one
    on_record: int = 0  # wrong results not yet outlived
    since_wrong: float = 0.0  # units since the last wrong result
    suspected_until: Instant | None = None  # a result of it differs from an audit, and the vote is still out
    quarantined_until: Instant | None = None
    quarantines: int = 0
    vouched: bool = False  # by the operator, for hosts of a private grid
    tested: bool = False  # the first of its results that others looked at was right
    audit_again: bool = False  # it was caught, and what it had accepted is still to be looked at
    reason: str = ""  # why the operator set it aside; "": its results are why
    edition: int = 0  # counts the operator's changes: what was decided before one is not written


NEWCOMER: Final = Standing()


class Climate(NamedTuple):
    """What the grid has met lately; every number fades with MEMORY_OF_RESULTS."""

    results: float = 0.0  # that were checked, of hosts nobody doubted before
    wrong: float = 0.0  # among these, whatever they altered: each that was caught counts for those that slipped through
    lies: float = 0.0  # of these, what a single strip would have missed
    liars: float = 0.0  # hosts that were caught


class Caught(NamedTuple):
    """How a wrong result was caught."""

    chance: float = 1.0  # with which the checks of its task catch such a one
    missed_by_one: float = 1.0  # the chance that a single strip misses it: 0 when all of the frame is altered


class Grid(NamedTuple):
    """What a decision about one result may look at beside its attempts."""

    climate: Climate
    hosts: int  # seen lately
    now: Instant


def is_proven(standing: Standing) -> bool:
    """Say whether a host has done enough for enough requesters, or an operator vouched for it."""
    return standing.vouched or standing.proven


def is_tested(standing: Standing) -> bool:
    """Say whether a host was right once, or an operator vouched for it."""
    return standing.vouched or standing.tested


def is_quarantined(standing: Standing, now: Instant) -> bool:
    """Say whether a host is set aside."""
    return standing.quarantined_until is not None and now < standing.quarantined_until


def is_suspect(standing: Standing, now: Instant) -> bool:
    """Say whether a host was wrong lately, or is accused of it just now."""
    return is_accused(standing, now) or standing.on_record > 0 or is_quarantined(standing, now)


def is_accused(standing: Standing, now: Instant) -> bool:
    """Say whether one of a host's results is disputed, and the vote still out."""
    return standing.suspected_until is not None and now < standing.suspected_until


def doubt(standing: Standing, rate: float, now: Instant) -> float:
    """Return the chance that the next result of a host is wrong, before anybody looks at it.

    `rate` is that of hosts nobody doubts: `wrong_rate`, or `lie_rate` where one strip is looked at in any case.
    """
    if is_quarantined(standing, now):
        return 1.0
    if is_accused(standing, now):
        return max(ACCUSED_DOUBT, rate)
    if standing.on_record:
        return max(SUSPECTS_DOUBT, rate)
    return rate if is_proven(standing) else max(NEWCOMERS_DOUBT, rate)


def wrong_rate(climate: Climate) -> float:
    """Return the rate of wrong results among those of hosts nobody doubts: the mean of the Gamma posterior."""
    return min(1.0, (LIES_BEFOREHAND + climate.wrong) / (RESULTS_BEFOREHAND + climate.results))


def lie_rate(climate: Climate) -> float:
    """Return the same for wrong results that a single strip would miss."""
    return min(1.0, (LIES_BEFOREHAND + climate.lies) / (RESULTS_BEFOREHAND + climate.results))


def friends_share(grid: Grid) -> float:
    """Return the chance that an auditor is a friend of the liar it audits, and passes the lie."""
    return min(MOST_FRIENDS, (FRIENDS_BEFOREHAND + grid.climate.liars) / (HOSTS_BEFOREHAND + grid.hosts))


# --- how many strips --------------------------------------------------------------------------------------------


def missing_probability(strips: int, reach: float, friends: float) -> float:
    """Return the chance that no honest auditor meets a lie.

    `strips` are evenly spaced, each meets a lie with the chance `reach`, and each auditor is the liar's friend with the
    chance `friends`. Strips beyond 1 / reach lie in a second layer, done by others.
    """
    layers, rest = divmod(strips * reach, 1.0)
    missed: float = friends**layers * (1.0 - rest * (1.0 - friends))
    return missed


def strips_needed(doubted: float, epsilon: float, reach: float, friends: float) -> int:
    """Return the fewest strips after which a result that is a lie with chance `doubted` is one with chance ≤ epsilon.

    At least one, which meets every error that spoils the whole frame; at most MOST_LAYERS layers.
    """
    most = math.ceil(MOST_LAYERS / reach)
    allowed = epsilon / doubted if doubted > 0 else 1.0
    if allowed >= 1.0:
        return 1
    layer = 0
    while layer < MOST_LAYERS and friends ** (layer + 1) > allowed:
        layer += 1
    rest = (1.0 - allowed / friends**layer) / (1.0 - friends)
    return max(1, min(most, math.ceil((layer + rest) / reach - 1e-9)))


# --- what a verdict does ----------------------------------------------------------------------------------------


def worth(seconds: Seconds, share: float = 1.0) -> float:
    """Return the units of a validated result that took its device this long; `share` is its part of a frame."""
    return min(1.0, seconds / UNIT) * share


def after_valid(
    standing: Standing, units: float, requester: UserId, *, test: bool = False, vindicated: bool = False
) -> Standing:
    """Return the standing after a result of one of `requester`'s public jobs was validated, worth `units`.

    `test` says that it was a whole one, and others looked at it; `vindicated` that it had been disputed.
    """
    since = standing.since_wrong + units
    outlived = standing.on_record > 0 and since >= PROBATION
    earned, proven = standing.earned, standing.proven
    if not proven and units > 0:
        earned = {**earned, requester: min(UNITS_A_REQUESTER, earned.get(requester, 0.0) + units)}
        if sum(earned.values()) >= PROVEN:
            earned, proven = {}, True
    return structs.replace(
        standing,
        earned=earned,
        proven=proven,
        valid=standing.valid + 1,
        streak=standing.streak + 1,
        since_wrong=since,
        on_record=0 if outlived else standing.on_record,
        suspected_until=None if vindicated else standing.suspected_until,
        tested=standing.tested or test,
    )


def share_of_frame(strips: str | None) -> float:
    """Return what part of a frame's work a replica did: an audit's `strips`, or all of it. Denoising counts as one."""
    return 1.0 if strips is None else min(1.0, max(1, number_of_strips(strips)) * STRIP_WORTH)


def after_wrong(standing: Standing, now: Instant, *, test: bool = False) -> Standing:
    """Return the standing after a result lost a vote, or was the host's first (`test`) and wrong.

    A host caught again is set aside; it comes back with nothing, and has to prove itself anew.
    """
    wrong = structs.replace(
        standing,
        wrong=standing.wrong + 1,
        streak=0,
        on_record=standing.on_record + 1,
        since_wrong=0.0,
        suspected_until=None,
    )
    if is_quarantined(standing, now):
        return wrong  # for something it did before
    return quarantined(wrong, now) if test or wrong.on_record >= WRONG_RESULTS else wrong


def after_cleared(standing: Standing) -> Standing:
    """Return the standing after a verdict against a host was taken back.

    When nothing is left on its record it is not set aside any more, unless the operator did that.
    """
    on_record = max(0, standing.on_record - 1)
    released = on_record == 0 and not standing.reason
    return structs.replace(
        standing,
        wrong=max(0, standing.wrong - 1),
        on_record=on_record,
        quarantined_until=None if released else standing.quarantined_until,
    )


def quarantined(standing: Standing, now: Instant, seconds: Seconds | None = None, reason: str = "") -> Standing:
    """Return the standing of a host that is set aside: for `seconds`, or longer each time.

    `reason` is the operator's; without one its results are why.
    """
    if seconds is None:
        seconds = QUARANTINE * 2 ** min(standing.quarantines, _MOST_DOUBLINGS)
    return structs.replace(
        standing,
        earned={},
        proven=False,
        since_wrong=0.0,
        on_record=1,
        quarantined_until=now + seconds,
        quarantines=standing.quarantines + 1,
        suspected_until=None,
        tested=False,
        audit_again=True,
        reason=reason,
    )


def accused(standing: Standing, now: Instant) -> Standing:
    """Return the standing of a host whose result differs from an audit, until the vote."""
    return structs.replace(standing, suspected_until=now + SUSPICION)


def met_result(climate: Climate) -> Climate:
    """Return the climate after one more result was checked."""
    kept = 1.0 - 1.0 / MEMORY_OF_RESULTS
    return Climate(climate.results * kept + 1.0, climate.wrong * kept, climate.lies * kept, climate.liars * kept)


def met_wrong(climate: Climate, caught: Caught) -> Climate:
    """Return the climate after a wrong result was caught.

    It stands for the 1 / chance that were handed in until one was caught (Horvitz and Thompson, 1952).
    """
    stands_for = 1.0 / max(caught.chance, 0.01)
    return climate._replace(wrong=climate.wrong + stands_for, lies=climate.lies + stands_for * caught.missed_by_one)


def met_liar(climate: Climate) -> Climate:
    """Return the climate after a host was set aside."""
    return climate._replace(liars=climate.liars + 1.0)


def told(standing: Standing, now: Instant) -> str:
    """Return, in one sentence, how a host stands and why."""
    if is_quarantined(standing, now) and standing.quarantined_until is not None:
        hours = (standing.quarantined_until - now) / 3_600
        why = standing.reason or _wrong_results(standing.wrong)
        return f"set aside for {hours:.1f} more hours: {why}"
    if is_accused(standing, now):
        return "under suspicion: one of its results differs from an audit, and the vote is still out"
    if standing.on_record:
        why = standing.reason or _wrong_results(standing.on_record)
        left = PROBATION - standing.since_wrong
        return f"on probation: {why}; {left:.1f} more units of validated work outlive that"
    if standing.vouched:
        return "trusted: the operator vouches for it"
    if is_proven(standing):
        return f"proven: {standing.valid} results validated, {standing.wrong} wrong"
    return (
        f"new: {sum(standing.earned.values()):.1f} of {PROVEN:.0f} units of validated work, "
        f"of which one requester's jobs count for {UNITS_A_REQUESTER:.0f} at most"
    )


def _wrong_results(count: int) -> str:
    return "1 of its results was wrong" if count == 1 else f"{count} of its results were wrong"
