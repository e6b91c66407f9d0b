"""Jobs and tasks as their owners see them. Reading functions: each one transaction, nothing is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import structs
from sqlalchemy import Connection, Engine, Row, Select, and_, exists, or_, select
from xwgrid_schema.tables import hosts, jobs, replicas, tasks, users

from xwgrid.applications.registry import delivered_names
from xwgrid.errors import NotFound
from xwgrid.grounds import Decided, grounds
from xwgrid.lifecycle import LIVE, UNEVENTFUL
from xwgrid.model import (
    Cause,
    Fixed,
    JobId,
    JobRequest,
    JobState,
    ReplicaId,
    ReplicaState,
    ResultFile,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.policies import policy_of, quorum_of
from xwgrid.splitting import label
from xwgrid.wire import JobList, JobView, ReplicaView, TaskPage, TaskView
from xwgrid_server import job_store_rows as rows_of
from xwgrid_server.database import reading
from xwgrid_server.verdicts import AUDITED_AGAIN

MOST_PER_PAGE: Final = 1_000

_JOB: Final = (
    jobs.c.id, jobs.c.name, jobs.c.owner_id, users.c.name.label("owner"), jobs.c.application, jobs.c.state,
    jobs.c.tasks, jobs.c.agreed, jobs.c.failed, jobs.c.leased, jobs.c.outvoted, jobs.c.lost, jobs.c.timed,
    jobs.c.seconds, jobs.c.created_at, jobs.c.finished_at, jobs.c.spec, jobs.c.private, jobs.c.request,
)  # fmt: skip
_DISAPPOINTED: Final = exists().where(
    replicas.c.job_id == tasks.c.job_id, replicas.c.task == tasks.c.number, replicas.c.state.not_in(UNEVENTFUL)
)


def job(engine: Engine, user: UserId, job_id: JobId, progress: Mapping[ReplicaId, float]) -> JobView:
    """Return a job. Raises NotFound when there is none that this user may see."""
    with reading_for(engine, user) as view:
        return _job(view.connection, view.job(job_id), progress)


def jobs_of(engine: Engine, user: UserId, limit: int, progress: Mapping[ReplicaId, float]) -> JobList:
    """Return the newest jobs this user may see, at most `limit`."""
    with reading_for(engine, user) as view:
        query = view.mine(select(*_JOB).join(users, users.c.id == jobs.c.owner_id)).order_by(jobs.c.id.desc())
        rows = view.connection.execute(query.limit(min(limit, MOST_PER_PAGE))).all()
        return JobList(jobs=tuple(_job(view.connection, row, progress) for row in rows))


def task(
    engine: Engine, user: UserId, job_id: JobId, number: TaskNumber, progress: Mapping[ReplicaId, float]
) -> TaskView:
    """Return a task with its attempts. Raises NotFound."""
    with reading_for(engine, user) as view:
        found = view.job(job_id)
        query = select(tasks).where(tasks.c.job_id == job_id, tasks.c.number == number)
        views = _tasks(view.connection, found, view.connection.execute(query).all(), progress)
        if not views:
            raise NotFound(f"job {job_id} has no task {number}: it has tasks 0 to {found.tasks - 1}", task=number)
        return views[0]


def tasks_of(
    engine: Engine,
    user: UserId,
    job_id: JobId,
    progress: Mapping[ReplicaId, float],
    *,
    after: int = -1,
    limit: int = MOST_PER_PAGE,
    state: TaskState | None = None,
    eventful: bool = False,
) -> TaskPage:
    """Return tasks in order of number, those after number `after`.

    `eventful` leaves out those that did not fail and none of whose attempts was other than hoped for: of a million
    tasks a person reads only the others. Raises NotFound.
    """
    limit = max(1, min(limit, MOST_PER_PAGE))
    query = select(tasks).where(tasks.c.job_id == job_id, tasks.c.number > after).order_by(tasks.c.number)
    if state is not None:
        query = query.where(tasks.c.state == state)
    if eventful:
        told = or_(_DISAPPOINTED, tasks.c.accepted_before.is_not(None))
        query = query.where(or_(tasks.c.state == TaskState.FAILED, and_(tasks.c.made > 0, told)))
    with reading_for(engine, user) as view:
        found = view.job(job_id)
        rows = view.connection.execute(query.limit(limit + 1)).all()
        more = len(rows) > limit
        page = rows[:limit]
        views = _tasks(view.connection, found, page, progress)
    return TaskPage(tasks=tuple(views), next_after=page[-1].number if more else None)


def some_tasks(
    engine: Engine, job_id: JobId, numbers: Sequence[TaskNumber], progress: Mapping[ReplicaId, float]
) -> list[TaskView]:
    """Return the tasks named, of a job whose owner is asking: for the stream of events."""
    query = select(tasks).where(tasks.c.job_id == job_id, tasks.c.number.in_(numbers)).order_by(tasks.c.number)
    with reading(engine) as connection:
        row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one()
        return _tasks(connection, row, connection.execute(query).all(), progress)


class reading_for:  # noqa: N801  # reads as a word: `with reading_for(engine, user) as view`
    """A reading transaction that knows what its user may see: their own jobs; an operator, all."""

    def __init__(self, engine: Engine, user: UserId) -> None:
        self._transaction = reading(engine)
        self._user = user
        self.connection: Connection

    def __enter__(self) -> reading_for:
        self.connection = self._transaction.__enter__()
        role = self.connection.execute(select(users.c.role).where(users.c.id == self._user)).scalar_one_or_none()
        self._sees_all = role == "operator"
        return self

    def __exit__(self, *error: Any) -> None:
        self._transaction.__exit__(*error)

    def mine(self, query: Select[Any]) -> Select[Any]:
        """Narrow a query over jobs to what the user may see."""
        return query if self._sees_all else query.where(jobs.c.owner_id == self._user)

    def job(self, job_id: JobId) -> Row[Any]:
        """Return a job's row. Raises NotFound."""
        query = self.mine(select(*_JOB).join(users, users.c.id == jobs.c.owner_id).where(jobs.c.id == job_id))
        row = self.connection.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"you have no job {job_id}: `xwgrid jobs` lists yours", job=job_id)
        return row


