"""The volunteers' port of a real server process over real mutual TLS: work calls, inputs and results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs
from xwgrid_server import accounts

from tests.grid import Grid
from tests.server.callers import Machine, Requester, digest, noise, own_job, pieces, refusal
from tests.server.small_grid import facts
from xwgrid import wire
from xwgrid.model import Cause, Gpu, InputFile, JobSpec, Program
from xwgrid.wire import Failed, HandedBack, Lease, Report, WorkAnswer, WorkRequest

SIZE = 700_000
GPU = Gpu(uuid="0", name="one", memory_total=1 << 30, memory_free=1 << 30, capability="9.0", driver="550")


@pytest.fixture
def user(web_grid: Grid) -> Iterator[Requester]:
    """A requester of this test's own."""
    with Requester(web_grid) as requester:
        yield requester


@pytest.fixture
def machine(user: Requester, tmp_path: Path) -> Iterator[Machine]:
    """The requester's machine."""
    with Machine(user, tmp_path) as made:
        yield made


def file_path(lease: Lease, data: bytes, name: str = "frame_0001.png") -> str:
    """Return where a file of a lease's result is sent."""
    return f"/v1/leases/{lease.replica}/files/{name}?sha256={digest(data)}"


def left(grid: Grid, name: str) -> list[Path]:
    """Return the files whose names have the blob's name in them."""
    folders = (grid.settings.blobs_folder, grid.settings.staging_folder)
    return [path for folder in folders for path in folder.rglob("*") if name in path.name]


# --- work calls -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b"{}", b'{"call": "x"}', b'{"call": 1, "want": -1}'])
def test_a_wrong_work_call_is_refused(machine: Machine, body: bytes) -> None:
    """What is not a work call is a 400, and the connection goes on."""
    assert refusal(machine.http.post("/v1/work", content=body)) == (400, "malformed")
    assert machine.work(want=0).leases == ()


@pytest.mark.parametrize(("programs", "gpus", "fits"), [(16, 64, True), (17, 0, False), (0, 65, False)])
def test_what_a_host_says_of_itself_has_a_measure(machine: Machine, programs: int, gpus: int, fits: bool) -> None:
    """Sixteen programs and sixty-four devices at most: a host that makes more up is refused, and nothing of it kept."""
    said = structs.replace(
        facts(),
        programs=tuple(Program(runtime=f"r{n}", version="1", result_class=f"r{n} any") for n in range(programs)),
        gpus=tuple(structs.replace(GPU, uuid=str(n)) for n in range(gpus)),
    )
    answer = machine.http.post("/v1/work", content=wire.encode(WorkRequest(call=next(machine.calls), facts=said)))
    if fits:
        assert answer.status_code == 200
    else:
        assert refusal(answer) == (400, "malformed")
    assert machine.work(want=0).leases == ()


def test_a_work_call_over_the_limit_is_refused(machine: Machine) -> None:
    """Whether it says its length or not."""
    huge = b" " * (wire.MAX_WORK_BYTES + 1)
    assert refusal(machine.http.post("/v1/work", content=huge)) == (413, "too_large")
    assert refusal(machine.http.post("/v1/work", content=pieces(huge))) == (413, "too_large")


def test_unknown_addresses_are_answered(machine: Machine) -> None:
    """This port has no pages, no jobs, and one method for work."""
    for path in ("/", "/v1/jobs", "/v1/work/", "/v1/leases/1/files/x", "/v1/blobs/..%2f..%2fetc%2fpasswd"):
        assert refusal(machine.http.get(path)) == (404, "not_found")
    answer = machine.http.get("/v1/work")
    assert refusal(answer) == (405, "bad_input")
    assert answer.headers["Allow"] == "POST"


