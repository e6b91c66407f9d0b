"""Makes the scenes the driver is tested with. Run by a Python that has bpy: scenes.py FOLDER

All are 64 x 36 pixels and of few samples. One process makes them all, as a start of Blender costs more than a scene.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import bpy


def main() -> None:
    """Write every scene."""
    folder = Path(sys.argv[1])
    (folder / "textures").mkdir()
    (folder / "parts").mkdir()
    for name, change in (
        ("plain", plain),
        ("compressed", plain),
        ("unpinned", unpinned),
        ("no_camera", no_camera),
        ("markers", markers),
        ("sequencer", sequencer),
        ("scripted", scripted),
        ("stereo", stereo),
        ("textured", textured),
        ("parts/part", part),
        ("linked", linked),
        ("two_scenes", two_scenes),
        ("transparent", transparent),
        ("noisy", noisy),
        ("undithered", undithered),
        ("grey", grey),
        ("graded", graded),
        ("blurred", blurred),
        ("inked", inked),
    ):
        scene = cube_scene()
        change(scene, folder)
        bpy.context.preferences.filepaths.save_version = 0
        path = str(folder / f"{name}.blend")
        bpy.ops.wm.save_as_mainfile(filepath=path, compress=name == "compressed", relative_remap=False)


def cube_scene() -> Any:
    """Return a new scene: a lit cube that turns, frames 1 to 24."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    bpy.ops.mesh.primitive_cube_add()
    cube = bpy.context.object
    for frame, angle in ((1, 0.0), (24, 3.0)):
        cube.rotation_euler = (angle / 2, 0.0, angle)
        cube.keyframe_insert("rotation_euler", frame=frame)
    bpy.ops.object.light_add(type="SUN", rotation=(0.6, 0.2, 0.0))
    bpy.context.object.data.energy = 3.0
    bpy.ops.object.camera_add(location=(0.0, -7.0, 0.0), rotation=(1.5707963, 0.0, 0.0))
    scene.camera = bpy.context.object
    scene.render.engine = "CYCLES"
    scene.cycles.samples = 2
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y = 64, 36
    scene.frame_start, scene.frame_end = 1, 24
    return scene


def plain(scene: Any, folder: Path) -> None:
    """Leave the scene as it is."""


def unpinned(scene: Any, folder: Path) -> None:
    """Set everything that a job pins to something else, and let two of them move."""
    render = scene.render
    render.resolution_x, render.resolution_y, render.resolution_percentage = 1_920, 1_080, 25
    render.use_border = render.use_crop_to_border = True
    render.border_max_x = 0.5
    render.use_stamp = render.use_stamp_filename = True
    render.image_settings.file_format = "TIFF"
    render.image_settings.color_depth = "16"
    render.threads_mode, render.threads = "FIXED", 1
    render.use_overwrite, render.use_placeholder, render.use_file_extension = False, True, False
    cycles = scene.cycles
    cycles.samples, cycles.seed, cycles.use_animated_seed = 50, 99, True
    cycles.use_guiding, cycles.time_limit = True, 0.01
    cycles.keyframe_insert("seed", frame=1)
    cycles.seed = 5_000
    cycles.keyframe_insert("seed", frame=24)
    # One action lies in a strip of its own, as artists keep them.
    animation = scene.animation_data
    strip = animation.nla_tracks.new().strips.new("Seed", 1, animation.action)
    strip.extrapolation = "HOLD"
    animation.action = None
    cycles.keyframe_insert("time_limit", frame=1)
    driver = scene.driver_add("cycles.samples").driver
    driver.expression = "40 + frame"


def no_camera(scene: Any, folder: Path) -> None:
    """Take the camera away."""
    scene.camera = None


def markers(scene: Any, folder: Path) -> None:
    """Have no camera but those that markers bring: one that sees the cube, from frame 10 one that looks away."""
    scene.timeline_markers.new("Towards", frame=0).camera = scene.camera
    bpy.ops.object.camera_add(location=(0.0, -7.0, 0.0), rotation=(-1.5707963, 0.0, 0.0))
    scene.timeline_markers.new("Away", frame=10).camera = bpy.context.object
    scene.camera = None


