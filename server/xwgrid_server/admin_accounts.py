"""`xwgrid-admin user`, `token` and `host`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence

import click

from xwgrid.command_line import example, span
from xwgrid.model import HostId, Instant, Seconds
from xwgrid_server import accounts, standings
from xwgrid_server.accounts import Kind, Role, TokenView
from xwgrid_server.admin_desk import NUMBER, Desk, cut, desk_command, host_number, table, when
from xwgrid_server.admin_trust import host_text
from xwgrid_server.standings import Credit


@click.group()
def user() -> None:
    """People: who hands in jobs and owns hosts."""


@user.command("add", epilog=example("xwgrid-admin user add ada", "xwgrid-admin user add grace --operator"))
@click.argument("name")
@click.option("--operator", is_flag=True, help="May see the jobs of everybody.")
@desk_command
def user_add(desk: Desk, name: str, operator: bool) -> None:
    """Add the person NAME."""
    role: Role = "operator" if operator else "requester"
    with desk.database() as engine:
        added = accounts.add_user(engine, name, role, time.time())
    desk.answer(
        added,
        f"{name} may join now. Their token: xwgrid-admin token requester --user {name}\n"
        f"A token for each of their machines: xwgrid-admin token enrol --user {name}",
    )


@user.command("list", epilog=example("xwgrid-admin user list --json"))
@desk_command
def user_list(desk: Desk) -> None:
    """List everybody."""
    with desk.database() as engine:
        found = accounts.list_users(engine)
    rows = [(one.id, one.name, one.role, when(one.created_at)) for one in found]
    desk.answer(found, table(("id", "name", "role", "added"), rows, "there is nobody yet"))


@user.command("credit", epilog=example("xwgrid-admin user credit", "xwgrid-admin user credit ada --hosts"))
@click.argument("name", required=False)
@click.option("--hosts", "by_host", is_flag=True, help="Each host by itself.")
@desk_command
def user_credit(desk: Desk, name: str | None, by_host: bool) -> None:
    """Show what the validated work of everybody's hosts was worth, or of the user NAME's.

    An hour is one of an average host's device: how fast a machine says it is makes no difference.
    """
    with desk.database() as engine:
        of_user = None if name is None else accounts.user_named(engine, name).id
        found = standings.list_credits(engine, user=of_user)
    rows = [_host_line(one) for one in found] if by_host else _user_lines(found)
    headings = ("user", "host" if by_host else "hosts", "application", "results", "hours")
    desk.answer(found, table(headings, rows, "nobody's work was validated yet"))


def _host_line(one: Credit) -> tuple[object, ...]:
    name = f"{one.host} {cut(one.host_name, 18)}"
    return (cut(one.user, 20), name, one.application, one.results, _hours(one.seconds))


def _user_lines(found: Sequence[Credit]) -> list[tuple[object, ...]]:
    totals: defaultdict[tuple[str, str], list[Credit]] = defaultdict(list)
    for one in found:
        totals[one.user, one.application].append(one)
    return [
        (cut(user, 20), len(of), application, sum(one.results for one in of), _hours(sum(one.seconds for one in of)))
        for (user, application), of in totals.items()
    ]


def _hours(seconds: Seconds) -> str:
    return f"{seconds / 3_600:.2f}"


@click.group()
def token() -> None:
    """Tokens: what lets machines join and people hand in jobs."""


_OF_USER = click.option("--user", "owner", required=True, help="Whose it is.")
_NOTE = click.option("--note", default="", help="What it is for, for your own lists.")


@token.command(
    "enrol", epilog=example("xwgrid-admin token enrol --user ada | ssh attic xwgrid-volunteer enrol --token-file -")
)
@_OF_USER
@click.option("--expires", "lifetime", default="7d", show_default=True, callback=span, help="Such as 30m, 12h, 7d.")
@_NOTE
@desk_command
def token_enrol(desk: Desk, owner: str, lifetime: Seconds, note: str) -> None:
    """Print a token that lets one machine of a user join, once. Nothing else is on standard output."""
    _make(desk, "enrol", owner, lifetime, note)


@token.command("requester", epilog=example("xwgrid-admin token requester --user ada > ada.token"))
@_OF_USER
@click.option("--expires", "lifetime", default="365d", show_default=True, callback=span, help="Such as 12h, 90d.")
@_NOTE
@desk_command
def token_requester(desk: Desk, owner: str, lifetime: Seconds, note: str) -> None:
    """Print a token with which a user hands in jobs. Nothing else is on standard output."""
    _make(desk, "requester", owner, lifetime, note)


def _make(desk: Desk, kind: Kind, owner: str, lifetime: Seconds, note: str) -> None:
    now = time.time()
    contact = desk.contact()
    with desk.database() as engine:
        user = accounts.user_named(engine, owner)
        text = accounts.make_token(engine, user, kind, contact, expires_at=now + lifetime, now=now, note=note)
    desk.answer({"token": text, "kind": kind, "user": owner, "url": contact.url, "expires_at": now + lifetime}, text)


@token.command("list", epilog=example("xwgrid-admin token list"))
@desk_command
def token_list(desk: Desk) -> None:
    """List the tokens that were handed out; their secrets are not kept."""
    with desk.database() as engine:
        found = accounts.list_tokens(engine)
    now = time.time()
    rows = [(one.id, one.kind, one.user, _standing(one, now), when(one.expires_at), one.note) for one in found]
    desk.answer(found, table(("id", "kind", "user", "standing", "expires", "note"), rows, "no token was made yet"))


def _standing(view: TokenView, now: Instant) -> str:
    if view.revoked_at is not None:
        return "revoked"
    if view.used_at is not None:
        return "used"
    return "expired" if view.expires_at <= now else "good"


@token.command("revoke", epilog=example("xwgrid-admin token revoke 3"))
@click.argument("number", type=NUMBER)
@desk_command
def token_revoke(desk: Desk, number: int) -> None:
    """End the token NUMBER of the list now."""
    with desk.database() as engine:
        accounts.revoke_token(engine, number, time.time())
    desk.answer({"revoked": number}, f"token {number} is good for nothing any more")


@click.group()
def host() -> None:
    """Volunteers' machines."""


