"""Calibration: reference frames of two classes, from the hosts that render them to the tolerance. Functions block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from sqlalchemy import Engine, and_, select
from xwgrid_schema.tables import jobs, replicas, tasks

from xwgrid import wire
from xwgrid.applications import reference_frames, registry
from xwgrid.errors import BadInput, Conflict, NotFound
from xwgrid.model import (
    Instant,
    JobId,
    JobRequest,
    JobSpec,
    JobState,
    ResultFile,
    Seconds,
    TaskNumber,
)
from xwgrid.splitting import arguments, task_count
from xwgrid.tolerances import Distance
from xwgrid.wire import HostView
from xwgrid_server import accounts, application_versions, job_views
from xwgrid_server.accounts import User
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.blob_rights import grant
from xwgrid_server.database import reading

# Classes are those of hosts that called within this time.
LATELY: Final[Seconds] = 86_400.0
# Two who agree: a single host could render whatever it likes, and its class would be measured by that.
_WANTED_QUORUM: Final = 2
# Jobs of the operator that are looked through for renderings made before.
_JOBS_LOOKED_THROUGH: Final = 1_000
_USEFUL: Final = (JobState.ENTERING, JobState.OPEN, JobState.FINISHED)

Submit: TypeAlias = Callable[[JobRequest], JobId]
# The distance between two results of one task, each by its files' names, read where strangers' files may be read.
Measure: TypeAlias = Callable[[JobRequest, TaskNumber, Mapping[str, Path], Mapping[str, Path]], Distance]


class ClassSeen(Struct, frozen=True, kw_only=True):
    """A class of results, and whose hosts of it called lately."""

    name: str
    owners: tuple[str, ...]  # others than the operator
    own_hosts: int  # the operator's

    @property
    def private(self) -> bool:
        """Whether only the operator's own hosts can render for the operator."""
        return not self.owners

    @property
    def voters(self) -> int:
        """How many can vote on frames of this class: other owners, or where there are none the operator's hosts."""
        return len(self.owners) or self.own_hosts


class Rendering(Struct, frozen=True, kw_only=True):
    """The job that has the reference frames rendered by one class."""

    result_class: str
    job: JobId
    request: JobRequest


class Stand(Struct, frozen=True, kw_only=True):
    """How far a rendering is."""

    agreed: int
    of: int
    running: int
    state: JobState
    reason: str | None


def check_application(name: str) -> str:
    """Return an application that can be calibrated. Raises BadInput for one that is none, or needs no tolerance."""
    if registry.application(name).reads != "pictures":
        raise BadInput(f"results of '{name}' are equal on all hosts: there is nothing to calibrate", application=name)
    return name


def classes_seen(hosts: Sequence[HostView], operator: User, runtime: str, now: Instant) -> dict[str, ClassSeen]:
    """Return the classes of hosts that called lately and may work, by name."""
    owners: dict[str, set[str]] = {}
    own: dict[str, int] = {}
    for host in hosts:
        if host.state != "active" or host.facts is None or (host.last_seen_at or 0.0) < now - LATELY:
            continue
        for name in {program.result_class for program in host.facts.programs if program.runtime == runtime}:
            others = owners.setdefault(name, set())
            if host.owner == operator.name:
                own[name] = own.get(name, 0) + 1
            else:
                others.add(host.owner)
    return {
        name: ClassSeen(name=name, owners=tuple(sorted(owners[name])), own_hosts=own.get(name, 0))
        for name in sorted(owners)
    }


def chosen_classes(seen: Mapping[str, ClassSeen], wanted: Sequence[str]) -> tuple[ClassSeen, ...]:
    """Return the classes an operator names, by the whole name or a part that only one has; all where none is named.

    Raises BadInput when a name fits none or several, when two are the same, or when there are not two at all.
    """
    found = [_chosen(seen, text) for text in wanted] if wanted else list(seen.values())
    if len({each.name for each in found}) < 2:
        there = ", ".join(f"'{name}'" for name in seen) or "none"
        raise BadInput(f"two classes are needed to measure them against each other; seen today: {there}")
    return tuple(found)


def _chosen(seen: Mapping[str, ClassSeen], text: str) -> ClassSeen:
    if text in seen:
        return seen[text]
    fitting = [each for name, each in seen.items() if text in name]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"'{each.name}'" for each in fitting or seen.values()) or "none"
    what = "fits several classes" if fitting else "is no class whose hosts called today"
    raise BadInput(f"'{text[:200]}' {what}: {listed}", classes=[each.name for each in fitting])


# --- renderings -------------------------------------------------------------------------------------------------


