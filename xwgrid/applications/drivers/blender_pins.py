"""Opens a job's scene and sets everything in it that its job pinned. Part of the driver, runs inside Blender.

The standard library and bpy alone, Python 3.10 or newer, Blender 3.4 or newer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bpy

from xwgrid.applications.drivers import blend_header
from xwgrid.applications.drivers.driver_lines import TaskError

# Names of one engine, newest first: Blender 4.2 to 4.5 call EEVEE "next", those before and after do not.
_ENGINES = {
    "CYCLES": ("CYCLES",),
    "EEVEE": ("BLENDER_EEVEE_NEXT", "BLENDER_EEVEE"),
    "WORKBENCH": ("BLENDER_WORKBENCH",),
}
# Those of OpenEXR's compressions that give back what they were given.
_LOSSLESS = {"NONE", "RLE", "ZIPS", "ZIP", "PIZ"}
# Frames up to this size are rendered in one piece, 8192 x 4096: see `xwgrid.applications.blender.MAX_PARTED_PIXELS`.
_ONE_PIECE = 1 << 25


def result_class() -> str:
    """Return what must be equal for two results to be comparable bit by bit: build, device and instruction set.

    As any class it begins with the name of its runtime.
    """
    kind = "module" if getattr(bpy.app, "module", False) else "program"
    version = ".".join(map(str, bpy.app.version))
    build = bpy.app.build_hash.decode(errors="replace")
    system = bpy.app.build_platform.decode(errors="replace")
    return f"blender {version} {kind} {build} {system} cpu {_instruction_set()}"


def open_scene(work: dict[str, Any], inputs: Path) -> Any:
    """Open the job's scene file with scripts off and return its scene. Raises TaskError."""
    _check_renderer(work.get("renderer"))
    name = work["scene_file"]
    if not (inputs / name).is_file():
        raise TaskError(f"the scene file '{name}' is not among the job's files")
    with (inputs / name).open("rb") as file:
        if not blend_header.looks_like_blend(file.read(16)):
            raise TaskError(f"'{name}' is not a .blend file")
    # Before it is opened: some Blenders crash on files from their future.
    _check_saved_by(name, blend_header.saved_by(inputs / name))
    bpy.ops.wm.read_factory_settings(use_empty=True)
    try:
        bpy.ops.wm.open_mainfile(filepath=str(inputs / name), load_ui=False, use_scripts=False)
    except RuntimeError as error:
        raise TaskError(f"'{name}' does not open in Blender {bpy.app.version_string}: {last_words(error)}") from error
    _check_saved_by(name, tuple(bpy.data.version)[:2])
    if missing := missing_libraries():
        if not work.get("allow_missing"):
            raise TaskError(f"'{name}' links to {', '.join(missing)}, which the job did not bring")
        print(f"missing libraries, allowed by the job: {', '.join(missing)}", flush=True)
    return _find_scene(work.get("scene"), name)


def last_words(error: RuntimeError) -> str:
    """Return the reason in an operator's error, without the paths of this machine that stand before it."""
    return str(error).strip().rsplit(": ", 1)[-1]


def missing_libraries() -> list[str]:
    """Return the paths of linked .blend files that are used and not there."""
    return [
        library.filepath
        for library in bpy.data.libraries
        if library.users_id
        and getattr(library, "packed_file", None) is None
        and not Path(bpy.path.abspath(library.filepath, library=library.parent)).is_file()
    ]


def apply_pins(scene: Any, work: dict[str, Any]) -> dict[str, Any]:
    """Set all pins in `scene` and return them as they are now in effect, by their path. Raises TaskError."""
    if scene.render.use_multiview:
        raise TaskError(
            f"the scene '{scene.name}' renders several views (stereoscopy) and the grid one picture a frame: "
            "turn it off under Output Properties"
        )
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        _set(scene, "render.image_settings.media_type", "IMAGE")
    pins = dict(_pins(scene, work))
    _mute_animation(scene, set(pins))
    for path, value in pins.items():
        _set(scene, path, value)
    _mute_file_outputs(compositor(scene))
    return {path: _get(scene, path) for path in pins}


def check_pins(scene: Any, effective: dict[str, Any]) -> None:
    """Raise TaskError if a pin has not the value it was given, as when a rig drives it."""
    for path, value in effective.items():
        if (now := _get(scene, path)) != value:
            raise TaskError(
                f"the file itself sets {path} to {now}, but the job pins it to {value}: remove its animation or driver"
            )


