"""The driver of application `blender`. Run by Python with bpy, or by a `blender` executable:

    python blender_driver.py SPEC.json
    blender -b --factory-startup --python blender_driver.py -- SPEC.json

`probe` in place of the specification says only what this Blender is. See docs/protocol.md for what is said.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

# The signed files beside this one, and no other package of that name. Not for longer than that: where this file is
# installed and not staged, its neighbours are packages made for another Python.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from xwgrid.applications.drivers.driver_lines import Lines, Task, TaskError, inputs_folder, read_work

sys.path.pop(0)

import bpy

from xwgrid.applications.drivers import blender_parts, blender_pins, blender_raw, frame_strips
from xwgrid.applications.drivers.blender_canvas import canvas

# What of a frame is rendered before its colours are managed.
_LINEAR = "linear.exr"
# To put pieces together and write them as one picture costs as much as to write so many pictures (measured).
_WORTH_A_CANVAS = 3
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "OPEN_EXR": ".exr"}
# "Sample 3/16" of Cycles, "Rendering 3 / 64 samples" of EEVEE.
_SAMPLES = re.compile(r"\b(?:Sample|Rendering)\s+(\d+)\s*/\s*(\d+)")


def main() -> None:
    """Open the scene, say what will be rendered with, then serve frames until told to quit."""
    lines = Lines()
    ready = {"version": ".".join(map(str, bpy.app.version)), "result_class": blender_pins.result_class()}
    if sys.argv[-1] == "probe":
        lines.send("ready", **ready, effective={})
        lines.leave(0)
    work = read_work(sys.argv[-1])
    try:
        frames = Frames(work)
    except TaskError as error:
        # Every task of this job will fail so. The volunteer hears why with each, as with any failure.
        lines.send("ready", **ready, effective={"problem": str(error)})
        problem = str(error)

        def refuse(_: Task) -> dict[str, Any]:
            raise TaskError(problem)

        lines.serve(refuse)
    lines.send("ready", **ready, effective={**frames.effective, **blender_pins.described(frames.scene)})
    lines.serve(frames.render)


class Frames:
    """A loaded scene, and its frames one after the other."""

    def __init__(self, work: dict[str, Any]) -> None:
        self.scene = blender_pins.open_scene(work, inputs_folder())
        self.effective = blender_pins.apply_pins(self.scene, work)
        # Once, to see whether a pin is moved all the same; and it ends a part of a frame that the file may stand at.
        self.scene.frame_set(self.scene.frame_start)
        blender_pins.check_pins(self.scene, self.effective)
        self._suffix = _SUFFIXES[self.effective["render.image_settings.file_format"]]
        self._in_steps = bool(work.get("raw_passes"))
        self._sequenced = blender_pins.sequencer_strips(self.scene)
        if not blender_pins.has_camera(self.scene) and not self._sequenced:
            raise TaskError(
                f"the scene '{self.scene.name}' has no camera and nothing in its sequencer: add a camera to it"
            )

    def render(self, task: Task) -> dict[str, Any]:
        """Render one frame, or what else the task asks of it, into the task's folder. Raises TaskError.

        {"frame": 7}: the picture. With "strips", pictures of these rows. A job that asks for raw passes gets them, and
        the picture that is made of them by denoising; strips are of the raw passes then, and with "strips" "denoised"
        it is the picture once more, made of the raw passes among the task's files.
        """
        number = int(task.arguments["frame"])
        sign = "-" if number < 0 else ""
        stem = f"frame_{sign}{abs(number):04d}"
        file, raw = (task.folder() / (stem + suffix) for suffix in (self._suffix, blender_raw.SUFFIX))
        if self._in_steps and task.arguments.get("strips") == blender_raw.DENOISED:
            given = task.inputs() / raw.name
            if not given.is_file():
                raise TaskError(f"{raw.name}, which frame {number} is to be made of, is not there")
            self._denoise(number, given, file)
            return {"files": [file.name]}
        if self._in_steps:
            with blender_raw.raw(self.scene):
                if "strips" in task.arguments:
                    return {"files": self._strips_of(number, raw, task)}
                self._render(number, raw, task.progress)
            self._denoise(number, raw, file)
            return {"files": [file.name, raw.name]}
        if "strips" in task.arguments:
            return {"files": self._strips_of(number, file, task)}
        self._render(number, file, task.progress)
        return {"files": [file.name]}

    def _denoise(self, number: int, raw: Path, file: Path) -> None:
        """Make a frame's picture of its raw passes."""

        def render(scene: Any) -> None:
            scene.frame_current = number
            self._write(scene, file, f"denoise frame {number}")

        blender_raw.denoise(self.scene, raw, render)

    def _strips_of(self, number: int, file: Path, task: Task) -> list[str]:
        """Render strips of a frame, and return the names of their pictures."""
        height = self.scene.render.resolution_y
        strips = frame_strips.parse(task.arguments["strips"], height)
        if (reason := blender_parts.why_whole(self.scene)) is not None:
            raise TaskError(f"frame {number} cannot be rendered in parts: {reason}")
        windows = frame_strips.windows(strips, height, blender_parts.margin(self.scene))
        dithered = blender_parts.is_dithered(self.scene)
        linear = dithered and len(windows) >= _WORTH_A_CANVAS
        cropped = linear or not dithered
        written = file.with_name(_LINEAR) if linear else file
        pieces: list[tuple[int, Sequence[frame_strips.Strip], bytes]] = []
        for done, (rows, inside) in enumerate(windows):
            with blender_parts.window(self.scene, *rows, cropped=cropped, linear=linear):
                self._render(number, written, partial(_tell_part, task, done, len(windows)))
            pieces.append((rows.first if cropped else 0, inside, written.read_bytes()))
            written.unlink()
        if linear:
            written.write_bytes(frame_strips.assembled(height, [(first, data) for first, _, data in pieces]))
            with canvas(self.scene, written) as drawn:
                drawn.tree.links.new(drawn.image.outputs["Image"], drawn.picture)
                drawn.scene.frame_current = number
                self._write(drawn.scene, file, f"write frame {number}")
            pieces = [(0, strips, file.read_bytes())]
            written.unlink()
            file.unlink()
        for first, cut_out, picture in pieces:
            for strip in cut_out:
                part = frame_strips.cut(picture, strip.first - first, strip.rows)
                file.with_name(frame_strips.name(file.name, strip)).write_bytes(part)
        return [frame_strips.name(file.name, strip) for strip in strips]

    def _render(self, number: int, file: Path, progress: Callable[[float], None]) -> None:
        # Not frame_set, which would build the whole frame for a viewport first: the renderer builds its own.
        self.scene.frame_current = number
        if self.scene.camera is None and not self._sequenced:
            raise TaskError(f"the scene '{self.scene.name}' has no camera on frame {number}")

        def tell(stats: object, *_: object) -> None:
            if match := _SAMPLES.search(str(stats)):
                progress(int(match[1]) / max(int(match[2]), 1))

        bpy.app.handlers.render_stats.append(tell)
        try:
            self._write(self.scene, file, f"render frame {number}")
        finally:
            # A handler that stays registered makes Blender hang at its end.
            bpy.app.handlers.render_stats.remove(tell)

    def _write(self, scene: Any, file: Path, doing: str) -> None:
        """Render a scene into a file that is new."""
        file.unlink(missing_ok=True)
        scene.render.filepath = str(file)
        try:
            bpy.ops.render.render(write_still=True, scene=scene.name)
        except RuntimeError as error:
            reason = str(error).strip().removeprefix("Error: ")
            raise TaskError(f"Blender could not {doing}: {reason}") from error
        if not file.is_file() or file.stat().st_size == 0:
            raise TaskError(f"Blender was to {doing}, said it had, and wrote no picture")


def _tell_part(task: Task, done: int, parts: int, share: float) -> None:
    """Tell how far a task is that consists of `parts`, of which `done` are done, and `share` of the next."""
    task.progress((done + share) / parts)


if __name__ == "__main__":
    main()
