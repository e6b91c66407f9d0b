"""The same frames rendered plainly, by one Blender on this machine without any grid, and compared pixel by pixel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import OpenImageIO
from msgspec import Struct

from xwgrid.errors import GridError
from xwgrid.model import TaskNumber
from xwgrid.requester.inspection import Renderer
from xwgrid.requester.submission import Prepared
from xwgrid.splitting import arguments

_MARK = "@xwgrid "
_TAIL = 2_000


class Difference(Struct, frozen=True, kw_only=True):
    """How far an accepted picture is from the reference."""

    pixels: int  # that differ in any channel
    of: int
    largest: float  # difference of one channel, 1.0 is the whole scale


def render_plainly(
    renderer: Renderer, job: Prepared, numbers: Sequence[TaskNumber], folder: Path
) -> dict[TaskNumber, Path]:
    """Render tasks of a job with the very pins of it, in one process, and return each one's picture in `folder`.

    Raises GridError when Blender does not render one.
    """
    inputs, work = folder / "inputs", folder / "work"
    work.mkdir(parents=True)
    for file in job.request.inputs:
        place = inputs / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(job.files[file.sha256])
    specification = folder / "specification.json"
    specification.write_bytes(msgspec.json.encode({"request": job.request}))
    pictures: dict[TaskNumber, Path] = {}
    with _driver(renderer, specification, inputs, work) as (driver, log):
        for number in numbers:
            task = {"do": "task", "replica": number, "output": str(number)}
            event = _ask(driver, {**task, "arguments": arguments(job.request, number)})
            if event is None or event["event"] != "finished":
                log.seek(0)
                said = event["message"] if event is not None else log.read().decode(errors="replace")[-_TAIL:]
                raise GridError(f"the plain render for comparison failed: {said}")
            pictures[number] = work / str(number) / event["files"][0]
    return pictures


def difference(picture: Path, reference: Path) -> Difference | None:
    """Compare decoded pixels, all channels; None when they are equal. Raises GridError for what does not decode."""
    ours, theirs = _pixels(picture), _pixels(reference)
    if ours.shape != theirs.shape:
        return Difference(pixels=theirs.shape[0] * theirs.shape[1], of=theirs.shape[0] * theirs.shape[1], largest=1.0)
    apart = np.abs(ours - theirs)
    differing = int(np.count_nonzero(apart.max(axis=2)))
    if not differing:
        return None
    return Difference(pixels=differing, of=apart.shape[0] * apart.shape[1], largest=float(apart.max()))


@contextmanager
def _driver(
    renderer: Renderer, specification: Path, inputs: Path, work: Path
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """Start the driver in a session of its own, of which nothing is left afterwards."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XWGRID_")}
    places = {"XWGRID_INPUTS": str(inputs), "XWGRID_WORK": str(work), "HOME": str(work), "TMPDIR": str(work)}
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            renderer.run("blender_driver.py", str(specification)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=work,
            env=kept | places,
            start_new_session=True,
            text=True,
        ) as driver,
    ):
        try:
            yield driver, log
        finally:
            if driver.poll() is None:
                os.killpg(driver.pid, signal.SIGKILL)


def _ask(driver: subprocess.Popen[str], task: dict[str, Any]) -> dict[str, Any] | None:
    """Give the driver a task and return the event that ends it; None when the driver ended instead."""
    if driver.stdin is None or driver.stdout is None:
        raise GridError("the driver has no pipes")
    try:
        driver.stdin.write(json.dumps(task) + "\n")
        driver.stdin.flush()
    except BrokenPipeError:
        return None
    for line in driver.stdout:
        if line.startswith(_MARK):
            event: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            if event["event"] in {"finished", "failed"} and event["replica"] == task["replica"]:
                return event
    return None


def _pixels(path: Path) -> Any:
    buffer = OpenImageIO.ImageBuf(str(path))
    pixels = buffer.get_pixels(OpenImageIO.FLOAT)
    if buffer.has_error or pixels is None:
        raise GridError(f"{path} cannot be read as a picture: {buffer.geterror()}", file=str(path))
    spec = buffer.spec()
    return np.asarray(pixels).reshape(spec.height, spec.width, spec.nchannels)