def sequencer(scene: Any, folder: Path) -> None:
    """Take the camera away, and put a strip of colour into the sequencer."""
    scene.camera = None
    strips = scene.sequence_editor_create()
    strip = strips.strips.new_effect(name="Red", type="COLOR", channel=1, frame_start=1, frame_end=24)
    strip.color = (0.8, 0.1, 0.1)
    scene.view_settings.view_transform = "Standard"


def scripted(scene: Any, folder: Path) -> None:
    """Bring a script that is registered to run when the file is loaded, and writes a file."""
    text = bpy.data.texts.new("attack.py")
    text.write("import os\nopen(os.environ['XWGRID_WORK'] + '/attacked', 'w').close()\n")
    text.use_module = True


def stereo(scene: Any, folder: Path) -> None:
    """Render two views."""
    scene.render.use_multiview = True


def textured(scene: Any, folder: Path) -> None:
    """Use a picture file and a packed one, keep one in a fake user's material, and one without any user."""
    for name in ("there", "gone", "packed", "idle"):
        picture(name, folder)
    uses(scene.objects["Cube"], bpy.data.images["there"], "gone", "packed")
    bpy.data.images["packed"].pack()
    material = bpy.data.materials.new("Idle")
    material.use_fake_user = True
    material.use_nodes = True
    material.node_tree.nodes.new("ShaderNodeTexImage").image = bpy.data.images["idle"]
    for image in bpy.data.images:
        if image.filepath:
            image.filepath = f"//textures/{image.name}.png"
    for name in ("gone", "packed", "idle"):
        (folder / "textures" / f"{name}.png").unlink()


def picture(name: str, folder: Path) -> None:
    """Save a small picture file, and load it from there."""
    path = folder / "textures" / f"{name}.png"
    drawn = bpy.data.images.new(name, 4, 4)
    drawn.filepath_raw, drawn.file_format = str(path), "PNG"
    drawn.save()
    bpy.data.images.remove(drawn)
    loaded = bpy.data.images.load(str(path))
    loaded.name = name


def uses(cube: Any, image: Any, *others: str) -> None:
    """Give the cube a material with these images."""
    material = bpy.data.materials.new("Paint")
    material.use_nodes = True
    nodes = material.node_tree
    for each in (image, *(bpy.data.images[name] for name in others)):
        node = nodes.nodes.new("ShaderNodeTexImage")
        node.image = each
        nodes.links.new(node.outputs["Color"], nodes.nodes["Principled BSDF"].inputs["Base Color"])
    cube.data.materials.append(material)


def part(scene: Any, folder: Path) -> None:
    """Be a library: the cube under another name."""
    scene.objects["Cube"].name = "Part"


def linked(scene: Any, folder: Path) -> None:
    """Link the part from the library."""
    bpy.ops.wm.save_as_mainfile(filepath=str(folder / "linked.blend"))
    with bpy.data.libraries.load(str(folder / "parts" / "part.blend"), link=True, relative=True) as (_, wanted):
        wanted.objects = ["Part"]
    scene.collection.objects.link(bpy.data.objects["Part"])


def two_scenes(scene: Any, folder: Path) -> None:
    """Have a second scene, empty but for a camera, that is not the active one."""
    other = bpy.data.scenes.new("Another")
    other.render.engine = "CYCLES"
    other.camera = scene.camera
    other.collection.objects.link(scene.camera)


def transparent(scene: Any, folder: Path) -> None:
    """See nothing behind a cube of cloudy glass, and less of it towards its edge: opacity in between, too."""
    _cloud(scene)
    scene.render.film_transparent = True
    scene.render.image_settings.color_mode = "RGBA"
    scene.render.filter_size = 6.0