def described(scene: Any) -> dict[str, Any]:
    """Return what else forms the picture and is left as the file has it, for the log."""
    view = scene.view_settings
    found = {
        "scene": scene.name,
        "saved_by": ".".join(map(str, bpy.data.version)),
        "display_device": scene.display_settings.display_device,
        "view_transform": view.view_transform,
        "look": view.look,
        "exposure": round(view.exposure, 6),
        "gamma": round(view.gamma, 6),
        "color_mode": scene.render.image_settings.color_mode,
        "film_transparent": scene.render.film_transparent,
        "use_compositing": scene.render.use_compositing,
        "use_sequencer": scene.render.use_sequencer,
        "use_motion_blur": scene.render.use_motion_blur,
        "threads": scene.render.threads,
    }
    if scene.render.engine == "CYCLES":
        for name in ("samples", "use_adaptive_sampling", "adaptive_threshold", "use_light_tree", "sampling_pattern"):
            value = getattr(scene.cycles, name, None)
            found[f"cycles.{name}"] = round(value, 6) if isinstance(value, float) else value
    if bpy.app.autoexec_fail:
        found["scripts_not_run"] = bpy.app.autoexec_fail_message
    return found


def sequencer_strips(scene: Any) -> int:
    """Return the number of strips of the video sequencer, if it takes part in the picture."""
    editor = scene.sequence_editor
    if editor is None or not scene.render.use_sequencer:
        return 0
    return len(editor.strips if hasattr(editor, "strips") else editor.sequences)


def has_camera(scene: Any) -> bool:
    """Return whether the scene has a camera, or a marker that brings one."""
    return scene.camera is not None or any(marker.camera for marker in scene.timeline_markers)


def compositor(scene: Any) -> Any:
    """Return the node tree of the compositor, None if the scene has none."""
    if hasattr(scene, "compositing_node_group"):
        return scene.compositing_node_group
    return scene.node_tree if scene.use_nodes else None


