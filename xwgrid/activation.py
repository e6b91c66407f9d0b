"""When a volunteer's machine may work: its owner's wishes and the machine's state in, run, pause or hand back out.

Pure: local time and load are passed in. Pausing keeps what is half done (the programs are stopped, not ended); handing
back gives the leases to somebody else once the pause has lasted, or is known to last, longer than the grace time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from xwgrid.errors import BadInput
from xwgrid.model import Instant, Seconds

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MINUTES_OF_DAY = 1_440
MINUTES_OF_WEEK = 7 * _MINUTES_OF_DAY

# Work starts again only when the others' load is well under the limit, and has been for a while: a machine at the
# limit must not stop and start with every measurement.
RESUME_SHARE = 0.7
CALM_SECONDS: Seconds = 20.0


class Span(Struct, frozen=True):
    """Minutes of the week, Monday 00:00 is 0: from `start` up to but without `end`, over the week's end if need be."""

    start: int
    minutes: int

    def left(self, minute_of_week: float) -> float | None:
        """Return how many minutes of the span are left at that minute, None outside it."""
        into = (minute_of_week - self.start) % MINUTES_OF_WEEK
        return self.minutes - into if into < self.minutes else None


class Wishes(Struct, frozen=True, kw_only=True):
    """What the owner asked for."""

    hours: tuple[Span, ...] = ()  # empty: at any time
    max_load: float = 0.5  # share of all cores that other programs may use; 1 and more: load never matters
    grace: Seconds = 600.0  # how long a pause keeps the leases


class Facts(Struct, frozen=True, kw_only=True):
    """How the machine stands."""

    now: Instant
    minute_of_week: float  # local time
    load_of_others: float | None = None  # share of all cores, xwgrid's tasks left out; None: not measured yet
    paused_until: Instant | None = None  # by the owner; infinite: until they say otherwise


class Run(Struct, frozen=True):
    """Work is welcome."""


class Pause(Struct, frozen=True):
    """Keep the leases, stop the programs, take nothing new."""

    reason: str


class HandBack(Struct, frozen=True):
    """Give unfinished leases back, end the programs, take nothing new."""

    reason: str


Decision: TypeAlias = Run | Pause | HandBack


class Standing(Struct, frozen=True, kw_only=True):
    """A decision, and what the next one must remember."""

    decision: Decision = Run()
    stopped_at: Instant | None = None  # when the present pause began
    loaded: bool = False  # stopped for load, and not calm for long enough yet
    calm_since: Instant | None = None


def decide(wishes: Wishes, facts: Facts, before: Standing) -> Standing:
    """Return how to go on from `before`."""
    standing = _with_load(wishes, facts, before)
    stop = _stop(wishes, facts, standing)
    if stop is None:
        return replace(standing, decision=Run(), stopped_at=None)
    stopped_at = facts.now if standing.stopped_at is None else standing.stopped_at
    over = facts.now - stopped_at >= wishes.grace or (stop.seconds is not None and stop.seconds > wishes.grace)
    decision = HandBack(stop.reason) if over else Pause(stop.reason)
    return replace(standing, decision=decision, stopped_at=stopped_at)


class _Stop(Struct, frozen=True):
    reason: str
    seconds: Seconds | None  # how long it will last, if that is known


def _with_load(wishes: Wishes, facts: Facts, before: Standing) -> Standing:
    load = facts.load_of_others
    if wishes.max_load >= 1.0 or load is None:
        return replace(before, loaded=before.loaded and wishes.max_load < 1.0)
    if load > wishes.max_load:
        return replace(before, loaded=True, calm_since=None)
    if not before.loaded:
        return before
    if load > wishes.max_load * RESUME_SHARE:
        return replace(before, calm_since=None)
    calm_since = facts.now if before.calm_since is None else before.calm_since
    if facts.now - calm_since >= CALM_SECONDS:
        return replace(before, loaded=False, calm_since=None)
    return replace(before, calm_since=calm_since)


def _stop(wishes: Wishes, facts: Facts, standing: Standing) -> _Stop | None:
    if facts.paused_until is not None and facts.now < facts.paused_until:
        left = facts.paused_until - facts.now
        if math.isinf(left):
            return _Stop("its owner paused it: xwgrid-volunteer resume ends that", None)
        return _Stop(f"its owner paused it for {_span_text(left)} more", left)
    wait = minutes_until_open(wishes.hours, facts.minute_of_week)
    if wait > 0:
        return _Stop(f"outside the hours of its settings, the next begin in {_span_text(wait * 60)}", wait * 60)
    if standing.loaded:
        return _Stop(
            f"other programs are busy (more than {wishes.max_load:.0%} of the processor; settings: max_load)", None
        )
    return None


def minutes_until_open(hours: Iterable[Span], minute_of_week: float) -> float:
    """Return 0 inside `hours` or without any, else the minutes until the next begin."""
    spans = tuple(hours)
    if not spans or any(span.left(minute_of_week) is not None for span in spans):
        return 0.0
    return min((span.start - minute_of_week) % MINUTES_OF_WEEK for span in spans)


_HOURS = re.compile(
    r"^(?:(?P<first>[a-z]{3})(?:-(?P<last>[a-z]{3}))?\s+)?"
    r"(?:(?P<all>all)|(?P<from>\d{1,2}:\d{2})-(?P<to>\d{1,2}:\d{2}))$"
)


def parse_hours(lines: Iterable[str]) -> tuple[Span, ...]:
    """Read lines such as "mon-fri 18:00-08:00", "sat-sun all", "22:00-06:00" (every day).

    A span that ends before it begins runs into the next morning and belongs to the day it begins on. Raises BadInput
    naming the line.
    """
    return tuple(span for line in lines for span in _parse_line(line))


def _parse_line(line: str) -> tuple[Span, ...]:
    found = _HOURS.match(line.strip().lower())
    if found is None:
        raise _bad_hours(line, "it is not of that form")
    first, last = found["first"] or "mon", found["last"] or found["first"] or "sun"
    for day in (first, last):
        if day not in DAYS:
            raise _bad_hours(line, f"'{day}' is no day ({', '.join(DAYS)})")
    start, end = (0, _MINUTES_OF_DAY) if found["all"] else (_minute(line, found["from"]), _minute(line, found["to"]))
    if start == end:
        raise _bad_hours(line, "it is empty; write 'all' for the whole day")
    minutes = (end - start) % _MINUTES_OF_DAY or _MINUTES_OF_DAY
    begin = DAYS.index(first)
    count = (DAYS.index(last) - begin) % 7 + 1
    return tuple(Span(((begin + day) % 7) * _MINUTES_OF_DAY + start, minutes) for day in range(count))


def _minute(line: str, text: str) -> int:
    hour, minute = (int(part) for part in text.split(":"))
    if minute > 59 or hour * 60 + minute > _MINUTES_OF_DAY:
        raise _bad_hours(line, f"'{text}' is no time of day (00:00 to 24:00)")
    return hour * 60 + minute


def _bad_hours(line: str, why: str) -> BadInput:
    return BadInput(f"hours '{line}': {why}; write for example 'mon-fri 18:00-08:00' or 'sat-sun all'", hours=line)


def _span_text(seconds: Seconds) -> str:
    minutes = math.ceil(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours = minutes / 60
    return f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"
