"""Bad results and bad renderers cost the volunteer's replica, never the job. See docs/bad-input.md."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from msgspec.structs import replace

from tests.grid import Grid
from tests.people import Person
from tests.rendering import pixels, render_plainly, tiny_scene
from tests.server.callers import Machine, Requester, digest, own_job
from tests.server.small_grid import facts
from xwgrid.applications.digest import expected_value
from xwgrid.model import (
    Cause,
    Count,
    DigestWork,
    HostFacts,
    JobId,
    Limits,
    Program,
    ReplicaId,
    ReplicaState,
    ResultFile,
    TaskNumber,
    TaskState,
)
from xwgrid.wire import Finished, HandedBack, Lease, Report


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A running server without volunteers."""
    with Grid(tmp_path_factory.mktemp("grid")) as running:
        yield running


@pytest.fixture(scope="module")
def ada(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A requester."""
    return Person(grid, tmp_path_factory.mktemp("people"), "ada")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 64 by 36 pixels."""
    return tiny_scene(tmp_path_factory.mktemp("scene"))


def bomb() -> bytes:
    """Return a small PNG that claims 60,000 by 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def bomber() -> HostFacts:
    """Return a machine that says it renders."""
    blender = Program(runtime="blender", version="4.5.15", result_class="blender 4.5.15 cpu AVX2")
    return replace(facts(), programs=(blender,))


def delivered(machine: Machine, lease: Lease, data: bytes) -> None:
    """Upload and report a result."""
    answer = machine.put(f"/v1/leases/{lease.replica}/files/frame_0001.png?sha256={digest(data)}", data)
    assert answer.status_code == 201, answer.text
    file = ResultFile(name="frame_0001.png", sha256=digest(data), size=len(data))
    outcome = Finished(fingerprint="0" * 64, files=(file,), seconds=1.0, result_class="blender 4.5.15 cpu AVX2")
    call = machine.work(reports=(Report(replica=lease.replica, outcome=outcome),), facts=bomber())
    assert [each.replica for each in call.confirmed] == [lease.replica]


def test_a_picture_bomb_costs_one_replica(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """A volunteer sends a bomb: its replica fails with the cause, the server lives, another renders the right frame."""
    wishes = ("--frames", "1", "--samples", "1", "--seed", "0", "--replicas", "1", "--quorum", "1")
    job = ada.ask("submit", str(scene), *wishes)["id"]
    with Requester(grid) as mallory, Machine(mallory, tmp_path) as machine:
        (lease,) = machine.work(want=1, facts=bomber()).leases
        assert lease.job == job
        delivered(machine, lease, bomb())
        with grid.client("ada") as client:
            for event in client.events(JobId(job)):
                if event.tasks and event.tasks[0].replicas[0].state is ReplicaState.FAILED:
                    break
            (replica,) = client.task(JobId(job), TaskNumber(0)).replicas
    assert replica.cause is Cause.BAD_RESULT
    assert "frame_0001.png" in replica.message
    assert replica.message in ada.run("show", str(job)).out
    server = psutil.Process(grid.server.process_id)
    assert server.memory_info().rss < 1 << 30
    grid.add_user("grace")
    honest = grid.add_volunteer("honest", "grace")
    honest.start()
    try:
        assert ada.run("watch", str(job)).status == 0
    finally:
        honest.stop()
    assert ada.run("download", str(job), "--out", str(tmp_path / "out")).status == 0
    render_plainly(scene, tmp_path / "plain", 1, samples=1, width=64, height=36)
    got, plain = (pixels(tmp_path / place / "frame_0001.png") for place in ("out/frames", "plain"))
    assert np.array_equal(got, plain)


ENDLESS = """
import json, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def send(**fields):
    print("@xwgrid " + json.dumps(fields), flush=True)
send(event="ready", version="3.11", result_class="python exact", effective={})
if sys.argv[-1] == "probe":
    send(event="bye")
    sys.exit()
print("I shall never end", flush=True)
while True:
    time.sleep(1)
"""


def test_a_renderer_that_never_exits_costs_its_time_limit(grid: Grid, ada: Person, tmp_path: Path) -> None:
    """It is killed at the job's limit with all it started, cause and log are told, and another host does the task."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    tmp_path.chmod(0o755)  # the sandbox's user is nobody
    work = DigestWork(seed="endless")
    request = replace(
        own_job(), work=work, split=Count(count=1), private=False, limits=Limits(seconds=1.0, memory_bytes=1 << 30)
    )
    grid.add_user("edsger")
    command = json.dumps([sys.executable, str(tmp_path / "endless.py")])
    places = json.dumps([str(tmp_path), sys.prefix, sys.base_prefix])
    stuck = grid.add_volunteer("stuck", "edsger", f"[runtimes.python]\ncommand = {command}\nread_only = {places}\n")
    with grid.client("ada") as client:
        job = client.submit(request).id
        stuck.start()
        try:
            for event in client.events(job):
                if event.tasks and event.tasks[0].replicas[0].state is ReplicaState.FAILED:
                    break
            daemon = psutil.Process(stuck.process_id)
            assert [each.pid for each in daemon.children(recursive=True) if "endless" in " ".join(each.cmdline())] == []
        finally:
            stuck.stop()
        (replica,) = client.task(job, TaskNumber(0)).replicas
        assert replica.cause is Cause.TIMED_OUT
        assert "I shall never end" in replica.log_tail
        grid.add_user("barbara")
        able = grid.add_volunteer("able", "barbara")
        able.start()
        try:
            assert ada.run("watch", str(job)).status == 0
        finally:
            able.stop()
        assert client.task(job, TaskNumber(0)).value == expected_value(work, TaskNumber(0))


def test_reports_for_leases_one_has_not(grid: Grid, tmp_path: Path) -> None:
    """A report for a lease of somebody else, one that has ended, and one that never was: each told, none counted."""
    with (
        Requester(grid) as user,
        Machine(user, tmp_path) as machine,
        Requester(grid) as thief,
        Machine(thief, tmp_path) as other,
    ):
        job = user.submit(own_job())
        lease = machine.take()
        lie = Finished(fingerprint="0" * 64, value="0" * 64, seconds=1.0)
        (stolen,) = other.work(reports=(Report(replica=lease.replica, outcome=lie),)).confirmed
        (imagined,) = other.work(reports=(Report(replica=ReplicaId(1 << 40), outcome=lie),)).confirmed
        machine.work(reports=(Report(replica=lease.replica, outcome=HandedBack()),))
        (late,) = machine.work(reports=(Report(replica=lease.replica, outcome=lie),)).confirmed
        assert [each.accepted for each in (stolen, imagined, late)] == [False, False, False]
        assert all(each.message for each in (stolen, imagined, late))
        with grid.client(user.name) as client:
            task = client.task(job.id, TaskNumber(0))
    assert (task.state, task.value) == (TaskState.OPEN, None)
    assert [replica.state for replica in task.replicas] == [ReplicaState.HANDED_BACK]
