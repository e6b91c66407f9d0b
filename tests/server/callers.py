"""Those who call the server's two ports, by plain HTTP and nothing of our own clients."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import httpx
from xwgrid_server import accounts

from tests.grid import Grid
from tests.server.certificates import key_pem, new_key, signing_request
from tests.server.small_grid import facts
from xwgrid import wire
from xwgrid.model import Count, DigestWork, Fixed, InputFile, JobRequest, Limits, UserId
from xwgrid.wire import Held, Lease, WorkAnswer, WorkRequest

T = TypeVar("T")

BLOB_LIMIT = 8 << 20
_numbers = itertools.count(1)


def digest(data: bytes) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(data).hexdigest()


def noise(size: int) -> bytes:
    """Return bytes that nobody sent before."""
    seed = b"%d" % next(_numbers)
    return hashlib.shake_256(seed).digest(size)


def pieces(data: bytes, size: int = 50_000) -> Iterator[bytes]:
    """Yield data piece by piece, so that httpx declares no length."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Caller:
    """A client of one port with its own TLS context. Close it, or use it in `with`."""

    def __init__(self, url: str, context: ssl.SSLContext, headers: dict[str, str]) -> None:
        self.url = url
        self.context = context
        self.headers = headers
        self.http = httpx.Client(base_url=url, verify=context, headers=headers, timeout=30, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.http.close()

    def connect(self) -> ssl.SSLSocket:
        """Return a bare connection, for what httpx is too well behaved to send."""
        address = urlsplit(self.url)
        bare = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
        return self.context.wrap_socket(bare, server_hostname=address.hostname)

    def cut(self, data: bytes) -> None:
        """Send these bytes over a connection that then ends, in the middle of whatever it is."""
        with self.connect() as connection:
            connection.sendall(data)
            # Only the sending half: closing both at once may overtake the bytes that are on their way.
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while connection.recv(1_000):
                    pass

    def head(self, method: str, path: str, **headers: object) -> bytes:
        """Return the bytes of a request's head; underscores in names of headers stand for hyphens."""
        named = {"Host": "grid", **self.headers, **{name.replace("_", "-"): value for name, value in headers.items()}}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode()

    def put(self, path: str, content: Any, **headers: object) -> httpx.Response:
        """Send a body."""
        return self.http.put(
            path, content=content, headers={name.replace("_", "-"): str(value) for name, value in headers.items()}
        )

    def offset(self, path: str) -> int | None:
        """Return how many bytes of an upload are here, None when all are."""
        answer = self.http.head(path)
        return None if answer.status_code == 200 else int(answer.headers["Upload-Offset"])

    def offset_when(self, path: str, least: int) -> int:
        """Return the offset as soon as it is at least so much: the server writes in its own time."""
        deadline = time.monotonic() + 30
        while (found := self.offset(path) or 0) < least:
            assert time.monotonic() < deadline, f"{found} bytes of {path} were kept, not {least}"
        return found

    def finish(self, path: str, data: bytes, offset: int) -> httpx.Response:
        """Send the rest of an upload that was cut; what was on its way at the cut may still have been written."""
        answer = self.put(path, data[offset:], Upload_Offset=offset, Upload_Length=len(data))
        if answer.status_code == 409:
            offset = int(answer.headers["Upload-Offset"])
            answer = self.put(path, data[offset:], Upload_Offset=offset, Upload_Length=len(data))
        return answer


class Requester(Caller):
    """Somebody with a token of their own."""

    def __init__(self, grid: Grid, role: accounts.Role = "requester") -> None:
        self.grid = grid
        self.name = f"requester {next(_numbers)}"
        grid.add_user(self.name, role)
        self.id: UserId = accounts.user_named(grid.engine, self.name).id
        self.token = grid.token("requester", self.name)
        context = ssl.create_default_context(cadata=grid.authority.pem)
        super().__init__(api_url(grid), context, {"Authorization": f"Bearer {self.token}"})

    def send(self, data: bytes) -> InputFile:
        """Send a blob and return it as an input of a job."""
        name = digest(data)
        answer = self.put(f"/v1/blobs/{name}", data)
        assert answer.status_code == 201, answer.text
        return InputFile(path=f"inputs/{name}", sha256=name, size=len(data))

    def submit(self, request: JobRequest) -> wire.JobView:
        """Hand in a job."""
        answer = self.http.post("/v1/jobs", content=wire.encode(request))
        assert answer.status_code == 201, answer.text
        return wire.decode(answer.content, wire.JobView)


class Machine(Caller):
    """A volunteer's machine of a requester: a certificate of its own, and calls that count up."""

    def __init__(self, owner: Requester, folder: Path) -> None:
        grid = owner.grid
        key = new_key()
        enrolment = wire.EnrolRequest(
            token=grid.token("enrol", owner.name), csr_pem=signing_request(key), name=f"machine {next(_numbers)}"
        )
        answer = owner.http.post("/v1/enrol", content=wire.encode(enrolment))
        enrolled = wire.decode(answer.content, wire.EnrolAnswer)
        self.id = enrolled.host
        self.calls = itertools.count(1)
        file = folder / f"{enrolled.host}.pem"
        file.write_bytes(key_pem(key) + enrolled.certificate_pem.encode())
        context = ssl.create_default_context(cadata=grid.authority.pem)
        context.load_cert_chain(file)
        super().__init__(enrolled.volunteer_url.replace("localhost", "127.0.0.1"), context, {})

    def work(self, **fields: Any) -> WorkAnswer:
        """Make a work call."""
        fields.setdefault("facts", facts())
        request = WorkRequest(call=next(self.calls), **fields)
        answer = self.http.post("/v1/work", content=wire.encode(request))
        assert answer.status_code == 200, answer.text
        return wire.decode(answer.content, WorkAnswer)

    def take(self) -> Lease:
        """Take one lease, and say in the next call that it has come."""
        (lease,) = self.work(want=1).leases
        self.work(held=(Held(replica=lease.replica),))
        return lease


def api_url(grid: Grid) -> str:
    """Return where the API of a grid is."""
    return grid.settings.public_api_url(grid.settings.api_address.port)


def own_job(*inputs: InputFile, count: int = 1, result_bytes: int = 1 << 20) -> JobRequest:
    """Return a job that only machines of its requester take, before all others: tests do not meet each other's work."""
    return JobRequest(
        name="digests",
        work=DigestWork(seed=noise(8).hex()),
        split=Count(count=count),
        inputs=inputs,
        policy=Fixed(),
        replicas=1,
        quorum=1,
        private=True,
        priority=100,
        limits=Limits(result_bytes=result_bytes),
    )


def refusal(answer: httpx.Response) -> tuple[int, str]:
    """Return the status and the code of a refusal, whose body is one of ours."""
    return answer.status_code, wire.decode(answer.content, wire.ErrorBody).code
