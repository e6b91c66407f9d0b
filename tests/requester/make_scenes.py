"""Makes the scenes the requester's side is tested with. Run by a Python that has `bpy`: make_scenes.py FOLDER

project/scenes/linked.blend    links ../lib/part.blend, whose own picture is lib/textures/part.png
project/scenes/absolute.blend  compressed; the same, and elsewhere/far.png by its absolute path
missing.blend                  uses textures/gone.png, which is not there
packed.blend                   refers to files that are not there: a packed one, and one that nothing uses
no_camera.blend                has none
good.blend                     needs nothing but itself
denoised.blend                 the same, and is denoised
graded.blend                   is denoised, and then graded by the compositor
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bpy

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.applications.scenes import cube_scene, graded, picture, plain, uses


def main() -> None:
    """Write every scene."""
    folder = Path(sys.argv[1])
    _linked(folder / "project", folder / "elsewhere")
    _missing(folder)
    _packed(folder)
    cube_scene().camera = None
    _save(folder / "no_camera.blend")
    cube_scene()
    _save(folder / "good.blend")
    for name, change in (("denoised", plain), ("graded", graded)):
        scene = cube_scene()
        change(scene, folder)
        scene.cycles.use_denoising = True
        _save(folder / f"{name}.blend")


def _linked(project: Path, elsewhere: Path) -> None:
    library = project / "lib" / "part.blend"
    (project / "lib" / "textures").mkdir(parents=True)
    (project / "scenes").mkdir()
    (elsewhere / "textures").mkdir(parents=True)
    scene = cube_scene()
    picture("part", project / "lib")
    scene.objects["Cube"].name = "Part"
    uses(scene.objects["Part"], bpy.data.images["part"])
    bpy.data.images["part"].filepath = "//textures/part.png"
    _save(library)
    scene = cube_scene()
    _save(project / "scenes" / "linked.blend")
    with bpy.data.libraries.load(str(library), link=True, relative=True) as (_, wanted):
        wanted.objects = ["Part"]
    scene.collection.objects.link(bpy.data.objects["Part"])
    _save(project / "scenes" / "linked.blend")
    picture("far", elsewhere)
    uses(scene.objects["Cube"], bpy.data.images["far"])
    _save(project / "scenes" / "absolute.blend", compress=True)


def _missing(folder: Path) -> None:
    (folder / "textures").mkdir()
    scene = cube_scene()
    picture("gone", folder)
    uses(scene.objects["Cube"], bpy.data.images["gone"])
    bpy.data.images["gone"].filepath = "//textures/gone.png"
    _save(folder / "missing.blend")
    (folder / "textures" / "gone.png").unlink()


def _packed(folder: Path) -> None:
    scene = cube_scene()
    for name in ("inside", "idle"):
        picture(name, folder)
    uses(scene.objects["Cube"], bpy.data.images["inside"])
    bpy.data.images["inside"].pack()
    bpy.data.images["idle"].use_fake_user = True
    for name in ("inside", "idle"):
        bpy.data.images[name].filepath = f"//textures/{name}.png"
    _save(folder / "packed.blend")
    for name in ("inside", "idle"):
        (folder / "textures" / f"{name}.png").unlink()


def _save(path: Path, *, compress: bool = False) -> None:
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=str(path), compress=compress, relative_remap=False)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Some scenes keep bpy from ending by itself.
    os._exit(0)
