"""The daemon as a process, against the real server: every road its owner, its server and kill -9 can send it down."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from xwgrid_server import accounts, standings
from xwgrid_volunteer import control
from xwgrid_volunteer.control import AskPause, AskResume, AskStatus, Status

from tests.grid import BIN, Grid
from tests.volunteer.connect_proxy import ConnectProxy
from tests.volunteer.grid_work import cancel, submit
from xwgrid.errors import GridError
from xwgrid.model import Cause, HostId, ReplicaState
from xwgrid.requester.client import ENDED
from xwgrid.wire import JobView, ReplicaView

T = TypeVar("T")

# About ten seconds a task: long enough to be met in the middle.
LONG = 12_000_000


def wait_for(look: Callable[[], T | None], seconds: float = 30.0) -> T:
    """Return what `look` finds, as soon as it finds something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)  # processes of their own tell nothing but what can be seen
    raise AssertionError("did not happen")


class Desk:
    """One volunteer with its daemon."""

    def __init__(self, grid: Grid, name: str, settings: str = "") -> None:
        self.grid = grid
        self.daemon = grid.add_volunteer(name, "owner", settings)
        self.state = grid.folder / name / "state"
        self.settings = grid.folder / name / "volunteer.toml"
        self.daemon.start()

    def status(self) -> Status | None:
        """Return how it stands, None when it does not answer."""
        try:
            return control.ask(self.state, AskStatus())
        except GridError:
            return None

    def until(self, right: Callable[[Status], bool]) -> Status:
        """Wait until its status is as wished."""

        def look() -> Status | None:
            found = self.status()
            return found if found is not None and right(found) else None

        return wait_for(look)

    def until_it_works(self) -> Status:
        """Wait until a task runs."""
        return self.until(lambda status: any(lease.stage == "given" for lease in status.leases))

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `xwgrid-volunteer` for it."""
        return subprocess.run(
            [str(BIN / "xwgrid-volunteer"), *arguments, "--settings", str(self.settings)],
            capture_output=True,
            text=True,
            check=False,
            env=self.grid.environment,
        )


@pytest.fixture
def desk(grid: Grid, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A volunteer that runs; stopped and banned afterwards, so that nobody waits for it."""
    desk = Desk(grid, request.node.name[:60])
    yield desk
    desk.daemon.stop()


def finish(grid: Grid, job: JobView) -> JobView:
    """Wait for the end of a job."""
    with grid.client("requester") as client:
        for event in client.events(job.id):
            if event.job.state in ENDED:
                return event.job
    raise AssertionError("the events ended before the job")


def replicas(grid: Grid, job: JobView) -> list[ReplicaView]:
    """Return all attempts of a job."""
    with grid.client("requester") as client:
        return [replica for task in client.tasks(job.id) for replica in task.replicas]


def drivers(folder: Path) -> list[psutil.Process]:
    """Return the processes that work in a state folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder / "jobs") in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_job_is_done_and_told(grid: Grid, desk: Desk) -> None:
    """Every task is accepted, the status counts them, and nothing is left in the outbox or the jobs' folder."""
    job = submit(grid, tasks=30, rounds=100)
    assert finish(grid, job).agreed == 30
    found = desk.until(lambda status: status.totals.accepted == 30)
    assert found.leases == ()
    assert found.sandbox is not None
    assert found.why is not None
    assert list((desk.state / "outbox").iterdir()) == []
    said = desk.command("status")
    assert "30 accepted" in said.stdout
    assert "NVIDIA" in said.stdout
    assert json.loads(desk.command("status", "--json").stdout)["state"] == "idle"


def test_a_host_that_is_set_aside_says_why(grid: Grid, desk: Desk) -> None:
    """Its status has the operator's reason, how long, and that nothing runs because of it; a good one says its too."""
    found = desk.until(lambda status: status.standing is not None)
    assert found.standing is not None
    assert found.standing.startswith("new: 0.0 of 10 units")
    desk.daemon.stop()
    standings.set_aside(grid.engine, HostId(found.host), 7_200.0, "its memory is bad", time.time())
    desk.daemon.start()
    said = "set aside for 2.0 more hours: its memory is bad"
    assert desk.until(lambda status: status.state == "idle" and status.standing is not None).standing == said
    text = desk.command("status").stdout
    assert f"  because this host is {said}\n" in text
    assert f"  standing: {said}\n" in text
    assert json.loads(desk.command("status", "--json").stdout)["standing"] == said


