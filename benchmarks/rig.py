"""A grid to be measured: the database, the server, and volunteers that are only certificates."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct
from sqlalchemy import make_url
from xwgrid_server import accounts

from benchmarks.load import Burst, Load, Plan, Volunteer
from tests.grid import Grid
from tests.postgresql import PostgreSQL
from xwgrid.model import Count, DigestWork, Fixed, JobId, JobRequest, JobState
from xwgrid.requester.client import GridClient
from xwgrid.wire import EnrolRequest

ROOT = Path(__file__).parents[1]
REQUESTER = "requester"


class Rig(Struct, frozen=True):
    """A running grid, its requester, and the processes whose work is measured."""

    grid: Grid
    client: GridClient
    database: str  # "postgresql" or "sqlite"
    versions: dict[str, str]
    processes: dict[str, int]

    def submit(self, tasks: int, seed: str) -> JobId:
        """Hand in a job of digest tasks, one replica each; return when it is open."""
        work = DigestWork(seed=seed, rounds=1)
        split = Count(count=tasks)
        request = JobRequest(name="benchmark", work=work, split=split, policy=Fixed(), replicas=1, quorum=1)
        job = self.client.submit(request).id
        # The tasks of a large job are entered in slabs, after the answer; it is open with the last of them.
        for event in self.client.events(job):
            if event.job.state is not JobState.ENTERING:
                break
        return job

    def volunteers(self, count: int) -> tuple[Volunteer, ...]:
        """Enrol machines, each of an owner of its own: keys and certificates, without daemons."""
        folder = self.grid.folder / "volunteers"
        folder.mkdir()
        made = []
        for number in range(count):
            user = f"owner-{number}"
            self.grid.add_user(user)
            key = ec.generate_private_key(ec.SECP256R1())
            request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
            asked = EnrolRequest(
                token=self.grid.token("enrol", user),
                csr_pem=request.public_bytes(serialization.Encoding.PEM).decode(),
                name=f"volunteer-{number}",
            )
            enrolled = accounts.enrol(self.grid.engine, asked, self.grid.authority, time.time())
            key_file, certificate_file = folder / f"{number}.key", folder / f"{number}.pem"
            key_file.write_bytes(
                key.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            certificate_file.write_text(enrolled.certificate_pem)
            made.append(Volunteer(certificate=str(certificate_file), key=str(key_file)))
        return tuple(made)

    def plan(self, volunteers: tuple[Volunteer, ...], *, seed: str, seconds: float = 0.0, warm_up_seconds: float = 0.0,
             burst: int | None = None) -> Plan:  # fmt: skip
        """Return a load of these volunteers against this grid."""
        ca = self.grid.folder / "ca.pem"
        ca.write_text(self.grid.authority.pem)
        address = self.grid.settings.volunteer_address
        return Plan(
            host=address.host,
            port=address.port,
            ca=str(ca),
            volunteers=volunteers,
            seed=seed,
            warm_up_seconds=warm_up_seconds,
            seconds=seconds,
            burst=burst,
            processes=self.processes,
        )


@contextlib.contextmanager
def rig(database: str | None) -> Iterator[Rig]:
    """Start a grid on `database`: the address of an empty one, "sqlite" for a file, None for a new PostgreSQL server.

    The share of a database's processor time is known where it was started here.
    """
    with contextlib.ExitStack() as stack:
        processes: dict[str, int] = {}
        versions: dict[str, str] = {}
        address: str | None
        if database is None:
            server = stack.enter_context(PostgreSQL())
            processes["database"] = server.process_id
            versions["PostgreSQL"] = server.version
            address, kind = server.url(server.create()), "postgresql"
        elif database == "sqlite":
            address, kind = None, "sqlite"
        else:
            address, kind = database, make_url(database).get_backend_name()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="xwgrid-benchmark-")))
        grid = stack.enter_context(Grid(folder, database=address))
        grid.add_user(REQUESTER)
        client = stack.enter_context(grid.client(REQUESTER))
        processes["server"] = grid.server.process_id
        yield Rig(grid, client, kind, versions, processes)


def generate(plan: Plan, folder: Path) -> Load:
    """Run the load generator as a process and return what it measured. Raises RuntimeError when it failed."""
    with _generator(plan, folder) as process:
        output, _nothing = process.communicate()
    return msgspec.json.decode(output, type=Load)


@contextlib.contextmanager
def bursts(plan: Plan, folder: Path) -> Iterator[Callable[[], Burst]]:
    """Give a function that lets the load generator send one burst. Raises RuntimeError at the end when it failed."""
    with _generator(plan, folder) as process:
        # Both are pipes.
        given, told = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)

        def burst() -> Burst:
            given.write(b"\n")
            given.flush()
            return msgspec.json.decode(told.readline(), type=Burst)

        yield burst
        given.close()


@contextlib.contextmanager
def _generator(plan: Plan, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    file = folder / "plan.json"
    file.write_bytes(msgspec.json.encode(plan))
    command = [sys.executable, "-m", "benchmarks.load", str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        yield process
    if process.returncode != 0:
        raise RuntimeError("the load generator failed, see above")


def shares(load: Load) -> dict[str, float]:
    """Return each process's share of all the processor time that this machine had in the measured time."""
    available = load.seconds * len(os.sched_getaffinity(0))
    return {f"{name}_cpu_share": seconds / available for name, seconds in load.processor_seconds.items()}
