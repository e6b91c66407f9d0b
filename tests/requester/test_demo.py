"""The demonstration shows a grid that is right in spite of liars, says so honestly, and leaves nothing behind."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.grid import BIN, RUNTIMES
from tests.rendering import tiny_scene
from tests.requester.test_watching import job
from xwgrid.model import JobId, JobState, ReplicaId, ReplicaState, TaskNumber, TaskState
from xwgrid.requester.command import main
from xwgrid.requester.demo_crash import Crash
from xwgrid.requester.demo_liar import spoiled
from xwgrid.requester.demo_reference import Difference, difference
from xwgrid.requester.demo_report import frame_reports, problems_of, volunteer_reports
from xwgrid.wire import ReplicaView, TaskView


def noise(path: Path) -> Path:
    """Save a picture of which every byte counts."""
    pixels = np.random.default_rng(7).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def replica(host: str, state: ReplicaState, number: int) -> ReplicaView:
    """Return one attempt."""
    return ReplicaView(
        replica=ReplicaId(100 + number), number=number, host=host, state=state, leased_at=0.0, ended_at=1.0
    )


def task(*replicas: ReplicaView, state: TaskState = TaskState.AGREED) -> TaskView:
    """Return the task of frame 1."""
    return TaskView(job=JobId(7), number=TaskNumber(0), label="frame 1", state=state, replicas=replicas)


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Start `xwgrid demo`, with temporary files in `folder`."""
    (folder / "temporary").mkdir()
    return subprocess.Popen(
        [str(BIN / "xwgrid"), "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env={**os.environ, "XWGRID_RUNTIMES": str(RUNTIMES), "TMPDIR": str(folder / "temporary")},
    )


def test_a_liar_alters_pixels_of_a_picture_that_still_decodes(tmp_path: Path) -> None:
    """A spoiled picture has the right size, and other pixels; each replica's lie is another."""
    honest = noise(tmp_path / "honest.png")
    lies = [spoiled(honest.read_bytes(), random.Random(seed)) for seed in ("1/5", "1/6")]  # noqa: S311  no secret
    seen = []
    for lie in lies:
        with Image.open(io.BytesIO(lie)) as picture:
            seen.append(np.asarray(picture))
    with Image.open(honest) as picture:
        assert all(each.shape == (36, 64, 3) and (each != np.asarray(picture)).any() for each in seen)
    assert (seen[0] != seen[1]).any()


def test_one_wrong_pixel_is_found(tmp_path: Path) -> None:
    """The comparison with the plain render counts every pixel that differs by the least there is."""
    honest = noise(tmp_path / "honest.png")
    with Image.open(honest) as picture:
        pixels = np.array(picture)
    pixels[3, 4, 1] ^= 1
    Image.fromarray(pixels).save(tmp_path / "other.png")
    assert difference(honest, honest) is None
    found = difference(tmp_path / "other.png", honest)
    assert found is not None
    assert (found.pixels, found.of, round(found.largest * 255)) == (1, 36 * 64, 1)


def test_a_wrong_frame_is_a_problem() -> None:
    """An accepted frame that differs from the plain render is named, with how much of it is wrong."""
    wrong = {TaskNumber(0): Difference(pixels=9, of=100, largest=0.5)}
    frames = frame_reports([task(replica("a", ReplicaState.AGREED, 0))], wrong)
    problems = problems_of(job(4, JobState.FINISHED), frames, (), crashes=[], wanted_crashes=0, tasks=[])
    assert problems == ("frame 1 was accepted and is WRONG: 9 pixels differ from the plain render",)


def test_a_liar_without_a_chance_is_told() -> None:
    """A liar that was never outvoted proves nothing, and the report says so."""
    volunteers = volunteer_reports({"liar-1": True}, [task(replica("a", ReplicaState.AGREED, 0))], {})
    (problem,) = problems_of(job(4, JobState.FINISHED), (), volunteers, crashes=[], wanted_crashes=0, tasks=[])
    assert problem.startswith("liar-1 was never outvoted")


def test_a_crash_counts_when_its_frame_was_given_out_again() -> None:
    """A crash whose lease was lost and re-issued is one; a crash that lost nothing is not."""
    tasks = [task(replica("a", ReplicaState.LOST, 0), replica("b", ReplicaState.AGREED, 1))]
    crash = Crash(volunteer="a", task=TaskNumber(0), label="frame 1", replica=100, done=0.5, lost=True)
    harmless = Crash(volunteer="a", task=TaskNumber(0), label="frame 1", replica=100, done=0.5, lost=False)
    done = job(4, JobState.FINISHED)
    assert problems_of(done, (), (), crashes=[crash], wanted_crashes=1, tasks=tasks) == ()
    (problem,) = problems_of(done, (), (), crashes=[harmless], wanted_crashes=1, tasks=tasks)
    assert problem.startswith("0 of 1 crashes hit a frame")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--volunteers", "3", "--liars", "2"), "leave 1 honest ones"),
        (("--volunteers", "4", "--liars", "2"), "more honest votes than lies"),
        (("--samples", "0"), "--samples 0 is out of bounds"),
        (("--quorum", "0"), "0 is out of bounds"),
        (("--frames", "9-1"), "runs backwards"),
    ],
)
def test_a_demonstration_that_cannot_end_well_is_refused(options: tuple[str, ...], sentence: str) -> None:
    """Exit status 2 at once, with a sentence."""
    ended = CliRunner().invoke(main, ["demo", *options])
    assert ended.exit_code == 2
    assert sentence in ended.output


