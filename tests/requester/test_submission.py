"""What is wrong with a scene or a wish is said before anything is sent; what is right is pinned."""

from __future__ import annotations

import io
import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from tests.requester.https_server import SmallServer
from xwgrid.errors import BadInput
from xwgrid.model import Audit, BlenderWork, Credibility, Fixed, Frames
from xwgrid.requester.command import main
from xwgrid.requester.settings import Settings
from xwgrid.requester.submission import prepared
from xwgrid.requester.wishes import Wishes, parse_deadline, parse_resolution
from xwgrid.splitting import task_count

QUIET = Console(file=io.StringIO())


@pytest.fixture
def without_blender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a machine that has no Blender at all."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return Settings(runtimes=str(tmp_path / "none"))


def submit(settings_file: Path, scene: Path, *options: str) -> tuple[int, str]:
    """Run `xwgrid submit`; return its exit status and what it said."""
    ended = CliRunner().invoke(main, ["--settings", str(settings_file), "submit", str(scene), *options])
    return ended.exit_code, ended.output


@pytest.mark.parametrize(
    ("scene", "sentence"),
    [
        ("none.blend", "cannot be read: No such file or directory"),
        ("text.blend", "is not a .blend file"),
        ("cut.blend", "is truncated or damaged"),
        ("newer.blend", "was saved by Blender 9.9, which is newer than the 4.5"),
        ("no_camera.blend", "has no camera and no sequencer strips"),
        ("missing.blend", "uses 1 file that cannot be found:"),
    ],
)
def test_a_scene_that_cannot_be_rendered_is_refused(
    scenes: Path, settings_file: Path, server: SmallServer, scene: str, sentence: str
) -> None:
    """Exit status 2, a sentence, and not one call to the server."""
    good = (scenes / "good.blend").read_bytes()
    (scenes / "text.blend").write_text("not a scene")
    (scenes / "cut.blend").write_bytes(good[: len(good) // 2])
    (scenes / "newer.blend").write_bytes(good.replace(b"BLENDER-v405", b"BLENDER-v909", 1))
    status, said = submit(settings_file, scenes / scene)
    assert status == 2
    assert sentence in said
    assert "Traceback" not in said
    assert server.asked == []


def test_the_refusal_lists_what_is_missing(scenes: Path, settings_file: Path) -> None:
    """The missing file is named with what uses it, and both ways on."""
    _status, said = submit(settings_file, scenes / "missing.blend")
    assert f"  {scenes / 'textures' / 'gone.png'} (image 'gone')" in said
    assert "--allow-missing" in said
    assert "Report Missing Files" in said


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--frames", "10-1"), "runs backwards: write 1-10, or 10-1x-1"),
        (("--frames", "1-10x0"), "a step of 0"),
        (("--frames", ""), "the frame range is empty"),
        (("--frames", "1-10x-1"), "is empty"),
        (("--frames", "walk"), "is not a frame range"),
        (("--samples", "0"), "--samples 0 is out of bounds: give a number from 1"),
        (("--resolution", "big"), "'big' is not a resolution"),
        (("--resolution", "0%"), "leaves no picture"),
        (("--resolution", "0x10"), "each side has 1 to 65536"),
        (("--replicas", "1", "--quorum", "2"), "1 replicas can never give the 2 equal results"),
        (("--quorum", "3"), "2 replicas can never give the 3 equal results"),
        (("--quorum", "17"), "--quorum 17 is out of bounds: give a number from 1 to 16"),
        (("--replicas", "0"), "--replicas 0 is out of bounds"),
        (("--policy", "boinc"), "'boinc' is not one of"),
        (("--policy", "audit", "--epsilon", "0"), "epsilon 0.0 is no chance to put up with"),
        (("--policy", "credibility", "--epsilon", "0.6"), "must be above 0 and at most 0.5"),
        (("--epsilon", "nan"), "epsilon nan is no chance"),
        (("--epsilon", "1e999"), "epsilon inf is no chance"),
        (("--epsilon", "small"), "'small' is not a valid float"),
        (("--share", "0"), "share 0.0 is no part of a frame"),
        (("--policy", "fixed", "--epsilon", "0.1"), "--epsilon does not go with --policy fixed"),
        (("--policy", "audit", "--replicas", "3"), "--replicas does not go with --policy audit"),
        (("--policy", "credibility", "--share", "0.1"), "--share does not go with --policy credibility"),
        (("--quorum", "2", "--epsilon", "0.1"), "--epsilon does not go with --quorum"),
        (("--deadline", "soon"), "'soon' is no deadline: write a span such as 'in 3h'"),
        (("--deadline", "in 3"), "no span of time"),
        (("--deadline", "in -3h"), "no span of time"),
        (("--deadline", "2001-01-01"), "the deadline is past"),
        (("--deadline", "in 999999999d"), "more than ten years away"),
        (("--deadline", "0001-01-01"), "deadline"),
        (("--deadline", "9" * 10_000), "is no deadline"),
        (("--name", ""), "1 to 200 characters"),
        (("--format", "gif"), "'gif' is not one of"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused(
    scenes: Path, settings_file: Path, server: SmallServer, options: tuple[str, ...], sentence: str
) -> None:
    """Exit status 2 and a sentence that says what to write instead, at once and without a call to the server."""
    began = time.monotonic()
    status, said = submit(settings_file, scenes / "good.blend", *options)
    assert status == 2
    assert sentence in " ".join(said.split())
    assert server.asked == []
    assert time.monotonic() - began < 5


def test_an_output_folder_that_cannot_be_written_is_refused(
    scenes: Path, settings_file: Path, server: SmallServer, tmp_path: Path
) -> None:
    """Whoever could not keep the frames is told before the job is handed in."""
    (tmp_path / "file").write_text("not a folder")
    status, said = submit(settings_file, scenes / "good.blend", "--out", str(tmp_path / "file" / "out"))
    assert status == 2
    assert "cannot be written" in said
    assert "--out" in said
    assert server.asked == []


def test_a_refused_job_leaves_no_folder(scenes: Path, settings_file: Path, tmp_path: Path) -> None:
    """An output folder that could be written is not left behind when the scene is refused."""
    status, _said = submit(settings_file, scenes / "no_camera.blend", "--out", str(tmp_path / "new" / "out"))
    assert status == 2
    assert not (tmp_path / "new").exists()


def test_packed_and_unused_files_are_not_missing(scenes: Path, settings: Settings) -> None:
    """A packed picture, and one that nothing uses, may be absent from the disk."""
    with prepared(scenes / "packed.blend", Wishes(), settings, QUIET) as job:
        assert [file.path for file in job.request.inputs] == ["packed.blend"]


def test_missing_files_can_be_allowed(scenes: Path, settings: Settings) -> None:
    """With --allow-missing the job is handed in without them, and says so to the volunteers."""
    with prepared(scenes / "missing.blend", Wishes(allow_missing=True), settings, QUIET) as job:
        assert [file.path for file in job.request.inputs] == ["missing.blend"]
        assert isinstance(job.request.work, BlenderWork)
        assert job.request.work.allow_missing


def test_everything_that_changes_pixels_is_pinned(scenes: Path, settings: Settings) -> None:
    """Left alone, a job pins the scene's own size, range, engine and speed, and the version that looked into it."""
    with prepared(scenes / "project" / "scenes" / "linked.blend", Wishes(), settings, QUIET) as job:
        work = job.request.work
        assert isinstance(work, BlenderWork)
        assert (work.scene_file, work.scene, work.engine, work.renderer) == (
            "scenes/linked.blend",
            "Scene",
            "CYCLES",
            "4.5",
        )
        assert (work.width, work.height, work.format, work.color_depth, work.seed) == (64, 36, "PNG", "8", 0)
        assert (work.frames_per_second, job.request.split) == (24.0, Frames(first=1, last=24))
        assert {file.path for file in job.request.inputs} == {
            "lib/part.blend",
            "lib/textures/part.png",
            "scenes/linked.blend",
        }
        assert set(job.files) == {file.sha256 for file in job.request.inputs}


def test_wishes_win_over_the_scene(scenes: Path, settings: Settings) -> None:
    """What is asked for on the command line is what is pinned; a million frames are no work."""
    wishes = Wishes(
        frames="1-1000000",
        samples=8,
        resolution="50%",
        file_format="OPEN_EXR",
        engine="EEVEE",
        seed=5,
        renderer="any",
        name="walk",
    )
    with prepared(scenes / "good.blend", wishes, settings, QUIET) as job:
        work = job.request.work
        assert isinstance(work, BlenderWork)
        assert (work.width, work.height, work.format, work.color_depth) == (32, 18, "OPEN_EXR", "16")
        assert (work.samples, work.engine, work.seed, work.renderer) == (8, "EEVEE", 5, None)
        assert (job.request.name, task_count(job.request.split)) == ("walk", 1_000_000)


def test_checks_are_asked_for_as_written(scenes: Path, settings: Settings) -> None:
    """Nothing said asks for the server's default; counts mean replication, chances audits; a policy may be named."""
    for wishes, policy, votes in (
        (Wishes(), None, (2, 2)),
        (Wishes(replicas=3), Fixed(), (3, 2)),
        (Wishes(policy="fixed"), Fixed(), (2, 2)),
        (Wishes(quorum=1, replicas=1), Fixed(), (1, 1)),
        (Wishes(epsilon=0.01), Audit(epsilon=0.01), (2, 2)),
        (Wishes(share=0.5), Audit(share=0.5), (2, 2)),
        (Wishes(policy="credibility", epsilon=0.5), Credibility(epsilon=0.5), (2, 2)),
    ):
        with prepared(scenes / "good.blend", wishes, settings, QUIET) as job:
            assert (job.request.policy, (job.request.replicas, job.request.quorum)) == (policy, votes)


def test_whether_a_scene_is_denoised_is_said_outright(scenes: Path, settings: Settings) -> None:
    """The server sees from the job alone whether its frames can be rendered in parts."""
    for wish in (None, False, True):
        with prepared(scenes / "good.blend", Wishes(denoise=wish), settings, QUIET) as job:
            assert isinstance(job.request.work, BlenderWork)
            assert isinstance(job.request.work.denoise, bool)
            assert wish is None or job.request.work.denoise is wish


def work_of(scene: Path, settings: Settings, **wishes: Any) -> BlenderWork:
    """Return what is pinned of a scene's frames."""
    with prepared(scene, Wishes(**wishes), settings, QUIET) as job:
        assert isinstance(job.request.work, BlenderWork)
        return job.request.work


@pytest.mark.parametrize(
    ("scene", "wishes"),
    [
        ("denoised", {}),
        ("good", {"denoise": True}),
        ("denoised", {"policy": "audit", "file_format": "JPEG"}),
        ("denoised", {"epsilon": 0.01, "resolution": "4096x2048"}),
        ("denoised", {"renderer": "4.5"}),
        ("denoised", {"renderer": "4"}),
    ],
)
def test_denoised_frames_come_with_their_raw_passes(
    scenes: Path, settings: Settings, scene: str, wishes: dict[str, Any]
) -> None:
    """Where audits may look at them, in whatever format the picture is, and whoever asked for denoising."""
    work = work_of(scenes / f"{scene}.blend", settings, **wishes)
    assert (work.denoise, work.raw_passes) == (True, True)


@pytest.mark.parametrize(
    ("scene", "wishes"),
    [
        ("denoised", {"policy": "fixed"}),
        ("denoised", {"policy": "credibility"}),
        ("denoised", {"replicas": 3}),
        ("denoised", {"private": True}),
        ("denoised", {"resolution": "4096x2049"}),
        ("denoised", {"denoise": False}),
        ("denoised", {"engine": "EEVEE"}),
        ("denoised", {"renderer": "any"}),
        ("denoised", {"renderer": "5.0"}),
        ("denoised", {"renderer": "4.50"}),
        ("good", {}),
        ("graded", {"policy": "audit"}),
    ],
)
def test_raw_passes_are_not_asked_for_in_vain(
    scenes: Path, settings: Settings, scene: str, wishes: dict[str, Any]
) -> None:
    """Not of frames that are replicated, private, too large, not denoised or graded afterwards, and not where another
    version may render than the one that looked into the scene.
    """
    assert not work_of(scenes / f"{scene}.blend", settings, **wishes).raw_passes


def test_without_blender_no_raw_passes_are_asked_for(scenes: Path, without_blender: Settings) -> None:
    """Nobody looked whether the scene can be denoised in a step of its own."""
    wishes: dict[str, Any] = {"frames": "1-2", "resolution": "64x36", "denoise": True}
    work = work_of(scenes / "denoised.blend", without_blender, **wishes)
    assert (work.denoise, work.raw_passes) == (True, False)


def test_an_engine_that_does_not_denoise_is_not_asked_to(scenes: Path, settings: Settings) -> None:
    """A denoised scene may be handed in for another engine without a word about denoising."""
    for engine in ("EEVEE", "WORKBENCH"):
        assert work_of(scenes / "denoised.blend", settings, engine=engine).denoise is None


def test_deadlines_are_read() -> None:
    """A span from now, or a time; one without a zone is of this machine's."""
    now = 1_800_000_000.0
    assert parse_deadline("in 3h", now) == now + 10_800
    assert parse_deadline(" In 1.5d ", now) == now + 129_600
    assert parse_deadline("2027-05-01T18:00+02:00", now) == 1_809_187_200.0
    assert parse_deadline("2027-05-01T16:00Z", now) == 1_809_187_200.0
    local = datetime(2027, 5, 1, 18, tzinfo=None).timestamp()  # noqa: DTZ001  # this machine's
    assert parse_deadline("2027-05-01T18:00", now) == local


def test_without_blender_the_numbers_must_be_given(scenes: Path, without_blender: Settings) -> None:
    """A requester without Blender is told so, and can go on with frames and resolution on the command line."""
    told = io.StringIO()
    console = Console(file=told)
    with (
        pytest.raises(BadInput, match="--resolution 1920x1080"),
        prepared(scenes / "good.blend", Wishes(), without_blender, console),
    ):
        pass
    with (
        pytest.raises(BadInput, match="--frames 1-250"),
        prepared(scenes / "good.blend", Wishes(resolution="64x36"), without_blender, console),
    ):
        pass
    with prepared(scenes / "good.blend", Wishes(resolution="64x36", frames="1-2"), without_blender, console) as job:
        assert isinstance(job.request.work, BlenderWork)
        assert (job.request.work.width, job.request.work.renderer) == (64, None)
    assert "xwgrid-volunteer runtime install blender" in told.getvalue()


def test_without_blender_any_missing_file_is_refused(scenes: Path, without_blender: Settings) -> None:
    """Whether a missing file is used cannot be known then: it is listed, and --allow-missing goes on."""
    wishes = Wishes(resolution="64x36", frames="1-2")
    with (
        pytest.raises(BadInput, match=r"gone\.png"),
        prepared(scenes / "missing.blend", wishes, without_blender, QUIET),
    ):
        pass
    allowed = Wishes(resolution="64x36", frames="1-2", allow_missing=True)
    with prepared(scenes / "missing.blend", allowed, without_blender, QUIET) as job:
        assert len(job.request.inputs) == 1


def test_a_blender_that_never_answers_is_ended(scenes: Path, tmp_path: Path) -> None:
    """A renderer that hangs costs its time limit and no more, with the setting to raise."""
    hanging = tmp_path / "blender"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    settings = Settings(blender=(str(hanging),), inspect_seconds=0.3)
    with pytest.raises(BadInput, match="inspect_seconds"), prepared(scenes / "good.blend", Wishes(), settings, QUIET):
        pass


def test_a_blender_that_crashes_is_told(scenes: Path, tmp_path: Path) -> None:
    """A renderer that dies of a scene names the signal and its last words."""
    crashing = tmp_path / "blender"
    crashing.write_text("#!/bin/sh\necho 'corrupt block' >&2\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    settings = Settings(blender=(str(crashing),))
    with (
        pytest.raises(BadInput, match=r"(?s)signal 11.*corrupt block"),
        prepared(scenes / "good.blend", Wishes(), settings, QUIET),
    ):
        pass


def test_resolutions_are_read() -> None:
    """A share, a size, and spaces between."""
    assert [parse_resolution(text) for text in ("50%", "1920x1080", " 64 X 36 ")] == [50, (1920, 1080), (64, 36)]


def test_apps_are_listed_without_a_server() -> None:
    """`xwgrid apps --json` names what can be handed in."""
    ended = CliRunner().invoke(main, ["apps", "--json"])
    assert {each["application"] for each in json.loads(ended.output)} == {"blender", "digest"}
