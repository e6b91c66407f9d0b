"""Who may use the grid: people and their tokens, machines and their certificates.

Functions block; each that takes an Engine is one transaction. Those that take a Connection are parts of one.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Literal

from cryptography import x509
from msgspec import Struct
from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from xwgrid_schema.tables import certificates, hosts, replicas, tokens, users

from xwgrid import wire
from xwgrid.errors import BadInput, Conflict, Forbidden, NotFound, Unauthenticated
from xwgrid.model import HostFacts, HostId, Instant, Seconds, UserId
from xwgrid.tokens import Token, stored_digest
from xwgrid.wire import EnrolRequest, HostView
from xwgrid_server import authority as authorities
from xwgrid_server.authority import HostIdentity
from xwgrid_server.database import reading

Kind = Literal["enrol", "requester"]
Role = Literal["requester", "operator"]
DAY: Seconds = 86_400.0
# Long enough to be carried to the machine over a weekend, short enough to be forgotten safely.
ENROL_LIFETIME: Seconds = 7 * DAY
REQUESTER_LIFETIME: Seconds = 365 * DAY


class User(Struct, frozen=True, kw_only=True):
    """A person: hands in jobs, owns hosts, or both."""

    id: UserId
    name: str
    role: Role
    created_at: Instant


class Contact(Struct, frozen=True, kw_only=True):
    """What a token says beside its secret: where the API is, and the hash of the CA's key."""

    url: str
    ca_key: str


class TokenView(Struct, frozen=True, kw_only=True):
    """A token that was handed out; of its text only the hash is kept."""

    id: int
    user: str
    kind: Kind
    note: str
    created_at: Instant
    expires_at: Instant
    used_at: Instant | None
    revoked_at: Instant | None


class HostAccount(Struct, frozen=True, kw_only=True):
    """A machine that may call."""

    id: HostId
    owner: UserId
    name: str


class Enrolled(Struct, frozen=True, kw_only=True):
    """A new volunteer's machine and its certificate."""

    host: HostId
    certificate_pem: str


# --- people -----------------------------------------------------------------------------------------------------


def add_user(engine: Engine, name: str, role: Role, now: Instant) -> User:
    """Add a person. Raises Conflict when the name is taken, BadInput when it is empty, too long or unprintable."""
    with engine.begin() as connection:
        return insert_user(connection, name, role, now)


def insert_user(connection: Connection, name: str, role: Role, now: Instant) -> User:
    """As `add_user`, within a transaction."""
    if not 1 <= len(name) <= 200 or not name.isprintable() or name != name.strip():
        raise BadInput(f"a user's name has 1 to 200 printable characters and no space around it, not {name!r}")
    statement = insert(users).values(name=name, role=role, created_at=now).returning(users.c.id)
    try:
        number = connection.execute(statement).scalar_one()
    except IntegrityError as error:
        raise Conflict(f"there is a user '{name}' already: choose another name", user=name) from error
    return User(id=UserId(number), name=name, role=role, created_at=now)


def list_users(engine: Engine) -> tuple[User, ...]:
    """Return everybody, in the order they were added."""
    with reading(engine) as connection:
        return tuple(User(**row) for row in connection.execute(select(users).order_by(users.c.id)).mappings())


def user_named(engine: Engine, name: str) -> User:
    """Return the person of that name. Raises NotFound."""
    with reading(engine) as connection:
        row = connection.execute(select(users).where(users.c.name == name)).mappings().first()
    if row is None:
        raise NotFound(f"there is no user '{name}': xwgrid-admin user list shows them all", user=name)
    return User(**row)


# --- tokens -----------------------------------------------------------------------------------------------------