class Renderings:
    """The reference frames of classes, as jobs of the operator: found when they were handed in before, else made."""

    def __init__(self, engine: Engine, files: BlobFiles, operator: User, submit: Submit) -> None:
        self._engine = engine
        self._files = files
        self._operator = operator
        self._submit = submit

    def of(self, seen: ClassSeen, *, again: bool, now: Instant) -> Rendering:
        """Return the rendering of a class; `again` hands in a new one whatever there is. Raises GridError."""
        quorum = min(_WANTED_QUORUM, seen.voters)
        request = reference_frames.reference_job(seen.name, quorum=quorum, private=seen.private)
        found = None if again else self._made_before(request)
        if found is not None:
            return found
        data = reference_frames.scene()
        digest = self._files.add(data)
        with self._engine.begin() as connection:
            grant(connection, self._operator.id, {digest: len(data)}, now)
        return Rendering(result_class=seen.name, job=self._submit(request), request=request)

    def stand(self, rendering: Rendering) -> Stand:
        """Return how far a rendering is. Raises Conflict when it came to nothing."""
        view = job_views.job(self._engine, self._operator.id, rendering.job, {})
        if view.state not in _USEFUL:
            raise Conflict(
                f"the reference frames of '{rendering.result_class}' (job {view.id}) are {view.state.value}"
                f"{': ' + view.reason if view.reason else ''}. `xwgrid-admin task list {view.id}` says more; "
                "run this again to have them rendered anew",
                job=view.id,
            )
        return Stand(agreed=view.agreed, of=view.tasks, running=view.running, state=view.state, reason=view.reason)

    def _made_before(self, request: JobRequest) -> Rendering | None:
        """Return the newest job that has the same frames rendered by the same class and program, the ended first."""
        signed = application_versions.newest(self._engine, registry.application_of(request).name)
        query = (
            select(jobs.c.id, jobs.c.spec, jobs.c.state)
            .where(jobs.c.owner_id == self._operator.id, jobs.c.name == request.name)
            .where(jobs.c.state.in_([state.value for state in _USEFUL]))
            .order_by((jobs.c.state == JobState.FINISHED.value).desc(), jobs.c.id.desc())
            .limit(_JOBS_LOOKED_THROUGH)
        )
        with reading(self._engine) as connection:
            rows = connection.execute(query).all()
        for row in rows:
            try:
                made = wire.decode(self._files.path(row.spec).read_bytes(), JobSpec)
            except OSError:
                continue
            if made.application == signed and _of_pixels(made.request) == _of_pixels(request):
                return Rendering(result_class=str(request.result_class), job=JobId(row.id), request=made.request)
        return None


def _of_pixels(request: JobRequest) -> JobRequest:
    """Return a request without what changes no pixel: who votes, and how many."""
    return replace(request, replicas=1, quorum=1, private=False, policy=None, policy_note="")


# --- measuring --------------------------------------------------------------------------------------------------


class Accepted:
    """The files of a rendering's accepted results, by task."""

    def __init__(self, engine: Engine, files: BlobFiles, rendering: Rendering) -> None:
        query = (
            select(tasks.c.number, replicas.c.files)
            .join(replicas, and_(replicas.c.job_id == tasks.c.job_id, replicas.c.id == tasks.c.canonical_replica))
            .where(tasks.c.job_id == rendering.job)
        )
        with reading(engine) as connection:
            rows = connection.execute(query).all()
        self.request = rendering.request
        self._job = rendering.job
        self._found = {row.number: msgspec.json.decode(row.files, type=tuple[ResultFile, ...]) for row in rows}
        self._files = files

    def paths(self, number: TaskNumber) -> dict[str, Path]:
        """Return where the files of a task's result lie, by name. Raises NotFound when they are not here any more."""
        found = {file.name: self._files.path(file.sha256) for file in self._found.get(number, ())}
        if not found or not all(path.is_file() for path in found.values()):
            raise NotFound(
                f"the result of task {number} of job {self._job} is not on this server any more: "
                "have the frames rendered again (--again)",
                job=self._job,
            )
        return found


def distances(one: Accepted, other: Accepted, measure: Measure) -> dict[str, list[Distance]]:
    """Return how far the reference frames of two classes are apart, by kind. Raises GridError."""
    request = one.request
    found: dict[str, list[Distance]] = {}
    for number in map(TaskNumber, range(task_count(request.split))):
        distance = measure(request, number, one.paths(number), other.paths(number))
        found.setdefault(reference_frames.kind_of(int(arguments(request, number)["frame"])), []).append(distance)
    return found


def operator_of(engine: Engine) -> User:
    """Return the user in whose name the frames are rendered: the first operator. Raises NotFound."""
    for user in accounts.list_users(engine):
        if user.role == "operator":
            return user
    raise NotFound("there is no operator to hand the frames in: xwgrid-admin user add NAME --operator")
