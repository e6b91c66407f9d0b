"""Calls to the server's API port. docs/protocol.md says what each of them means."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from xwgrid import tokens, wire
from xwgrid.errors import GridError, Unauthenticated, Unavailable
from xwgrid.model import JobId, JobRequest, JobSpec, JobState, TaskNumber, TaskState
from xwgrid.requester.settings import Credentials

T = TypeVar("T")

ENDED = frozenset({JobState.FINISHED, JobState.INCOMPLETE, JobState.CANCELLED})
# One DigestList names at most 100,000 blobs; smaller questions are answered sooner.
_DIGESTS_A_CALL = 10_000
_TASKS_A_PAGE = 500
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 60.0
# Between two attempts to come back to a server that went away.
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 10.0


class GridClient:
    """One user's view of one server. May be used from several threads.

    Every method raises the GridError that the server answered with, or Unavailable when there was no answer.
    """

    def __init__(self, credentials: Credentials, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.url = credentials.token.url
        self.pause = pause
        context = ssl.create_default_context(cadata=credentials.ca_pem)
        self.http = _http(self.url, context, {"Authorization": f"Bearer {credentials.token.text()}"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self.http.close()

    def whoami(self) -> wire.UserView:
        """Return who this token belongs to."""
        return self._call("GET", "/v1/whoami", wire.UserView)

    def missing(self, digests: Sequence[str]) -> tuple[str, ...]:
        """Return those of `digests` that this user must still send."""
        answer: list[str] = []
        for start in range(0, len(digests), _DIGESTS_A_CALL):
            asked = wire.DigestList(digests=tuple(digests[start : start + _DIGESTS_A_CALL]))
            answer.extend(self._call("POST", "/v1/blobs/missing", wire.DigestList, asked).digests)
        return tuple(answer)

    def submit(self, request: JobRequest) -> wire.JobView:
        """Hand in a job whose blobs are all there."""
        return self._call("POST", "/v1/jobs", wire.JobView, request)

    def jobs(self, limit: int = 50) -> wire.JobList:
        """Return the newest jobs."""
        return self._call("GET", f"/v1/jobs?limit={limit}", wire.JobList)

    def job(self, job: JobId) -> wire.JobView:
        """Return a job as it stands."""
        return self._call("GET", f"/v1/jobs/{job}", wire.JobView)

    def tasks(self, job: JobId, state: TaskState | None = None, *, eventful: bool = False) -> Iterator[wire.TaskView]:
        """Yield a job's tasks in order of number, page by page; with `eventful` those with something to tell."""
        after: int | None = None
        while True:
            place = "" if after is None else f"&after={after}"
            wanted = "" if state is None else f"&state={state.value}"
            wanted += "&eventful=true" if eventful else ""
            page = self._call("GET", f"/v1/jobs/{job}/tasks?limit={_TASKS_A_PAGE}{place}{wanted}", wire.TaskPage)
            yield from page.tasks
            if page.next_after is None:
                return
            after = page.next_after

    def task(self, job: JobId, number: TaskNumber) -> wire.TaskView:
        """Return one task."""
        return self._call("GET", f"/v1/jobs/{job}/tasks/{number}", wire.TaskView)

    def specification(self, job: wire.JobView) -> JobSpec:
        """Return the document the volunteers work from."""
        return self._call("GET", f"/v1/blobs/{job.spec}", JobSpec)

    def cancel(self, job: JobId) -> wire.JobView:
        """End a job; nothing of it is rendered any more."""
        return self._call("POST", f"/v1/jobs/{job}/cancel", wire.JobView)

    def retry(self, job: JobId) -> wire.JobView:
        """Open a job's failed tasks again."""
        return self._call("POST", f"/v1/jobs/{job}/retry", wire.JobView)

    def document(self) -> dict[str, Any]:
        """Return the server's OpenAPI document."""
        return self._call("GET", "/v1/openapi.json", dict)

    def events(self, job: JobId, lost: Callable[[GridError], None] | None = None) -> Iterator[wire.Event]:
        """Yield a job's events until it has ended, the present state first.

        When the connection breaks or the server is away, `lost` is told why, and the stream begins anew (with the
        state of that time) as soon as the server is back.
        """
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                for event in self._stream(job):
                    pause = _FIRST_PAUSE_SECONDS
                    yield event
                    if event.job.state in ENDED:
                        return
            except Unavailable as error:
                if lost is not None:
                    lost(error)
            self.pause(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    @contextlib.contextmanager
    def open(self, method: str, path: str, **arguments: Any) -> Iterator[httpx.Response]:
        """Send a request and yield its answer, whose body is still to be read; connection faults become Unavailable."""
        try:
            with self.http.stream(method, path, **arguments) as response:
                yield response
        except httpx.TransportError as error:
            raise connection_fault(self.url, error) from error

    def _stream(self, job: JobId) -> Iterator[wire.Event]:
        headers = {"Accept": "text/event-stream"}
        with self.open("GET", f"/v1/jobs/{job}/events", headers=headers) as response:
            refuse(response)
            data: list[str] = []
            for line in response.iter_lines():
                if line.startswith("data:"):
                    data.append(line[5:].removeprefix(" "))
                elif not line and data:
                    yield wire.decode("\n".join(data), wire.Event)
                    data = []

    def _call(self, method: str, path: str, kind: type[T], message: Any = None) -> T:
        content = None if message is None else wire.encode(message)
        headers = {} if message is None else {"Content-Type": "application/json"}
        with self.open(method, path, content=content, headers=headers) as response:
            refuse(response)
            return wire.decode(response.read(), kind)


def refuse(response: httpx.Response) -> None:
    """Raise the GridError a response stands for, unless it is a success."""
    if not response.is_success:
        raise wire.error_from_body(response.read(), response.status_code)


def connection_fault(url: str, error: httpx.TransportError) -> GridError:
    """Return the sentence for a connection that failed."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unauthenticated(
            f"the server at {url} is not the one you logged in to (its certificate is not of that CA, or has expired); "
            "nothing was sent to it. If the server was set up anew, ask its operator for a new token: xwgrid login",
            url=url,
        )
    return Unavailable(
        f"the server at {url} cannot be reached ({str(error) or type(error).__name__}): "
        "nothing is lost, try again later",
        url=url,
    )


def first_contact(token: tokens.Token) -> Credentials:
    """Fetch the server's CA certificate and check that it is the one the token names.

    The connection is not verified by TLS, so nothing secret travels on it: the token's hash of the CA's key is what
    tells the server from another. Raises Unauthenticated or Unavailable.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with _http(token.url, context, {}) as http:
        try:
            response = http.get("/v1/ca")
        except httpx.TransportError as error:
            raise connection_fault(token.url, error) from error
        refuse(response)
        tokens.check_ca(response.text, token)
        return Credentials(token=token, ca_pem=response.text)


def _http(url: str, context: ssl.SSLContext, headers: dict[str, str]) -> httpx.Client:
    # A proxy of the house cannot reach this machine's own addresses for us.
    own = {f"all://{name}": httpx.HTTPTransport(verify=context) for name in ("127.0.0.1", "localhost", "[::1]")}
    return httpx.Client(
        base_url=url,
        verify=context,
        # Blobs are taken up in the middle, so they travel as they are.
        headers={"Accept-Encoding": "identity", **headers},
        timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
        mounts=own,
    )
