"""`xwgrid-admin trust`: how far hosts and their results are trusted."""

from __future__ import annotations

import time
from collections import Counter

import click
from msgspec import Struct

from xwgrid.command_line import example, span
from xwgrid.errors import BadInput
from xwgrid.model import HostId, Instant, Seconds
from xwgrid.trust import PROVEN, Climate, lie_rate, wrong_rate
from xwgrid_server import accounts, standings
from xwgrid_server.admin_calibrate import calibrate, tolerances
from xwgrid_server.admin_desk import Desk, cut, desk_command, host_number, sure, table, when
from xwgrid_server.job_store import SqlStore
from xwgrid_server.standings import Credit, HostStanding, Rank


class Overview(Struct, frozen=True, kw_only=True):
    """How the whole grid stands."""

    hosts: dict[Rank, int]
    results_checked: float  # lately, of hosts nobody doubted: older ones fade
    wrong_rate: float  # of results of such a host, as it is taken to be
    lie_rate: float  # the same of results that one strip of an audit would miss
    liars: float  # hosts that were caught lately


@click.group()
def trust() -> None:
    """How far hosts and their results are trusted."""


@trust.command(
    "show",
    epilog=example("xwgrid-admin trust show", "xwgrid-admin trust show 4", "xwgrid-admin trust show --user ada"),
)
@host_number(required=False)
@click.option("--user", "owner", help="All hosts of this user.")
@desk_command
def show(desk: Desk, number: int | None, owner: str | None) -> None:
    """Show how the host HOST stands and why, or the hosts of a user; with neither, the grid."""
    if number is not None and owner is not None:
        raise BadInput("one host or all of a user: leave HOST out, or --user")
    now = time.time()
    with desk.database() as engine:
        if number is not None:
            (one,) = standings.list_standings(engine, now, host=HostId(number))
            credit = standings.list_credits(engine, host=one.host)
            desk.answer({"standing": one, "credit": credit}, host_text(one, credit))
        elif owner is not None:
            user = accounts.user_named(engine, owner)
            of_user = standings.list_standings(engine, now, user=user.id)
            desk.answer(of_user, "\n".join(f"host {one.host} {cut(one.name, 40)}: {one.told}" for one in of_user)
                        or f"{owner} has no hosts")  # fmt: skip
        else:
            everything = standings.list_standings(engine, now)
            found = _overview(everything, SqlStore(engine).climate())
            desk.answer(found, _overview_text(found))


@trust.command("list", epilog=example("xwgrid-admin trust list --limit 20"))
@click.option("--limit", type=click.IntRange(1, 100_000), default=100, show_default=True, help="At most so many.")
@desk_command
def list_command(desk: Desk, limit: int) -> None:
    """List hosts by how far they are trusted, the worst first."""
    now = time.time()
    with desk.database() as engine:
        everything = standings.list_standings(engine, now)
    found = everything[:limit]
    rows = [
        (one.host, cut(one.name, 18), cut(one.owner, 14), one.rank, one.valid, one.wrong, _left(one, now))
        for one in found
    ]
    text = table(("id", "name", "owner", "standing", "valid", "wrong", "for"), rows, "no machine joined yet")
    if len(everything) > limit:
        text += f"\nand {len(everything) - limit} more: --limit {len(everything)}"
    desk.answer(found, text)


_YES = click.option("--yes", is_flag=True, help="Do not ask.")


@trust.command("reset", epilog=example("xwgrid-admin trust reset 4 --yes"))
@host_number()
@_YES
@desk_command
def reset(desk: Desk, number: int, yes: bool) -> None:
    """Forget what is known of the host HOST, good and bad: it begins as if it had just joined."""
    with desk.database() as engine:
        (before,) = standings.list_standings(engine, time.time(), host=HostId(number))
        sure(f"Forget all of host {number}, {before.name}? It is now {before.rank}.", yes=yes)
        standings.reset(engine, HostId(number))
    desk.answer({"host": number, "standing": Rank.NEW}, f"host {number} begins anew: its first task is a test")


