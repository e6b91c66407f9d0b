"""Denoising as a step of its own: raw passes that are checked by parts, and one picture made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import OpenImageIO
import pytest

from tests.applications.driven import Told, blender, drive
from tests.applications.test_strips import HEIGHT, WIDTH, job, read

PASSES = ("Combined.R", "Combined.G", "Combined.B", "Combined.A", "Denoising Albedo.R", "Denoising Normal.X")


# What a second owner is asked for, who has the raw passes.
DENOISE: dict[str, int | str] = {"frame": 3, "strips": "denoised"}


def in_steps(scene: str, **wishes: Any) -> Any:
    """Return a job that is denoised in a step of its own."""
    return job(scene, **{"denoise": True, "raw_passes": True, **wishes})


def given(folder: Path, replica: int, raw: bytes) -> None:
    """Lay raw passes out for one task, as a volunteer does."""
    place = folder / "inputs" / f".task-{replica}"
    place.mkdir(parents=True)
    (place / "frame_0003_raw.exr").write_bytes(raw)


def rendered(folder: Path, scenes: Path, request: Any, *tasks: dict[str, int | str], **more: Any) -> Told:
    inputs = folder / "inputs"
    inputs.mkdir(exist_ok=True, parents=True)
    for file in scenes.iterdir():
        (inputs / file.name).symlink_to(file)
    return drive(folder, more.pop("command", blender()), request, tasks, inputs=inputs, **more)


def passes(folder: Path, data: bytes) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Return the channels of an OpenEXR file, by name, and their pixels."""
    (folder / "read.exr").write_bytes(data)
    source = OpenImageIO.ImageInput.open(str(folder / "read.exr"))
    assert source is not None
    spec = source.spec()
    pixels = source.read_image(0, 0, 0, spec.nchannels, OpenImageIO.UNKNOWN)
    source.close()
    return tuple(spec.channelnames), np.ascontiguousarray(pixels).reshape(spec.height, spec.width, spec.nchannels)


@pytest.mark.parametrize(("file_format", "depth"), [("PNG", "8"), ("PNG", "16"), ("OPEN_EXR", "32")])
def test_picture_of_raw_passes(tmp_path: Path, scenes: Path, file_format: Any, depth: Any) -> None:
    """A frame comes with its raw passes. Whoever denoises these gets its picture, bit by bit: in another process, on
    one processor alone, after other work; and strips of them are theirs.
    """
    request = in_steps("noisy.blend", format=file_format, color_depth=depth)
    told = rendered(tmp_path / "author", scenes, request, {"frame": 3})
    assert told.failures == [], told.log
    suffix = "png" if file_format == "PNG" else "exr"
    assert list(told.files(1)) == [f"frame_0003.{suffix}", "frame_0003_raw.exr"]
    picture, raw = told.files(1).values()
    names, whole = passes(tmp_path, raw)
    assert all(any(name.endswith(each) for name in names) for each in PASSES), names
    assert whole.shape[:2] == (HEIGHT, WIDTH)

    second = tmp_path / "second"
    given(second, 2, raw)
    one_processor = ("taskset", "-c", "0", *blender())
    strips: dict[str, int | str] = {"frame": 3, "strips": "0+1,12+2,35+2"}
    checked = rendered(second, scenes, request, strips, DENOISE, command=one_processor)
    assert checked.failures == [], checked.log
    again = read(request, checked.file(2))
    assert again.pixels.tobytes() == read(request, picture).pixels.tobytes()
    for (name, data), (first, rows) in zip(checked.files(1).items(), ((0, 1), (12, 2), (35, 2)), strict=True):
        assert name == f"frame_0003_raw_rows_{first:04d}.exr"
        there, pixels = passes(tmp_path, data)
        assert there == names
        assert pixels.tobytes() == whole[first : first + rows].tobytes()


def test_denoising_changes_the_picture(tmp_path: Path, scenes: Path) -> None:
    """The picture is denoised, and nearly the one that Cycles denoises by itself; afterwards frames are as before."""
    wishes: dict[str, Any] = {"format": "OPEN_EXR", "color_depth": "32", "samples": 16}
    request = in_steps("noisy.blend", **wishes)
    told = rendered(tmp_path / "steps", scenes, request, {"frame": 3}, {"frame": 4}, {"frame": 3})
    whole = rendered(tmp_path / "whole", scenes, job("noisy.blend", denoise=True, **wishes), {"frame": 3})
    assert told.failures == whole.failures == [], told.log
    plain, stepwise = read(request, whole.file(1)), read(request, told.files(1)["frame_0003.exr"])
    assert read(request, told.files(3)["frame_0003.exr"]).pixels.tobytes() == stepwise.pixels.tobytes()
    names, raw = passes(tmp_path, told.files(1)["frame_0003_raw.exr"])
    noisy = raw[..., [next(n for n, name in enumerate(names) if name.endswith(f"Combined.{c}")) for c in "RGB"]]
    to_plain = float(np.abs(stepwise.pixels[..., :3] - plain.pixels[..., :3]).mean())
    to_noisy = float(np.abs(stepwise.pixels[..., :3] - noisy).mean())
    assert to_plain < to_noisy / 5


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (in_steps("graded.blend"), "its compositor works on the denoised picture"),
        (in_steps("sequencer.blend"), "its sequencer makes the picture"),
        (in_steps("noisy.blend", denoise=False), "its job does not ask for denoising by Cycles"),
    ],
)
def test_frames_that_cannot_be_denoised_apart(tmp_path: Path, scenes: Path, request_: Any, sentence: str) -> None:
    """Where something comes after denoising, or nothing is denoised, raw passes are refused with the reason."""
    told = rendered(tmp_path / "one", scenes, request_, {"frame": 3}, {"frame": 3, "strips": "4+2"})
    assert told.failures == [f"the scene 'Scene' cannot be denoised in a step of its own: {sentence}"] * 2, told.log


def test_raw_passes_that_are_none(tmp_path: Path, scenes: Path) -> None:
    """Without raw passes, or with a file that holds none, there is no picture, and the next task is done."""
    request = in_steps("noisy.blend", samples=2)
    good = rendered(tmp_path / "good", scenes, request, {"frame": 3})
    for replica, data in ((2, b""), (3, b"rubbish"), (4, good.files(1)["frame_0003.png"])):
        given(tmp_path / "bad", replica, data)
    told = rendered(tmp_path / "bad", scenes, request, *[DENOISE] * 4, {"frame": 3})
    assert len(told.failures) == 4, told.log
    assert "frame_0003_raw.exr" in told.failures[0]
    assert read(request, told.files(5)["frame_0003.png"]).width == WIDTH