def _job(connection: Connection, row: Row[Any], progress: Mapping[ReplicaId, float]) -> JobView:
    request = msgspec.json.decode(row.request, type=JobRequest)
    live = connection.execute(
        select(replicas.c.id, replicas.c.task, replicas.c.audits).where(
            replicas.c.job_id == row.id, replicas.c.state == "leased", replicas.c.is_test.is_(False)
        )
    ).all()
    full = [lease.id for lease in live if lease.audits is None]
    running = len({lease.task for lease in live})
    state = JobState(row.state)
    return JobView(
        id=row.id,
        name=row.name,
        owner=row.owner,
        application=row.application,
        state=state,
        tasks=row.tasks,
        agreed=row.agreed,
        failed=row.failed,
        running=running,
        replicas=row.leased,
        outvoted=row.outvoted,
        lost=row.lost,
        created_at=row.created_at,
        finished_at=row.finished_at,
        quorum=request.quorum,
        spec=row.spec,
        private=row.private,
        seconds_left=_seconds_left(row, request, [progress[each] for each in full if each in progress]),
        reason=_reason(connection, row, request, state, running),
        policy=policy_of(request),
        policy_note=request.policy_note,
        deadline=request.deadline,
    )


def _seconds_left(row: Row[Any], request: JobRequest, done: Sequence[float]) -> float | None:
    """Return the time left: the mean time of its results so far, over as many replicas as are being worked on."""
    if row.finished_at is not None or not done or not row.timed:
        return None
    replicas_a_task = request.quorum if isinstance(policy_of(request), Fixed) else 1
    left: float = (row.tasks - row.agreed - row.failed) * replicas_a_task - sum(done)
    mean: float = row.seconds / row.timed
    return max(0.0, left * mean / len(done))


def _reason(connection: Connection, row: Row[Any], request: JobRequest, state: JobState, running: int) -> str | None:
    if state is JobState.ENTERING:
        return "its tasks are being written down"
    if state is JobState.INCOMPLETE:
        failed = f"{row.failed} of {row.tasks} tasks failed"
        return f"{failed}; `xwgrid show {row.id}` says why, `xwgrid retry {row.id}` tries again"
    if state is JobState.OPEN and not running:
        return f"it waits{_awaited(connection, row, quorum_of(request))}"
    return None


