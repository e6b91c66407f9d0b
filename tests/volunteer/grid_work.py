"""Work for volunteers' tests: jobs on a real server, identities, leases."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from pathlib import Path
from typing import TypeVar

from xwgrid_volunteer.enrolment import Identity, enrol

from tests.grid import Grid
from xwgrid.errors import GridError
from xwgrid.model import Count, DigestWork, Fixed, HostFacts, InputFile, JobRequest, Program
from xwgrid.requester.transfer import digest_of, upload_blob
from xwgrid.tokens import parse
from xwgrid.wire import JobView, WorkRequest

E = TypeVar("E", bound=GridError)

PYTHON = HostFacts(
    name="desk",
    system="Linux x86_64",
    processor="",
    cores=2,
    memory_bytes=8 << 30,
    programs=(Program(runtime="python", version="3.11", result_class="python any"),),
    sandbox="bubblewrap",
)


def join(grid: Grid, state: Path) -> Identity:
    """Enrol a host of the user `owner`."""
    return enrol(parse(grid.token("enrol", "owner"), kind="enrol"), name="desk", state=state, now=time.time())


def submit(
    grid: Grid, *, tasks: int = 1, rounds: int = 1, inputs: dict[str, Path] | None = None, replicas: int = 1
) -> JobView:
    """Hand in a bag of digest tasks, with files that they carry along."""
    files = tuple(
        InputFile(path=name, sha256=digest_of(path), size=path.stat().st_size) for name, path in (inputs or {}).items()
    )
    with grid.client("requester") as client:
        for file in files:
            upload_blob(client, file.sha256, (inputs or {})[file.path], file.size, lambda _sent: None)
        return client.submit(
            JobRequest(
                name="test",
                work=DigestWork(seed=str(time.time()), rounds=rounds),
                split=Count(count=tasks),
                inputs=files,
                policy=Fixed(),
                replicas=replicas,
                quorum=replicas,
            )
        )


def cancel(grid: Grid, job: JobView) -> None:
    """End a job, so that the next test's hosts get none of it."""
    with grid.client("requester") as client:
        client.cancel(job.id)


def first_call(want: int) -> WorkRequest:
    """Return the call of a host that was just started."""
    return WorkRequest(call=int(time.time() * 1_000), want=want, facts=PYTHON)


async def fails(call: Awaitable[object], kind: type[E]) -> E:
    """Wait for a call that fails so, and return how."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"did not fail with {kind.__name__}")
