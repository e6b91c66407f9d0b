"""The driver of Blender: real Blender, tiny scenes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.applications.driven import Told, blender, drive
from xwgrid.applications import pictures, registry
from xwgrid.applications.pictures import Pinned
from xwgrid.model import BlenderWork, Frames, InputFile, JobRequest, TaskNumber

WIDTH, HEIGHT = 64, 36


def job(scene_file: str, **pins: Any) -> JobRequest:
    work = BlenderWork(scene_file=scene_file, width=WIDTH, height=HEIGHT, **pins)
    scene = InputFile(path=scene_file, sha256="0" * 64, size=1)
    return JobRequest(name="film", work=work, split=Frames(first=0, last=24), inputs=(scene,))


def render(tmp_path: Path, scenes: Path, request: JobRequest, *frames: int, **more: Any) -> Told:
    return drive(tmp_path, blender(), request, [{"frame": frame} for frame in frames], inputs=scenes, **more)


def fingerprint(told: Told, request: JobRequest, replica: int, frame: int) -> str:
    """Read a picture as the grid reads it: every pin of size and format is checked by this."""
    (name,) = registry.application_of(request).result_names(request, TaskNumber(frame))
    return registry.application_of(request).read_result(request, TaskNumber(frame), {name: told.file(replica)})


def test_one_process_renders_many_frames_and_says_how_far_it_is(tmp_path: Path, scenes: Path) -> None:
    """Frames come one after the other from one process, in order, each a fresh picture; then it ends with 0."""
    request = job("plain.blend", samples=64)
    told = render(tmp_path, scenes, request, 3, 17)
    assert told.status == 0, told.log
    assert [each["replica"] for each in told.all("finished")] == [1, 2]
    assert [each["files"] for each in told.all("finished")] == [["frame_0003.png"], ["frame_0017.png"]]
    assert all(each["seconds"] > 0 for each in told.all("finished"))
    assert told.events[0]["event"] == "ready"
    assert told.events[-1] == {"event": "bye"}
    assert all(0 < each["done"] <= 1 for each in told.all("progress"))
    assert fingerprint(told, request, 1, 3) != fingerprint(told, request, 2, 17)
    assert told.ready["version"].count(".") == 2
    assert told.ready["result_class"].startswith(f"blender {told.ready['version']} module ")
    assert " cpu " in told.ready["result_class"]


def test_pixels_do_not_depend_on_the_process(tmp_path: Path, scenes: Path) -> None:
    """A frame is the same picture, bit by bit, from a process that rendered another one before and from a fresh one
    with another number of threads; and another seed is another picture.
    """
    request = job("plain.blend", samples=4)
    (tmp_path / "two").mkdir()
    (tmp_path / "seed").mkdir()
    one = render(tmp_path, scenes, request, 20, 5)
    # One thread: the process may use one processor only.
    single = drive(tmp_path / "two", ("taskset", "-c", "0", *blender()), request, [{"frame": 5}], inputs=scenes)
    assert one.ready["effective"]["threads"] >= 1
    assert fingerprint(one, request, 2, 5) == fingerprint(single, request, 1, 5)
    other = job("plain.blend", samples=4, seed=1)
    assert fingerprint(one, request, 2, 5) != fingerprint(render(tmp_path / "seed", scenes, other, 5), other, 1, 5)


@pytest.mark.parametrize(
    ("file_format", "depth", "suffix"),
    [("PNG", "16", "png"), ("JPEG", "8", "jpg"), ("OPEN_EXR", "16", "exr"), ("OPEN_EXR", "32", "exr")],
)
def test_formats(tmp_path: Path, scenes: Path, file_format: Any, depth: Any, suffix: str) -> None:
    """Every format and depth a job may pin comes out, decodes, and is the same picture from a second rendering."""
    request = job("plain.blend", format=file_format, color_depth=depth)
    registry.check(request)
    told = render(tmp_path, scenes, request, 1, 1)
    assert [each["files"] for each in told.all("finished")] == [[f"frame_0001.{suffix}"]] * 2, told.log
    assert fingerprint(told, request, 1, 1) == fingerprint(told, request, 2, 1)


def test_pins_win_over_the_file(tmp_path: Path, scenes: Path) -> None:
    """Whatever the file says about what a job pins, even by animation and drivers, the job's word counts; and the
    values in effect are told.
    """
    request = job("unpinned.blend", samples=3, seed=7)
    told = render(tmp_path, scenes, request, 1, 12)
    assert told.failures == [], told.log
    fingerprint(told, request, 1, 1)
    effective = told.ready["effective"]
    expected = {
        "render.engine": "CYCLES",
        "render.resolution_x": WIDTH,
        "render.resolution_y": HEIGHT,
        "render.resolution_percentage": 100,
        "render.use_border": False,
        "render.use_stamp": False,
        "render.use_stamp_filename": False,
        "render.threads_mode": "AUTO",
        "render.use_persistent_data": True,
        "render.image_settings.file_format": "PNG",
        "render.image_settings.color_depth": "8",
        "cycles.device": "CPU",
        "cycles.samples": 3,
        "cycles.seed": 7,
        "cycles.use_animated_seed": False,
        "cycles.use_guiding": False,
        "cycles.time_limit": 0,
    }
    assert {name: effective[name] for name in expected} == expected
    assert effective["view_transform"] == "AgX"
    assert "cycles.seed is not used" in told.log
    assert "cycles.samples is not used" in told.log
    # The picture itself, not only what Blender says of it: nothing else in the file differs from the plain scene.
    plain = job("plain.blend", samples=3, seed=7)
    (tmp_path / "plain").mkdir()
    same = render(tmp_path / "plain", scenes, plain, 1, 12)
    assert fingerprint(told, request, 2, 12) == fingerprint(same, plain, 2, 12)


def test_denoising_is_pinned(tmp_path: Path, scenes: Path) -> None:
    """A job that asks for denoising gets it from the one denoiser that gives the same picture everywhere."""
    told = render(tmp_path, scenes, job("plain.blend", denoise=True), 1)
    assert told.failures == [], told.log
    assert told.ready["effective"]["cycles.use_denoising"] is True
    assert told.ready["effective"]["cycles.denoiser"] == "OPENIMAGEDENOISE"


def test_files_tell_nothing_of_the_submitter(tmp_path: Path, scenes: Path) -> None:
    """No path of the machine that rendered is in the picture file."""
    told = render(tmp_path, scenes, job("unpinned.blend", samples=1), 1)
    assert str(tmp_path).encode() not in told.file(1)
    assert b"unpinned" not in told.file(1)


def test_sequencer_needs_no_camera(tmp_path: Path, scenes: Path) -> None:
    """A film that is only cut renders without a camera, and a constant picture is a right one."""
    request = job("sequencer.blend")
    told = render(tmp_path, scenes, request, 5)
    assert told.failures == [], told.log
    picture = pictures.read(told.file(1), Pinned(format="PNG", width=WIDTH, height=HEIGHT, color_depth="8"))
    assert len({tuple(pixel) for row in picture.pixels.tolist() for pixel in row}) == 1


def test_markers_bring_cameras(tmp_path: Path, scenes: Path) -> None:
    """Each frame is seen through the camera its markers say, in whatever order the frames come."""
    request = job("markers.blend")
    told = render(tmp_path, scenes, request, 12, 5, 20)
    assert told.failures == [], told.log
    pinned = Pinned(format="PNG", width=WIDTH, height=HEIGHT, color_depth="8")
    seen = [pictures.read(told.file(replica), pinned).pixels[..., :3].max() for replica in (1, 2, 3)]
    assert seen[1] > 100 > max(seen[0], seen[2])


def test_scripts_in_a_file_do_not_run(tmp_path: Path, scenes: Path) -> None:
    """A registered script stays text."""
    told = render(tmp_path, scenes, job("scripted.blend"), 1)
    assert told.failures == [], told.log
    assert not (tmp_path / "work" / "attacked").exists()
    assert "attack.py" in told.ready["effective"]["scripts_not_run"]


def test_scene_by_name(tmp_path: Path, scenes: Path) -> None:
    """A job may pick any scene of the file; without a pick it is the active one; the picture is of that scene."""
    active, other = job("two_scenes.blend"), job("two_scenes.blend", scene="Another")
    (tmp_path / "other").mkdir()
    one = render(tmp_path, scenes, active, 1)
    two = render(tmp_path / "other", scenes, other, 1)
    assert one.ready["effective"]["scene"] == "Scene"
    assert two.ready["effective"]["scene"] == "Another"
    assert fingerprint(one, active, 1, 1) != fingerprint(two, other, 1, 1)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (job("no_camera.blend"), "the scene 'Scene' has no camera and nothing in its sequencer: add a camera to it"),
        (job("plain.blend", scene="Nope"), "'plain.blend' has no scene 'Nope': it has 'Scene'"),
        (job("stereo.blend"), "renders several views (stereoscopy) and the grid one picture a frame"),
        (job("absent.blend"), "the scene file 'absent.blend' is not among the job's files"),
        (job("plain.blend", renderer="3.6"), "the job asks for Blender 3.6, this is 4."),
        (job("truncated.blend"), "'truncated.blend' does not open in Blender"),
        (job("text.blend"), "'text.blend' is not a .blend file"),
        (job("newer.blend"), "'newer.blend' was saved by Blender 9.1, which is newer than the"),
        (job("alone.blend"), "'alone.blend' links to //gone/part.blend, which the job did not bring"),
    ],
)
def test_jobs_that_cannot_be_rendered(tmp_path: Path, scenes: Path, request_: JobRequest, sentence: str) -> None:
    """A scene that cannot be rendered fails each of its tasks with a sentence, and the driver ends in good order."""
    inputs = tmp_path / "inputs"
    shutil.copytree(scenes, inputs)
    whole = (scenes / "plain.blend").read_bytes()
    (inputs / "truncated.blend").write_bytes(whole[: len(whole) // 2])
    (inputs / "text.blend").write_text("no scene at all\n")
    (inputs / "newer.blend").write_bytes(b"BLENDER-v901" + whole[12:])
    (inputs / "alone.blend").write_bytes(
        (scenes / "linked.blend").read_bytes().replace(b"//parts/part.blend", b"//gone/part.blend\0")
    )
    told = render(tmp_path, inputs, request_, 1, 2)
    assert told.status == 0, told.log
    assert len(told.failures) == 2
    assert all(sentence in failure for failure in told.failures), told.failures
    assert told.ready["effective"]["problem"] in told.failures
    assert str(tmp_path) not in told.failures[0]


def test_missing_library_may_be_allowed(tmp_path: Path, scenes: Path) -> None:
    """A job that says so is rendered without the library it lacks; with it, there is more to see."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "whole").mkdir()
    shutil.copy(scenes / "linked.blend", tmp_path / "inputs")
    told = render(tmp_path, tmp_path / "inputs", job("linked.blend", allow_missing=True), 1)
    assert told.failures == [], told.log
    assert "missing libraries, allowed by the job: //parts/part.blend" in told.log
    assert render(tmp_path / "whole", scenes, job("linked.blend"), 1).failures == []


def test_missing_texture_does_not_stop_a_frame(tmp_path: Path, scenes: Path) -> None:
    """What the requester allowed to be missing is rendered as Blender renders it."""
    assert render(tmp_path, scenes, job("textured.blend"), 1).failures == []


def test_end_of_input_means_quit(tmp_path: Path, scenes: Path) -> None:
    """A volunteer that goes away leaves no renderer behind."""
    told = render(tmp_path, scenes, job("plain.blend"), 1, last_line=b"not a command\n")
    assert told.status == 0
    assert told.events[-1] == {"event": "bye"}
    assert len(told.all("finished")) == 1


def test_compressed_scene(tmp_path: Path, scenes: Path) -> None:
    """A compressed .blend is the same scene."""
    plain, compressed = job("plain.blend"), job("compressed.blend")
    (tmp_path / "two").mkdir()
    one = render(tmp_path, scenes, plain, 4)
    two = render(tmp_path / "two", scenes, compressed, 4)
    assert fingerprint(one, plain, 1, 4) == fingerprint(two, compressed, 1, 4)
