"""Denoising as a step of its own: a frame's raw passes in one file, and the picture made of nothing but that file.

What Cycles denoises while it renders nobody can check by parts, since each pixel hangs on all of its neighbours. The
raw passes (the noisy picture, albedo and normals) can be checked so; and the denoised picture is the same, bit by bit,
whoever makes it of them. Runs inside Blender: the standard library and bpy alone, Blender 3.4 to 4.5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bpy

from xwgrid.applications.drivers import blender_pins
from xwgrid.applications.drivers.blender_canvas import canvas
from xwgrid.applications.drivers.driver_lines import TaskError

SUFFIX = "_raw.exr"
# What a task says in place of strips that is to make the picture once more (`xwgrid.auditing.DENOISED`).
DENOISED = "denoised"
# The passes denoising looks at besides the picture, by what the scene says of its input.
_GUIDES = {
    "RGB": (),
    "RGB_ALBEDO": ("Albedo",),
    "RGB_ALBEDO_NORMAL": ("Albedo", "Normal"),
}


def why_not(scene: Any) -> str | None:
    """Return, in a sentence, why denoising cannot be a step of its own here; None when it can."""
    if scene.render.engine != "CYCLES" or not scene.cycles.use_denoising:
        return "its job does not ask for denoising by Cycles"
    return why_in_one(scene)


def why_in_one(scene: Any) -> str | None:
    """Return, in a sentence, why a scene's frames cannot be denoised after they were rendered; None when they can."""
    if hasattr(scene, "compositing_node_group"):
        return f"Blender {bpy.app.version_string} has another compositor"
    if scene.render.use_compositing and blender_pins.compositor(scene) is not None:
        return "its compositor works on the denoised picture"
    if blender_pins.sequencer_strips(scene):
        return "its sequencer makes the picture"
    if sum(layer.use for layer in scene.view_layers) != 1:
        return "it has several view layers"
    return None


@contextmanager
def raw(scene: Any) -> Iterator[None]:
    """Have raw passes rendered and written. Raises TaskError where that cannot be."""
    _check(scene)
    (layer,) = (each for each in scene.view_layers if each.use)
    settings = scene.render.image_settings
    before = {name: getattr(settings, name) for name in ("file_format", "color_depth", "exr_codec")}
    scene.cycles.use_denoising = False
    layer.cycles.denoising_store_passes = True
    settings.file_format = "OPEN_EXR_MULTILAYER"
    settings.color_depth = "32"
    settings.exr_codec = "ZIP"
    try:
        yield
    finally:
        scene.cycles.use_denoising = True
        # The passes stay: to take them away would be to load the scene anew for the next frame.
        for name, value in before.items():
            setattr(settings, name, value)


def denoise(scene: Any, source: Path, render: Callable[[Any], None]) -> None:
    """Have `render` render a scene whose picture is that of the raw passes in `source`, denoised. Raises TaskError."""
    _check(scene)
    cycles = scene.cycles
    with canvas(scene, source) as drawn:
        denoised = drawn.tree.nodes.new("CompositorNodeDenoise")
        denoised.use_hdr = True
        denoised.prefilter = cycles.denoising_prefilter
        if hasattr(denoised, "quality"):
            denoised.quality = cycles.denoising_quality
        there = {output.name: output for output in drawn.image.outputs}
        guides = ((f"Denoising {each}", each) for each in _GUIDES[cycles.denoising_input_passes])
        for name, into in (("Combined", "Image"), *guides):
            if name not in there:
                raise TaskError(f"{source.name} lacks the pass '{name}'")
            drawn.tree.links.new(there[name], denoised.inputs[into])
        drawn.tree.links.new(denoised.outputs["Image"], drawn.picture)
        render(drawn.scene)


def _check(scene: Any) -> None:
    if (reason := why_not(scene)) is not None:
        raise TaskError(f"the scene '{scene.name}' cannot be denoised in a step of its own: {reason}")
