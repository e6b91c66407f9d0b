"""Application `blender`: one frame of an animation per task, one picture file per frame."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from xwgrid.errors import BadInput, TooLarge, UnreadableResult
from xwgrid.model import BlenderWork, Digest, Frames, JobRequest, TaskNumber
from xwgrid.splitting import frame, task_count

# 16384 x 8192, an 8K panorama twice over: decoded as 32-bit RGBA it takes the 2 GiB a reader process may use.
MAX_PIXELS = 1 << 27

SUFFIXES: Mapping[str, str] = {"PNG": ".png", "JPEG": ".jpg", "OPEN_EXR": ".exr"}
DEPTHS: Mapping[str, tuple[str, ...]] = {"PNG": ("8", "16"), "JPEG": ("8",), "OPEN_EXR": ("16", "32")}


class Blender:
    """See `xwgrid.applications.registry.Application`. A result is one picture."""

    name = "blender"
    runtime: Literal["blender"] = "blender"
    reads: Literal["pictures"] = "pictures"

    def check(self, request: JobRequest) -> None:
        """Refuse pictures that cannot be written or read back. Raises BadInput or TooLarge."""
        work = _work(request)
        depths = DEPTHS[work.format]
        if work.color_depth not in depths:
            raise BadInput(
                f"{work.format} pictures cannot have {work.color_depth} bits a channel: ask for {' or '.join(depths)}",
                format=work.format,
                color_depth=work.color_depth,
            )
        if work.engine == "WORKBENCH" and work.samples is not None:
            raise BadInput("WORKBENCH draws without samples: leave them out, or ask for another engine")
        if work.engine != "CYCLES" and work.denoise:
            raise BadInput(f"{work.engine} does not denoise: leave it out, or ask for the engine CYCLES")
        for side, pixels in (("width", work.width), ("height", work.height)):
            if pixels < 1:
                raise BadInput(f"a picture with a {side} of {pixels} pixels is empty: ask for at least 1")
        if work.width * work.height > MAX_PIXELS:
            raise TooLarge(
                f"a picture of {work.width} x {work.height} pixels is larger than the grid reads "
                f"({MAX_PIXELS} pixels): lower the resolution",
                width=work.width,
                height=work.height,
                limit=MAX_PIXELS,
            )

    def result_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
        """Return the one name of a frame's picture, "frame_0007.png". Raises BadInput if there is no such task."""
        split = request.split
        if not isinstance(split, Frames) or not 0 <= number < task_count(split):
            raise BadInput(f"this job has no task {number}", number=number)
        return (picture_name(frame(split, number), _work(request).format),)

    def read_result(self, request: JobRequest, number: TaskNumber, files: Mapping[str, bytes]) -> Digest:
        """Return the fingerprint of a frame's picture.

        Raises UnreadableResult unless there is exactly the expected file, in the format, size and depth pinned.
        """
        # Not at the top: the server's own process must never load a picture library, only its readers do.
        from xwgrid.applications import pictures  # noqa: PLC0415

        work = _work(request)
        (name,) = self.result_names(request, number)
        if set(files) != {name}:
            found = ", ".join(sorted(files)) or "nothing"
            raise UnreadableResult(f"the result should be {name} and is {found}", expected=name, files=sorted(files))
        pinned = pictures.Pinned(format=work.format, width=work.width, height=work.height, color_depth=work.color_depth)
        return pictures.fingerprint(pictures.read(files[name], pinned, name=name))

    def value_fingerprint(self, value: str) -> Digest:
        """Refuse a value: the result is a picture."""
        raise UnreadableResult(f"a frame gives a picture, this result is the text {value[:80]!a}")


def picture_name(number: int, file_format: str) -> str:
    """Return the name of a frame's picture: at least four digits, after the sign if there is one."""
    sign = "-" if number < 0 else ""
    return f"frame_{sign}{abs(number):04d}{SUFFIXES[file_format]}"


def _work(request: JobRequest) -> BlenderWork:
    if not isinstance(request.work, BlenderWork):
        raise BadInput(f"this job is not one of Blender: {type(request.work).__name__}")
    return request.work
