"""Bad input, as a user meets it: real commands, a real server, a sentence, exit status 2, and nothing half-done.

What is only one part's business is tested with that part; docs/bad-input.md lists it all.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from msgspec.structs import replace
from sqlalchemy import func, select, text, update
from xwgrid_schema.tables import blobs, hosts, jobs, tokens, users
from xwgrid_server import database

from tests.grid import BIN, RUNTIMES, Grid
from tests.rendering import pixels, render_plainly, tiny_scene
from tests.requester.https_server import SmallServer
from tests.server.callers import Machine, Requester, digest, own_job
from tests.server.small_grid import facts
from xwgrid import wire
from xwgrid.applications.digest import expected_value
from xwgrid.model import (
    Cause,
    Count,
    DigestWork,
    HostFacts,
    JobId,
    JobState,
    Limits,
    Program,
    ReplicaState,
    ResultFile,
    TaskNumber,
)
from xwgrid.requester.settings import save_credentials
from xwgrid.wire import Finished, Lease, Report

MILLION = 1_000_000
# Of one command on a busy machine; each of them would take minutes if it cost something for every frame.
QUICK_SECONDS = 15.0


class Ended:
    """How a command ended."""

    def __init__(self, command: list[str], given: str | None, environment: dict[str, str]) -> None:
        began = time.monotonic()
        standard = {"stdin": subprocess.DEVNULL} if given is None else {}
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
        ended = run(command, input=given, capture_output=True, text=True, env=environment, timeout=120, **standard)
        self.seconds = time.monotonic() - began
        self.status, self.out, self.said = ended.returncode, ended.stdout, ended.stderr

    def refused(self, *sentences: str) -> None:
        """Hold it to 2, nothing on standard output, and one sentence without a traceback."""
        assert (self.status, self.out) == (2, ""), self.said
        assert "Traceback" not in self.said
        for sentence in sentences:
            assert sentence in self.said


class Person:
    """Somebody with an account, credentials, and the commands."""

    def __init__(self, grid: Grid, folder: Path, name: str) -> None:
        self.grid = grid
        self.folder = folder / name
        self.folder.mkdir()
        grid.add_user(name)
        self.name = name
        self.credentials = self.folder / "credentials"
        save_credentials(self.credentials, grid.credentials(name))
        self.settings = self.folder / "requester.toml"
        self.settings.write_text(
            f"credentials = {json.dumps(str(self.credentials))}\nruntimes = {json.dumps(str(RUNTIMES))}\n"
        )

    def run(self, *arguments: str, given: str | None = None) -> Ended:
        """Run `xwgrid` as a process of its own."""
        command = [str(BIN / "xwgrid"), "--settings", str(self.settings), *arguments]
        return Ended(command, given, self.grid.environment)

    def ask(self, *arguments: str) -> Any:
        """Run a command that must succeed, with --json; return what it said."""
        ended = self.run(*arguments, "--json")
        assert ended.status == 0, ended.said
        return json.loads(ended.out)


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


def traces(grid: Grid) -> tuple[Any, ...]:
    """Return all that a refused call might have left on a server."""
    with grid.engine.connect() as connection:
        rows = [connection.execute(select(func.count()).select_from(each)).scalar() for each in (jobs, blobs, hosts)]
    files = [path for path in grid.settings.blobs_folder.rglob("*") if path.is_file()]
    return rows, sorted(files), sorted(grid.settings.staging_folder.iterdir())


# --- scenes and wishes ----------------------------------------------------------------------------------------------


def test_a_scene_that_is_none_leaves_nothing(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """Not a .blend, one cut in half, one of a newer Blender: nothing is sent, and no output folder is made."""
    whole = scene.read_bytes()
    wrong = {
        "text": (b"not a scene", "is not a .blend file"),
        "cut": (whole[: len(whole) // 2], "is truncated or damaged"),
        "newer": (whole.replace(b"BLENDER-v405", b"BLENDER-v909", 1), "was saved by Blender 9.9, which is newer"),
    }
    before = traces(grid)
    for name, (data, sentence) in wrong.items():
        file = tmp_path / f"{name}.blend"
        file.write_bytes(data)
        ada.run("submit", str(file), "--out", str(tmp_path / "out")).refused(sentence, f"{name}.blend")
    assert traces(grid) == before
    assert not (tmp_path / "out").exists()


def test_wishes_are_refused_by_the_server_too(grid: Grid, tmp_path: Path) -> None:
    """A program that skips our command's checks meets them again: backwards, step 0, no samples, and no job is made."""
    with Requester(grid) as caller:
        sent = caller.send(b"a scene")
        work = {"application": "blender", "scene_file": sent.path, "width": 64, "height": 36}
        good: dict[str, Any] = {"name": "x", "work": work, "split": {"by": "frames", "first": 1, "last": 2}}
        good["inputs"] = [{"path": sent.path, "sha256": sent.sha256, "size": sent.size}]
        before = traces(grid)
        for changes, sentence in (
            ({"split": {"by": "frames", "first": 10, "last": 1}}, "runs backwards: write 1-10"),
            ({"split": {"by": "frames", "first": 1, "last": 10, "step": 0}}, "step of 0"),
            ({"split": {"by": "frames", "first": 1, "last": 10, "step": -1}}, "is empty"),
            ({"work": {**work, "samples": 0}}, "samples"),
            ({"work": {**work, "scene_file": "other.blend"}}, "add it under exactly this path"),
        ):
            answer = caller.http.post("/v1/jobs", json={**good, **changes})
            assert answer.status_code == 400, answer.text
            assert sentence in answer.json()["message"]
        assert traces(grid) == before


