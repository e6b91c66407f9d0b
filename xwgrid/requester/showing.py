"""Jobs and tasks as tables and sentences for people."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from xwgrid import wire
from xwgrid.auditing import DENOISED, number_of_strips
from xwgrid.lifecycle import UNEVENTFUL
from xwgrid.model import Instant
from xwgrid.requester.watching import checks, state_line

_LOG_LINES = 8


def jobs_table(jobs: Sequence[wire.JobView]) -> Table:
    """Return jobs as a table."""
    table = Table(box=None, pad_edge=False)
    for heading in ("job", "name", "state", "done", "running", "rejected", "lost", "failed", "handed in"):
        table.add_column(heading, justify="left" if heading in {"name", "state", "handed in"} else "right")
    for job in jobs:
        table.add_row(
            str(job.id),
            Text(job.name),
            job.state.value,
            f"{job.agreed}/{job.tasks}",
            str(job.running),
            str(job.outvoted),
            str(job.lost),
            str(job.failed),
            _when(job.created_at),
        )
    return table


def print_job(console: Console, job: wire.JobView, tasks: Sequence[wire.TaskView], *, whole_logs: bool) -> None:
    """Print a job and some of its tasks with their replicas, reasons and the ends of their logs."""
    _say(console, state_line(job))
    made = f"{job.replicas} leases given out"
    _say(console, f"  {job.application}, handed in {_when(job.created_at)} by {job.owner}; {made}")
    _say(console, f"  checked by {checks(job)}")
    if job.deadline is not None:
        _say(console, f"  needed by {_when(job.deadline)}")
    for task in tasks:
        value = "" if task.value is None else f" = {task.value}"
        _say(console, f"{task.label} (task {task.number}): {task.state.value}{value}")
        if task.accepted:
            _say(console, f"  accepted: {task.accepted}")
        if task.reason:
            _say(console, f"  {task.reason}")
        for replica in task.replicas:
            _say(console, f"  {replica_line(replica)}")
            if replica.log_tail and (whole_logs or replica.state not in UNEVENTFUL):
                lines = replica.log_tail.rstrip().splitlines()
                shown = lines if whole_logs else lines[-_LOG_LINES:]
                console.print(Padding(Text("\n".join(shown), style="dim"), (0, 0, 0, 6)))


def replica_line(replica: wire.ReplicaView) -> str:
    """Return one attempt in one line: what became of it on which host, and why."""
    parts = [f"replica {replica.replica} on {replica.host}: {replica.state.value.replace('_', ' ')}"]
    if replica.audits is not None:
        parts.append(f"audit of replica {replica.audits} by {_strips(replica)}")
    if replica.test:
        parts.append("a test of its host")
    if replica.cause is not None:
        parts.append(replica.cause.value.replace("_", " "))
    if replica.message:
        parts.append(replica.message)
    if replica.seconds is not None:
        parts.append(f"{replica.seconds:.1f} s")
    elif replica.done is not None:
        parts.append(f"{replica.done:.0%} done")
    if replica.result_class:
        parts.append(f"class {replica.result_class}")
    if replica.fingerprint:
        parts.append(f"result {replica.fingerprint[:12]}")
    return ", ".join(parts)


def _strips(replica: wire.ReplicaView) -> str:
    if replica.strips == DENOISED:
        said = "denoising its raw passes"
        if replica.differed is None:
            return said
        return said + (", and it differs" if replica.differed else ", and it fits")
    count = number_of_strips(replica.strips or "")
    said = f"{count} strip{'' if count == 1 else 's'}"
    if replica.differed is None:
        return said
    return said + (f", of which {replica.differed:.1%} differ" if replica.differed else " that fit")


def _when(instant: Instant) -> str:
    return datetime.fromtimestamp(instant, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
