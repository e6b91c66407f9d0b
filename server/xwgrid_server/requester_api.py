"""The API port: what requesters, joining volunteers and browsers may ask. Mounted from the table in http_routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec import Struct
from sqlalchemy import Engine
from twisted.internet.defer import Deferred

from xwgrid import wire
from xwgrid.errors import NotFound, Unauthenticated
from xwgrid.model import Digest, Instant, JobId, JobRequest, ReplicaId, TaskNumber, UserId
from xwgrid_server import (
    accounts,
    application_versions,
    event_stream,
    http_answers,
    http_arguments,
    job_views,
    openapi,
    submission,
)
from xwgrid_server.accounts import User
from xwgrid_server.authority import Authority
from xwgrid_server.blob_files import BlobFiles, user_upload
from xwgrid_server.blob_rights import grant, still_missing, user_may_read, user_sent
from xwgrid_server.database import reading
from xwgrid_server.http_api_site import SMALL_BODY, ApiRequest
from xwgrid_server.http_bodies import AdmittedBody, MemoryBody
from xwgrid_server.http_landing_page import LANDING_PAGE
from xwgrid_server.http_routes import HTML, PEM, Route
from xwgrid_server.http_threads import Clock, Threads
from xwgrid_server.http_uploads import Destination, UploadBody, Uploads
from xwgrid_server.settings import Trust

T = TypeVar("T")


class Jobs(Protocol):
    """What is asked of the dispatcher."""

    @property
    def progress(self) -> Mapping[ReplicaId, float]:
        """How far running replicas are, 0 to 1."""

    def submit(self, owner: UserId, request: JobRequest, spec: Digest, blobs: Collection[Digest]) -> Deferred[JobId]:
        """Store a job and open it."""

    def cancel(self, user: UserId, job: JobId) -> Deferred[None]:
        """End a job."""

    def retry(self, user: UserId, job: JobId) -> Deferred[int]:
        """Open a job's failed tasks again."""

    def subscribe(self, job: JobId, listener: Callable[[frozenset[TaskNumber]], None]) -> Callable[[], None]:
        """Tell `listener` of changes; return how to stop that."""


class Limits(Struct, frozen=True, kw_only=True):
    """What the operator allows."""

    max_blob_bytes: int
    max_job_tasks: int
    trust: Trust = Trust()


class Call(Struct, frozen=True, kw_only=True):
    """One call, checked against its route: arguments are of their types, and `message` is of the body's."""

    request: ApiRequest
    user: User
    arguments: Mapping[str, Any]
    message: Any = None

    @property
    def job(self) -> JobId:
        """The job in the path."""
        return JobId(self.arguments["job"])


class Reply(Struct, frozen=True, kw_only=True):
    """An answer that is no JSON message."""

    body: bytes
    kind: str


_NOBODY = User(id=UserId(0), name="", role="requester", created_at=0.0)