def test_an_output_folder_that_cannot_be_written(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """A file where the folder should be is told before the job is handed in."""
    (tmp_path / "file").write_text("x")
    before = traces(grid)
    ada.run("submit", str(scene), "--out", str(tmp_path / "file" / "out")).refused("cannot be written", "--out")
    assert traces(grid) == before


def test_refusals_are_json_for_programs(ada: Person, scene: Path, tmp_path: Path) -> None:
    """With --json every command refuses with an ErrorBody on standard error, and the same exit status."""
    volunteer = tmp_path / "volunteer.toml"
    volunteer.write_text(f"state = {json.dumps(str(tmp_path / 'state'))}\n")
    commands = (
        ("xwgrid", "--settings", str(ada.settings), "show", "999999", "--json"),
        ("xwgrid", "--settings", str(ada.settings), "submit", str(scene), "--frames", "10-1", "--json"),
        ("xwgrid-admin", "host", "ban", "nobody", "--reason", "x", "--settings", str(ada.grid.settings_file), "--json"),
        ("xwgrid-volunteer", "enrol", "--json", "--token-file", "-", "--settings", str(volunteer)),
    )
    for program, *arguments in commands:
        ended = Ended([str(BIN / program), *arguments], "no token", ada.grid.environment)
        ended.refused()
        body = wire.decode(ended.said, wire.ErrorBody)
        assert body.code in {"not_found", "bad_input"}
        assert body.message


def larger(scene: bytes, size: int) -> bytes:
    """Return a scene as it is, with a block of `size` bytes more in it that nothing refers to."""
    at = scene.rindex(b"DNA1")
    return scene[:at] + struct.pack("<4siQii", b"DATA", size, 0xABCDEF, 0, 1) + bytes(size) + scene[at:]


def test_a_disk_that_fills_up_while_a_scene_arrives(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """The server's sentence reaches the requester; no job, no blob and no half upload is left; later it works."""
    big = tmp_path / "big.blend"
    big.write_bytes(larger(scene.read_bytes(), 8 << 20))
    before = traces(grid)
    server = grid.server.process_id
    limits = resource.prlimit(server, resource.RLIMIT_FSIZE)
    # Less than the scene, more than any file the database has yet.
    resource.prlimit(server, resource.RLIMIT_FSIZE, (7 << 20, limits[1]))
    try:
        ada.run("submit", str(big), "--frames", "1").refused("the server's disk is full", "try again")
    finally:
        resource.prlimit(server, resource.RLIMIT_FSIZE, limits)
    assert traces(grid) == before
    job = ada.ask("submit", str(big), "--frames", "1")["id"]
    ada.ask("cancel", str(job))


def test_a_million_frames_are_quick(ada: Person, scene: Path) -> None:
    """Handed in, listed, shown, watched and cancelled: each takes seconds."""
    ended = ada.run("submit", str(scene), "--frames", f"1-{MILLION}", "--samples", "1", "--json")
    assert ended.status == 0, ended.said
    took = {"submit": ended.seconds}
    job = JobId(json.loads(ended.out)["id"])
    began = time.monotonic()
    with ada.grid.client(ada.name) as client:
        for event in client.events(job):
            if event.job.state is not JobState.ENTERING:
                break
    took["open"] = time.monotonic() - began
    for command in ("jobs", "show", "cancel", "watch"):
        named = () if command == "jobs" else (str(job),)
        ended = ada.run(command, *named)
        assert ended.status == (1 if command == "watch" else 0), ended.said  # a cancelled job did not finish
        assert f"of {MILLION} frames" in ended.out or command == "jobs"
        took[command] = ended.seconds
    ended = ada.run("show", str(job), "--task", str(MILLION - 1))
    assert f"frame {MILLION} (task {MILLION - 1}): cancelled" in ended.out
    assert max(took.values()) < QUICK_SECONDS, took


# --- the server's database ------------------------------------------------------------------------------------------


def test_a_server_whose_database_is_newer_does_not_start(tmp_path: Path) -> None:
    """The server and the admin command end with 2, say what to do, and leave the database as it is."""
    file = tmp_path / "server.toml"
    settings = ["--settings", str(file)]
    environment = dict(os.environ)
    made = Ended(
        [str(BIN / "xwgrid-admin"), "init", *settings, "--state", str(tmp_path / "state"), "--api", "127.0.0.1:0"],
        None, environment,
    )  # fmt: skip
    assert made.status == 0, made.said
    path = tmp_path / "state" / "xwgrid.sqlite"
    engine = database.open_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for program, *arguments in (("xwgrid-server", "run"), ("xwgrid-admin", "user", "list")):
        ended = Ended([str(BIN / program), *arguments, *settings], None, environment)
        ended.refused("revision 9999", "newer xwgrid", "Install that version, or restore the backup")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
        assert connection.execute(select(func.count()).select_from(users)).scalar() == 1
    engine.dispose()
    assert not (tmp_path / "state" / "listening.json").exists()


# --- who it is ------------------------------------------------------------------------------------------------------


def test_tokens_that_are_wrong_or_expired(grid: Grid, ada: Person, tmp_path: Path) -> None:
    """Another secret, half a token, an expired one: `login` keeps nothing; a token that expires later stops working."""
    stranger = Person(grid, tmp_path, "stranger")
    good = grid.token("requester", "stranger")
    shutil.rmtree(stranger.credentials)
    swapped = replace(grid.credentials("stranger").token, secret=b"x" * 32).text()
    for wrong, sentence in (("hello", "xwgrid-admin token requester"), (good[:60], "damaged"), (swapped, "token")):
        stranger.run("login", "--token-file", "-", given=wrong).refused(sentence)
    assert not stranger.credentials.exists()
    assert stranger.run("login", "--token-file", "-", given=good).status == 0
    with grid.engine.begin() as connection:
        owner = select(users.c.id).where(users.c.name == "stranger").scalar_subquery()
        connection.execute(update(tokens).where(tokens.c.user_id == owner).values(expires_at=time.time() - 1))
    stranger.run("jobs").refused("expired")
    shutil.rmtree(stranger.credentials)
    stranger.run("login", "--token-file", "-", given=good).refused("expired")
    assert not stranger.credentials.exists()


def test_a_server_of_another_ca_is_told_nothing(grid: Grid, tmp_path: Path) -> None:
    """Whoever answers at the server's address with another CA's certificate gets no token, no scene, and no login."""
    person = Person(grid, tmp_path, "wary")
    with SmallServer(tmp_path) as other:
        true = grid.credentials("wary")
        moved = replace(true.token, url=other.token().url)
        save_credentials(person.credentials, replace(true, token=moved))
        person.run("jobs").refused("is not the one you logged in to", "nothing was sent")
        shutil.rmtree(person.credentials)
        person.run("login", "--token-file", "-", given=moved.text()).refused()
        assert [call for call in other.asked if call != "GET ca"] == []
    assert not person.credentials.exists()


def test_an_enrolment_token_used_twice(grid: Grid, ada: Person, tmp_path: Path) -> None:
    """The second machine is refused with what to do, is no host, and keeps no identity."""
    given = grid.token("enrol", "ada")
    ended = []
    for name in ("first", "second"):
        file = tmp_path / f"{name}.toml"
        file.write_text(f"state = {json.dumps(str(tmp_path / name))}\n")
        command = [str(BIN / "xwgrid-volunteer"), "enrol", "--settings", str(file), "--token-file", "-", "--name", name]
        ended.append(Ended(command, given, grid.environment))
    assert ended[0].status == 0, ended[0].said
    ended[1].refused("was used already", "ask for another")
    with grid.engine.connect() as connection:
        named = connection.execute(select(hosts.c.name).where(hosts.c.name.in_(["first", "second"]))).scalars()
        assert list(named) == ["first"]
    # An empty file that keeps two commands from each other's way stays.
    assert {path.name for path in (tmp_path / "second").rglob("*") if path.is_file()} <= {"lock"}


# --- results and renderers ------------------------------------------------------------------------------------------


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
send(event="ready", version="3.11", result_class="exact", effective={})
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
