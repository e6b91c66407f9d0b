"""The calls of the API port as one table: the routes are mounted from it, and the OpenAPI document is made from it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

from msgspec import Meta

from xwgrid import wire
from xwgrid.model import Digest, JobRequest, TaskState

# What a body or an answer is that is no JSON message.
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"
PEM = "application/x-pem-file"
HTML = "text/html; charset=utf-8"
DOCUMENT = "the OpenAPI document"

Content = type | str
_SMALL = 64 << 10

JobNumber = Annotated[int, Meta(ge=1, lt=1 << 62)]
TaskIndex = Annotated[int, Meta(ge=0, lt=1_000_000)]
Limit = Annotated[int, Meta(ge=1, le=1_000)]
After = Annotated[int, Meta(ge=-1, lt=1_000_000)]
ByteCount = Annotated[int, Meta(ge=0, lt=1 << 62)]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """Something asked for in the path, the query or a header."""

    name: str
    place: Literal["path", "query", "header"]
    kind: Any
    meaning: str
    default: Any = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One way a call can end well."""

    meaning: str
    content: Content | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Route:
    """One call. `operation` is the name of the method that answers it."""

    method: Literal["GET", "HEAD", "POST", "PUT"]
    path: str
    operation: str
    summary: str
    answers: Mapping[int, Answer]
    parameters: tuple[Parameter, ...] = ()
    body: Content | None = None
    body_limit: int = _SMALL  # bytes; of uploads the settings decide
    errors: tuple[int, ...] = ()  # statuses beside 400, 401 and 413
    open: bool = False  # needs no token

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """What the path must match, with a group for each of its parameters."""
        return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(self.path)))


_DIGEST = Parameter(name="sha256", place="path", kind=Digest, meaning="the blob's name: the SHA-256 of its bytes")
_JOB = Parameter(name="job", place="path", kind=JobNumber, meaning="the job's number")
_NUMBER = Parameter(name="number", place="path", kind=TaskIndex, meaning="the task's number, from 0")
_RANGE = Parameter(name="Range", place="header", kind=str, meaning="`bytes=A-` or `bytes=A-B`: only this part")
_OFFSET = Parameter(
    name="Upload-Offset", place="header", kind=ByteCount, meaning="at which byte this body begins", default=0
)
_LENGTH = Parameter(name="Upload-Length", place="header", kind=ByteCount, meaning="how many bytes the whole blob has")
_HERE = {"Upload-Offset": "how many bytes of it are here"}