def grey(scene: Any, folder: Path) -> None:
    """Be written in shades of grey, seen through a look and curves of the view."""
    transparent(scene, folder)
    scene.render.image_settings.color_mode = "BW"
    view = scene.view_settings
    view.look, view.exposure, view.gamma = "AgX - Punchy", 0.5, 1.2
    view.use_curve_mapping = True
    view.curve_mapping.curves[3].points.new(0.3, 0.5)


def noisy(scene: Any, folder: Path) -> None:
    """Be slow to converge: a cube of cloudy glass before a wall, sampled until it is good enough, in small tiles."""
    _cloud(scene)
    bpy.ops.mesh.primitive_plane_add(size=30, location=(0.0, 3.0, 0.0), rotation=(1.2, 0.0, 0.3))
    scene.cycles.samples = 128
    scene.cycles.adaptive_threshold = 0.05
    scene.cycles.use_auto_tile, scene.cycles.tile_size = True, 16
    scene.render.image_settings.file_format = "OPEN_EXR"
    scene.render.image_settings.exr_codec = "DWAA"


def undithered(scene: Any, folder: Path) -> None:
    """Round to 8 bits without a pattern."""
    noisy(scene, folder)
    scene.render.dither_intensity = 0.0


def graded(scene: Any, folder: Path) -> None:
    """Let the compositor change colours, over a background and inside a group, and look at them."""
    _cloud(scene)
    group = bpy.data.node_groups.new("Grade", "CompositorNodeTree")
    group.interface.new_socket("Image", in_out="INPUT", socket_type="NodeSocketColor")
    group.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    _chain(group, "NodeGroupInput", "CompositorNodeColorBalance", "CompositorNodeHueSat", "NodeGroupOutput")
    scene.use_nodes = True
    nodes = scene.node_tree
    nodes.nodes.clear()
    inside = nodes.nodes.new("CompositorNodeGroup")
    inside.node_tree = group
    over = nodes.nodes.new("CompositorNodeAlphaOver")
    over.inputs[1].default_value = (0.1, 0.2, 0.4, 1.0)
    _link(nodes, nodes.nodes.new("CompositorNodeRLayers"), 0, inside, 0)
    _link(nodes, inside, 0, over, 2)
    curves = nodes.nodes.new("CompositorNodeCurveRGB")
    curves.mapping.curves[3].points.new(0.3, 0.5)
    _link(nodes, over, 0, curves, 1)
    for kind in ("CompositorNodeComposite", "CompositorNodeViewer"):
        _link(nodes, curves, 0, nodes.nodes.new(kind), 0)
    scene.render.film_transparent = True


def blurred(scene: Any, folder: Path) -> None:
    """Let the compositor blur the picture."""
    scene.use_nodes = True
    scene.node_tree.nodes.clear()
    _chain(scene.node_tree, "CompositorNodeRLayers", "CompositorNodeBlur", "CompositorNodeComposite")


def inked(scene: Any, folder: Path) -> None:
    """Let Freestyle draw lines."""
    scene.render.use_freestyle = True


def _cloud(scene: Any) -> None:
    """Make the cube of cloudy glass, lit by a lamp: every pixel of it is noise."""
    material = bpy.data.materials.new("Cloudy")
    material.use_nodes = True
    material.node_tree.nodes["Principled BSDF"].inputs["Transmission Weight"].default_value = 0.8
    material.node_tree.nodes["Principled BSDF"].inputs["Roughness"].default_value = 0.4
    scene.objects["Cube"].data.materials.append(material)
    bpy.ops.object.light_add(type="POINT", location=(2.0, -3.0, 2.0))
    bpy.context.object.data.energy = 500.0


def _chain(tree: Any, *kinds: str) -> None:
    """Make these nodes, each fed by the one before it."""
    nodes = [tree.nodes.new(kind) for kind in kinds]
    for one, other in pairwise(nodes):
        sockets = [index for index, socket in enumerate(other.inputs) if socket.type == "RGBA"]
        _link(tree, one, 0, other, sockets[0])


def _link(tree: Any, one: Any, output: int, other: Any, into: int) -> None:
    tree.links.new(one.outputs[output], other.inputs[into])


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
