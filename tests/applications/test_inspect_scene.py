"""What Blender itself says of a scene file, from a child process."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.applications.driven import blender
from xwgrid.applications.drivers.blend_header import looks_like_blend, saved_by
from xwgrid.applications.manifests import script


def inspect(*arguments: Path | str) -> dict[str, Any]:
    ended = subprocess.run(
        [*blender(), str(script("inspect_scene.py")), *map(str, arguments)], capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def test_scene_settings(scenes: Path) -> None:
    """Size, frames, engine and samples are the file's own, the size with its percentage applied."""
    facts = inspect(scenes / "unpinned.blend")
    assert facts["opens"]
    assert facts["problem"] is None
    assert facts["blender"].startswith(facts["saved_by"])
    (scene,) = facts["scenes"]
    expected = {
        "name": "Scene",
        "first": 1,
        "last": 24,
        "step": 1,
        "fps": 24,
        "width": 480,
        "height": 270,
        "percentage": 25,
        "border": True,
        "engine": "CYCLES",
        "denoise": False,
        "format": "TIFF",
        "color_depth": "16",
        "has_camera": True,
        "sequencer_strips": 0,
        "uses_compositor": False,
        "views": 1,
    }
    assert {name: scene[name] for name in expected} == expected


def test_used_and_missing_files(scenes: Path) -> None:
    """A texture that is there is used; one that is gone is missing; packed, idle and fake users' ones are neither."""
    facts = inspect(scenes / "textured.blend")
    (used,) = facts["used"]
    assert used == {
        "kind": "image",
        "name": "there",
        "reference": "//textures/there.png",
        "path": str(scenes / "textures" / "there.png"),
        "files": [str(scenes / "textures" / "there.png")],
    }
    (missing,) = facts["missing"]
    assert (missing["kind"], missing["reference"], missing["files"]) == ("image", "//textures/gone.png", [])
    assert missing["path"] == str(scenes / "textures" / "gone.png")


def test_libraries(scenes: Path, tmp_path: Path) -> None:
    """A linked library is used, and missing when it is not beside the file."""
    facts = inspect(scenes / "linked.blend")
    assert [(each["kind"], each["reference"]) for each in facts["used"]] == [("library", "//parts/part.blend")]
    (tmp_path / "linked.blend").write_bytes((scenes / "linked.blend").read_bytes())
    facts = inspect(tmp_path / "linked.blend")
    assert facts["used"] == []
    assert [(each["kind"], each["reference"]) for each in facts["missing"]] == [("library", "//parts/part.blend")]


def test_scenes_and_cameras(scenes: Path) -> None:
    """All scenes of a file are told, and which is active; a scene without camera but with strips says so."""
    facts = inspect(scenes / "two_scenes.blend")
    assert [each["name"] for each in facts["scenes"]] == ["Another", "Scene"]
    assert (facts["active"], facts["scene"]) == ("Scene", "Scene")
    assert inspect(scenes / "two_scenes.blend", "Another")["scene"] == "Another"
    assert inspect(scenes / "two_scenes.blend", "Nope")["scene"] is None
    (scene,) = inspect(scenes / "sequencer.blend")["scenes"]
    assert (scene["has_camera"], scene["sequencer_strips"]) == (False, 1)
    (scene,) = inspect(scenes / "stereo.blend")["scenes"]
    assert scene["views"] == 2
    assert "attack.py" in inspect(scenes / "scripted.blend")["scripts_not_run"]


def test_files_that_do_not_open(scenes: Path, tmp_path: Path) -> None:
    """What is no scene, damaged, or of a newer Blender is told apart, each with a sentence."""
    whole = (scenes / "plain.blend").read_bytes()
    file = tmp_path / "scene.blend"
    for data, kind, sentence in (
        (b"no scene at all", "not_blend", "scene.blend is not a .blend file"),
        (b"", "not_blend", "scene.blend is not a .blend file"),
        (whole[: len(whole) // 2], "damaged", "scene.blend is truncated or damaged, Blender"),
        (b"BLENDER-v901" + whole[12:], "newer", "scene.blend was saved by Blender 9.1, which is newer than the"),
    ):
        file.write_bytes(data)
        facts = inspect(file)
        assert not facts["opens"]
        assert facts["problem"]["kind"] == kind
        assert sentence in facts["problem"]["message"]
    assert inspect(tmp_path / "absent.blend")["problem"]["kind"] == "damaged"


@pytest.mark.parametrize(
    ("beginning", "version"),
    [
        (b"BLENDER-v405REND", (4, 5)),
        (b"BLENDER_V279REND", (2, 79)),
        (b"BLENDER17-01v0500REND", (5, 0)),
        (b"BLENDER17-01v0512REND", (5, 12)),
        (b"BLENDER!v405", None),
        (b"\x28\xb5\x2f\xfdrubbish", None),
        (b"", None),
    ],
)
def test_version_in_the_header(tmp_path: Path, beginning: bytes, version: tuple[int, int] | None) -> None:
    """The version is read from both forms of the header, plain or in gzip, without any Blender."""
    (tmp_path / "plain").write_bytes(beginning)
    (tmp_path / "packed").write_bytes(gzip.compress(beginning))
    assert saved_by(tmp_path / "plain") == version
    assert saved_by(tmp_path / "packed") == version
    (tmp_path / "cut").write_bytes(gzip.compress(beginning)[:5])
    assert saved_by(tmp_path / "cut") is None


def test_beginnings_of_scene_files() -> None:
    """Plain, gzip and Zstandard files may be scenes, others are not."""
    assert looks_like_blend(b"BLENDER-v405")
    assert looks_like_blend(b"\x1f\x8b\x08")
    assert looks_like_blend(b"\x28\xb5\x2f\xfd\0")
    assert not looks_like_blend(b"\x89PNG")
    assert not looks_like_blend(b"BLEND")