ROUTES: tuple[Route, ...] = (
    Route(
        method="GET",
        path="/",
        operation="landing_page",
        summary="A page for people that says what this server is",
        answers={200: Answer(meaning="the page", content=HTML)},
        open=True,
    ),
    Route(
        method="GET",
        path="/healthz",
        operation="health",
        summary="Whether the server is up",
        answers={200: Answer(meaning="it is", content=dict[str, str])},
        open=True,
    ),
    Route(
        method="GET",
        path="/v1/openapi.json",
        operation="document",
        summary="This document",
        answers={200: Answer(meaning="the document", content=DOCUMENT)},
        open=True,
    ),
    Route(
        method="GET",
        path="/v1/ca",
        operation="ca",
        summary="The certificate of the server's certificate authority",
        answers={200: Answer(meaning="the certificate", content=PEM)},
        open=True,
    ),
    Route(
        method="POST",
        path="/v1/enrol",
        operation="enrol",
        summary="Join as a volunteer with a one-time token",
        body=wire.EnrolRequest,
        answers={200: Answer(meaning="the volunteer's certificate", content=wire.EnrolAnswer)},
        open=True,
    ),
    Route(
        method="GET",
        path="/v1/whoami",
        operation="whoami",
        summary="Who the token belongs to",
        answers={200: Answer(meaning="the user", content=wire.UserView)},
    ),
    Route(
        method="POST",
        path="/v1/blobs/missing",
        operation="missing_blobs",
        summary="Which of these blobs this user must still send",
        body=wire.DigestList,
        body_limit=8 << 20,  # 100,000 names of 67 bytes
        answers={200: Answer(meaning="those to be sent", content=wire.DigestList)},
    ),
    Route(
        method="HEAD",
        path="/v1/blobs/{sha256}",
        operation="blob_state",
        summary="How much of a blob is here",
        parameters=(_DIGEST,),
        answers={200: Answer(meaning="all of it, with its Content-Length")},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/blobs/{sha256}",
        operation="read_blob",
        summary="The bytes of a blob: one's own input, or a result of one's own job",
        parameters=(_DIGEST, _RANGE),
        answers={
            200: Answer(meaning="all bytes", content=BYTES),
            206: Answer(meaning="the part asked for", content=BYTES),
        },
        errors=(404, 416),
    ),
    Route(
        method="PUT",
        path="/v1/blobs/{sha256}",
        operation="send_blob",
        summary="Send a blob, or the rest of it",
        parameters=(_DIGEST, _OFFSET, _LENGTH),
        body=BYTES,
        answers={201: Answer(meaning="the blob is complete and right")},
        errors=(404, 409, 422, 507),
    ),
    Route(
        method="POST",
        path="/v1/jobs",
        operation="submit_job",
        summary="Hand in a job; its inputs have been sent before",
        body=JobRequest,
        body_limit=wire.MAX_JOB_BYTES,
        answers={201: Answer(meaning="the job", content=wire.JobView)},
        errors=(403, 404, 409, 507),
    ),
    Route(
        method="GET",
        path="/v1/jobs",
        operation="list_jobs",
        summary="The newest jobs",
        parameters=(Parameter(name="limit", place="query", kind=Limit, meaning="at most so many", default=100),),
        answers={200: Answer(meaning="jobs, the newest first", content=wire.JobList)},
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job}",
        operation="show_job",
        summary="A job as it stands",
        parameters=(_JOB,),
        answers={200: Answer(meaning="the job", content=wire.JobView)},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job}/tasks",
        operation="list_tasks",
        summary="A job's tasks with their attempts, in order of number",
        parameters=(
            _JOB,
            Parameter(name="after", place="query", kind=After, meaning="only tasks beyond this number", default=-1),
            Parameter(name="limit", place="query", kind=Limit, meaning="at most so many", default=100),
            Parameter(name="state", place="query", kind=TaskState, meaning="only tasks in this state"),
            Parameter(
                name="eventful",
                place="query",
                kind=bool,
                meaning="only tasks that failed, or one of whose attempts did not go well",
                default=False,
            ),
        ),
        answers={200: Answer(meaning="a page of tasks", content=wire.TaskPage)},
        errors=(404,),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job}/tasks/{number}",
        operation="show_task",
        summary="One task with its attempts and its result",
        parameters=(_JOB, _NUMBER),
        answers={200: Answer(meaning="the task", content=wire.TaskView)},
        errors=(404,),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{job}/cancel",
        operation="cancel_job",
        summary="End a job; nothing of it is computed any more",
        parameters=(_JOB,),
        answers={200: Answer(meaning="the job", content=wire.JobView)},
        errors=(404, 409),
    ),
    Route(
        method="POST",
        path="/v1/jobs/{job}/retry",
        operation="retry_job",
        summary="Open a job's failed tasks again",
        parameters=(_JOB,),
        answers={200: Answer(meaning="the job", content=wire.JobView)},
        errors=(404, 409),
    ),
    Route(
        method="GET",
        path="/v1/jobs/{job}/events",
        operation="watch_job",
        summary="A job's progress as server-sent events, `event: job` with an Event as data, until the job has ended",
        parameters=(_JOB,),
        answers={200: Answer(meaning="the events; the first tells the present state", content=EVENTS)},
        errors=(404,),
    ),
)


def klein_path(route: Route) -> str:
    """Return a route's path as klein writes it."""
    return re.sub(r"{(\w+)}", r"<\1>", route.path)