def test_the_owner_pauses_and_resumes(grid: Grid, desk: Desk) -> None:
    """The program is stopped within a second and keeps its work; resume lets it go on; the pause survives a kill."""
    job = submit(grid, tasks=1, rounds=LONG)
    desk.until_it_works()
    assert desk.command("pause").returncode == 0
    wait_for(lambda: any(process.status() == psutil.STATUS_STOPPED for process in drivers(desk.state)), seconds=1.0)
    found = desk.until(lambda status: status.paused)
    assert found.state == "paused"
    assert "xwgrid-volunteer resume" in (found.why or "")
    assert desk.command("resume").returncode == 0
    wait_for(lambda: all(process.status() != psutil.STATUS_STOPPED for process in drivers(desk.state)))
    assert desk.command("pause", "--for", "2h").returncode == 0
    desk.daemon.kill()
    desk.daemon.start()
    assert desk.until(lambda status: status.state == "paused").paused_until is not None
    cancel(grid, job)


def test_a_pause_longer_than_the_grace_hands_back(grid: Grid) -> None:
    """Nobody is blamed for it, and the programs are gone."""
    desk = Desk(grid, "graceless", "grace_seconds = 0\n")
    job = submit(grid, tasks=1, rounds=LONG)
    desk.until_it_works()
    desk.command("pause")
    found = wait_for(lambda: [replica for replica in replicas(grid, job) if replica.state is ReplicaState.HANDED_BACK])
    assert found[0].cause is Cause.OWNER
    wait_for(lambda: not drivers(desk.state))
    desk.daemon.stop()
    cancel(grid, job)


def test_stopping_hands_back_quickly(grid: Grid, desk: Desk) -> None:
    """SIGTERM in the middle of a task: the server knows at once, no program is left, and it takes no ten seconds."""
    job = submit(grid, tasks=2, rounds=LONG)
    desk.until_it_works()
    begun = time.monotonic()
    desk.daemon.stop()
    assert time.monotonic() - begun < 5.0
    assert drivers(desk.state) == []
    assert {replica.cause for replica in replicas(grid, job)} == {Cause.SHUTDOWN}
    cancel(grid, job)


