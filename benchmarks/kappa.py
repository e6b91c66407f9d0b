"""What a strip of an audit costs beside its area: in shares of a frame, with the scene loaded and without."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import psutil

from benchmarks.report import Report, machine, versions
from tests.applications.driven import blender, staged
from xwgrid import auditing
from xwgrid.model import BlenderWork, Frames, InputFile, JobRequest

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "examples" / "orrery" / "orrery.blend"
_FEW, _MORE = 2, 8


class Cost(NamedTuple):
    """What something took, in seconds."""

    wall: float
    processor: float  # of all threads together: what other programs do meanwhile hardly changes it


class Driver:
    """A driver of Blender as volunteers run it, but for the sandbox."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._begun = time.perf_counter()
        # Both are pipes.
        self._given, self._told = cast("IO[bytes]", process.stdin), cast("IO[bytes]", process.stdout)
        self._facts = psutil.Process(process.pid)
        self._replica = 0
        self.ready = self._until("ready")

    def do(self, arguments: Mapping[str, int | str]) -> Cost:
        """Do one task. Raises RuntimeError when it fails."""
        self._replica += 1
        task = {"do": "task", "replica": self._replica, "arguments": dict(arguments), "output": str(self._replica)}
        before = self.so_far
        self._given.write(json.dumps(task).encode() + b"\n")
        self._given.flush()
        self._until("finished")
        after = self.so_far
        return Cost(after.wall - before.wall, after.processor - before.processor)

    @property
    def so_far(self) -> Cost:
        """Return what it took since the process was started."""
        times = self._facts.cpu_times()
        return Cost(time.perf_counter() - self._begun, times.user + times.system)

    def _until(self, event: str) -> dict[str, Any]:
        """Return the next event of this kind."""
        for line in self._told:
            if line.startswith(b"@xwgrid "):
                said: dict[str, Any] = json.loads(line.removeprefix(b"@xwgrid "))
                if said["event"] == event:
                    return said
                if said["event"] == "failed":
                    raise RuntimeError(f"the driver failed: {said['message']}")
        raise RuntimeError("the driver has ended")


class Bench(NamedTuple):
    """A scene, and how it is rendered."""

    scene: Path
    width: int
    height: int

    @contextlib.contextmanager
    def driver(self, folder: Path, samples: int) -> Iterator[Driver]:
        """Start a driver; on return its process is gone."""
        work = BlenderWork(
            scene_file=self.scene.name,
            samples=samples,
            width=self.width,
            height=self.height,
            denoise=False,
            allow_missing=True,
        )
        scene = InputFile(path=self.scene.name, sha256="0" * 64, size=1)
        request = JobRequest(name="kappa", work=work, split=Frames(first=1, last=1_000), inputs=(scene,))
        folder.mkdir(parents=True, exist_ok=True)
        ways = staged(folder, blender(), request, inputs=self.scene.parent)
        with (
            (folder / "log").open("wb") as log,
            subprocess.Popen(
                ways.arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ways.work,
                env=ways.environment,
            ) as process,
        ):
            try:
                yield Driver(process)
            finally:
                process.kill()


def kappa(*, scene: Path | None, width: int, height: int, frame_seconds: float, rounds: int) -> Report:
    """Render frames, and strips of other frames, in turn, at samples that make a frame last so long.

    Every task is of another frame than the one before it, as on a volunteer's machine. Where strips lie moves over the
    whole picture with the rounds, so that on average a strip costs what its area does in the frame.
    Raises RuntimeError when the driver fails.
    """
    bench = Bench((scene or SCENE).resolve(), width, height)
    rows, several = auditing.strip_rows(height), auditing.STRIPS_AN_AUDIT
    frames: list[Cost] = []
    strips: list[Cost] = []
    audits: list[Cost] = []
    cold: list[Cost] = []
    with tempfile.TemporaryDirectory(prefix="xwgrid-benchmark-") as name:
        folder = Path(name)
        samples = _samples(bench, folder, frame_seconds)
        with bench.driver(folder, samples) as driver:
            driver.do({"frame": 1})
            for turn in range(rounds):
                one, many = (_strips(height, count, turn, rounds) for count in (1, several))
                frames.append(driver.do({"frame": 3 * turn + 2}))
                strips.append(driver.do({"frame": 3 * turn + 3, "strips": one}))
                audits.append(driver.do({"frame": 3 * turn + 4, "strips": many}))
        for turn in range(rounds):
            with bench.driver(folder, samples) as driver:
                driver.do({"frame": 3 * turn + 3, "strips": _strips(height, 1, turn, rounds)})
                cold.append(driver.so_far)
    effective = driver.ready["effective"]
    area = rows / height
    figures: dict[str, float | int | list[float]] = {"area": area}
    for unit, prefix in enumerate(("", "processor_")):
        frame, strip, audit, first = (
            statistics.mean(cost[unit] for cost in costs) for costs in (frames, strips, audits, cold)
        )
        figures |= {
            f"{prefix}kappa_warm": strip / frame - area,
            f"{prefix}kappa_warm_of_several": audit / several / frame - area,
            f"{prefix}kappa_cold": first / frame - area,
            f"{prefix}frame_seconds": frame,
            f"{prefix}strip_seconds_warm": strip,
            f"{prefix}strip_seconds_cold": first,
        }
    return Report(
        benchmark="kappa",
        machine=machine(),
        versions=versions(Blender=driver.ready["version"]),
        settings={
            "scene": bench.scene.name,
            "resolution": f"{width}x{height}",
            "samples": samples,
            "adaptive_sampling": effective["cycles.use_adaptive_sampling"],
            "strip_rows": rows,
            "several": several,
            "rounds": rounds,
        },
        figures=figures,
    )


def _strips(height: int, count: int, turn: int, rounds: int) -> str:
    return auditing.written(auditing.lay_strips(height, count, (turn + 0.5) / rounds))


def _samples(bench: Bench, folder: Path, frame_seconds: float) -> int:
    """Return how many samples make a frame last so long: a frame costs a fixed time, and some for every sample."""

    def frame(samples: int) -> float:
        with bench.driver(folder, samples) as driver:
            driver.do({"frame": 1})
            return min(driver.do({"frame": number}).wall for number in (2, 3))

    few, more = frame(_FEW), frame(_MORE)
    return max(1, round(_FEW + (frame_seconds - few) * (_MORE - _FEW) / max(more - few, 1e-3)))
