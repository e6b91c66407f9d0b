"""Everything a scene needs finds its place in the job, where its references still resolve."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.rendering import python_with_blender
from xwgrid.errors import BadInput
from xwgrid.requester.inspection import Reference
from xwgrid.requester.tracing import Tree, traced

# Opens the file in argv[1] and prints which of its images' files are there, by name.
_LOOK = """
import bpy, json, os, sys
bpy.ops.wm.open_mainfile(filepath=sys.argv[-1], load_ui=False)
found = {i.name: os.path.isfile(bpy.path.abspath(i.filepath, library=i.library)) for i in bpy.data.images if i.filepath}
print("\\n" + json.dumps({"images": found, "objects": sorted(o.name for o in bpy.data.objects if not o.is_missing)}))
sys.stdout.flush()
os._exit(0)
"""


def laid_out(tree: Tree, folder: Path) -> Path:
    """Copy a tree as a volunteer would get it, and return its scene."""
    for name, path in tree.files:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return folder / tree.scene_file


def seen_by_blender(scene: Path) -> dict[str, object]:
    """Return what Blender finds when it opens the scene elsewhere."""
    ended = subprocess.run(
        [python_with_blender(), "-c", _LOOK, str(scene)], capture_output=True, text=True, check=True, timeout=120
    )
    answer: dict[str, object] = json.loads(ended.stdout.splitlines()[-1])
    return answer


def test_a_linked_library_in_a_sibling_folder_comes_along(scenes: Path) -> None:
    """The job has the scene, the library and the library's own picture in their folders, and nothing is copied."""
    project = scenes / "project"
    with traced(project / "scenes" / "linked.blend") as tree:
        assert dict(tree.files) == {
            "lib/part.blend": project / "lib" / "part.blend",
            "lib/textures/part.png": project / "lib" / "textures" / "part.png",
            "scenes/linked.blend": project / "scenes" / "linked.blend",
        }
        assert (tree.scene_file, tree.missing) == ("scenes/linked.blend", ())


def test_an_absolute_path_is_rewritten(scenes: Path, tmp_path: Path) -> None:
    """A file referred to by an absolute path is found on another machine, in a compressed scene with a library too."""
    with traced(scenes / "project" / "scenes" / "absolute.blend") as tree:
        scene = laid_out(tree, tmp_path)
        rewritten = dict(tree.files)[tree.scene_file]
        assert rewritten.is_file()
    assert not rewritten.exists()
    assert scene.name == "absolute.blend"
    seen = seen_by_blender(scene)
    assert seen["images"] == {"far": True, "part": True}
    assert "Part" in json.dumps(seen["objects"])
    assert str(scenes).encode() not in scene.read_bytes()


def test_what_only_blender_knows_comes_along(scenes: Path) -> None:
    """A file the asset tracer does not know is added if its reference is relative."""
    profile = scenes / "project" / "lights" / "lamp.ies"
    profile.parent.mkdir(exist_ok=True)
    profile.write_text("IESNA:LM-63-1995\n")
    reference = Reference(
        kind="light profile", name="lamp", reference="//../lights/lamp.ies", path=str(profile), files=(str(profile),)
    )
    with traced(scenes / "project" / "scenes" / "linked.blend", [reference]) as tree:
        assert dict(tree.files)["lights/lamp.ies"] == profile


def test_what_cannot_be_moved_is_refused(scenes: Path, tmp_path: Path) -> None:
    """A file that can be neither rewritten nor reached by a relative path is named, with what to do in Blender."""
    shader = tmp_path / "glow.osl"
    shader.write_text("shader glow() {}\n")
    reference = Reference(kind="shader", name="glow", reference=str(shader), path=str(shader), files=(str(shader),))
    with (
        pytest.raises(BadInput, match=r"glow\.osl.*Make Paths Relative"),
        traced(scenes / "good.blend", [reference]),
    ):
        pass


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_scene_is_refused(scenes: Path, tmp_path: Path, share: float) -> None:
    """A file that ends too soon is told from a whole one wherever it was cut, without any Blender."""
    whole = (scenes / "good.blend").read_bytes()
    (tmp_path / "cut.blend").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadInput, match=r"cut\.blend is truncated or damaged"), traced(tmp_path / "cut.blend"):
        pass


def test_a_truncated_compressed_scene_is_refused(scenes: Path, tmp_path: Path) -> None:
    """The same for a compressed file."""
    whole = (scenes / "project" / "scenes" / "absolute.blend").read_bytes()
    (tmp_path / "cut.blend").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput, match=r"cut\.blend is truncated or damaged"), traced(tmp_path / "cut.blend"):
        pass
