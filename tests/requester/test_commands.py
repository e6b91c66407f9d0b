"""The requester's commands against a real server and a real volunteer."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console

from tests.grid import BIN, RUNTIMES, Grid
from tests.rendering import tiny_scene
from xwgrid.model import JobId, JobState, Limits
from xwgrid.requester.command import main
from xwgrid.requester.settings import load_settings, save_credentials
from xwgrid.requester.submission import prepared, send
from xwgrid.requester.wishes import Wishes


class Requester:
    """Somebody with an account on a grid, and the commands they run."""

    def __init__(self, grid: Grid, folder: Path) -> None:
        self.scene = tiny_scene(folder)
        self.folder = folder
        credentials = folder / "credentials"
        save_credentials(credentials, grid.credentials("ada"))
        self.settings = folder / "requester.toml"
        lines = (f"credentials = {json.dumps(str(credentials))}", f"runtimes = {json.dumps(str(RUNTIMES))}")
        self.settings.write_text("\n".join(lines) + "\n")

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; return its exit status, standard output and standard error."""
        ended = CliRunner().invoke(main, ["--settings", str(self.settings), *arguments])
        if ended.exception is not None and not isinstance(ended.exception, SystemExit):
            raise ended.exception
        return ended.exit_code, ended.stdout, ended.stderr

    def submit(self, frames: str, *options: str) -> JobId:
        """Hand in a job and return its number."""
        status, said, told = self.run("submit", str(self.scene), "--frames", frames, "--json", *options)
        assert status == 0, told
        return JobId(json.loads(said)["id"])


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A server with two users, and no volunteer at work yet."""
    with Grid(tmp_path_factory.mktemp("grid")) as running:
        for user in ("ada", "grace"):
            running.add_user(user)
        yield running


@pytest.fixture(scope="module")
def requester(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Requester:
    """A user of that grid."""
    return Requester(grid, tmp_path_factory.mktemp("requester"))


def test_leaving_a_watch_leaves_the_job(requester: Requester) -> None:
    """^C ends the watching with 1 and says how to come back; the job waits on."""
    number = requester.submit("1-3")
    command = [str(BIN / "xwgrid"), "--settings", str(requester.settings), "watch", str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert "is checked by" in watching.stdout.readline()
        assert "0 of 3 frames done" in watching.stdout.readline()
        watching.send_signal(signal.SIGINT)
        _said, told = watching.communicate(timeout=30)
    assert watching.returncode == 1
    assert told == f"The grid goes on with it. Come back with: xwgrid watch {number}\n"
    assert json.loads(requester.run("show", str(number), "--json")[1])["job"]["state"] == "open"


def test_only_what_the_server_lacks_is_sent(requester: Requester, grid: Grid) -> None:
    """A second job of the same scene sends no file again."""
    requester.submit("1-2")
    before = {path: path.stat().st_mtime_ns for path in grid.settings.blobs_folder.rglob("*") if path.is_file()}
    requester.submit("1-2")
    scene_bytes = requester.scene.stat().st_size
    fresh = [path for path in grid.settings.blobs_folder.rglob("*") if path.is_file() and path not in before]
    assert all(path.stat().st_size != scene_bytes for path in fresh)


def test_a_cancelled_job_is_over(requester: Requester) -> None:
    """After `cancel` the job says so, and `watch` ends at once with 1."""
    number = requester.submit("1-3")
    status, said, _told = requester.run("cancel", str(number))
    assert status == 0
    assert "cancelled" in said
    status, said, _told = requester.run("watch", str(number))
    assert status == 1
    assert said == f"job {number} tiny: 0 of 3 frames done, cancelled\n"


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "retry"])
def test_a_job_that_is_not_there_is_said(requester: Requester, command: str) -> None:
    """A wrong number ends with 2 and a sentence."""
    status, _said, told = requester.run(command, "999999")
    assert status == 2
    assert "999999" in told


def test_a_job_is_rendered_watched_and_fetched(requester: Requester, grid: Grid) -> None:
    """`watch` ends with 0, `show` and `jobs` tell of it, `download` brings it, and what is missing or spoiled again."""
    number = requester.submit("1-3", "--replicas", "1", "--quorum", "1")
    if "desktop" not in grid.volunteers:
        grid.add_volunteer("desktop", "grace").start()
    status, said, told = requester.run("watch", str(number))
    assert status == 0, told
    assert said.splitlines()[-2:] == [
        f"job {number} tiny: 3 of 3 frames done, finished",
        "  3 accepted: 1 result, and nobody checked it",
    ]
    status, said, _told = requester.run("show", str(number), "--all")
    assert status == 0
    assert "frame 2 (task 1): agreed" in said
    assert "on desktop: agreed" in said
    assert str(number) in requester.run("jobs")[1]

    out = requester.folder / "out"
    status, _said, told = requester.run("download", str(number), "--out", str(out))
    assert status == 0, told
    frames = sorted((out / "frames").iterdir())
    assert [path.name for path in frames] == ["frame_0001.png", "frame_0002.png", "frame_0003.png"]
    good = [path.read_bytes() for path in frames]
    frames[0].unlink()
    frames[1].write_bytes(b"x" * len(good[1]))
    status, _said, told = requester.run("download", str(number), "--out", str(out))
    assert status == 0
    assert "3 files are in" in told
    assert "2 of them fetched just now" in told
    assert [path.read_bytes() for path in frames] == good
    summary = json.loads((out / "summary.json").read_text())
    assert summary["job"]["state"] == JobState.FINISHED
    assert [task["label"] for task in summary["tasks"]] == ["frame 1", "frame 2", "frame 3"]
    assert {"contact_sheet.png", "video.mp4"} <= {path.name for path in out.iterdir()}


def test_a_job_that_waits_says_why(requester: Requester) -> None:
    """A job for a renderer that nobody has tells so, instead of waiting in silence."""
    number = requester.submit("1-1", "--replicas", "1", "--quorum", "1", "--renderer", "9.9")
    view = json.loads(requester.run("show", str(number), "--json")[1])["job"]
    assert view["state"] == "open"
    assert view["reason"]
    assert view["reason"] in requester.run("show", str(number))[1]


def test_a_job_that_fails_says_why_and_can_be_tried_again(requester: Requester, grid: Grid) -> None:
    """When three hosts have failed, the job ends incomplete; `show` has each one's reason, `retry` opens it again."""
    for name in ("desktop", "laptop", "workstation"):
        if name not in grid.volunteers:
            grid.add_user(name)
            grid.add_volunteer(name, name).start()
    settings = load_settings(requester.settings, {})
    quiet = Console(file=io.StringIO())
    wishes = Wishes(frames="1-1", replicas=1, quorum=1)
    with prepared(requester.scene, wishes, settings, quiet) as job, grid.client("ada") as client:
        hurried = replace(job, request=replace(job.request, limits=Limits(seconds=0.001)))
        number = send(client, hurried, settings, quiet).id
    status, said, _told = requester.run("watch", str(number))
    assert status == 1
    assert "0 of 1 frames done, incomplete" in said.splitlines()[-1]
    said = requester.run("show", str(number))[1]
    assert "frame 1 (task 0): failed" in said
    assert said.count("failed, timed out") == 3
    status, said, _told = requester.run("retry", str(number))
    assert status == 0
    assert "1 failed" not in said
    assert requester.run("cancel", str(number))[0] == 0
