"""What to say to the server, and when. Pure: the conversation (conversation.py) acts on what is decided here.

Two calls may be under way at once. A *poll* asks for work and is held by the server until there is some. A *short* call
reports, renews or asks, and is answered at once. Everything on either is said again until it is answered, so a call
that got lost costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from xwgrid.errors import Forbidden, GridError, Unauthenticated
from xwgrid.model import Digest, HostFacts, Instant, ReplicaId, Seconds
from xwgrid.wire import MAX_WAIT_SECONDS, Held, Report, WorkAnswer, WorkRequest

# With log tails of 8 KiB each this stays well under wire.MAX_WORK_BYTES.
_MAX_REPORTS = 48
_MAX_HELD = 1_000
_MAX_LOADED = 64
# The server says "within": a tenth is left for the way.
_HEARTBEAT_SHARE = 0.9
# A poll that comes back empty sooner than this was not held, whatever the reason: do not spin.
_HELD_AT_LEAST: Seconds = 1.0
_POLL_PAUSE: Seconds = 5.0
_BACKOFF_FIRST: Seconds = 0.5
# Whoever holds a lease is back before it runs out: a server that starts again expires nothing for one lease's time.
_BACKOFF_MOST: Seconds = 60.0
# A host that is banned, or whose certificate was revoked, asks rarely whether that has changed.
_REFUSED_MOST: Seconds = 600.0
_HEARTBEAT_BEFORE_THE_FIRST_ANSWER: Seconds = 30.0


class Situation(Struct, frozen=True, kw_only=True):
    """What there is to say."""

    now: Instant
    leases: tuple[Held, ...] = ()  # waiting, running, or being checked
    finished: tuple[ReplicaId, ...] = ()  # in the outbox, files not uploaded yet
    reports: tuple[Report, ...] = ()  # in the outbox, ready to be told, oldest first
    want: int = 0  # leases there is room for, beside those held
    facts: HostFacts | None = None  # not told yet
    loaded: tuple[Digest, ...] = ()


class Line(Struct, frozen=True, kw_only=True):
    """How the conversation stands."""

    heartbeat: Seconds = _HEARTBEAT_BEFORE_THE_FIRST_ANSWER
    sent_at: Instant | None = None  # the last call of either kind; None: one is due now
    short: bool = False  # a short call is under way
    poll_want: int | None = None  # what the poll under way asks for; None: there is none
    poll_sent_at: Instant = 0.0
    poll_not_before: Instant = 0.0
    failures: int = 0  # in a row
    retry_at: Instant = 0.0
    trouble: str | None = None  # why the server cannot be talked to
    reason: str | None = None  # why the server has no work, in its words
    standing: str | None = None  # how far it trusts this host and why, in its words; None: it has not said so yet


class Plan(Struct, frozen=True, kw_only=True):
    """What to do now, and when to look again. The calls have no number yet."""

    drop_poll: bool = False
    short: WorkRequest | None = None
    poll: WorkRequest | None = None
    wake_at: Instant | None = None  # None: only news makes a difference


def plan(line: Line, situation: Situation) -> Plan:
    """Decide which calls to make."""
    asked = line.poll_want
    # A poll that would bring more than there is room for (the owner came back) is hung up on.
    drop = asked is not None and situation.want < asked
    if situation.now < line.retry_at:
        return Plan(drop_poll=drop, wake_at=line.retry_at)
    if drop:
        asked = None
    due_at = None if line.sent_at is None else line.sent_at + line.heartbeat * _HEARTBEAT_SHARE
    holds = bool(situation.leases or situation.finished)
    due = due_at is None or (situation.now >= due_at and (holds or asked is None))
    if line.short:
        return Plan(drop_poll=drop)
    wider = situation.want > (asked or 0)
    polling = wider and situation.now >= line.poll_not_before
    # A poll renews leases as well as a short call does.
    due = due and not (polling and asked is None and line.sent_at is not None)
    if situation.reports or situation.facts is not None or due:
        want = situation.want - (asked or 0)
        return Plan(drop_poll=drop, short=_call(situation, want, 0.0))
    if polling:
        return Plan(drop_poll=drop or asked is not None, poll=_call(situation, situation.want, MAX_WAIT_SECONDS))
    if wider:
        due_at = min(line.poll_not_before, due_at or line.poll_not_before)
    return Plan(drop_poll=drop, wake_at=due_at if holds or asked is None else None)


def _call(situation: Situation, want: int, wait: Seconds) -> WorkRequest:
    reports = situation.reports[:_MAX_REPORTS] if wait == 0 else ()
    said = {report.replica for report in reports}
    kept = [Held(replica=report.replica, done=1.0) for report in situation.reports if report.replica not in said]
    held = [*situation.leases, *(Held(replica=replica, done=1.0) for replica in situation.finished), *kept]
    return WorkRequest(
        call=0,
        held=tuple(held[:_MAX_HELD]),
        reports=reports,
        want=max(0, want),
        wait_seconds=wait,
        facts=situation.facts,
        loaded=situation.loaded[:_MAX_LOADED],
    )


def next_call(before: int, clock: Instant) -> int:
    """Return the next call's number: the clock in milliseconds, and always more than the one before."""
    return max(before + 1, int(clock * 1_000))


def sent(line: Line, call: WorkRequest, now: Instant) -> Line:
    """A call has left."""
    if call.wait_seconds > 0:
        return replace(line, sent_at=now, poll_want=call.want, poll_sent_at=now)
    return replace(line, sent_at=now, short=True)


def answered(line: Line, call: WorkRequest, answer: WorkAnswer, now: Instant) -> Line:
    """A call was answered."""
    line = replace(line, heartbeat=max(0.1, answer.heartbeat_seconds), failures=0, retry_at=0.0, trouble=None)
    if call.want > 0:
        line = replace(line, reason=None if answer.leases else answer.reason)
    if answer.standing is not None:
        line = replace(line, standing=answer.standing)
    if call.wait_seconds == 0:
        return replace(line, short=False)
    spun = not answer.leases and now - line.poll_sent_at < _HELD_AT_LEAST
    return replace(line, poll_want=None, poll_not_before=now + min(_POLL_PAUSE, line.heartbeat) if spun else 0.0)


def dropped(line: Line) -> Line:
    """The poll was hung up on, by us. A lease that was on its way is sent again with the next answer."""
    return replace(line, poll_want=None)


def failed(
    line: Line, call: WorkRequest, error: GridError, now: Instant, uniform: Callable[[float, float], float]
) -> Line:
    """A call found no answer. Wait a random part of a time that doubles (full jitter), so that a thousand volunteers
    do not come back in the same second."""
    line = replace(line, poll_want=None) if call.wait_seconds > 0 else replace(line, short=False)
    line = replace(line, trouble=error.message, sent_at=None)
    if now < line.retry_at:
        return line  # the other call failed at the same time; that counts once
    most = _BACKOFF_FIRST * 2.0 ** min(line.failures, 20)
    if isinstance(error, Unauthenticated | Forbidden):
        most = max(most, _REFUSED_MOST / 16)
        delay = uniform(most / 2, min(_REFUSED_MOST, most))
    else:
        delay = uniform(0.0, min(_BACKOFF_MOST, most))
    return replace(line, failures=line.failures + 1, retry_at=now + delay)


def hurried(line: Line) -> Line:
    """Something makes us doubt that the server sees our leases as we do: ask now."""
    return replace(line, sent_at=None)
