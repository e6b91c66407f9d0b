"""Pictures of ordinary size pass through the sandboxed reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.applications.painting import painted, pinned
from xwgrid.applications import pictures
from xwgrid.model import BlenderWork, Frames, JobRequest, TaskNumber
from xwgrid.reading.reader import Reader


@pytest.mark.parametrize(
    ("file_format", "suffix", "kind", "depth"), [("PNG", ".png", "uint16", "16"), ("OPEN_EXR", ".exr", "float", "32")]
)
def test_a_frame_of_many_megabytes(tmp_path: Path, file_format: str, suffix: str, kind: str, depth: str) -> None:
    """A noisy frame whose file is far larger than any message is read, to the same fingerprint as outside."""
    width, height = 1_280, 720
    noise = np.random.default_rng(7).random((height, width, 3), dtype=np.float32)
    data = painted(tmp_path, suffix, kind, noise)
    assert len(data) > 4 << 20
    request = JobRequest(
        name="large",
        work=BlenderWork(scene_file="a.blend", width=width, height=height, format=file_format, color_depth=depth),  # type: ignore[arg-type]  # parametrised
        split=Frames(first=1, last=1),
    )
    name = "frame_0001" + suffix
    (tmp_path / name).write_bytes(data)
    reader = Reader()
    try:
        digest = reader.read(request, TaskNumber(0), {name: tmp_path / name}).fingerprint
    finally:
        reader.close()
    assert digest == pictures.fingerprint(pictures.read(data, pinned(file_format, depth, width, height)))
