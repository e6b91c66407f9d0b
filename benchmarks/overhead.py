"""What the grid costs an animation: one volunteer, one replica, against one plain Blender process."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from xwgrid_server import accounts

from benchmarks.report import Report, machine, versions
from tests.grid import Grid
from tests.rendering import python_with_blender, render_plainly
from xwgrid.requester.settings import save_credentials

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "examples" / "orrery" / "orrery.blend"
WIDTH, HEIGHT = 320, 180
_FEW, _MORE = 8, 32
_READY_SECONDS = 120.0


def overhead(*, scene: Path | None, frames: int, frame_seconds: float, pairs: int) -> Report:
    """Render the same frames by one and the other in turn, `pairs` times, at samples that make a frame last so long.

    Raises RuntimeError when one of them fails or a frame is missing.
    """
    chosen = (scene or SCENE).resolve()
    with tempfile.TemporaryDirectory(prefix="xwgrid-benchmark-") as name:
        folder = Path(name)
        samples = _samples(chosen, folder / "calibration", frame_seconds)
        plain: list[float] = []
        through: list[float] = []
        for pair in range(pairs):
            out = folder / f"plain-{pair}"
            plain.append(_plain(chosen, out, frames, samples))
            _require(out, frames)
            # Each time a volunteer that has not seen the job: the scene's way to it counts.
            with Grid(folder / f"grid-{pair}") as grid:
                through.append(_through(grid, chosen, frames, samples))
    ratios = [ours / theirs for ours, theirs in zip(through, plain, strict=True)]
    return Report(
        benchmark="overhead",
        machine=machine(),
        versions=versions(Blender=_blender_version()),
        settings={
            "scene": chosen.name,
            "frames": frames,
            "samples": samples,
            "resolution": f"{WIDTH}x{HEIGHT}",
            "volunteers": 1,
            "replicas": 1,
            "pairs": pairs,
        },
        figures={
            "ratio_median": statistics.median(ratios),
            "ratios": ratios,
            "plain_seconds": plain,
            "grid_seconds": through,
            "plain_frame_seconds": statistics.median(plain) / frames,
        },
    )


def _samples(scene: Path, folder: Path, frame_seconds: float) -> int:
    """Return how many samples make a frame last so long: a frame costs a fixed time, and some for every sample."""

    def frame(samples: int) -> float:
        # The difference leaves out what a process costs before its second frame.
        one, three = (_plain(scene, folder / f"{samples}-{frames}", frames, samples) for frames in (1, 3))
        return (three - one) / 2

    few, more = frame(_FEW), frame(_MORE)
    return max(1, round(_FEW + (frame_seconds - few) * (_MORE - _FEW) / (more - few)))


def _plain(scene: Path, out: Path, frames: int, samples: int) -> float:
    """Render frames 1 to `frames` by one process; return its wall time."""
    begun = time.perf_counter()
    render_plainly(scene, out, frames, samples=samples, width=WIDTH, height=HEIGHT)
    return time.perf_counter() - begun


def _through(grid: Grid, scene: Path, frames: int, samples: int) -> float:
    """Hand the animation in and wait for it; return the time from the command's start to the last frame on disk."""
    grid.add_user("owner")
    grid.add_user("requester")
    volunteer = grid.add_volunteer("volunteer", "owner")
    volunteer.start()
    _until_ready(grid)
    credentials = grid.folder / "credentials"
    save_credentials(credentials, grid.credentials("requester"))
    settings = grid.folder / "requester.toml"
    settings.write_text(f"credentials = {json.dumps(str(credentials))}\n")
    out = grid.folder / "out"
    options = ["--frames", f"1-{frames}", "--samples", str(samples), "--resolution", f"{WIDTH}x{HEIGHT}"]
    options += ["--replicas", "1", "--quorum", "1", "--seed", "0", "--out", str(out)]
    begun = time.time()
    grid.run("xwgrid", "--settings", str(settings), "submit", str(scene), *options)
    _require(out / "frames", frames)
    # The contact sheet and the film come after the last frame.
    return max(file.stat().st_mtime for file in (out / "frames").glob("*.png")) - begun


def _until_ready(grid: Grid) -> None:
    """Return when the volunteer has told the server that it has Blender: a daemon that runs all day has."""
    end = time.monotonic() + _READY_SECONDS
    while not any(
        program.runtime == "blender"
        for host in accounts.list_hosts(grid.engine)
        if host.facts is not None
        for program in host.facts.programs
    ):
        if time.monotonic() > end:
            raise RuntimeError(f"the volunteer does not offer Blender: {grid.volunteers['volunteer'].tail()}")
        time.sleep(0.1)


def _require(folder: Path, frames: int) -> None:
    present = len(list(folder.glob("*.png")))
    if present != frames:
        raise RuntimeError(f"{folder} holds {present} frames instead of {frames}")


def _blender_version() -> str:
    return Path(python_with_blender()).parents[1].name.removeprefix("blender-bpy-")
