"""Whatever dies at whatever moment, the job ends with every result once and right."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.grid import Grid
from tests.rendering import pixels, render_plainly, tiny_scene
from xwgrid import wire
from xwgrid.applications.digest import expected_value
from xwgrid.model import Count, DigestWork, JobId, JobRequest, JobState, ReplicaState, TaskState
from xwgrid.requester.client import ENDED
from xwgrid.requester.settings import save_credentials

KILLS = 10
OWNERS = ("ada", "grace", "katherine")
# Killed volunteers come back by themselves; these are for a lease whose volunteer did not.
QUICK_LEASES = {"XWGRID_SERVER_HEARTBEAT_SECONDS": "2", "XWGRID_SERVER_LEASE_SECONDS": "6"}
TINY = {"samples": 4, "width": 64, "height": 36}


def _grid_of_three(folder: Path) -> Grid:
    return Grid(folder, environment=QUICK_LEASES)


def _prepare(grid: Grid) -> list[Callable[[], None]]:
    """Start three volunteers of three owners; return what kills each part of the grid and starts it again."""
    grid.add_user("requester")
    for owner in OWNERS:
        grid.add_user(owner)
        grid.add_volunteer(f"{owner}-desktop", owner).start()

    def kill_server() -> None:
        grid.server.kill()
        grid.start_server()

    def kill_volunteer(name: str) -> None:
        grid.volunteers[name].kill()
        grid.volunteers[name].start()

    volunteers = [lambda name=name: kill_volunteer(name) for name in grid.volunteers]
    # The server as often as all volunteers together.
    return [*volunteers, *[kill_server] * len(volunteers)]


def _kill_during(grid: Grid, job: JobId, tasks: int, seed: int, victims: list[Callable[[], None]]) -> wire.JobView:
    """Kill `KILLS` times, at random stages of the job and a random moment after each; return the job when it ended."""
    chance = random.Random(seed)  # noqa: S311  # a test that can be run again
    stages = sorted(chance.sample(range(tasks * 9 // 10), KILLS))
    pause = threading.Event()
    with grid.client("requester") as client:
        for event in client.events(job):
            while stages and event.job.agreed >= stages[0]:
                assert event.job.state is JobState.OPEN, "the job was over before the last kill"
                stages.pop(0)
                pause.wait(chance.uniform(0.0, 0.3))
                chance.choice(victims)()
            if event.job.state in ENDED:
                assert stages == []
                return event.job
    raise AssertionError("the events ended before the job")


@pytest.mark.parametrize("seed", [1])
def test_values_survive_ten_kills(tmp_path: Path, seed: int) -> None:
    """Ten kill -9 of the server and of volunteers: every value of a job is there once, right, and by two voters."""
    work = DigestWork(seed="kill", rounds=300_000)
    tasks = 120
    with _grid_of_three(tmp_path / "grid") as grid:
        victims = _prepare(grid)
        with grid.client("requester") as client:
            request = JobRequest(name="kill", work=work, split=Count(count=tasks), replicas=2, quorum=2)
            job = client.submit(request)
        ended = _kill_during(grid, job.id, tasks, seed, victims)
        assert (ended.state, ended.agreed, ended.failed) == (JobState.FINISHED, tasks, 0)
        with grid.client("requester") as client:
            found = list(client.tasks(job.id))
    assert [task.number for task in found] == list(range(tasks))
    assert {task.number: task.value for task in found} == {
        task.number: expected_value(work, task.number) for task in found
    }
    for task in found:
        agreed = [replica for replica in task.replicas if replica.state is ReplicaState.AGREED]
        assert len(agreed) == len({replica.host for replica in agreed}) == 2
        assert not any(replica.state is ReplicaState.OUTVOTED for replica in task.replicas)


def test_frames_survive_ten_kills(tmp_path: Path) -> None:
    """Ten kill -9 while Blender renders: every frame is there once, and equal to a plain render's."""
    frames = 24
    scene = tiny_scene(tmp_path)
    with _grid_of_three(tmp_path / "grid") as grid:
        victims = _prepare(grid)
        save_credentials(tmp_path / "credentials", grid.credentials("requester"))
        settings = tmp_path / "requester.toml"
        settings.write_text(f"credentials = {json.dumps(str(tmp_path / 'credentials'))}\n")
        command = ("xwgrid", "--settings", str(settings))
        answer = grid.run(*command, "submit", str(scene), "--frames", f"1-{frames}", "--seed", "0", "--json")
        job = wire.decode(answer, wire.JobView)
        ended = _kill_during(grid, job.id, frames, 2, victims)
        assert (ended.state, ended.agreed, ended.failed) == (JobState.FINISHED, frames, 0)
        with grid.client("requester") as client:
            found = list(client.tasks(job.id))
        grid.run(*command, "download", str(job.id), "--out", str(tmp_path / "out"))
    assert [task.state for task in found] == [TaskState.AGREED] * frames
    render_plainly(scene, tmp_path / "plain", frames, **TINY)
    expected = sorted(file.name for file in (tmp_path / "plain").glob("*.png"))
    assert sorted(file.name for file in (tmp_path / "out" / "frames").iterdir()) == expected
    for name in expected:
        assert np.array_equal(pixels(tmp_path / "out" / "frames" / name), pixels(tmp_path / "plain" / name)), name
