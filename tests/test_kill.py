"""Whatever dies at whatever moment, the job ends with every result once and right."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.grid import Grid
from tests.rendering import pixels, render_plainly, tiny_scene
from xwgrid import wire
from xwgrid.applications.digest import expected_value
from xwgrid.model import Count, DigestWork, Fixed, JobId, JobRequest, JobState, ReplicaState
from xwgrid.requester.client import ENDED
from xwgrid.requester.settings import save_credentials

KILLS = 10
OWNERS = ("ada", "grace", "katherine")
# Killed volunteers come back by themselves; these are for a lease whose volunteer did not.
QUICK_LEASES = {"XWGRID_SERVER_HEARTBEAT_SECONDS": "2", "XWGRID_SERVER_LEASE_SECONDS": "6"}
# So many that a frame lasts about a second.
SAMPLES = 800


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


def _kill_during(
    grid: Grid, submit: Callable[[], JobId], tasks: int, seed: int, victims: list[Callable[[], None]]
) -> list[wire.JobView]:
    """Kill `KILLS` times, at random stages of a job and a random moment after each; return the job when it ended.

    A machine so fast that a job ends before the last kill gets another job, and so on; all are returned.
    """
    chance = random.Random(seed)  # noqa: S311  # a test that can be run again
    pause = threading.Event()
    ended: list[wire.JobView] = []
    kills = 0
    with grid.client("requester") as client:
        while kills < KILLS:
            stages = sorted(chance.sample(range(tasks * 6 // 10), KILLS - kills))
            for event in client.events(submit()):
                if event.job.state in ENDED:
                    ended.append(event.job)
                elif stages and event.job.agreed >= stages[0]:
                    stages.pop(0)
                    pause.wait(chance.uniform(0.0, 0.3))
                    chance.choice(victims)()
                    kills += 1
    return ended


def test_values_survive_ten_kills(tmp_path: Path) -> None:
    """Ten kill -9 of the server and of volunteers: every value of a job is there once, right, and by two voters."""
    work = DigestWork(seed="kill", rounds=300_000)
    tasks = 120
    request = JobRequest(name="kill", work=work, split=Count(count=tasks), policy=Fixed(), replicas=2, quorum=2)
    with contextlib.ExitStack() as stack:
        grid = stack.enter_context(_grid_of_three(tmp_path / "grid"))
        victims = _prepare(grid)
        client = stack.enter_context(grid.client("requester"))
        for job in _kill_during(grid, lambda: client.submit(request).id, tasks, 1, victims):
            assert (job.state, job.agreed, job.failed) == (JobState.FINISHED, tasks, 0)
            found = list(client.tasks(job.id))
            assert [task.number for task in found] == list(range(tasks))
            for task in found:
                assert task.value == expected_value(work, task.number)
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

        def submit() -> JobId:
            wishes = ["--frames", f"1-{frames}", "--samples", str(SAMPLES), "--seed", "0", "--policy", "fixed"]
            view = grid.run(*command, "submit", str(scene), *wishes, "--json")
            return wire.decode(view, wire.JobView).id

        jobs = _kill_during(grid, submit, frames, 2, victims)
        for job in jobs:
            assert (job.state, job.agreed, job.failed) == (JobState.FINISHED, frames, 0)
            grid.run(*command, "download", str(job.id), "--out", str(tmp_path / f"out-{job.id}"))
    render_plainly(scene, tmp_path / "plain", frames, samples=SAMPLES, width=64, height=36)
    expected = sorted(file.name for file in (tmp_path / "plain").glob("*.png"))
    assert len(expected) == frames
    for job in jobs:
        accepted = tmp_path / f"out-{job.id}" / "frames"
        assert sorted(file.name for file in accepted.iterdir()) == expected
        for name in expected:
            assert np.array_equal(pixels(accepted / name), pixels(tmp_path / "plain" / name)), name