def _pins(scene: Any, work: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each pinned path below the scene with its value, in an order in which Blender takes them."""
    engine = work.get("engine", "CYCLES")
    known = {item.identifier for item in scene.render.bl_rna.properties["engine"].enum_items}
    # Engines of add-ons, Cycles too, are listed by name only while they are asked for.
    chosen = next((name for name in _ENGINES[engine] if name in known), _ENGINES[engine][-1])
    yield "render.engine", chosen
    yield "render.resolution_x", work["width"]
    yield "render.resolution_y", work["height"]
    yield "render.resolution_percentage", 100
    yield "render.use_border", False
    yield "render.use_crop_to_border", False
    yield "render.use_persistent_data", True
    yield "render.threads_mode", "AUTO"
    yield "render.use_file_extension", True
    yield "render.use_overwrite", True
    yield "render.use_placeholder", False
    yield "render.image_settings.file_format", work.get("format", "PNG")
    yield "render.image_settings.color_depth", work.get("color_depth", "8")
    if work.get("format") == "OPEN_EXR":
        codec = scene.render.image_settings.exr_codec
        yield "render.image_settings.exr_codec", codec if codec in _LOSSLESS else "ZIP"
    # Stamps tell the submitter's paths, and times that differ between equal pictures.
    for stamp in scene.render.bl_rna.properties:
        if stamp.identifier.startswith("use_stamp") and not stamp.is_readonly:
            yield f"render.{stamp.identifier}", False
    if engine == "CYCLES":
        yield from _cycles_pins(scene, work)
    elif engine == "EEVEE" and work.get("samples") is not None:
        yield "eevee.taa_render_samples", work["samples"]


def _cycles_pins(scene: Any, work: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "cycles.device", "CPU"
    if work.get("samples") is not None:
        yield "cycles.samples", work["samples"]
    yield "cycles.seed", work.get("seed", 0)
    yield "cycles.use_animated_seed", False
    # Path guiding learns from its threads' order, and a time limit from the machine's speed.
    yield "cycles.use_guiding", False
    yield "cycles.time_limit", 0.0
    if hasattr(scene.cycles, "use_sample_subset"):
        yield "cycles.use_sample_subset", False
    adaptive = scene.cycles.use_adaptive_sampling
    yield "cycles.use_adaptive_sampling", adaptive
    # At the edge of a tile adaptive sampling sees no neighbours, and a part of a frame has its tiles elsewhere.
    if adaptive and work["width"] * work["height"] <= _ONE_PIECE and hasattr(scene.cycles, "use_auto_tile"):
        yield "cycles.use_auto_tile", False
    wanted = work.get("denoise")
    denoise = scene.cycles.use_denoising if wanted is None else wanted
    yield "cycles.use_denoising", denoise
    if denoise:
        yield "cycles.denoiser", "OPENIMAGEDENOISE"
        if hasattr(scene.cycles, "denoising_use_gpu"):
            yield "cycles.denoising_use_gpu", False


def _set(scene: Any, path: str, value: Any) -> None:
    parent, name = _parent(scene, path)
    try:
        setattr(parent, name, value)
    except (AttributeError, TypeError, ValueError) as error:
        raise TaskError(f"Blender {bpy.app.version_string} cannot set {path} to {value}: {error}") from error


def _get(scene: Any, path: str) -> Any:
    parent, name = _parent(scene, path)
    return getattr(parent, name)


def _parent(scene: Any, path: str) -> tuple[Any, str]:
    *parents, name = path.split(".")
    for each in parents:
        scene = getattr(scene, each)
    return scene, name


def _mute_animation(scene: Any, paths: set[str]) -> None:
    """Silence the curves and drivers that would move a pinned value."""
    animation = scene.animation_data
    if animation is None:
        return
    curves = [*animation.drivers]
    actions = [animation.action, *(strip.action for track in animation.nla_tracks for strip in track.strips)]
    for action in actions:
        if action is not None:
            curves += _curves(action)
    for curve in curves:
        if curve.data_path in paths:
            curve.mute = True
            print(f"the animation of {curve.data_path} is not used: the job pins it", flush=True)


def _curves(action: Any) -> list[Any]:
    if hasattr(action, "fcurves"):
        return list(action.fcurves)
    # Blender 5 knows layered actions only.
    return [
        curve for layer in action.layers for strip in layer.strips for bag in strip.channelbags for curve in bag.fcurves
    ]


def _mute_file_outputs(tree: Any, depth: int = 0) -> None:
    """Mute nodes that write further files: they would land outside the result, under the submitter's own paths."""
    if tree is None or depth > 32:
        return
    for node in tree.nodes:
        if node.bl_idname == "CompositorNodeOutputFile":
            node.mute = True
            print(f"the File Output node '{node.name}' is not used: a task gives one picture", flush=True)
        _mute_file_outputs(getattr(node, "node_tree", None), depth + 1)


def _find_scene(name: str | None, file: str) -> Any:
    if name is None:
        return bpy.context.scene
    for scene in bpy.data.scenes:
        if scene.name == name and scene.library is None:
            return scene
    there = ", ".join(f"'{scene.name}'" for scene in bpy.data.scenes)
    raise TaskError(f"'{file}' has no scene '{name}': it has {there}")


def _check_renderer(wanted: str | None) -> None:
    if wanted is None:
        return
    parts = wanted.split(".")
    if [str(part) for part in bpy.app.version][: len(parts)] != parts:
        raise TaskError(f"the job asks for Blender {wanted}, this is {bpy.app.version_string}")


def _check_saved_by(name: str, version: tuple[int, ...] | None) -> None:
    if version is not None and version > tuple(bpy.app.version)[:2]:
        raise TaskError(
            f"'{name}' was saved by Blender {'.'.join(map(str, version))}, which is newer than the "
            f"{bpy.app.version_string} here: what it would lose is not known, so it is not rendered"
        )


def _instruction_set() -> str:
    """Return the CPU kernel Cycles uses: "AVX2", "baseline" for the oldest; "unknown" in a build without Cycles."""
    try:
        import _cycles  # noqa: PLC0415  # not in every build
    except ImportError:
        return "unknown"
    match = re.search(r"CPU device capabilities:[ \t]*(.*)", _cycles.system_info())
    if match is None:
        return "unknown"
    # What the processor can do. Cycles does without what these variables forbid, and does not say so.
    used = [name for name in match[1].split() if f"CYCLES_CPU_NO_{name}" not in os.environ]
    return " ".join(used) or "baseline"
