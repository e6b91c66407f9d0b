"""Strips of a frame are, bit by bit, what the frame has there: real Blender, tiny scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.applications.driven import Told, blender, drive
from xwgrid.applications import pictures
from xwgrid.applications.pictures import Picture, Pinned
from xwgrid.model import BlenderWork, Frames, InputFile, JobRequest

# Odd sizes: no half, third or tenth of them is a whole number.
WIDTH, HEIGHT = 67, 37
STRIPS = "0+1,1+2,12+2,19+1,30+7"
FORMATS = [("PNG", "8"), ("PNG", "16"), ("OPEN_EXR", "16"), ("OPEN_EXR", "32")]


def job(scene_file: str, **pins: Any) -> JobRequest:
    work = BlenderWork(scene_file=scene_file, width=WIDTH, height=HEIGHT, **pins)
    scene = InputFile(path=scene_file, sha256="0" * 64, size=1)
    return JobRequest(name="film", work=work, split=Frames(first=0, last=24), inputs=(scene,))


def strips_and_frames(folder: Path, scenes: Path, request: JobRequest, strips: str = STRIPS, frame: int = 3) -> Told:
    """Render strips in a fresh process, the frame, strips again, and the frame again."""
    tasks: list[dict[str, int | str]] = [{"frame": frame, "strips": strips}, {"frame": frame}] * 2
    told = drive(folder, blender(), request, tasks, inputs=scenes)
    assert told.status == 0, told.log
    assert told.failures == [], told.log
    return told


def read(request: JobRequest, data: bytes, rows: int = HEIGHT) -> Picture:
    """Read a picture of so many rows as the grid does."""
    work = request.work
    assert isinstance(work, BlenderWork)
    pinned = Pinned(format=work.format, width=WIDTH, height=rows, color_depth=work.color_depth)
    return pictures.read(data, pinned)


def assert_rows_are_equal(told: Told, request: JobRequest, strips: str = STRIPS) -> Picture:
    """Compare every strip with the rows of the frame, byte by byte; return the frame."""
    frame = read(request, told.file(2))
    assert read(request, told.file(4)).pixels.tobytes() == frame.pixels.tobytes()
    for replica in (1, 3):
        files = told.files(replica)
        assert len(files) == strips.count(",") + 1
        for (name, data), strip in zip(files.items(), strips.split(","), strict=True):
            first, rows = map(int, strip.split("+"))
            assert f"_rows_{first:04d}." in name
            seen = read(request, data, rows)
            assert (seen.channels, seen.type) == (frame.channels, frame.type)
            assert seen.pixels.tobytes() == frame.pixels[first : first + rows].tobytes(), name
    return frame


@pytest.mark.parametrize(("file_format", "depth"), FORMATS)
@pytest.mark.parametrize("scene", ["noisy", "transparent", "undithered", "grey", "graded"])
def test_strips_are_rows_of_the_frame(tmp_path: Path, scenes: Path, scene: str, file_format: Any, depth: Any) -> None:
    """In every lossless format, over a transparent background and behind a compositor that only changes colours: the
    first row, the last ones and those between are the frame's, in a fresh process as after a frame.
    """
    request = job(f"{scene}.blend", format=file_format, color_depth=depth, samples=4, denoise=False)
    told = strips_and_frames(tmp_path, scenes, request)
    frame = assert_rows_are_equal(told, request)
    assert len(np.unique(frame.pixels)) > 50
    if scene == "transparent":
        opacity = frame.pixels[..., 3]
        assert ((opacity > opacity.min()) & (opacity < opacity.max())).any()
    suffix = "png" if file_format == "PNG" else "exr"
    assert list(told.files(1))[:3] == [f"frame_0003_rows_{first:04d}.{suffix}" for first in (0, 1, 12)]


@pytest.mark.parametrize(("file_format", "depth"), FORMATS)
def test_adaptive_sampling_and_tiles(tmp_path: Path, scenes: Path, file_format: Any, depth: Any) -> None:
    """Where Cycles samples a pixel longer because of its neighbours, these are rendered with the strip; and a frame is
    rendered in one piece, whatever tiles the file asks for.
    """
    request = job("noisy.blend", format=file_format, color_depth=depth, denoise=False)
    told = strips_and_frames(tmp_path, scenes, request)
    assert told.ready["effective"]["cycles.use_adaptive_sampling"] is True
    assert told.ready["effective"]["cycles.use_auto_tile"] is False
    assert_rows_are_equal(told, request)


def test_lossy_compression_is_not_used(tmp_path: Path, scenes: Path) -> None:
    """A file that asks for an OpenEXR compression that alters pixels gets one that does not."""
    told = drive(tmp_path, blender(), job("noisy.blend", format="OPEN_EXR", color_depth="16"), [], inputs=scenes)
    assert told.ready["effective"]["render.image_settings.exr_codec"] == "ZIP"


def test_every_row(tmp_path: Path, scenes: Path) -> None:
    """Each single row of a frame can be had by itself, and progress never falls on the way."""
    request = job("noisy.blend", samples=4, denoise=False)
    strips = ",".join(f"{row}+1" for row in range(HEIGHT))
    told = strips_and_frames(tmp_path, scenes, request, strips, frame=7)
    assert_rows_are_equal(told, request, strips)
    shares = [each["done"] for each in told.all("progress") if each["replica"] == 1]
    assert shares == sorted(shares)
    assert all(0 < share <= 1 for share in shares)


def test_few_strips_and_many(tmp_path: Path, scenes: Path) -> None:
    """A strip is the same whether it is the only one of its task or one of many, and behind a look as without."""
    for scene in ("noisy", "grey", "graded"):
        request = job(f"{scene}.blend", samples=4, denoise=False)
        for strips in ("17+2", "0+2,35+2", "0+1,9+1,18+1,27+1,36+1"):
            (tmp_path / scene / strips).mkdir(parents=True)
            told = strips_and_frames(tmp_path / scene / strips, scenes, request, strips)
            assert_rows_are_equal(told, request, strips)


def test_strips_of_frames_below_zero(tmp_path: Path, scenes: Path) -> None:
    """A strip's name carries the frame's sign, and nothing else is left in its folder."""
    told = drive(tmp_path, blender(), job("plain.blend"), [{"frame": -7, "strips": "36+1"}], inputs=scenes)
    assert list(told.files(1)) == ["frame_-0007_rows_0036.png"]
    assert [file.name for file in (told.work / "1").iterdir()] == ["frame_-0007_rows_0036.png"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (job("blurred.blend"), "the compositor's node 'Blur' may look at other pixels"),
        (job("sequencer.blend"), "its sequencer makes the picture"),
        (job("inked.blend"), "Freestyle draws its lines over the whole picture"),
        (job("plain.blend", denoise=True), "denoising looks at neighbouring pixels"),
        (job("plain.blend", format="JPEG"), "JPEG files lose what lies between neighbouring pixels"),
        (job("plain.blend", engine="WORKBENCH"), "BLENDER_WORKBENCH looks at neighbouring pixels"),
    ],
)
def test_frames_that_have_no_parts(tmp_path: Path, scenes: Path, request_: JobRequest, sentence: str) -> None:
    """Where a pixel hangs on others, strips are refused with the reason, and frames are rendered as ever."""
    tasks: list[dict[str, int | str]] = [{"frame": 3, "strips": "4+2"}]
    if request_.work.engine != "WORKBENCH":  # type: ignore[union-attr]  # which needs a display
        tasks.append({"frame": 3})
    told = drive(tmp_path, blender(), request_, tasks, inputs=scenes)
    assert told.failures == [f"frame 3 cannot be rendered in parts: {sentence}"], told.log
    assert len(told.all("finished")) == len(tasks) - 1


def test_strips_that_are_none(tmp_path: Path, scenes: Path) -> None:
    """A task that asks for rows that are not there, or for nonsense, fails with a sentence; the next one is done."""
    hostile: list[Any] = [
        "", ",", "4", "4+0", "-1+2", "36+2", "37+1", "0+38", "999999+1", "1e3+2", "4+2,", "4+2;5+2", "4+2,4+1",
        " 4+2", "4+2\n", "../../x+1", "\u0664+2", "9" * 5_000 + "+1", ",".join(["1+1"] * 1_001), 4, None, ["4+2"],
        {"4+2": 1}, True,
    ]  # fmt: skip
    tasks: list[dict[str, Any]] = [{"frame": 3, "strips": each} for each in hostile]
    told = drive(tmp_path, blender(), job("plain.blend"), [*tasks, {"frame": 3, "strips": "35+2"}], inputs=scenes)
    assert told.status == 0, told.log
    assert len(told.failures) == len(hostile)
    assert all(
        "strip" in failure and not failure.startswith(("TypeError", "ValueError")) and len(failure) < 200
        for failure in told.failures
    ), told.failures
    assert list(told.files(len(hostile) + 1)) == ["frame_0003_rows_0035.png"]
