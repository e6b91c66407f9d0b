"""How far apart pictures are: drawn ones, and what an honest Blender and cheating ones make of the reference frames."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from msgspec.structs import replace

from tests.applications.driven import blender, drive
from tests.rendering import python_with_blender
from xwgrid.applications import pictures, reference_frames
from xwgrid.applications.picture_distance import distance
from xwgrid.applications.pictures import Picture, Pinned
from xwgrid.errors import BadInput
from xwgrid.model import BlenderWork, JobRequest
from xwgrid.tolerances import NARROWEST, WIDEST, Distance, Tolerance, measured, within

ROOT = Path(__file__).parents[2]
# Kinds that classes with different instructions render nearly alike, the first frame of each.
FRAMES = tuple(frames[0] for kind, frames in reference_frames.KINDS.items() if kind not in ("volume", "hair"))


def drawn(pixels: npt.NDArray[np.generic], channels: str = "RGB") -> Picture:
    """Return a decoded picture of these pixels."""
    height, width, _ = pixels.shape
    return Picture(width=width, height=height, channels=tuple(channels), type=pixels.dtype.name, pixels=pixels)


def grey(height: int = 24, width: int = 32) -> npt.NDArray[np.uint8]:
    """Return a picture in one colour."""
    return np.full((height, width, 3), 100, np.uint8)


def test_equal_pictures_have_no_distance() -> None:
    """A picture is not apart from itself."""
    assert distance(drawn(grey()), drawn(grey())) == Distance(share=0.0, largest=0.0, block=0.0)


def test_one_channel_of_one_pixel() -> None:
    """One channel altered by 32 steps is one in all, 32 at the largest, and half a step of its block of 64 pixels."""
    other = grey()
    other[3, 30, 1] += 32
    assert distance(drawn(grey()), drawn(other)) == Distance(share=1 / (24 * 32 * 3), largest=32.0, block=0.5)


def test_noise_that_evens_out_does_not_show_in_the_blocks() -> None:
    """Steps up and down beside each other move no mean; the same steps in one direction move it fully."""
    up_and_down, up = grey(), grey()
    up_and_down[:, ::2] += 2
    up_and_down[:, 1::2] -= 2
    up[:8, :8] += 2
    assert distance(drawn(grey()), drawn(up_and_down)).block == 0.0
    assert distance(drawn(grey()), drawn(up)) == Distance(share=1 / 12, largest=2.0, block=2.0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 20), (15, 9), (17, 23), (256, 8), (259, 8), (520, 17)])
def test_odd_sizes(height: int, width: int) -> None:
    """Whatever the size, each pixel is in one block of at least 8 x 8, or as large as the picture lets it be."""
    other = grey(height, width)
    other[-1, -1] += 1
    rows, columns = min(height, 8 + height % 8), min(width, 8 + width % 8)
    found = distance(drawn(grey(height, width)), drawn(other))
    assert found.share == pytest.approx(1 / (height * width))
    assert found.block == pytest.approx(1 / (rows * columns))


def test_floats_are_tone_mapped() -> None:
    """Scene-linear floats are compared as a screen shows them: what is whiter than white is white."""
    one = np.zeros((8, 8, 3), np.float32)
    one[0, 0] = (5.0, 0.5, np.nan)
    other = one.copy()
    other[0, 0] = (9.0, 0.6, 0.0)
    found = distance(drawn(one), drawn(other))
    # sRGB: 0.5 is 188 of 255 steps, 0.6 is 203.
    assert found == Distance(share=1 / 192, largest=15.0, block=15 / 64)


@pytest.mark.parametrize(
    "other",
    [
        drawn(grey(24, 33)),
        drawn(grey(24, 32), "XYZ"),
        drawn(grey(24, 32).astype(np.uint16)),
        drawn(np.full((24, 32, 4), 100, np.uint8), "RGBA"),
    ],
)
def test_unlike_pictures_are_refused(other: Picture) -> None:
    """Pictures of another size, type or other channels are no more or less far apart."""
    with pytest.raises(BadInput, match="cannot be compared"):
        distance(drawn(grey()), other)


# --- what Blender makes of the reference frames -------------------------------------------------------------------


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Picture]:
    """The frames as this machine renders them."""
    return rendered(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Picture]:
    """The frames as an older processor's instructions give them."""
    return rendered(tmp_path_factory.mktemp("older"), environment={"CYCLES_CPU_NO_AVX2": "1"})