def test_a_waiting_call_is_answered_when_there_is_work(user: Requester, machine: Machine) -> None:
    """A call that finds nothing is held; the lease is in its answer as soon as a job is handed in."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(machine.work, want=1, wait_seconds=30.0)
        job = user.submit(own_job())
        (lease,) = waiting.result(timeout=30).leases
    assert lease.job == job.id


def test_a_caller_who_hangs_up_is_given_nothing(user: Requester, machine: Machine) -> None:
    """The lease goes to the call that is still there, not to one whose connection is gone."""
    held = wire.encode(WorkRequest(call=next(machine.calls), facts=facts(), want=1, wait_seconds=30.0))
    with machine.connect() as connection:
        connection.sendall(machine.head("POST", "/v1/work", Content_Length=len(held)) + held)
    job = user.submit(own_job())
    deadline = time.monotonic() + 20
    leases: tuple[Lease, ...] = ()
    while not leases and time.monotonic() < deadline:
        leases = machine.work(want=1).leases
    assert [lease.job for lease in leases] == [job.id]


def test_calls_sent_ahead_are_answered_in_order(machine: Machine) -> None:
    """Two work calls on one connection, the second before the first is answered."""
    calls = [wire.encode(WorkRequest(call=next(machine.calls), facts=facts())) for _ in range(2)]
    with machine.connect() as connection:
        connection.sendall(
            b"".join(machine.head("POST", "/v1/work", Content_Length=len(call)) + call for call in calls)
            + machine.head("GET", "/v1/nothing", Connection="close")
        )
        answers = connection.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert answers.index(b"heartbeat_seconds") < answers.index(b"HTTP/1.1 404")


def test_a_banned_machine_is_refused(machine: Machine, web_grid: Grid) -> None:
    """Its next work call gets 403, and within seconds all other calls do, on the connection it has."""
    assert machine.work().leases == ()
    accounts.ban_host(web_grid.engine, machine.id, "it lied")
    call = WorkRequest(call=next(machine.calls))
    assert refusal(machine.http.post("/v1/work", content=wire.encode(call))) == (403, "forbidden")
    deadline = time.monotonic() + 20
    answer = machine.http.get(f"/v1/blobs/{'0' * 64}")
    while answer.status_code == 404 and time.monotonic() < deadline:
        answer = machine.http.get(f"/v1/blobs/{'0' * 64}")
    assert refusal(answer) == (403, "forbidden")


def test_a_revoked_certificate_is_refused(machine: Machine, web_grid: Grid) -> None:
    """A certificate whose serial number was revoked opens nothing, though the CA signed it."""
    accounts.revoke_certificates(web_grid.engine, machine.id, now=1.0)
    assert refusal(machine.http.post("/v1/work", content=wire.encode(WorkRequest(call=1)))) == (401, "unauthenticated")


# --- inputs -----------------------------------------------------------------------------------------------------


def test_a_lease_opens_the_blobs_of_its_job(user: Requester, machine: Machine) -> None:
    """The specification, the application's files and the inputs can be read, in parts too, while the lease lasts."""
    data = noise(SIZE)
    sent = user.send(data)
    path = f"/v1/blobs/{sent.sha256}"
    assert refusal(machine.http.get(path)) == (404, "not_found")
    user.submit(own_job(sent))
    lease = machine.take()
    spec = wire.decode(machine.http.get(f"/v1/blobs/{lease.spec}").content, JobSpec)
    assert spec.request.inputs == (sent,)
    assert machine.http.get(path).content == data
    assert machine.http.head(path).headers["Content-Length"] == str(SIZE)
    part = machine.http.get(path, headers={"Range": "bytes=600000-"})
    assert (part.status_code, part.content) == (206, data[600_000:])
    machine.work(reports=(Report(replica=lease.replica, outcome=HandedBack()),))
    assert refusal(machine.http.get(path)) == (404, "not_found")


def test_blobs_of_other_jobs_are_not_there(user: Requester, machine: Machine, tmp_path: Path) -> None:
    """A lease opens nothing that its job does not name, not even what the same requester sent."""
    unrelated = user.send(noise(100))
    user.submit(own_job(user.send(noise(100))))
    lease = machine.take()
    assert refusal(machine.http.get(f"/v1/blobs/{unrelated.sha256}")) == (404, "not_found")
    with Machine(user, tmp_path) as idle:
        assert refusal(idle.http.get(f"/v1/blobs/{lease.spec}")) == (404, "not_found")


# --- results ----------------------------------------------------------------------------------------------------


@pytest.fixture
def lease(user: Requester, machine: Machine) -> Lease:
    """A lease of a job whose results may have 1,000,000 bytes."""
    user.submit(own_job(result_bytes=1_000_000))
    return machine.take()


def test_a_result_is_sent_and_resumed(machine: Machine, lease: Lease) -> None:
    """A file of a result goes on where its connection was cut, and is complete when its bytes are right."""
    data = noise(SIZE)
    path = file_path(lease, data)
    assert machine.offset(path) == 0
    machine.cut(machine.head("PUT", path, Content_Length=SIZE, Upload_Length=SIZE) + data[:300_000])
    offset = machine.offset_when(path, 300_000)
    assert offset == 300_000
    answer = machine.put(path, data[offset:], Upload_Offset=offset, Upload_Length=SIZE)
    assert answer.status_code == 201
    assert machine.offset(path) is None
    assert machine.put(path, data).status_code == 201


def test_a_requester_reads_results_and_goes_on_with_them(
    user: Requester, machine: Machine, lease: Lease, web_grid: Grid
) -> None:
    """What a volunteer sent belongs to the job's owner, who may make it an input of another job, and to nobody else."""
    data = noise(SIZE)
    assert machine.put(file_path(lease, data), data).status_code == 201
    assert user.http.get(f"/v1/blobs/{digest(data)}").content == data
    user.submit(own_job(InputFile(path="earlier.png", sha256=digest(data), size=SIZE)))
    with Requester(web_grid) as other:
        assert refusal(other.http.get(f"/v1/blobs/{digest(data)}")) == (404, "not_found")