def test_the_grid_is_right_in_spite_of_a_liar(tmp_path: Path) -> None:
    """Three volunteers, one of whom lies: every frame equals the plain render, nothing stays.

    The liar is outvoted, after two lies set aside, and gets nothing more; what it had taken by then may come in.
    """
    scene = tiny_scene(tmp_path)
    options = ["--frames", "1-6", "--liars", "1", "--out", str(tmp_path / "out"), "--json"]
    with demo(tmp_path, str(scene), *options) as running:
        said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    report = json.loads(said.splitlines()[-1])
    assert [frame["right"] for frame in report["frames"]] == [True] * 6
    (liar,) = [each for each in report["volunteers"] if each["lies"]]
    assert liar["outvoted"] > 0
    assert liar["accepted"] == 0
    assert liar["standing"] == ("set aside" if liar["outvoted"] > 1 else "on probation")
    assert {each["standing"] for each in report["volunteers"] if not each["lies"]} == {"new"}
    assert len(list((tmp_path / "out" / "frames").iterdir())) == 6
    assert list((tmp_path / "temporary").iterdir()) == []


def test_an_interrupted_demonstration_leaves_no_process(tmp_path: Path) -> None:
    """^C in the middle ends server, volunteers and renderers, and takes the temporary folder away."""
    scene = tiny_scene(tmp_path)
    with demo(tmp_path, str(scene), "--frames", "1-24", "--samples", "4096", "--volunteers", "2") as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "being rendered" in line and "0 being" not in line:
                break
        parts = psutil.Process(running.pid).children(recursive=True)
        assert len(parts) >= 3
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 1, said
    _gone, alive = psutil.wait_procs(parts, timeout=20)
    assert alive == []
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_the_default_demonstration_shows_all_of_it(tmp_path: Path) -> None:
    """What `make demo` runs: the example, a liar outvoted, a crashed lease given out again, all frames right."""
    with demo(tmp_path, "--liars", "1", "--crashes", "1", "--out", str(tmp_path / "out"), "--json") as running:
        said, _ = running.communicate(timeout=600)
    assert running.returncode == 0, said
    report = json.loads(said.splitlines()[-1])
    assert len(report["frames"]) >= 8
    assert any(crash["lost"] for crash in report["crashes"])
    assert {"frames", "contact_sheet.png", "video.mp4", "summary.json"} <= {
        p.name for p in (tmp_path / "out").iterdir()
    }