def make_token(
    engine: Engine,
    user: User,
    kind: Kind,
    contact: Contact,
    *,
    expires_at: Instant,
    now: Instant,
    note: str = "",
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> str:
    """Hand out a token and return its text; it cannot be read again. Raises BadInput when it is expired already."""
    with engine.begin() as connection:
        return insert_token(connection, user, kind, contact, expires_at=expires_at, now=now, note=note, random=random)


def insert_token(
    connection: Connection,
    user: User,
    kind: Kind,
    contact: Contact,
    *,
    expires_at: Instant,
    now: Instant,
    note: str = "",
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> str:
    """As `make_token`, within a transaction."""
    if expires_at <= now:
        raise BadInput("the token would be expired before anybody could use it: choose a later end")
    if len(note) > 200:
        raise BadInput(f"a token's note has at most 200 characters, not {len(note)}")
    text = Token(kind=kind, url=contact.url, ca_key=contact.ca_key, secret=random(32)).text()
    row = {"user_id": user.id, "kind": kind, "digest": stored_digest(text), "note": note}
    connection.execute(insert(tokens).values(**row, created_at=now, expires_at=expires_at))
    return text


def authenticate(engine: Engine, text: str, now: Instant) -> User:
    """Return whose requester token this is. Raises Unauthenticated when it is unknown, expired or revoked."""
    statement = (
        select(users, tokens.c.expires_at, tokens.c.revoked_at)
        .join_from(tokens, users)
        .where(tokens.c.digest == stored_digest(text), tokens.c.kind == "requester")
    )
    with reading(engine) as connection:
        row = connection.execute(statement).mappings().first()
    if row is None:
        raise Unauthenticated("this token is not known here: ask the operator for one, and log in with it")
    if row["revoked_at"] is not None:
        raise Unauthenticated("this token was revoked: ask the operator for a new one")
    if row["expires_at"] <= now:
        raise Unauthenticated("this token has expired: ask the operator for a new one")
    return User(id=row["id"], name=row["name"], role=row["role"], created_at=row["created_at"])


def list_tokens(engine: Engine) -> tuple[TokenView, ...]:
    """Return all tokens, the oldest first."""
    columns = [column for column in tokens.c if column.name not in {"user_id", "digest"}]
    statement = select(*columns, users.c.name.label("user")).join_from(tokens, users).order_by(tokens.c.id)
    with reading(engine) as connection:
        return tuple(TokenView(**row) for row in connection.execute(statement).mappings())


def revoke_token(engine: Engine, number: int, now: Instant) -> None:
    """End a token now; one that was revoked before stays so. Raises NotFound."""
    end = func.coalesce(tokens.c.revoked_at, now)
    with engine.begin() as connection:
        if not connection.execute(update(tokens).where(tokens.c.id == number).values(revoked_at=end)).rowcount:
            raise NotFound(f"there is no token {number}: xwgrid-admin token list shows them all", token=number)


# --- machines ---------------------------------------------------------------------------------------------------


def enrol(engine: Engine, request: EnrolRequest, authority: authorities.Authority, now: Instant) -> Enrolled:
    """Use up an enrolment token for a new host and its certificate: all of it happens, or nothing.

    Raises Unauthenticated when the token is unknown, expired, revoked or used; BadInput when the signing request is
    not good; neither uses the token up.
    """
    signing_request = authorities.read_request(request.csr_pem)
    with engine.begin() as connection:
        owner = _use_enrolment(connection, stored_digest(request.token), now)
        row = {"owner_id": owner, "name": request.name, "enrolled_at": now}
        host = HostId(connection.execute(insert(hosts).values(**row).returning(hosts.c.id)).scalar_one())
        certificate = authority.issue_host(signing_request, host, now)
        connection.execute(insert(certificates).values(**_certificate_row(certificate, host, now)))
    return Enrolled(host=host, certificate_pem=authorities.pem_text(certificate))


def _use_enrolment(connection: Connection, digest: str, now: Instant) -> UserId:
    # Compare and set: of two that bring one token at the same moment, one finds it used.
    mine = (tokens.c.digest == digest) & (tokens.c.kind == "enrol")
    unspent = tokens.c.used_at.is_(None) & tokens.c.revoked_at.is_(None) & (tokens.c.expires_at > now)
    statement = update(tokens).where(mine & unspent).values(used_at=now).returning(tokens.c.user_id)
    owner = connection.execute(statement).scalar_one_or_none()
    if owner is not None:
        return UserId(owner)
    row = connection.execute(select(tokens).where(mine)).first()
    if row is None:
        raise Unauthenticated("this enrolment token is not known here: ask the operator for one")
    if row.used_at is not None:
        raise Unauthenticated("this enrolment token was used already: each lets one machine in, ask for another")
    what = "was revoked" if row.revoked_at is not None else "has expired"
    raise Unauthenticated(f"this enrolment token {what}: ask the operator for a new one")


def _certificate_row(certificate: x509.Certificate, host: HostId, now: Instant) -> dict[str, object]:
    return {
        "serial": authorities.serial_text(certificate),
        "host_id": host,
        "issued_at": now,
        "expires_at": certificate.not_valid_after_utc.timestamp(),
    }


def admit(engine: Engine, identity: HostIdentity) -> HostAccount:
    """Return the host whose certificate was shown. That the CA signed it and it has not expired, TLS has seen to.

    Raises Unauthenticated when the certificate is not known or was revoked, Forbidden when the host is banned.
    """
    statement = (
        select(hosts, certificates.c.revoked_at)
        .join_from(certificates, hosts)
        .where(certificates.c.serial == identity.serial, hosts.c.id == identity.host)
    )
    with reading(engine) as connection:
        row = connection.execute(statement).first()
    if row is None:
        raise Unauthenticated("this host's certificate is not known here: enrol it again")
    if row.revoked_at is not None:
        raise Unauthenticated("this host's certificate was revoked: ask the operator for a new enrolment token")
    if row.state == "banned":
        raise Forbidden(f"this host is banned ({row.state_reason or 'no reason given'}): ask the operator", host=row.id)
    return HostAccount(id=row.id, owner=row.owner_id, name=row.name)


def list_hosts(engine: Engine) -> tuple[HostView, ...]:
    """Return all hosts, the oldest first, with the number of leases each holds."""
    held = (
        select(replicas.c.host_id, func.count().label("leases"))
        .where(replicas.c.state == "leased")
        .group_by(replicas.c.host_id)
        .subquery()
    )
    statement = (
        select(hosts, users.c.name.label("owner"), func.coalesce(held.c.leases, 0).label("leases"))
        .join_from(hosts, users)
        .outerjoin(held, held.c.host_id == hosts.c.id)
        .order_by(hosts.c.id)
    )
    with reading(engine) as connection:
        rows = connection.execute(statement).all()
    return tuple(
        HostView(
            id=row.id,
            name=row.name,
            owner=row.owner,
            state=row.state,
            last_seen_at=row.last_seen_at,
            facts=wire.decode(row.facts, HostFacts) if row.facts else None,
            leases=row.leases,
        )
        for row in rows
    )


def ban_host(engine: Engine, host: HostId, reason: str) -> None:
    """Refuse every call of a host from now on; what it holds runs out. Raises NotFound."""
    _set_state(engine, host, "banned", reason)


def unban_host(engine: Engine, host: HostId) -> None:
    """Let a banned host call again; its certificate is as good as before. Raises NotFound."""
    _set_state(engine, host, "active", "")


def _set_state(engine: Engine, host: HostId, state: str, reason: str) -> None:
    statement = update(hosts).where(hosts.c.id == host).values(state=state, state_reason=reason)
    with engine.begin() as connection:
        if not connection.execute(statement).rowcount:
            raise NotFound(f"there is no host {host}: xwgrid-admin host list shows them all", host=host)


def revoke_certificates(engine: Engine, host: HostId, now: Instant) -> int:
    """End all certificates of a host for good (its key was stolen, its disk sold); return how many. Raises NotFound."""
    valid = (certificates.c.host_id == host) & certificates.c.revoked_at.is_(None)
    with engine.begin() as connection:
        count = connection.execute(update(certificates).where(valid).values(revoked_at=now)).rowcount
        if not count and connection.execute(select(hosts.c.id).where(hosts.c.id == host)).first() is None:
            raise NotFound(f"there is no host {host}: xwgrid-admin host list shows them all", host=host)
    return count


def is_revoked(engine: Engine, serial: str) -> bool:
    """Tell whether a certificate was revoked; one that was never issued counts as revoked."""
    statement = select(certificates.c.serial).where(
        certificates.c.serial == serial, certificates.c.revoked_at.is_(None)
    )
    with reading(engine) as connection:
        return connection.execute(statement).first() is None