def test_equal_results_are_sent_twice(user: Requester, machine: Machine, lease: Lease, tmp_path: Path) -> None:
    """A volunteer never learns that another has sent the same bytes."""
    data = noise(SIZE)
    assert machine.put(file_path(lease, data), data).status_code == 201
    user.submit(own_job())
    with Machine(user, tmp_path) as second:
        theirs = second.take()
        assert second.offset(file_path(theirs, data)) == 0
        assert refusal(second.put(file_path(theirs, data), data[:-1]))[0] == 422
        assert second.put(file_path(theirs, data), data).status_code == 201


def test_a_result_of_wrong_bytes_is_not_kept(machine: Machine, lease: Lease, web_grid: Grid) -> None:
    """422, and the next try begins at the beginning."""
    name = digest(noise(SIZE))
    path = f"/v1/leases/{lease.replica}/files/x.png?sha256={name}"
    assert refusal(machine.put(path, noise(SIZE))) == (422, "wrong_bytes")
    assert left(web_grid, name) == []
    assert machine.offset(path) == 0


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_result_over_the_limit_is_cut_off(machine: Machine, lease: Lease, web_grid: Grid, declared: bool) -> None:
    """One file of more than the job allows for all."""
    data = noise(1_000_001)
    answer = machine.put(file_path(lease, data), data if declared else pieces(data))
    assert refusal(answer) == (413, "too_large")
    assert left(web_grid, digest(data)) == []


def test_all_files_of_a_result_share_the_limit(machine: Machine, lease: Lease) -> None:
    """Complete files count, and so do those that are half sent."""
    first, second, third = noise(500_000), noise(400_000), noise(200_000)
    assert machine.put(file_path(lease, first), first).status_code == 201
    assert machine.put(file_path(lease, second), second[:300_000], Upload_Length=400_000).status_code == 409
    refused = machine.put(file_path(lease, third, "c.png"), third, Upload_Length=250_000)
    assert refusal(refused) == (413, "too_large")
    rest = machine.put(file_path(lease, second), second[300_000:], Upload_Offset=300_000, Upload_Length=400_000)
    assert rest.status_code == 201


def test_files_sent_at_once_share_the_limit(machine: Machine, lease: Lease) -> None:
    """Ten connections do not get ten times the room."""
    files = [noise(250_000) for _ in range(10)]

    def send(data: bytes) -> int:
        return machine.put(file_path(lease, data), data, Upload_Length=len(data)).status_code

    with ThreadPoolExecutor(10) as pool:
        statuses = list(pool.map(send, files))
    assert statuses.count(201) == 4
    assert statuses.count(413) == 6


@pytest.mark.parametrize("name", ["..", "../x.png", "..%2fx.png", ".hidden", "a%00b", "a b", "x" * 201, "%c3%a4"])
def test_a_name_that_leads_elsewhere_is_refused(machine: Machine, lease: Lease, name: str) -> None:
    """Names of files are letters, digits and a few signs; a path is none."""
    answer = machine.http.put(f"/v1/leases/{lease.replica}/files/{name}?sha256={digest(b'x')}", content=b"x")
    assert answer.status_code in {400, 404}


@pytest.mark.parametrize("query", ["", "?sha256=", "?sha256=" + "A" * 64, "?sha256=../../x"])
def test_a_file_without_its_digest_is_refused(machine: Machine, lease: Lease, query: str) -> None:
    """The server must know which bytes to expect."""
    answer = machine.put(f"/v1/leases/{lease.replica}/files/x.png{query}", b"x")
    assert refusal(answer) == (400, "bad_input")


def test_only_the_holder_of_a_lease_sends_its_result(
    user: Requester, machine: Machine, lease: Lease, tmp_path: Path, web_grid: Grid
) -> None:
    """Another machine, even of the same owner, is told that there is no such lease; so is one that made a number up."""
    data = noise(SIZE)
    with Machine(user, tmp_path) as thief:
        for path in (file_path(lease, data), f"/v1/leases/{1 << 60}/files/x?sha256={digest(data)}"):
            assert refusal(thief.put(path, data)) == (404, "not_found")
            assert thief.http.head(path).status_code == 404
            assert "Upload-Offset" not in thief.http.head(path).headers
    assert left(web_grid, digest(data)) == []
    assert machine.offset(file_path(lease, data)) == 0


def test_an_ended_lease_takes_no_result(machine: Machine, lease: Lease) -> None:
    """After the report it is too late."""
    outcome = Failed(cause=Cause.EXITED, message="no camera")
    answer: WorkAnswer = machine.work(reports=(Report(replica=lease.replica, outcome=outcome),))
    assert [confirmation.replica for confirmation in answer.confirmed] == [lease.replica]
    assert refusal(machine.put(file_path(lease, b"late"), b"late")) == (404, "not_found")