def rendered(
    folder: Path,
    frames: Sequence[int] = FRAMES,
    *,
    environment: Mapping[str, str] | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> dict[int, Picture]:
    """Render frames by the driver as volunteers run it."""
    inputs = folder / "inputs"
    inputs.mkdir()
    request = job("any")
    work = blender_work(request)
    (inputs / work.scene_file).write_bytes(reference_frames.scene())
    altered = replace(request, work=replace(work, seed=seed, samples=samples or work.samples))
    tasks = [{"frame": frame} for frame in frames]
    told = drive(folder, blender(), altered, tasks, inputs=inputs, environment=environment)
    assert told.failures == []
    pinned = Pinned(format=work.format, width=work.width, height=work.height, color_depth=work.color_depth)
    return {frame: pictures.read(told.file(replica), pinned) for replica, frame in enumerate(frames, start=1)}


def job(result_class: str) -> JobRequest:
    """Return the reference job."""
    return reference_frames.reference_job(result_class, quorum=1, private=False)


def blender_work(request: JobRequest) -> BlenderWork:
    """Return the work of a job of Blender."""
    assert isinstance(request.work, BlenderWork)
    return request.work


def tolerance_of(one: Mapping[int, Picture], other: Mapping[int, Picture]) -> Tolerance:
    """Measure a tolerance on these frames, each twice so that they are enough."""
    distances = {reference_frames.kind_of(frame): [distance(one[frame], other[frame])] * 2 for frame in FRAMES}
    return measured(distances, application="blender", classes=("avx2", "older"), measured_at=0.0)


def test_an_older_processor_is_within(honest: dict[int, Picture], older: dict[int, Picture]) -> None:
    """Two honest classes differ, by so little that a tolerance covers it on every frame."""
    distances = [distance(honest[frame], older[frame]) for frame in FRAMES]
    assert any(each.share > 0 for each in distances)
    assert all(within(each, WIDEST) for each in distances)
    tolerance = tolerance_of(honest, older)
    assert all(within(each, tolerance) for each in distances)


@pytest.mark.parametrize(
    ("samples", "seed"), [(reference_frames.SAMPLES - 1, 0), (None, 1)], ids=["one sample less", "another seed"]
)
def test_renderings_that_save_work_are_outside(
    honest: dict[int, Picture], older: dict[int, Picture], tmp_path: Path, samples: int | None, seed: int
) -> None:
    """One sample of 256 left out, or another seed, is outside even the widest tolerance, whatever the frame shows."""
    cheat = rendered(tmp_path, (FRAMES[0], FRAMES[-1]), samples=samples, seed=seed)
    for picture in (honest, older):
        assert not any(within(distance(picture[frame], cheat[frame]), WIDEST) for frame in cheat)


@pytest.mark.parametrize("step", [1, 3, 100])
def test_an_altered_area_is_outside(honest: dict[int, Picture], older: dict[int, Picture], step: int) -> None:
    """An honest frame brighter by one step in a square of 12 x 12 pixels is outside, seen from either class."""
    for frame in FRAMES:
        altered = honest[frame].pixels.copy()
        square = altered[30:42, 50:62]
        square[:] = np.where(square < 128, square + step, square - step)
        for picture in (honest, older):
            assert not within(distance(picture[frame], replace(honest[frame], pixels=altered)), WIDEST)


def test_the_scene_is_what_its_program_makes(honest: dict[int, Picture], tmp_path: Path) -> None:
    """The scene that is packaged is the one its program makes: one made anew gives its pixels, but for rounding."""
    made = tmp_path / "blender.blend"
    program = str(ROOT / "tools" / "make_reference_scene.py")
    subprocess.run([python_with_blender(), program, str(made)], check=True, capture_output=True)
    work = blender_work(job("any"))
    told = drive(tmp_path, blender(), job("any"), [{"frame": FRAMES[-1]}], inputs=tmp_path)
    pinned = Pinned(format=work.format, width=work.width, height=work.height, color_depth=work.color_depth)
    assert within(distance(pictures.read(told.file(1), pinned), honest[FRAMES[-1]]), NARROWEST)


def test_each_frame_of_the_job_has_a_kind() -> None:
    """The reference job renders all kinds' frames, and no other."""
    request = job("avx2")
    frames = [number for several in reference_frames.KINDS.values() for number in several]
    split = request.split
    assert list(range(split.first, split.last + 1)) == frames  # type: ignore[union-attr]
    assert [reference_frames.kind_of(frame) for frame in (1, 2, 12)] == ["glossy", "glossy", "subsurface"]
    with pytest.raises(KeyError):
        reference_frames.kind_of(13)
    assert request.result_class == "avx2"
