"""The shapes and materials the orrery is put together from. Runs inside Blender."""

from __future__ import annotations

from itertools import pairwise
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Any

import bpy

# isort: split
# Found only once bpy is there.
import bmesh


def brass() -> Any:
    """Return the metal all moving parts are made of."""
    material = bpy.data.materials.new("Brass")
    material.use_nodes = True
    shader = material.node_tree.nodes["Principled BSDF"]
    shader.inputs["Base Color"].default_value = (0.78, 0.50, 0.20, 1)
    shader.inputs["Metallic"].default_value = 1.0
    shader.inputs["Roughness"].default_value = 0.24
    return material


def painted(name: str, texture: Path, *, roughness: float) -> Any:
    """Return a material coloured by a picture in the folder textures beside the scene."""
    material = bpy.data.materials.new(name)
    material.use_nodes = True
    nodes = material.node_tree
    image = nodes.nodes.new("ShaderNodeTexImage")
    image.image = bpy.data.images.load(str(texture), check_existing=True)
    image.image.filepath = f"//textures/{texture.name}"
    shader = nodes.nodes["Principled BSDF"]
    nodes.links.new(image.outputs["Color"], shader.inputs["Base Color"])
    shader.inputs["Roughness"].default_value = roughness
    return material


def ball(name: str, radius: float, material: Any) -> Any:
    """Return a smooth sphere with a map of longitude and latitude; all share one mesh, which keeps the file small."""
    mesh = bpy.data.meshes.get("Ball") or _unit_ball()
    thing = bpy.data.objects.new(name, mesh)
    thing.scale = (radius, radius, radius)
    thing.material_slots[0].link = "OBJECT"
    thing.material_slots[0].material = material
    return thing


def _unit_ball() -> Any:
    mesh = bpy.data.meshes.new("Ball")
    shape = bmesh.new()
    uv = shape.loops.layers.uv.new("UVMap")
    bmesh.ops.create_uvsphere(shape, u_segments=36, v_segments=18, radius=1, calc_uvs=True)
    for face in shape.faces:
        face.smooth = True
        # Where the map closes, a face would run backwards over the whole of it.
        across = [loop[uv].uv.x for loop in face.loops]
        if max(across) - min(across) > 0.5:
            for loop in face.loops:
                if loop[uv].uv.x < 0.5:
                    loop[uv].uv.x += 1
    shape.to_mesh(mesh)
    shape.free()
    mesh.materials.append(None)
    return mesh


def tube(name: str, radius: float, length: float, material: Any) -> Any:
    """Return a rod from the origin upwards; all share one mesh."""
    mesh = bpy.data.meshes.get("Tube")
    if mesh is None:
        mesh = turned("Tube", [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], 16)
        mesh.materials.append(None)
    thing = bpy.data.objects.new(name, mesh)
    thing.scale = (radius, radius, length)
    thing.material_slots[0].link = "OBJECT"
    thing.material_slots[0].material = material
    return thing


def turned(name: str, profile: list[tuple[float, float]], steps: int) -> Any:
    """Return the mesh of a profile of (radius, height) turned about the vertical."""
    mesh = bpy.data.meshes.new(name)
    shape = bmesh.new()
    for (near, low), (far, high) in pairwise(profile):
        for i in range(steps):
            one, two = 2 * pi * i / steps, 2 * pi * (i + 1) / steps
            corners = [(near, low, one), (near, low, two), (far, high, two), (far, high, one)]
            places = dict.fromkeys((r * cos(a), r * sin(a), z) for r, z, a in corners)
            if len(places) > 2:
                shape.faces.new([shape.verts.new(place) for place in places]).smooth = True
    bmesh.ops.remove_doubles(shape, verts=shape.verts, dist=1e-5)
    bmesh.ops.recalc_face_normals(shape, faces=shape.faces)
    # Edges a lathe leaves sharp.
    for edge in shape.edges:
        edge.smooth = edge.calc_face_angle(0.0) < radians(38)
    shape.to_mesh(mesh)
    shape.free()
    return mesh


def link(thing: Any) -> None:
    """Put a thing into the scene."""
    bpy.context.scene.collection.objects.link(thing)
