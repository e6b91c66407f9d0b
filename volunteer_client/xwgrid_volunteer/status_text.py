"""How a volunteer stands, as lines for its owner. Pure."""

from __future__ import annotations

import time

from xwgrid.model import Instant, Seconds
from xwgrid_volunteer.control import LeaseStatus, Status

_LONGEST = 1_000
_STATES = {
    "starting": "starting",
    "working": "working",
    "idle": "idle",
    "paused": "paused",
    "away": "the server is away",
}


def lines(status: Status, now: Instant) -> list[str]:
    """Return the text of `xwgrid-volunteer status`."""
    state = _STATES.get(status.state, status.state)
    said = [f"{status.name} (host {status.host} of {status.server}): {state}"]
    if status.why is not None:
        why = _shown(status.why)
        said.append(f"  because {why}" if status.state != "working" else f"  {why}")
    if status.trouble is not None and status.state != "away":
        said.append(f"  the server cannot be talked to: {status.trouble}")
    if status.paused_until is not None:
        said.append(f"  until {time.strftime('%Y-%m-%d %H:%M', time.localtime(status.paused_until))}")
    if status.standing is not None:
        said.append(f"  standing: {_shown(status.standing)}")
    said += [_lease(lease) for lease in status.leases]
    totals = status.totals
    done = f"{totals.accepted} accepted ({_span(totals.seconds)} of work)"
    others = {"refused": totals.refused, "failed": totals.failed, "handed back": totals.handed_back}
    done += "".join(f", {count} {name}" for name, count in others.items() if count)
    said.append(f"  done in {_span(now - status.started_at)}: {done}")
    if status.state == "starting":
        return said
    said.append(f"  sandbox: {status.sandbox or 'no'}")
    said.append(f"  programs: {', '.join(status.programs) or 'none'}")
    for gpu in status.gpus:
        said.append(f"  GPU: {gpu.name}, {gpu.memory_total >> 20} MiB, driver {gpu.driver}")
    said += [f"  {remark}" for remark in status.remarks]
    return said


def _lease(lease: LeaseStatus) -> str:
    share = "" if lease.done is None or lease.stage != "given" else f" {lease.done:.0%}"
    words = {"given": "running" if lease.done is not None else "next", "unconfirmed": "waits to be confirmed"}
    return f"  job {lease.job}, {lease.label}: {words.get(lease.stage, lease.stage)}{share}"


def _shown(text: str) -> str:
    """Return what a server said as a terminal may show it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_LONGEST])


def _span(seconds: Seconds) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