class RequesterApi:
    """Answers the calls of the API port: each of its methods named by a route's `operation`.

    Methods return a message, a Reply, or None when they have answered by themselves.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        engine: Engine,
        jobs: Jobs,
        files: BlobFiles,
        uploads: Uploads,
        threads: Threads,
        authority: Authority,
        volunteer_url: str,
        limits: Limits,
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._jobs = jobs
        self._files = files
        self._uploads = uploads
        self._threads = threads
        self._authority = authority
        self._volunteer_url = volunteer_url
        self._limits = limits
        self._document = openapi.text().encode()

    # --- open to everybody --------------------------------------------------------------------------------------

    async def landing_page(self, _call: Call) -> Reply:
        """What this server is."""
        return Reply(body=LANDING_PAGE, kind=HTML)

    async def health(self, _call: Call) -> dict[str, str]:
        """The server is up."""
        return {"status": "ok"}

    async def document(self, _call: Call) -> Reply:
        """The OpenAPI document."""
        return Reply(body=self._document, kind="application/json")

    async def ca(self, _call: Call) -> Reply:
        """The CA's certificate."""
        return Reply(body=self._authority.pem.encode(), kind=PEM)

    async def enrol(self, call: Call) -> wire.EnrolAnswer:
        """Let a new volunteer's machine in."""
        enrolled = await self._run(accounts.enrol, self._engine, call.message, self._authority, self._now())
        keys = await self._run(application_versions.trusted_keys, self._engine)
        return wire.EnrolAnswer(
            host=enrolled.host,
            certificate_pem=enrolled.certificate_pem,
            ca_pem=self._authority.pem,
            volunteer_url=self._volunteer_url,
            application_keys=keys,
        )

    # --- blobs --------------------------------------------------------------------------------------------------

    async def whoami(self, call: Call) -> wire.UserView:
        """Whose token it is."""
        return wire.UserView(name=call.user.name, role=call.user.role)

    async def missing_blobs(self, call: Call) -> wire.DigestList:
        """What this user must still send."""

        def look() -> tuple[Digest, ...]:
            with reading(self._engine) as connection:
                return still_missing(connection, call.user.id, call.message.digests)

        return wire.DigestList(digests=await self._run(look))

    async def blob_state(self, call: Call) -> None:
        """How much of a blob is here."""
        digest: Digest = call.arguments["sha256"]

        def look() -> tuple[int | None, int]:
            name = user_upload(call.user.id, digest)
            return self._readable_size(call.user, digest), self._files.staged(name)

        size, staged = await self._run(look)
        put = call.request.responseHeaders.setRawHeaders
        if size is None:
            put("Upload-Offset", [str(staged)])
            http_answers.refuse(call.request, _no_such_blob(digest))
        else:
            http_answers.send_head(call.request, 200, size)

    async def read_blob(self, call: Call) -> None:
        """The bytes of a blob."""
        digest: Digest = call.arguments["sha256"]

        size = await self._run(self._readable_size, call.user, digest)
        if size is None:
            raise _no_such_blob(digest)
        file = await self._run(self._files.open, digest)
        await http_answers.send_blob(call.request, (self._uploads.threads, self._clock), file, size)

    async def send_blob(self, call: Call) -> None:
        """The bytes were taken as they came: only the answer is missing."""
        http_answers.send(call.request, 201, b"", kind=b"application/octet-stream")

    async def admit_blob(self, request: ApiRequest, digest: str) -> Destination | None:
        """Decide where a user's upload goes. Raises Unauthenticated or NotFound."""
        user = await self.authenticate(request)
        name = http_arguments.converted(digest, Digest, NotFound)

        def here() -> bool:
            with reading(self._engine) as connection:
                return user_sent(connection, user.id, name) and self._files.size(name) is not None

        def keep(size: int) -> None:
            with self._engine.begin() as connection:
                grant(connection, user.id, {name: size}, self._now())

        if await self._run(here):
            return None
        staging, room = user_upload(user.id, name), self._limits.max_blob_bytes
        return Destination(name=staging, digest=name, room=room, group="", keep=keep)

    def _readable_size(self, user: User, digest: Digest) -> int | None:
        with reading(self._engine) as connection:
            allowed = user_may_read(connection, user.id, digest)
        return self._files.size(digest) if allowed else None

    # --- jobs ---------------------------------------------------------------------------------------------------

    async def submit_job(self, call: Call) -> wire.JobView:
        """Check a job, pin its application version, and hand it to the dispatcher."""
        owner, limits = call.user.id, self._limits
        check = partial(submission.prepare, max_tasks=limits.max_job_tasks, trust=limits.trust, now=self._now())
        prepared = await self._run(check, self._engine, self._files, owner, call.message)
        job = await self._jobs.submit(owner, prepared.request, prepared.spec, prepared.blobs)
        call.request.responseHeaders.setRawHeaders("Location", [f"/v1/jobs/{job}"])
        return await self._view(call.user, job)

    async def list_jobs(self, call: Call) -> wire.JobList:
        """The newest jobs."""
        limit = call.arguments["limit"]
        return await self._run(job_views.jobs_of, self._engine, call.user.id, limit, self._jobs.progress)

    async def show_job(self, call: Call) -> wire.JobView:
        """A job as it stands."""
        return await self._view(call.user, call.job)

    async def list_tasks(self, call: Call) -> wire.TaskPage:
        """A page of tasks."""
        return await self._run(
            partial(
                job_views.tasks_of,
                self._engine,
                call.user.id,
                call.job,
                self._jobs.progress,
                after=call.arguments["after"],
                limit=call.arguments["limit"],
                state=call.arguments["state"],
                eventful=call.arguments["eventful"],
            )
        )

    async def show_task(self, call: Call) -> wire.TaskView:
        """One task."""
        number = TaskNumber(call.arguments["number"])
        return await self._run(job_views.task, self._engine, call.user.id, call.job, number, self._jobs.progress)

    async def cancel_job(self, call: Call) -> wire.JobView:
        """End a job."""
        await self._view(call.user, call.job)  # refuses those who may not see it
        await self._jobs.cancel(call.user.id, call.job)
        return await self._view(call.user, call.job)

    async def retry_job(self, call: Call) -> wire.JobView:
        """Open a job's failed tasks again."""
        await self._view(call.user, call.job)
        await self._jobs.retry(call.user.id, call.job)
        return await self._view(call.user, call.job)

    async def watch_job(self, call: Call) -> None:
        """A job's progress."""
        user, job = call.user, call.job

        def look(changed: frozenset[TaskNumber]) -> Deferred[wire.Event]:
            return self._run(self._event, user, job, changed, self._jobs.progress)

        await event_stream.stream(call.request, self._clock, lambda listener: self._jobs.subscribe(job, listener), look)

    def _view(self, user: User, job: JobId) -> Deferred[wire.JobView]:
        return self._run(job_views.job, self._engine, user.id, job, self._jobs.progress)

    def _event(
        self, user: User, job: JobId, changed: frozenset[TaskNumber], progress: Mapping[ReplicaId, float]
    ) -> wire.Event:
        job_views.job(self._engine, user.id, job, progress)  # refuses those who may not see it
        # The tasks before the job that is told: a client that sees it ended has seen its last tasks too.
        tasks = job_views.some_tasks(self._engine, job, sorted(changed), progress) if changed else ()
        return wire.Event(job=job_views.job(self._engine, user.id, job, progress), tasks=tuple(tasks))

    # --- from a request to a call -------------------------------------------------------------------------------

    async def answer(self, route: Route, request: ApiRequest, path: Mapping[str, str]) -> None:
        """Answer a call of this route."""
        if isinstance(request.body, AdmittedBody | UploadBody):
            await request.body.settled()
            if request.refusal is not None:
                return
        user = _NOBODY if route.open else request.caller or await self.authenticate(request)
        message = None
        if route.body is not None and not isinstance(route.body, str) and isinstance(request.body, MemoryBody):
            data = request.body.data()
            if len(data) > SMALL_BODY:
                message = await self._run(wire.decode, data, route.body)
            else:
                message = wire.decode(data, route.body)
        arguments = http_arguments.arguments(route, path, request.head.query)
        operation: Callable[[Call], Awaitable[Any]] = getattr(self, route.operation)
        result = await operation(Call(request=request, user=user, arguments=arguments, message=message))
        if request.deaf:
            return
        status = min(route.answers)
        if isinstance(result, Reply):
            http_answers.send(request, status, result.body, result.kind.encode())
        else:
            http_answers.send_json(request, status, result)

    async def authenticate(self, request: ApiRequest) -> User:
        """Return who is calling. Raises Unauthenticated."""
        scheme, _, token = (request.head.header("Authorization") or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("this call needs a token: send the header `Authorization: Bearer TOKEN`")
        request.caller = await self._run(accounts.authenticate, self._engine, token.strip(), self._now())
        return request.caller

    @property
    def uploads(self) -> Uploads:
        """The uploads in progress."""
        return self._uploads

    def _run(self, function: Callable[..., T], *arguments: Any) -> Deferred[T]:
        return self._threads.run(function, *arguments)

    def _now(self) -> Instant:
        return float(self._clock.seconds())


def _no_such_blob(digest: Digest) -> NotFound:
    return NotFound(f"there is no blob {digest} that you may read", digest=digest)