@trust.command(
    "quarantine", epilog=example("xwgrid-admin trust quarantine 4 --for 3d --reason 'its memory is bad' --yes")
)
@host_number()
@click.option(
    "--for",
    "seconds",
    callback=span,
    help="Such as 12h, 3d; default: a day, then two, four, … up to 64.",
)
@click.option("--reason", default="", help="Told to the machine's owner.")
@_YES
@desk_command
def quarantine(desk: Desk, *, number: int, seconds: Seconds | None, reason: str, yes: bool) -> None:
    """Set the host HOST aside: it gets no work, and comes back as if it were new.

    What it had accepted in jobs that are still open is audited again, within a minute or when the server starts.
    """
    now = time.time()
    with desk.database() as engine:
        (before,) = standings.list_standings(engine, now, host=HostId(number))
        sure(f"Set host {number}, {before.name}, aside? It is now {before.rank}, and loses that.", yes=yes)
        standings.set_aside(engine, HostId(number), seconds, reason, now)
        (after,) = standings.list_standings(engine, now, host=HostId(number))
    desk.answer(after, f"host {number} is {after.told}")


@trust.command("vouch", epilog=example("xwgrid-admin trust vouch 4", "xwgrid-admin trust vouch 4 --no"))
@host_number()
@click.option("--no", "withdrawn", is_flag=True, help="Vouch for it no longer.")
@desk_command
def vouch(desk: Desk, number: int, withdrawn: bool) -> None:
    """Trust the host HOST as if it had proved itself: for the machines of a private grid."""
    with desk.database() as engine:
        standings.vouch(engine, HostId(number), good=not withdrawn)
        (after,) = standings.list_standings(engine, time.time(), host=HostId(number))
    desk.answer(after, f"host {number} is {after.told}")


def host_text(one: HostStanding, credit: tuple[Credit, ...]) -> str:
    """Return how one host stands, a line for each thing that is known."""
    units = ", ".join(f"{units:.1f} for {name}" for name, units in one.earned.items())
    worth = ", ".join(f"{each.application} {each.seconds / 3_600:.2f} h ({each.results} results)" for each in credit)
    lines = {
        f"host {one.host}": f"{one.name}, of {one.owner}",
        "standing": one.told,
        "results": f"{one.valid} valid, {one.wrong} wrong; {one.streak} valid since the last wrong one",
        "earned": f"{units} of {PROVEN:.0f} units" if units else "",
        "tested": "yes" if one.tested else "no: its first task is one whose answer is known",
        "vouched for": "by the operator" if one.vouched else "",
        "set aside": f"{one.quarantines} times, the last until {when(one.quarantined_until)}"
        if one.quarantines
        else "",
        "credit": worth or "none yet",
        "seen": when(one.last_seen_at) or "never",
    }
    return "\n".join(f"{name:<12} {cut(value, 1_000)}" for name, value in lines.items() if value)


def _overview(found: tuple[HostStanding, ...], climate: Climate) -> Overview:
    counted = Counter(one.rank for one in found)
    return Overview(
        hosts={each: counted[each] for each in Rank},
        results_checked=climate.results,
        wrong_rate=wrong_rate(climate),
        lie_rate=lie_rate(climate),
        liars=climate.liars,
    )


def _overview_text(found: Overview) -> str:
    hosts = ", ".join(f"{count} {name}" for name, count in found.hosts.items() if count)
    return "\n".join(
        (
            f"hosts        {hosts or 'none'}",
            f"checked      about {found.results_checked:.0f} results lately, of hosts nobody doubts",
            f"doubt        one of {1 / found.wrong_rate:,.0f} of their results is taken for wrong,",
            f"             one of {1 / found.lie_rate:,.0f} for a lie that one strip would miss",
            f"caught       {found.liars:.1f} hosts lately",
        )
    )


def _left(one: HostStanding, now: Instant) -> str | None:
    if one.rank is not Rank.SET_ASIDE or one.quarantined_until is None:
        return None
    hours = (one.quarantined_until - now) / 3_600
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:.0f} d"


for command in (calibrate, tolerances):
    trust.add_command(command)
