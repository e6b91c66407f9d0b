"""Rendering strips of a frame so that they are, bit by bit, what the whole frame has there. Runs inside Blender.

The standard library and bpy alone, Python 3.10 or newer, Blender 3.4 or newer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bpy

from xwgrid.applications.drivers import blender_pins

# Adaptive sampling looks every so many samples whether a pixel has had enough, and then lets each pixel that has not
# wake its neighbours. What happens in a row is felt one row further with every look.
_SAMPLES_A_LOOK = 16
# Rows rendered above and below a strip. Of what happens beyond, each row lets less than a quarter through (measured,
# docs/applications.md): after twelve, less than one strip in 10,000 differs by it.
_MOST_MARGIN = 12

# Nodes of the compositor that make a pixel of nothing but the same pixel of what they are given, by the names that
# follow "CompositorNode", "ShaderNode" or "Node".
_POINTWISE = {
    "AlphaOver", "BrightContrast", "Clamp", "ColorBalance", "ColorCorrection", "CombHSVA", "CombRGBA", "CombYCCA",
    "CombYUVA", "CombineColor", "CombineXYZ", "Composite", "ConvertColorSpace", "CurveRGB", "CurveVec", "Exposure",
    "FloatCurve", "Frame", "Gamma", "Group", "GroupInput", "GroupOutput", "HueCorrect", "HueSat", "HueSaturation",
    "Invert", "MapRange", "MapValue", "Math", "Mix", "MixRGB", "Posterize", "Premulkey", "RGB", "RGBCurve", "RGBToBW",
    "RLayers", "Reroute", "SepHSVA", "SepRGBA", "SepYCCA", "SepYUVA", "SeparateColor", "SeparateXYZ", "SetAlpha",
    "Time", "ValToRGB", "Value", "VectorCurve", "VectorMath", "Viewer",
}  # fmt: skip


def why_whole(scene: Any) -> str | None:
    """Return, in a sentence, why strips of a frame would not be what the frame has there; None when they are."""
    render = scene.render
    if render.engine != "CYCLES":
        return f"{render.engine} looks at neighbouring pixels"
    if scene.cycles.use_denoising:
        return "denoising looks at neighbouring pixels"
    if render.image_settings.file_format not in {"PNG", "OPEN_EXR", "OPEN_EXR_MULTILAYER"}:
        return f"{render.image_settings.file_format} files lose what lies between neighbouring pixels"
    if render.use_freestyle:
        return "Freestyle draws its lines over the whole picture"
    if blender_pins.sequencer_strips(scene):
        return "its sequencer makes the picture"
    # All of the file's objects: one may be there as part of an instance.
    if any(thing.type in {"GPENCIL", "GREASEPENCIL"} and not thing.hide_render for thing in bpy.data.objects):
        return "grease pencil strokes are drawn over the whole picture"
    if bpy.app.version >= (5, 0, 0) and _has_volume():
        return f"Cycles of Blender {bpy.app.version_string} samples volumes by what it finds in neighbouring pixels"
    return _why_composited(scene)


def margin(scene: Any) -> int:
    """Return how many rows above and below a strip must be rendered with it."""
    if not scene.cycles.use_adaptive_sampling:
        return 0
    samples: int = max(scene.cycles.samples, *(layer.samples for layer in scene.view_layers))
    return min(_MOST_MARGIN, (samples - 1) // _SAMPLES_A_LOOK)


def is_dithered(scene: Any) -> bool:
    """Return whether the picture is: the pattern hangs on its size, so it must be written whole, and cut afterwards."""
    return bool(scene.render.image_settings.color_depth == "8" and scene.render.dither_intensity > 0)


@contextmanager
def window(scene: Any, first: int, rows: int, *, cropped: bool, linear: bool) -> Iterator[None]:
    """Have only rows `first` … `first + rows - 1` rendered, counted from the top.

    `cropped` has only them written, else they lie in a picture of full size. `linear` has them written as they are
    before colour management, without any loss.
    """
    render, height = scene.render, scene.render.resolution_y
    settings = render.image_settings
    pins = {"file_format": "OPEN_EXR", "color_mode": "RGBA", "color_depth": "32"} if linear else {}
    if linear or settings.file_format.startswith("OPEN_EXR"):
        # A row at a time, so that rows can be cut out.
        pins["exr_codec"] = "NONE"
    before = {name: getattr(settings, name) for name in ("file_format", "color_mode", "color_depth", "exr_codec")}
    render.use_border, render.use_crop_to_border = True, cropped
    render.border_min_x, render.border_max_x = 0.0, 1.0
    # Blender counts from the bottom and rounds down: half a row keeps that from going wrong.
    render.border_min_y = (height - first - rows + 0.5) / height
    render.border_max_y = min(1.0, (height - first + 0.5) / height)
    try:
        for name, value in pins.items():
            setattr(settings, name, value)
        yield
    finally:
        render.use_border = render.use_crop_to_border = False
        for name, value in before.items():
            setattr(settings, name, value)


def _has_volume() -> bool:
    """Return whether anything in the file may be smoke, fog or the like."""
    trees = [owner.node_tree for kind in (bpy.data.materials, bpy.data.worlds) for owner in kind if owner.node_tree]
    inputs = (node.inputs.get("Volume") for tree in (*trees, *bpy.data.node_groups) for node in tree.nodes)
    return bool(bpy.data.volumes) or any(socket is not None and socket.is_linked for socket in inputs)


def _why_composited(scene: Any) -> str | None:
    tree = blender_pins.compositor(scene)
    if not scene.render.use_compositing or tree is None:
        return None
    return _why_node(scene, tree, 0)


def _why_node(scene: Any, tree: Any, depth: int) -> str | None:
    for node in tree.nodes:
        if node.mute:
            continue
        if node.bl_idname.partition("Node")[2] not in _POINTWISE or depth > 32:
            return f"the compositor's node '{node.name}' may look at other pixels"
        if node.bl_idname == "CompositorNodeRLayers" and node.scene not in (None, scene):
            return f"the compositor's node '{node.name}' brings the scene '{node.scene.name}' in"
        inside = getattr(node, "node_tree", None)
        if inside is not None and (reason := _why_node(scene, inside, depth + 1)) is not None:
            return reason
    return None