@host.command("list", epilog=example("xwgrid-admin host list"))
@desk_command
def host_list(desk: Desk) -> None:
    """List the machines that joined."""
    with desk.database() as engine:
        found = accounts.list_hosts(engine)
    rows = [
        (
            one.id,
            one.name,
            one.owner,
            one.state,
            one.leases,
            when(one.last_seen_at) or "never",
            one.facts.system if one.facts else None,
            one.facts.cores if one.facts else None,
            len(one.facts.gpus) if one.facts else None,
        )
        for one in found
    ]
    headings = ("id", "name", "owner", "state", "leases", "seen", "system", "cores", "gpus")
    desk.answer(found, table(headings, rows, "no machine joined yet: xwgrid-admin token enrol --user NAME"))


@host.command("show", epilog=example("xwgrid-admin host show 4"))
@host_number()
@desk_command
def host_show(desk: Desk, number: int) -> None:
    """Show the host HOST: what it is, how far it is trusted and why, what its work was worth."""
    with desk.database() as engine:
        (standing,) = standings.list_standings(engine, time.time(), host=HostId(number))
        credit = standings.list_credits(engine, host=standing.host)
        (view,) = [one for one in accounts.list_hosts(engine) if one.id == number]
    facts = view.facts
    lines = [host_text(standing, credit), f"state        {view.state}, {view.leases} leases"]
    if facts is not None:
        machine = f"{facts.system}, {facts.cores} cores, {len(facts.gpus)} GPUs"
        runs = [f"{each.runtime} {each.version}, class {each.result_class}" for each in facts.programs]
        lines += [f"machine      {cut(machine, 200)}", *(f"runs         {cut(each, 300)}" for each in runs)]
    desk.answer({"host": view, "standing": standing, "credit": credit}, "\n".join(lines))


@host.command("ban", epilog=example("xwgrid-admin host ban 4 --reason 'sends wrong frames'"))
@click.argument("number", type=NUMBER)
@click.option("--reason", default="", help="Told to the machine's owner.")
@desk_command
def host_ban(desk: Desk, number: int, reason: str) -> None:
    """Refuse every call of the host NUMBER; what it works on goes to others when its leases run out."""
    with desk.database() as engine:
        accounts.ban_host(engine, HostId(number), reason)
    desk.answer({"host": number, "state": "banned"}, f"host {number} is banned")


@host.command("unban", epilog=example("xwgrid-admin host unban 4"))
@click.argument("number", type=NUMBER)
@desk_command
def host_unban(desk: Desk, number: int) -> None:
    """Let the host NUMBER work again."""
    with desk.database() as engine:
        accounts.unban_host(engine, HostId(number))
    desk.answer({"host": number, "state": "active"}, f"host {number} may work again")


@host.command("revoke", epilog=example("xwgrid-admin host revoke 4"))
@click.argument("number", type=NUMBER)
@desk_command
def host_revoke(desk: Desk, number: int) -> None:
    """End the certificates of the host NUMBER for good: its key was stolen, or the machine sold."""
    with desk.database() as engine:
        count = accounts.revoke_certificates(engine, HostId(number), time.time())
    desk.answer({"host": number, "revoked": count}, f"{count} certificates of host {number} are revoked for good")
