"""Frames that hosts of two classes render so that their results can be measured against each other.

One scene, made by tools/make_reference_scene.py: sets of six kinds, two frames of each. Pure, apart from reading the
scene out of this package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from types import MappingProxyType
from typing import Final

from xwgrid.model import BlenderWork, Fixed, Frames, InputFile, JobRequest

# What of a renderer each set puts to the test, and its frames.
KINDS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {
        "glossy": (1, 2),
        "volume": (3, 4),
        "hair": (5, 6),
        "detail": (7, 8),
        "motion blur": (9, 10),
        "subsurface": (11, 12),
    }
)
_SCENE = "blender.blend"
# As many as final frames have: the fewer, the more one path that goes another way shows in its pixel.
SAMPLES: Final = 256
_WIDTH, _HEIGHT = 128, 72


def scene() -> bytes:
    """Return the scene file."""
    return resources.files("xwgrid").joinpath("applications", "reference", _SCENE).read_bytes()


def reference_job(result_class: str, *, quorum: int, private: bool) -> JobRequest:
    """Return the job whose task n is the n-th reference frame, for hosts of one class."""
    data = scene()
    return JobRequest(
        name=f"reference frames, {result_class}"[:200],
        work=BlenderWork(
            scene_file=_SCENE,
            samples=SAMPLES,
            width=_WIDTH,
            height=_HEIGHT,
            denoise=False,
            format="PNG",
            color_depth="8",
        ),
        split=Frames(first=1, last=sum(map(len, KINDS.values()))),
        inputs=(InputFile(path=_SCENE, sha256=hashlib.sha256(data).hexdigest(), size=len(data)),),
        policy=Fixed(),
        replicas=quorum,
        quorum=quorum,
        private=private,
        result_class=result_class,
    )


def kind_of(frame: int) -> str:
    """Return what a reference frame puts to the test. Raises KeyError for a frame that is none."""
    for kind, frames in KINDS.items():
        if frame in frames:
            return kind
    raise KeyError(frame)
