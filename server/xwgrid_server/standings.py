"""How far hosts are trusted and what their work was worth, for the operator: read, and changed beside a running server.

Functions block; each is one transaction. A change counts the standing's `edition` up, so that what the server decided
before it, and has not written yet, is not written over it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec import Struct, structs
from sqlalchemy import Connection, Engine, Row, select
from sqlalchemy.dialects import postgresql, sqlite
from xwgrid_schema.tables import host_credits, hosts, standings, users

from xwgrid.errors import BadInput, NotFound
from xwgrid.model import HostId, Instant, Seconds, UserId
from xwgrid.trust import NEWCOMER, Standing, is_accused, is_proven, is_quarantined, quarantined, told
from xwgrid_server import job_store_rows as rows_of
from xwgrid_server.database import reading

LONGEST_SET_ASIDE: Final[Seconds] = 10 * 365 * 86_400.0
LONGEST_REASON: Final = 200


class Rank(StrEnum):
    """A standing in two words, the worst first."""

    SET_ASIDE = "set aside"
    SUSPECTED = "suspected"
    ON_PROBATION = "on probation"
    NEW = "new"
    PROVEN = "proven"
    VOUCHED = "vouched for"


_ORDER: Final = list(Rank)
_STANDING: Final = list(standings.c)


class Credit(Struct, frozen=True, kw_only=True):
    """What a host's validated results of one application were worth."""

    user: str
    host: HostId
    host_name: str
    application: str
    seconds: Seconds  # of an average host's device
    results: int


class HostStanding(Struct, frozen=True, kw_only=True):
    """A host, and how far it is trusted."""

    host: HostId
    name: str
    owner: str
    last_seen_at: Instant | None
    rank: Rank
    told: str  # how it stands and why, as its owner is told
    valid: int
    wrong: int
    streak: int
    on_record: int
    since_wrong: float
    earned: dict[str, float]  # units of validated work, by requester; empty when it has proved itself
    tested: bool
    vouched: bool
    suspected_until: Instant | None
    quarantined_until: Instant | None
    quarantines: int
    reason: str


def rank(standing: Standing, now: Instant) -> Rank:
    """Return how a host stands, in two words."""
    if is_quarantined(standing, now):
        return Rank.SET_ASIDE
    if is_accused(standing, now):
        return Rank.SUSPECTED
    if standing.on_record:
        return Rank.ON_PROBATION
    if standing.vouched:
        return Rank.VOUCHED
    return Rank.PROVEN if is_proven(standing) else Rank.NEW


def list_standings(
    engine: Engine, now: Instant, *, user: UserId | None = None, host: HostId | None = None
) -> tuple[HostStanding, ...]:
    """Return how hosts stand, the worst first: all, those of a user, or one.

    Raises NotFound for a host that is none.
    """
    query = (
        select(hosts.c.id, hosts.c.name, hosts.c.last_seen_at, users.c.name.label("owner"), *_STANDING)
        .join_from(hosts, users)
        .outerjoin(standings, standings.c.host_id == hosts.c.id)
    )
    if user is not None:
        query = query.where(hosts.c.owner_id == user)
    if host is not None:
        query = query.where(hosts.c.id == host)
    with reading(engine) as connection:
        names = _names(connection)
        found = [_view(row, names, now) for row in connection.execute(query)]
    if host is not None and not found:
        raise _no_such(host)
    return tuple(sorted(found, key=lambda one: (_ORDER.index(one.rank), -one.wrong, one.valid, one.host)))


def reset(engine: Engine, host: HostId) -> None:
    """Forget how a host stands, as if it had just joined. Raises NotFound."""
    # What it had accepted before it was caught is looked at again all the same.
    _change(engine, host, lambda before: Standing(audit_again=before.audit_again))


def set_aside(engine: Engine, host: HostId, seconds: Seconds | None, reason: str, now: Instant) -> None:
    """Give a host no work: for `seconds`, or for longer each time. Its owner is told the reason.

    What it had accepted in open jobs is audited again. Raises NotFound, and BadInput for a time that is too long or a
    reason that is no line of text.
    """
    if seconds is not None and seconds > LONGEST_SET_ASIDE:
        raise BadInput("a host can be set aside for ten years at most: xwgrid-admin host ban is for good")
    if len(reason) > LONGEST_REASON or not reason.isprintable():
        raise BadInput(f"a reason has at most {LONGEST_REASON} printable characters, since its host's owner reads it")
    _change(engine, host, lambda before: quarantined(before, now, seconds, reason or "the operator set it aside"))


def vouch(engine: Engine, host: HostId, *, good: bool) -> None:
    """Trust a host as if it had proved itself, or no longer. Raises NotFound."""
    _change(engine, host, lambda before: structs.replace(before, vouched=good))


def list_credits(engine: Engine, *, user: UserId | None = None, host: HostId | None = None) -> tuple[Credit, ...]:
    """Return the credit of hosts by application: of all, of a user's, or of one; by user, the most first."""
    query = (
        select(users.c.name.label("user"), hosts.c.name.label("host_name"), host_credits)
        .join_from(host_credits, hosts, hosts.c.id == host_credits.c.host_id)
        .join(users, users.c.id == hosts.c.owner_id)
        .order_by(users.c.name, host_credits.c.seconds.desc(), hosts.c.id)
    )
    if user is not None:
        query = query.where(hosts.c.owner_id == user)
    if host is not None:
        query = query.where(hosts.c.id == host)
    with reading(engine) as connection:
        return tuple(
            Credit(
                user=row.user,
                host=row.host_id,
                host_name=row.host_name,
                application=row.application,
                seconds=row.seconds,
                results=row.results,
            )
            for row in connection.execute(query)
        )


def _change(engine: Engine, host: HostId, decide: Callable[[Standing], Standing]) -> None:
    """Write what `decide` makes of a host's standing, whatever the server is about to write."""
    with engine.begin() as connection:
        if connection.execute(select(hosts.c.id).where(hosts.c.id == host)).first() is None:
            raise _no_such(host)
        row = connection.execute(select(standings).where(standings.c.host_id == host).with_for_update()).first()
        before = NEWCOMER if row is None else rows_of.standing(row)
        after = structs.replace(decide(before), edition=before.edition + 1)
        values = structs.asdict(after) | {"earned": msgspec.json.encode(dict(after.earned)).decode()}
        made = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert(standings)
        made = made.values(host_id=host, **values)
        connection.execute(made.on_conflict_do_update(index_elements=["host_id"], set_=values))


def _view(row: Row[Any], names: dict[UserId, str], now: Instant) -> HostStanding:
    standing = NEWCOMER if row.host_id is None else rows_of.standing(row)
    return HostStanding(
        host=row.id,
        name=row.name,
        owner=row.owner,
        last_seen_at=row.last_seen_at,
        rank=rank(standing, now),
        told=told(standing, now),
        valid=standing.valid,
        wrong=standing.wrong,
        streak=standing.streak,
        on_record=standing.on_record,
        since_wrong=standing.since_wrong,
        earned={names.get(user, str(user)): units for user, units in standing.earned.items()},
        tested=standing.tested,
        vouched=standing.vouched,
        suspected_until=standing.suspected_until,
        quarantined_until=standing.quarantined_until,
        quarantines=standing.quarantines,
        reason=standing.reason,
    )


def _names(connection: Connection) -> dict[UserId, str]:
    return {UserId(row.id): row.name for row in connection.execute(select(users.c.id, users.c.name))}


def _no_such(host: HostId) -> NotFound:
    return NotFound(f"there is no host {host}: xwgrid-admin host list shows them all", host=host)
