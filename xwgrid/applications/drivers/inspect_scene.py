"""Opens a .blend with scripts off and prints what it is and what it needs, as one line of JSON, the last one.

    python inspect_scene.py FILE.blend [SCENE]
    blender -b --factory-startup --python inspect_scene.py -- FILE.blend [SCENE]

    {"opens": true, "problem": null, "blender": "4.5.15", "saved_by": "4.5",
     "scenes": [{"name": …, "first": 1, "last": 24, …}], "active": "Scene", "scene": "Scene",
     "used": [{"kind": "image", "name": …, "reference": "//a.png", "path": "/abs/a.png", "files": ["/abs/a.png"]}],
     "missing": [{…, "files": []}], "unbaked": ["cloth of 'Flag'"], "scripts_not_run": ""}
    {"opens": false, "problem": {"kind": "not_blend" | "newer" | "damaged", "message": "…"}, …}

Used and missing are those of SCENE (the file's active one): reached from it, and not packed. `unbaked` names
simulations without a stored cache: such frames depend on all frames before them. The exit status is 0 whenever a line
was printed.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from xwgrid.applications.drivers import blend_header

sys.path.pop(0)

import bpy

from xwgrid.applications.drivers import blender_pins, blender_raw, scene_files


def main() -> NoReturn:
    """Print the line and end the process, which Blender itself does not always manage."""
    sys.stdout.flush()
    out = os.dup(1)
    os.dup2(2, 1)
    arguments = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    facts = inspect(Path(arguments[0]).resolve(), arguments[1] if len(arguments) > 1 else None)
    data = b"\n" + json.dumps(facts).encode() + b"\n"
    while data:
        data = data[os.write(out, data) :]
    os._exit(0)


def inspect(path: Path, scene_name: str | None) -> dict[str, Any]:
    """Return the facts printed, see above."""
    here = ".".join(map(str, bpy.app.version))
    facts: dict[str, Any] = {"opens": False, "problem": None, "blender": here, "saved_by": None}
    problem = _open(path, facts)
    if problem is not None:
        return facts | {"problem": problem}
    scene = bpy.data.scenes.get(scene_name) if scene_name else bpy.context.scene
    facts |= {
        "opens": True,
        "scenes": [_described(each) for each in bpy.data.scenes if each.library is None],
        "active": bpy.context.scene.name,
        "scene": scene.name if scene else None,
        "scripts_not_run": bpy.app.autoexec_fail_message if bpy.app.autoexec_fail else "",
    }
    if scene is not None:
        references = scene_files.references(scene)
        facts["used"] = [each for each in references if each["files"]]
        facts["missing"] = [each for each in references if not each["files"]]
        facts["unbaked"] = scene_files.unbaked(scene)
    return facts


def _open(path: Path, facts: dict[str, Any]) -> dict[str, str] | None:
    """Open the file, or return why it cannot be."""
    try:
        with path.open("rb") as file:
            beginning = file.read(64)
        told = blend_header.saved_by(path)
    except OSError as error:
        return {"kind": "damaged", "message": f"{path} cannot be read: {error.strerror}"}
    if not blend_header.looks_like_blend(beginning):
        return {"kind": "not_blend", "message": f"{path.name} is not a .blend file"}
    if told is not None:
        facts["saved_by"] = ".".join(map(str, told))
        if told > tuple(bpy.app.version)[:2]:
            return _newer(path, facts)
    bpy.ops.wm.read_factory_settings(use_empty=True)
    try:
        bpy.ops.wm.open_mainfile(filepath=str(path), load_ui=False, use_scripts=False)
    except RuntimeError as error:
        reason = blender_pins.last_words(error)
        return {
            "kind": "damaged",
            "message": f"{path.name} is truncated or damaged, Blender {facts['blender']} does not open it: {reason}",
        }
    facts["saved_by"] = ".".join(map(str, tuple(bpy.data.version)[:2]))
    if tuple(bpy.data.version)[:2] > tuple(bpy.app.version)[:2]:
        return _newer(path, facts)
    return None


def _newer(path: Path, facts: dict[str, Any]) -> dict[str, str]:
    return {
        "kind": "newer",
        "message": (
            f"{path.name} was saved by Blender {facts['saved_by']}, which is newer than the {facts['blender']} here: "
            "save it with that version, or render with a newer one"
        ),
    }


def _described(scene: Any) -> dict[str, Any]:
    render = scene.render
    return {
        "name": scene.name,
        "first": scene.frame_start,
        "last": scene.frame_end,
        "step": scene.frame_step,
        "fps": render.fps / render.fps_base,
        # As Blender rounds: down.
        "width": max(render.resolution_x * render.resolution_percentage // 100, 1),
        "height": max(render.resolution_y * render.resolution_percentage // 100, 1),
        "full_width": render.resolution_x,
        "full_height": render.resolution_y,
        "percentage": render.resolution_percentage,
        "border": render.use_border,
        "engine": render.engine,
        "samples": _samples(scene),
        "denoise": bool(scene.cycles.use_denoising) if render.engine == "CYCLES" else False,
        "denoised_in_one": blender_raw.why_in_one(scene),
        "format": render.image_settings.file_format,
        "color_depth": render.image_settings.color_depth,
        "color_mode": render.image_settings.color_mode,
        "has_camera": blender_pins.has_camera(scene),
        "sequencer_strips": blender_pins.sequencer_strips(scene),
        "uses_compositor": bool(render.use_compositing and blender_pins.compositor(scene)),
        "views": sum(view.use for view in render.views) if render.use_multiview else 1,
    }


def _samples(scene: Any) -> int | None:
    if scene.render.engine == "CYCLES":
        return int(scene.cycles.samples)
    if "EEVEE" in scene.render.engine:
        return int(scene.eevee.taa_render_samples)
    return None


if __name__ == "__main__":
    main()