def test_kill_9_leaves_no_program_and_loses_nothing(grid: Grid, desk: Desk) -> None:
    """The sandbox dies with the daemon; the next one does the tasks again, and the job ends."""
    job = submit(grid, tasks=3, rounds=LONG // 4)
    desk.until_it_works()
    desk.daemon.kill()
    wait_for(lambda: not drivers(desk.state), seconds=3.0)
    desk.daemon.start()
    assert finish(grid, job).agreed == 3
    assert {replica.cause for replica in replicas(grid, job)} <= {None, Cause.DROPPED}
    assert [folder for folder in (desk.state / "jobs").iterdir() if desk.status() is None] == []


def test_a_result_waits_for_the_server(grid: Grid, desk: Desk) -> None:
    """The server dies while a task runs: the result is kept, over a kill of the volunteer too, and told later."""
    job = submit(grid, tasks=1, rounds=LONG // 3)
    desk.until_it_works()
    grid.server.kill()
    wait_for(lambda: any((desk.state / "outbox").glob("*/record.json")))
    assert desk.until(lambda status: status.state == "away").trouble is not None
    desk.daemon.kill()
    desk.daemon.start()
    desk.until(lambda status: status.state == "away")
    grid.start_server()
    assert finish(grid, job).agreed == 1
    assert len(replicas(grid, job)) == 1
    desk.until(lambda status: not status.leases)


def test_a_cancelled_job_is_stopped_at_once(grid: Grid, desk: Desk) -> None:
    """The next heartbeat ends the lease, and with it the program."""
    job = submit(grid, tasks=1, rounds=LONG * 50)
    desk.until_it_works()
    cancel(grid, job)
    wait_for(lambda: not drivers(desk.state))
    assert desk.until(lambda status: not status.leases).totals.failed == 0


def test_two_slots_work_side_by_side(grid: Grid) -> None:
    """Two jobs at once, each in a process of its own; when they are done, a third is begun without a restart."""
    desk = Desk(grid, "wide", "slots = 2\nprefetch = 0\n")
    jobs = [submit(grid, tasks=1, rounds=LONG // 4) for _ in range(2)]
    desk.until(lambda status: sum(lease.stage == "given" for lease in status.leases) == 2)
    assert [finish(grid, job).agreed for job in jobs] == [1, 1]
    assert finish(grid, submit(grid, tasks=5)).agreed == 5
    desk.daemon.stop()


def test_the_files_of_a_job_come_through_a_proxy(grid: Grid, tmp_path: Path) -> None:
    """Work calls, inputs and reports take the way the settings name, and the cache keeps the inputs."""
    (tmp_path / "input").write_bytes(b"x" * 300_000)
    with ConnectProxy() as proxy:
        desk = Desk(grid, "behind", f'proxy = "{proxy.url}"\n')
        assert finish(grid, submit(grid, tasks=2, inputs={"a/input": tmp_path / "input"})).agreed == 2
        assert desk.until(lambda status: status.totals.accepted == 2).cache_bytes > 300_000
        desk.daemon.stop()
        assert proxy.targets


def test_a_revoked_volunteer_says_why(grid: Grid, desk: Desk) -> None:
    """Its owner reads it in the status."""
    host = HostId(desk.until(lambda status: status.state == "idle").host)
    accounts.revoke_certificates(grid.engine, host, time.time())

    def refused() -> str | None:
        # What is held was admitted before; a pause and its end make the next call.
        control.ask(desk.state, AskPause())
        return control.ask(desk.state, AskResume()).trouble

    assert "certificate" in wait_for(refused)


def test_one_daemon_for_one_folder(desk: Desk) -> None:
    """A second one, and an enrolment over a running one, are refused with a sentence."""
    desk.until(lambda status: status.state != "starting")
    second = desk.command("run")
    assert second.returncode == 1
    assert "runs for" in second.stderr
    assert "Traceback" not in second.stderr


def test_commands_without_a_daemon_say_so(grid: Grid, tmp_path: Path) -> None:
    """Status of nothing, run without an identity, a wrong token: a sentence each, and the right exit status."""
    settings = tmp_path / "volunteer.toml"
    settings.write_text(f"state = {json.dumps(str(tmp_path / 'state'))}\n")

    def command(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "xwgrid-volunteer"), *arguments, "--settings", str(settings)],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=grid.environment,
        )

    for ended, status, sentence in (
        (command("status"), 1, "xwgrid-volunteer run"),
        (command("run"), 2, "xwgrid-volunteer enrol"),
        (command("enrol", "--token-file", "-", given="nonsense"), 2, "xwgrid-admin token enrol"),
        (command("pause", "--for", "soon"), 2, "30m"),
    ):
        assert ended.returncode == status, ended.stderr
        assert sentence in ended.stderr
        assert "Traceback" not in ended.stderr


def test_the_control_socket_is_its_owners(desk: Desk) -> None:
    """Nobody else on the machine may pause it or look at it, and nonsense is answered with a sentence."""
    desk.until(lambda _status: True)
    place = desk.state / "control.sock"
    assert place.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(place))
        line.sendall(b'{"do": "harm"}\n')
        assert b"nothing a volunteer understands" in line.recv(1_000)


def test_a_killed_daemon_can_be_started_again(desk: Desk) -> None:
    """Its socket and its lock do not stand in the way."""
    desk.until(lambda _status: True)
    desk.daemon.kill()
    assert desk.status() is None
    desk.daemon.start()
    desk.until(lambda _status: True)
