"""`xwgrid-admin job`, `task` and `replica`: what goes on, over everybody's jobs."""

from __future__ import annotations

import click
import msgspec
from msgspec import Struct
from sqlalchemy import Engine, select
from xwgrid_schema.tables import hosts, replicas, users

from xwgrid.command_line import example
from xwgrid.errors import NotFound
from xwgrid.model import HostId, Instant, JobId, ReplicaId, ReplicaState, Seconds, TaskNumber, TaskState, UserId
from xwgrid.policy_terms import described
from xwgrid.wire import JobView
from xwgrid_server import accounts, job_views
from xwgrid_server.admin_desk import NUMBER, Desk, desk_command, table, when
from xwgrid_server.database import reading


class ReplicaLine(Struct, frozen=True, kw_only=True):
    """One attempt at a task, as the operator sees it: its fingerprint too."""

    replica: ReplicaId
    job: JobId
    task: TaskNumber
    number: int
    host: HostId
    host_name: str
    owner: str
    state: ReplicaState
    leased_at: Instant
    ended_at: Instant | None
    seconds: Seconds | None
    cause: str | None
    message: str
    fingerprint: str | None
    audits: ReplicaId | None  # the replica whose result it looks at; None: it is a full one
    strips: str | None
    differences: dict[ReplicaId, float]  # by replica it was compared with: the share of rows that differ
    credit: Seconds
    test: bool


_LIMIT = click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="At most so many.")


@click.group()
def job() -> None:
    """Jobs of everybody."""


@job.command("list", epilog=example("xwgrid-admin job list --limit 20"))
@_LIMIT
@desk_command
def job_list(desk: Desk, limit: int) -> None:
    """List the newest jobs."""
    with desk.database() as engine:
        found = job_views.jobs_of(engine, _operator(engine), limit, {})
    rows = [
        (one.id, one.name, one.owner, one.application, one.state, f"{one.agreed}/{one.tasks}", one.failed,
         one.outvoted, one.lost, when(one.created_at))
        for one in found.jobs
    ]  # fmt: skip
    headings = ("id", "name", "owner", "application", "state", "agreed", "failed", "outvoted", "lost", "since")
    desk.answer(found, table(headings, rows, "no job was handed in yet"))


@job.command("show", epilog=example("xwgrid-admin job show 12"))
@click.argument("number", type=NUMBER)
@desk_command
def job_show(desk: Desk, number: int) -> None:
    """Show the job NUMBER."""
    with desk.database() as engine:
        found = job_views.job(engine, _operator(engine), JobId(number), {})
    desk.answer(found, _job_text(found))


def _job_text(view: JobView) -> str:
    kind = "private" if view.private else "public"
    lines = [
        f"job {view.id}  {view.name}",
        f"owner        {view.owner}, {kind}",
        f"application  {view.application}, specification {view.spec}",
        f"state        {view.state}{': ' + view.reason if view.reason else ''}",
        f"tasks        {view.tasks}: {view.agreed} agreed, {view.failed} failed, {view.running} being worked on",
        f"checked by   {described(view.policy, view.quorum)}{f' ({view.policy_note})' if view.policy_note else ''}",
        f"replicas     {view.replicas}: {view.outvoted} outvoted, {view.lost} lost",
        f"handed in    {when(view.created_at)}",
        f"needed by    {when(view.deadline) or '-'}",
        f"ended        {when(view.finished_at) or '-'}",
    ]
    return "\n".join(lines)


@click.group()
def task() -> None:
    """Tasks of a job."""


@task.command("list", epilog=example("xwgrid-admin task list 12 --state failed"))
@click.argument("job_number", metavar="JOB", type=NUMBER)
@click.option("--state", type=click.Choice([state.value for state in TaskState]), help="Only those in this state.")
@click.option("--after", type=NUMBER, default=-1, help="Only those with a greater number: the next page.")
@_LIMIT
@desk_command
def task_list(desk: Desk, job_number: int, state: str | None, after: int, limit: int) -> None:
    """List tasks of the job JOB, by number."""
    only = TaskState(state) if state is not None else None
    with desk.database() as engine:
        operator = _operator(engine)
        found = job_views.tasks_of(engine, operator, JobId(job_number), {}, after=after, limit=limit, state=only)
    rows = [(one.number, one.label, one.state, len(one.replicas), one.accepted or one.reason) for one in found.tasks]
    text = table(("task", "what", "state", "replicas", "why"), rows, "no task is like that")
    if found.next_after is not None:
        text += f"\nmore: --after {found.next_after}"
    desk.answer(found, text)


@click.group()
def replica() -> None:
    """Attempts at tasks."""


@replica.command("list", epilog=example("xwgrid-admin replica list --job 12 --state outvoted"))
@click.option("--job", "job_number", type=NUMBER, help="Only of this job.")
@click.option("--task", "task_number", type=NUMBER, help="Only of the task of this number.")
@click.option("--host", "host_number", type=NUMBER, help="Only on this host.")
@click.option("--state", type=click.Choice([state.value for state in ReplicaState]), help="Only those in this state.")
@_LIMIT
@desk_command
def replica_list(
    desk: Desk,
    *,
    job_number: int | None,
    task_number: int | None,
    host_number: int | None,
    state: str | None,
    limit: int,
) -> None:
    """List attempts, the newest first."""
    wanted = {
        replicas.c.job_id: job_number,
        replicas.c.task: task_number,
        replicas.c.host_id: host_number,
        replicas.c.state: state,
    }
    query = (
        select(replicas, hosts.c.name.label("host_name"), users.c.name.label("owner"))
        .join_from(replicas, hosts, hosts.c.id == replicas.c.host_id)
        .join(users, users.c.id == hosts.c.owner_id)
        .where(*(column == value for column, value in wanted.items() if value is not None))
        .order_by(replicas.c.leased_at.desc(), replicas.c.id.desc())
        .limit(limit)
    )
    with desk.database() as engine, reading(engine) as connection:
        found = [
            ReplicaLine(
                replica=row.id,
                job=row.job_id,
                task=row.task,
                number=row.number,
                host=row.host_id,
                host_name=row.host_name,
                owner=row.owner,
                state=ReplicaState(row.state),
                leased_at=row.leased_at,
                ended_at=row.ended_at,
                seconds=row.seconds,
                cause=row.cause,
                message=row.message,
                fingerprint=row.fingerprint,
                audits=row.audits,
                strips=row.strips,
                differences=msgspec.json.decode(row.differences or "{}", type=dict[ReplicaId, float]),
                credit=row.credit,
                test=bool(row.is_test),
            )
            for row in connection.execute(query)
        ]
    rows = [
        (one.replica, one.job, one.task, _kind(one), f"{one.host_name} ({one.owner})", one.state, when(one.leased_at),
         one.cause, one.message, (one.fingerprint or "")[:12])
        for one in found
    ]  # fmt: skip
    headings = ("id", "job", "task", "kind", "host", "state", "leased", "cause", "message", "fingerprint")
    desk.answer(found, table(headings, rows, "no attempt is like that"))


def _kind(one: ReplicaLine) -> str:
    if one.audits is not None:
        return f"audit of {one.audits}"
    return "test" if one.test else "full"


def _operator(engine: Engine) -> UserId:
    for user in accounts.list_users(engine):
        if user.role == "operator":
            return user.id
    raise NotFound("there is no operator to look through the eyes of: xwgrid-admin user add NAME --operator")
