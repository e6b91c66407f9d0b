"""Makes the example scene: a brass orrery on a wooden table, 24 frames, its textures and its stand in files beside it.

    .venv-runtimes/blender-bpy-4.5.15/bin/python examples/make_orrery.py

Writes examples/orrery/orrery.blend, which links to parts/stand.blend and uses textures/*.png. Everything is computed
here, so the pictures belong to nobody else. Made again, the scene looks the same, but not to the last bit: Blender
stores meshes in an order that varies.
"""

from __future__ import annotations

import os
import sys
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any

import bpy

# isort: split
# Found only once bpy is there.
import bmesh
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).parent))
import orrery_textures
from orrery_shapes import ball, brass, link, painted, tube, turned

FOLDER = Path(__file__).resolve().parent / "orrery"
TEXTURES = FOLDER / "textures"
FRAMES = 24
SUN_HEIGHT = 1.55


def main() -> None:
    """Write textures, library and scene, in this order."""
    (FOLDER / "parts").mkdir(parents=True, exist_ok=True)
    orrery_textures.write_all(TEXTURES)
    make_stand(FOLDER / "parts" / "stand.blend")
    make_scene(FOLDER / "orrery.blend")


def make_stand(path: Path) -> None:
    """Write the library: the collection "Stand", a turned brass column on a foot."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    collection = bpy.data.collections.new("Stand")
    profile = [
        (0.62, 0.0), (0.62, 0.05), (0.56, 0.08), (0.40, 0.11), (0.16, 0.18), (0.09, 0.28), (0.08, 0.34), (0.13, 0.40),
        (0.13, 0.44), (0.07, 0.50), (0.055, 0.80), (0.055, 1.14), (0.10, 1.17), (0.10, 1.22), (0.045, 1.26),
        (0.035, SUN_HEIGHT - 0.2),
    ]  # fmt: skip
    column = turned("Column", profile, 64)
    column.materials.append(brass())
    collection.objects.link(bpy.data.objects.new("Column", column))
    # A collection that is in no scene is kept only for its fake user.
    collection.use_fake_user = True
    save(path)


def make_scene(path: Path) -> None:
    """Write the scene that is rendered."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    save(path)  # so that paths can be relative to it
    scene = bpy.context.scene
    with bpy.data.libraries.load(str(FOLDER / "parts" / "stand.blend"), link=True, relative=True) as (_, wanted):
        wanted.collections = ["Stand"]
    stand = bpy.data.objects.new("Stand", None)
    stand.instance_type = "COLLECTION"
    stand.instance_collection = bpy.data.collections["Stand"]
    link(stand)

    table()
    sun()
    metal = brass()
    arm("Mercury", metal, length=0.62, height=1.20, size=0.095, texture="ember.png", start=205, turns=1.0)
    blue = arm("Terra", metal, length=1.12, height=1.06, size=0.20, texture="terra.png", start=275, turns=0.5)
    moon(blue, metal)
    arm("Rust", metal, length=1.62, height=0.92, size=0.15, texture="rust.png", start=15, turns=0.34)
    giant = arm("Giant", metal, length=2.05, height=0.78, size=0.32, texture="giant.png", start=184, turns=0.16)
    rings(giant)
    lights()
    camera(scene)
    render_settings(scene)
    save(path)


def arm(
    name: str, metal: Any, *, length: float, height: float, size: float, texture: str, start: float, turns: float
) -> Any:
    """Add a planet on its arm, which turns about the column; return the planet. Angles in degrees."""
    hub = bpy.data.objects.new(f"{name} hub", None)
    hub.location = (0, 0, height)
    link(hub)
    turn(hub, start, turns)
    ring = turned(f"{name} collar", [(0.05, -0.035), (0.095, -0.035), (0.095, 0.035), (0.05, 0.035)], 48)
    ring.materials.append(metal)
    collar = bpy.data.objects.new(f"{name} collar", ring)
    rod = tube(f"{name} rod", 0.018, length, metal)
    rod.rotation_euler = (0, pi / 2, 0)
    rise = SUN_HEIGHT - height
    pin = tube(f"{name} pin", 0.014, rise - size * 0.9, metal)
    pin.location = (length, 0, 0)
    knob = ball(f"{name} knob", 0.038, metal)
    knob.location = (length, 0, 0)
    planet = ball(name, size, painted(name, TEXTURES / texture, roughness=0.45))
    planet.location = (length, 0, rise)
    planet.rotation_euler = (radians(18), 0, 0)
    for part in (collar, rod, pin, knob, planet):
        part.parent = hub
        link(part)
    spin(planet, 1.0)
    return planet


