"""The frames of a job as an H.264 film."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from xwgrid.errors import GridError
from xwgrid.requester.pictures import read_rgb8


def write_film(
    frames: Sequence[Path],
    target: Path,
    frames_per_second: float,
    written: Callable[[int], None] = lambda _number: None,
) -> None:
    """Write an MP4 that every player shows (H.264, yuv420p) of pictures of one size, in their order.

    `written` hears of each frame. Raises GridError when a picture cannot be read or the film cannot be made.
    """
    # 24000/1001 and its like are what 23.976 means.
    rate = Fraction(frames_per_second).limit_denominator(1001)
    partial = target.with_name(target.name + ".part")
    try:
        with av.open(str(partial), mode="w", format="mp4", options={"movflags": "faststart"}) as film:
            stream = film.add_stream("libx264", rate=rate, options={"crf": "17", "preset": "medium"})
            stream.pix_fmt = "yuv420p"
            for number, path in enumerate(frames):
                pixels = even(read_rgb8(path))
                if number == 0:
                    stream.height, stream.width = pixels.shape[:2]
                film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
                written(number)
            film.mux(stream.encode(None))
        partial.replace(target)
    except (av.FFmpegError, OSError, ValueError) as error:
        partial.unlink(missing_ok=True)
        raise GridError(f"the film {target} cannot be written: {error}", file=str(target)) from error


def even(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture of even width and height, as yuv420p needs: the last row or column is repeated."""
    height, width = pixels.shape[:2]
    if height % 2 == 0 and width % 2 == 0:
        return pixels
    return np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
