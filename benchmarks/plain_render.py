"""What the grid is measured against: one Blender process that renders an animation, as `blender -b SCENE -a` does.

Run by a Python that has `bpy`: plain_render.py SCENE FOLDER FIRST LAST SAMPLES WIDTH HEIGHT
"""

from __future__ import annotations

import os
import sys

import bpy


def main() -> None:
    """Render the frames into the folder."""
    scene_file, folder = sys.argv[1:3]
    first, last, samples, width, height = map(int, sys.argv[3:])
    bpy.ops.wm.read_factory_settings(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=scene_file, load_ui=False, use_scripts=False)
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.seed = 0
    scene.cycles.use_animated_seed = False
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = width, height, 100
    scene.render.image_settings.file_format = "PNG"
    # The grid keeps scene data between frames; so does what it is compared with.
    scene.render.use_persistent_data = True
    scene.render.filepath = os.path.join(folder, "frame_####")  # noqa: PTH118  # Blender wants text
    scene.frame_start, scene.frame_end, scene.frame_step = first, last, 1
    bpy.ops.render.render(animation=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    # Some scenes keep bpy from ending by itself.
    os._exit(0)