def moon(planet: Any, metal: Any) -> None:
    """Add a moon that circles `planet`."""
    hub = bpy.data.objects.new("Moon hub", None)
    hub.parent = planet.parent
    hub.location = planet.location
    link(hub)
    turn(hub, 60, 1.0)
    rod = tube("Moon rod", 0.008, 0.34, metal)
    rod.rotation_euler = (0, pi / 2, 0)
    body = ball("Moon", 0.065, painted("Moon", TEXTURES / "moon.png", roughness=0.7))
    body.location = (0.36, 0, 0)
    for part in (rod, body):
        part.parent = hub
        link(part)


def rings(planet: Any) -> None:
    """Add the rings of `planet`: a flat annulus, coloured along its radius."""
    mesh = bpy.data.meshes.new("Rings")
    shape = bmesh.new()
    uv = shape.loops.layers.uv.new("UVMap")
    steps, inner, outer = 96, 0.43, 0.72
    circles = [
        [shape.verts.new((radius * cos(2 * pi * i / steps), radius * sin(2 * pi * i / steps), 0)) for i in range(steps)]
        for radius in (inner, outer)
    ]
    for i in range(steps):
        j = (i + 1) % steps
        face = shape.faces.new((circles[0][i], circles[1][i], circles[1][j], circles[0][j]))
        for loop, across in zip(face.loops, (0.0, 1.0, 1.0, 0.0), strict=True):
            loop[uv].uv = (across, 0.5)
    shape.to_mesh(mesh)
    shape.free()
    thing = bpy.data.objects.new("Rings", mesh)
    thing.parent = planet.parent
    thing.location = planet.location
    thing.rotation_euler = (radians(-14), radians(12), 0)
    material = painted("Rings", TEXTURES / "rings.png", roughness=0.5)
    nodes = material.node_tree
    nodes.links.new(nodes.nodes["Image Texture"].outputs["Alpha"], nodes.nodes["Principled BSDF"].inputs["Alpha"])
    mesh.materials.append(material)
    link(thing)


def sun() -> None:
    """Add the lamp in the middle."""
    material = painted("Sun", TEXTURES / "sun.png", roughness=0.6)
    nodes = material.node_tree
    shader, image = nodes.nodes["Principled BSDF"], nodes.nodes["Image Texture"]
    nodes.links.new(image.outputs["Color"], shader.inputs["Emission Color"])
    shader.inputs["Emission Strength"].default_value = 1.2
    body = ball("Sun", 0.26, material)
    body.location = (0, 0, SUN_HEIGHT)
    # The lamp inside lights the planets with far less noise than the glowing surface would.
    body.visible_shadow = False
    body.visible_diffuse = False
    link(body)
    spin(body, 0.25)
    lamp = bpy.data.lights.new("Sunlight", "POINT")
    lamp.energy, lamp.color, lamp.shadow_soft_size = 34, (1.0, 0.78, 0.5), 0.26
    thing = bpy.data.objects.new("Sunlight", lamp)
    thing.location = (0, 0, SUN_HEIGHT)
    link(thing)


