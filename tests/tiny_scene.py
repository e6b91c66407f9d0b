"""Makes a scene that renders in a tenth of a second. Run by a Python that has `bpy`: tiny_scene.py FILE"""

from __future__ import annotations

import os
import sys

import bpy


def main() -> None:
    """Write a .blend with a lit cube that turns, frames 1 to 24, 64 by 36 pixels, 4 samples."""
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
    scene.cycles.samples = 4
    scene.cycles.use_adaptive_sampling = False  # more samples are to take longer
    scene.cycles.use_denoising = False
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 64, 36, 100
    scene.frame_start, scene.frame_end = 1, 24
    bpy.ops.wm.save_as_mainfile(filepath=sys.argv[1], compress=False)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Some scenes keep bpy from ending by itself.
    os._exit(0)