def _awaited(connection: Connection, row: Row[Any], quorum: int) -> str:
    """Return what an open job waits for: its own hosts where it is private, else those of as many others as vote."""
    query = select(hosts.c.owner_id).where(hosts.c.last_seen_at.is_not(None)).distinct()
    seen = set(connection.execute(query).scalars())
    own = row.owner_id in seen
    others = len(seen - {row.owner_id})
    if not seen:
        return ": no volunteer has called this server yet"
    if row.private:
        return " for one of your own machines" if own else ": none of your own machines has called this server yet"
    if not others:
        return ": only your own machines are about, and they take none of your public jobs; --private gives it to them"
    if others < quorum:
        return f" for machines of more owners: its checks need {quorum} beside you, and {others} called so far"
    return " for a volunteer that can take it"


def _tasks(
    connection: Connection, row: Row[Any], found: Sequence[Row[Any]], progress: Mapping[ReplicaId, float]
) -> list[TaskView]:
    if not found:
        return []
    request = msgspec.json.decode(row.request, type=JobRequest)
    query = (
        select(replicas, hosts.c.name.label("host"))
        .join(hosts, hosts.c.id == replicas.c.host_id)
        .where(replicas.c.job_id == row.id, replicas.c.task.in_([each.number for each in found]))
        .order_by(replicas.c.id)
    )
    attempts: defaultdict[int, list[Row[Any]]] = defaultdict(list)
    for attempt in connection.execute(query):
        attempts[attempt.task].append(attempt)
    return [_task(request, each, attempts[each.number], progress) for each in found]


def _task(
    request: JobRequest, row: Row[Any], attempts: Sequence[Row[Any]], progress: Mapping[ReplicaId, float]
) -> TaskView:
    state = TaskState(row.state)
    view = TaskView(
        job=row.job_id,
        number=row.number,
        label=label(request, row.number),
        state=state,
        reason=row.reason,
        # A test under way is not shown: its answer is here already, and who saw it could pass it on.
        replicas=tuple(_replica(each, state, progress) for each in attempts if not (each.is_test and _is_out(each))),
    )
    if row.accepted_before is not None:
        reason = row.reason or (AUDITED_AGAIN if state is TaskState.OPEN else "")
        view = structs.replace(view, accepted_before=row.accepted_before, reason=reason)
    if state is TaskState.OPEN:
        return view
    view = structs.replace(view, undrawn=row.undrawn)
    if state is not TaskState.AGREED:
        return view
    canonical = next(attempt for attempt in attempts if attempt.id == row.canonical_replica)
    decided = Decided(
        policy=policy_of(request),
        private=request.private,
        attempts=[rows_of.attempt(each) for each in attempts],
        accepted_before=row.accepted_before,
        undrawn=row.undrawn,
    )
    files = msgspec.json.decode(canonical.files, type=tuple[ResultFile, ...])
    delivered = delivered_names(request, row.number)
    return structs.replace(
        view,
        value=canonical.value,
        files=tuple(file for file in files if file.name in delivered),
        accepted=grounds(decided),
    )


def _is_out(row: Row[Any]) -> bool:
    """Say whether it is not known yet what a replica is worth."""
    return ReplicaState(row.state) in LIVE | {ReplicaState.VOTING}


def _replica(row: Row[Any], task_state: TaskState, progress: Mapping[ReplicaId, float]) -> ReplicaView:
    view = ReplicaView(
        replica=row.id,
        number=row.number,
        host=row.host,
        state=ReplicaState(row.state),
        leased_at=row.leased_at,
        ended_at=row.ended_at,
        done=progress.get(row.id),
        cause=None if row.cause is None else Cause(row.cause),
        message=row.message,
        result_class=row.result_class,
    )
    undecided = task_state is TaskState.OPEN
    if not (undecided and _is_out(row)):
        view = structs.replace(view, seconds=row.seconds, log_tail=row.log_tail)
    if undecided:
        # Before the verdict votes are secret: who knew a ballot could send it along without rendering, and who knew
        # where an audit looks could be right there alone.
        return view
    differed = None
    if row.audits is not None and row.differences is not None:
        differed = msgspec.json.decode(row.differences, type=dict[ReplicaId, float]).get(row.audits)
    return structs.replace(
        view,
        fingerprint=row.fingerprint,
        audits=row.audits,
        strips=row.strips,
        differed=differed,
        test=bool(row.is_test),
    )