def table() -> None:
    """Add the table top."""
    mesh = bpy.data.meshes.new("Table")
    shape = bmesh.new()
    uv = shape.loops.layers.uv.new("UVMap")
    half = 45.0
    face = shape.faces.new([shape.verts.new((x * half, y * half, 0)) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    for loop, place in zip(face.loops, ((0, 0), (25, 0), (25, 25), (0, 25)), strict=True):
        loop[uv].uv = place
    shape.to_mesh(mesh)
    shape.free()
    mesh.materials.append(painted("Wood", TEXTURES / "wood.png", roughness=0.42))
    link(bpy.data.objects.new("Table", mesh))


def lights() -> None:
    """Add a warm key, a cool rim, a soft fill, and the night around."""
    for name, place, aim, size, energy, color in (
        ("Key", (3.6, -3.6, 4.8), (0, 0, 1), 3.0, 380, (1.0, 0.86, 0.7)),
        ("Rim", (-4.6, 4.4, 3.2), (0, 0, 1.2), 2.6, 300, (0.45, 0.66, 1.0)),
        ("Fill", (-2.0, -7.5, 5.0), (0, 0, 1), 4.0, 150, (0.55, 0.7, 1.0)),
    ):
        lamp = bpy.data.lights.new(name, "AREA")
        lamp.size, lamp.energy, lamp.color = size, energy, color
        thing = bpy.data.objects.new(name, lamp)
        thing.location = place
        look_at(thing, aim)
        link(thing)
    bpy.context.scene.world = night()


def night() -> Any:
    """Return a world with a warm glow at the horizon below a dark sky: the camera sees it in the brass alone."""
    world = bpy.data.worlds.new("Night")
    world.use_nodes = True
    tree = world.node_tree
    place = tree.nodes.new("ShaderNodeTexCoord")
    parts = tree.nodes.new("ShaderNodeSeparateXYZ")
    sky = tree.nodes.new("ShaderNodeValToRGB")
    sky.color_ramp.elements[0].position, sky.color_ramp.elements[0].color = 0.0, (0.30, 0.16, 0.11, 1)
    sky.color_ramp.elements[1].position, sky.color_ramp.elements[1].color = 0.5, (0.004, 0.007, 0.022, 1)
    for position, color in ((0.03, (0.13, 0.085, 0.10, 1)), (0.12, (0.016, 0.026, 0.07, 1))):
        sky.color_ramp.elements.new(position).color = color
    tree.links.new(place.outputs["Generated"], parts.inputs["Vector"])
    tree.links.new(parts.outputs["Z"], sky.inputs["Fac"])
    tree.links.new(sky.outputs["Color"], tree.nodes["Background"].inputs["Color"])
    return world


def camera(scene: Any) -> None:
    """Add the camera, which drifts a little around the table."""
    lens = bpy.data.cameras.new("Camera")
    lens.lens = 43
    lens.dof.use_dof = True
    lens.dof.focus_distance = 6.3
    lens.dof.aperture_fstop = 4.0
    thing = bpy.data.objects.new("Camera", lens)
    link(thing)
    for number, angle in ((1, -98), (FRAMES + 1, -82)):
        thing.location = (6.5 * cos(radians(angle)), 6.5 * sin(radians(angle)), 3.2)
        look_at(thing, (-0.12, 0, 1.1))
        thing.keyframe_insert("location", frame=number)
        thing.keyframe_insert("rotation_euler", frame=number)
    straighten(thing)
    scene.camera = thing


def render_settings(scene: Any) -> None:
    """Set what the demonstration renders with unless it is told otherwise."""
    scene.frame_start, scene.frame_end = 1, FRAMES
    render = scene.render
    render.engine = "CYCLES"
    render.resolution_x, render.resolution_y, render.resolution_percentage = 480, 270, 100
    render.fps = 12
    render.image_settings.file_format = "PNG"
    render.image_settings.color_mode = "RGB"
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.use_denoising = "CPU", 16, True
    cycles.max_bounces, cycles.diffuse_bounces, cycles.glossy_bounces = 3, 2, 3
    cycles.transparent_max_bounces = 4
    cycles.caustics_reflective = cycles.caustics_refractive = False
    scene.view_settings.look = "AgX - Punchy"


def turn(thing: Any, start: float, turns: float) -> None:
    """Let a thing go around evenly, from `start` degrees, so many turns in the whole film."""
    for number, angle in ((1, start), (FRAMES + 1, start + 360 * turns)):
        thing.rotation_euler = (0, 0, radians(angle))
        thing.keyframe_insert("rotation_euler", frame=number)
    straighten(thing)


def spin(thing: Any, turns: float) -> None:
    """Let a thing turn about its own axis."""
    tilt = thing.rotation_euler.x
    for number, angle in ((1, 0.0), (FRAMES + 1, 360 * turns)):
        thing.rotation_euler = (tilt, 0, radians(angle))
        thing.keyframe_insert("rotation_euler", frame=number)
    straighten(thing)


def straighten(thing: Any) -> None:
    """Make a thing's movement even."""
    for curve in thing.animation_data.action.fcurves:
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"


def look_at(thing: Any, place: tuple[float, float, float]) -> None:
    """Turn a lamp or camera towards a place."""
    thing.rotation_euler = (Vector(place) - thing.location).to_track_quat("-Z", "Y").to_euler()


def save(path: Path) -> None:
    """Write the file, compressed, without a backup of the one before."""
    bpy.context.preferences.filepaths.save_version = 0
    bpy.ops.wm.save_as_mainfile(filepath=str(path), check_existing=False, compress=True, relative_remap=False)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)
