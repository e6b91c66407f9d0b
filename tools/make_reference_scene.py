"""Makes the scene that `xwgrid-admin trust calibrate` has rendered: make_reference_scene.py FILE

Run by a Python that has bpy. Six sets stand far apart in one file, and a camera jumps from one to the next. Each is of
a kind that artists use and renderers compute in their own way. Two frames a set, the second from another side;
xwgrid/applications/reference_frames.py says which.
"""

from __future__ import annotations

import math
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import bpy

# Far enough apart that no set lights another.
_APART = 100.0
_FRAMES_A_SET = 2
_WIDTH, _HEIGHT, _SAMPLES = 128, 72, 256


def main() -> None:
    """Write the scene."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    scene = bpy.context.scene
    scene.world = bpy.data.worlds.new("World")
    scene.world.use_nodes = True
    scene.world.node_tree.nodes["Background"].inputs["Color"].default_value = (0.05, 0.06, 0.08, 1.0)
    bpy.ops.object.camera_add()
    camera = scene.camera = bpy.context.object
    camera.data.dof.aperture_fstop = 1.0
    sets: tuple[Callable[[float], None], ...] = (glossy, volume, hair, detail, moving, skin)
    for number, build in enumerate(sets):
        where = number * _APART
        build(where)
        light(where)
        for take in range(_FRAMES_A_SET):
            look(camera, where, frame=1 + number * _FRAMES_A_SET + take, angle=0.5 - 0.9 * take)
    for curve in camera.animation_data.action.fcurves:
        for point in curve.keyframe_points:
            point.interpolation = "CONSTANT"
    render_settings(scene, frames=len(sets) * _FRAMES_A_SET)
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1], compress=True)


def glossy(where: float) -> None:
    """Metal, glass and lacquer over a mirror-like floor: long paths, caustics, highlights."""
    floor(where, material("Tiles", roughness=0.15, texture="ShaderNodeTexChecker", scale=9.0))
    ball(where, -1.1, material("Metal", metallic=1.0, roughness=0.2))
    ball(where, 0.0, material("Glass", transmission=1.0, roughness=0.0))
    ball(where, 1.1, material("Lacquer", colour=(0.6, 0.05, 0.02), roughness=0.4, coat=1.0))


def volume(where: float) -> None:
    """Smoke of uneven density with a lamp in it."""
    floor(where, material("Stone", roughness=0.9))
    bpy.ops.mesh.primitive_cube_add(size=2.0, location=(where, 0.0, 1.0))
    smoke = bpy.data.materials.new("Smoke")
    smoke.use_nodes = True
    tree = smoke.node_tree
    tree.nodes.clear()
    out, inside = tree.nodes.new("ShaderNodeOutputMaterial"), tree.nodes.new("ShaderNodeVolumePrincipled")
    noise, ramp = tree.nodes.new("ShaderNodeTexNoise"), tree.nodes.new("ShaderNodeMath")
    noise.inputs["Scale"].default_value = 3.0
    ramp.operation, ramp.inputs[1].default_value = "MULTIPLY", 3.0
    tree.links.new(noise.outputs["Fac"], ramp.inputs[0])
    tree.links.new(ramp.outputs["Value"], inside.inputs["Density"])
    tree.links.new(inside.outputs["Volume"], out.inputs["Volume"])
    bpy.context.object.data.materials.append(smoke)
    bpy.ops.object.light_add(type="POINT", location=(where + 0.2, 0.1, 1.1))
    bpy.context.object.data.energy = 60.0


def hair(where: float) -> None:
    """A tuft of curves under a hair shader."""
    floor(where, material("Felt", roughness=1.0))
    chance = random.Random(7)  # noqa: S311  # the same tuft every time
    strands, points = 400, 5
    curves = bpy.data.hair_curves.new("Hair")
    curves.add_curves([points] * strands)
    places: list[float] = []
    for _ in range(strands):
        x, y = chance.uniform(-1.2, 1.2), chance.uniform(-0.8, 0.8)
        lean, turn = chance.uniform(0.0, 0.5), chance.uniform(0.0, 2 * math.pi)
        for step in range(points):
            up = step / (points - 1)
            bend = lean * up * up
            places += [x + bend * math.cos(turn), y + bend * math.sin(turn), 1.5 * up]
    curves.position_data.foreach_set("vector", places)
    radius = curves.attributes.new("radius", "FLOAT", "POINT")
    radius.data.foreach_set("value", [0.012 * (1.0 - step / points) for _ in range(strands) for step in range(points)])
    strand = bpy.data.materials.new("Strand")
    strand.use_nodes = True
    strand.node_tree.nodes.clear()
    out = strand.node_tree.nodes.new("ShaderNodeOutputMaterial")
    shader = strand.node_tree.nodes.new("ShaderNodeBsdfHairPrincipled")
    strand.node_tree.links.new(shader.outputs[0], out.inputs["Surface"])
    curves.materials.append(strand)
    tuft = bpy.data.objects.new("Hair", curves)
    tuft.location = (where, 0.0, 0.0)
    bpy.context.scene.collection.objects.link(tuft)


def detail(where: float) -> None:
    """Textures finer than a pixel, and bumps that tilt every one of them."""
    floor(where, material("Weave", roughness=0.5, texture="ShaderNodeTexVoronoi", scale=60.0, bump=0.6))
    ball(where, -1.1, material("Bark", roughness=0.7, texture="ShaderNodeTexNoise", scale=40.0, bump=1.0))
    ball(where, 0.0, material("Scales", roughness=0.3, texture="ShaderNodeTexVoronoi", scale=35.0, bump=0.8))
    ball(where, 1.1, material("Grain", roughness=0.5, texture="ShaderNodeTexWave", scale=25.0, bump=0.4))


def moving(where: float) -> None:
    """Blades that turn and a ball that flies, blurred; the rest is out of focus."""
    floor(where, material("Slate", roughness=0.6, texture="ShaderNodeTexChecker", scale=15.0))
    first = 1 + 4 * _FRAMES_A_SET
    for blade in range(3):
        bpy.ops.mesh.primitive_cube_add(size=1.0, location=(where - 0.6, 0.0, 1.0))
        wing = bpy.context.object
        wing.scale = (1.6, 0.25, 0.1)
        wing.data.materials.append(material(f"Wing {blade}", colour=(0.1, 0.3, 0.7), roughness=0.3))
        for frame, turn in ((first - 1, 0.0), (first + _FRAMES_A_SET, 4.0)):
            wing.rotation_euler = (0.3, turn + blade * math.pi / 3, 0.2)
            wing.keyframe_insert("rotation_euler", frame=frame)
    thrown = ball(where, 1.2, material("Rubber", colour=(0.8, 0.4, 0.05), roughness=0.5))
    for frame, height in ((first - 1, 0.3), (first + _FRAMES_A_SET, 2.0)):
        thrown.location.z = height
        thrown.keyframe_insert("location", frame=frame)


def skin(where: float) -> None:
    """Light under the surface, cloth-like sheen, and a lamp that is a mesh."""
    floor(where, material("Plaster", roughness=0.8))
    ball(where, -1.1, material("Wax", colour=(0.8, 0.35, 0.2), roughness=0.4, under=1.0))
    ball(where, 0.0, material("Velvet", colour=(0.2, 0.05, 0.3), roughness=0.8, sheen=1.0))
    ball(where, 1.1, material("Lamp", colour=(1.0, 0.8, 0.5), glow=4.0))


def material(
    name: str,
    *,
    colour: tuple[float, float, float] = (0.7, 0.7, 0.7),
    roughness: float = 0.5,
    metallic: float = 0.0,
    transmission: float = 0.0,
    coat: float = 0.0,
    under: float = 0.0,
    sheen: float = 0.0,
    glow: float = 0.0,
    texture: str | None = None,
    scale: float = 1.0,
    bump: float = 0.0,
) -> Any:
    """Return a new material; `texture` is a node that gives its colour, and by `bump` its relief."""
    made = bpy.data.materials.new(name)
    made.use_nodes = True
    tree = made.node_tree
    shader = tree.nodes["Principled BSDF"]
    values = {
        "Base Color": (*colour, 1.0), "Roughness": roughness, "Metallic": metallic,
        "Transmission Weight": transmission, "Coat Weight": coat, "Subsurface Weight": under, "Sheen Weight": sheen,
        "Emission Color": (*colour, 1.0), "Emission Strength": glow,
    }  # fmt: skip
    for key, value in values.items():
        shader.inputs[key].default_value = value
    if texture is not None:
        place, node = tree.nodes.new("ShaderNodeTexCoord"), tree.nodes.new(texture)
        node.inputs["Scale"].default_value = scale
        tree.links.new(place.outputs["Object"], node.inputs["Vector"])
        tree.links.new(node.outputs["Color"], shader.inputs["Base Color"])
        if bump:
            relief = tree.nodes.new("ShaderNodeBump")
            relief.inputs["Strength"].default_value = bump
            tree.links.new(node.outputs[1 if len(node.outputs) > 1 else 0], relief.inputs["Height"])
            tree.links.new(relief.outputs["Normal"], shader.inputs["Normal"])
    return made


def floor(where: float, painted: Any) -> None:
    """Lay a floor."""
    bpy.ops.mesh.primitive_plane_add(size=12.0, location=(where, 0.0, 0.0))
    bpy.context.object.data.materials.append(painted)


def ball(where: float, beside: float, painted: Any) -> Any:
    """Put a ball on the floor and return it."""
    mesh = bpy.data.meshes.get("Ball")
    if mesh is None:
        bpy.ops.mesh.primitive_uv_sphere_add(segments=32, ring_count=16, radius=0.5, calc_uvs=False)
        bpy.ops.object.shade_smooth()
        mesh = bpy.context.object.data
        mesh.name = "Ball"
        mesh.materials.append(None)
        bpy.data.objects.remove(bpy.context.object)
    made = bpy.data.objects.new("Ball", mesh)
    made.location = (where + beside, 0.2 * beside, 0.5)
    # All balls are one mesh, so that the file stays small.
    made.material_slots[0].link = "OBJECT"
    made.material_slots[0].material = painted
    bpy.context.scene.collection.objects.link(made)
    return made


def light(where: float) -> None:
    """Hang a lamp with soft shadows over a set, and a hard one beside it."""
    bpy.ops.object.light_add(type="AREA", location=(where + 2.0, -2.0, 4.0), rotation=(0.6, 0.4, 0.0))
    bpy.context.object.data.energy, bpy.context.object.data.size = 250.0, 2.0
    bpy.ops.object.light_add(type="SPOT", location=(where - 3.0, -2.0, 3.5), rotation=(0.75, 0.0, -0.95))
    bpy.context.object.data.energy = 300.0


def look(camera: Any, where: float, frame: int, angle: float) -> None:
    """Have the camera look at a set from `angle` on one frame."""
    distance, height = 5.0, 2.2
    camera.location = (where + distance * math.sin(angle), -distance * math.cos(angle), height)
    camera.rotation_euler = (math.atan2(distance, height - 0.6), 0.0, angle)
    # Between two frames: the shutter must not be open while it jumps.
    camera.keyframe_insert("location", frame=frame - 0.5)
    camera.keyframe_insert("rotation_euler", frame=frame - 0.5)
    camera.data.dof.focus_distance = distance
    camera.data.dof.use_dof = frame > 4 * _FRAMES_A_SET
    camera.data.dof.keyframe_insert("use_dof", frame=frame - 0.5)


def render_settings(scene: Any, frames: int) -> None:
    """Set how the frames are rendered; a job pins most of it again."""
    scene.render.engine = "CYCLES"
    scene.cycles.samples = _SAMPLES
    scene.cycles.use_adaptive_sampling = False
    scene.cycles.use_denoising = False
    scene.render.use_motion_blur = True
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = _WIDTH, _HEIGHT, 100
    scene.frame_start, scene.frame_end = 1, frames


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Some scenes keep bpy from ending by itself.
    os._exit(0)
