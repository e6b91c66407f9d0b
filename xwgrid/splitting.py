"""How a job falls into tasks: how many, what each is told to do, and what it is called.

Pure arithmetic: a million tasks cost no more than one.
"""

from __future__ import annotations

import re
from typing import assert_never

from xwgrid.errors import BadInput, TooLarge
from xwgrid.model import MAX_INPUTS, MAX_TASKS, BlenderWork, Count, DigestWork, Frames, JobRequest, Split, TaskNumber

# Blender's own bounds of a frame number, MAXFRAME and MINAFRAME.
_MAX_FRAME = 1_048_574

_NUMBER = r"[+-]?[0-9]{1,9}"
_RANGE = re.compile(rf"(?P<first>{_NUMBER})(?:-(?P<last>{_NUMBER}))?(?:x(?P<step>{_NUMBER}))?")
_DRIVE = re.compile(r".:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def task_count(split: Split) -> int:
    """Return the number of tasks. Zero for frames that run against their step, which `check_request` refuses."""
    match split:
        case Frames(first=first, last=last, step=step):
            return len(range(first, last + (1 if step > 0 else -1), step)) if step else 0
        case Count(count=count):
            return count
    assert_never(split)


def frame(split: Frames, number: TaskNumber) -> int:
    """Return the frame of task `number`, counted from 0 in the order of rendering."""
    return split.first + number * split.step


def arguments(request: JobRequest, number: TaskNumber) -> dict[str, int | str]:
    """Return what a driver is told about task `number`: {"frame": 7} or {"number": 6}.

    Raises BadInput if the job has no such task.
    """
    count = task_count(request.split)
    if not 0 <= number < count:
        raise BadInput(f"there is no task {number}: this job has tasks 0 to {count - 1}", number=number, tasks=count)
    match request.split:
        case Frames() as split:
            return {"frame": frame(split, number)}
        case Count():
            return {"number": number}
    assert_never(request.split)


def label(request: JobRequest, number: TaskNumber) -> str:
    """Return what people call task `number`: "frame 7" or "task 6". Raises BadInput if the job has no such task."""
    (name, value), *_ = arguments(request, number).items()
    return f"frame {value}" if name == "frame" else f"task {value}"


def parse_frames(text: str) -> Frames:
    """Read a frame range as a person writes it.

    "7" is one frame, "1-250" a range, "1-250x2" every second frame, "10-1x-1" runs backwards, "-5--1" lies before
    frame 0. One range only, no lists. Raises BadInput for anything else, TooLarge beyond MAX_TASKS frames.
    """
    written = "".join(text.split())
    if not written:
        raise BadInput("the frame range is empty: write a frame such as 7, or a range such as 1-250 or 1-250x2")
    if "," in written:
        raise BadInput(
            f"frame range '{text}' is a list: a job renders one range, so hand in one job for each part", frames=text
        )
    match = _RANGE.fullmatch(written)
    if match is None:
        raise BadInput(
            f"'{text[:100]}' is not a frame range: write a frame such as 7, or a range such as 1-250 or 1-250x2",
            frames=text[:100],
        )
    first = int(match["first"])
    last = first if match["last"] is None else int(match["last"])
    step = 1 if match["step"] is None else int(match["step"])
    for bound in (first, last):
        if abs(bound) > _MAX_FRAME:
            raise BadInput(
                f"frame {bound} is out of bounds: Blender counts from -{_MAX_FRAME} to {_MAX_FRAME}", frame=bound
            )
    frames = Frames(first=first, last=last, step=step)
    _check_frames(frames, text)
    return frames


def check_request(request: JobRequest) -> None:
    """Refuse a job that can never be rendered as asked. Field bounds are checked where its message is decoded.

    What only the application can tell is checked by `xwgrid.applications.registry.check`, which calls this first.
    Raises BadInput, or TooLarge for more tasks than MAX_TASKS or inputs than MAX_INPUTS.
    """
    if isinstance(request.split, Frames):
        _check_frames(request.split, written(request.split))
    elif request.split.count < 1:
        raise BadInput(f"a job of {request.split.count} tasks is empty: ask for at least 1", count=request.split.count)
    _check_count(request.split)
    _check_votes(request)
    _check_inputs(request)
    match request.work:
        case BlenderWork() as work:
            if not isinstance(request.split, Frames):
                raise BadInput("a Blender job is split by frames: give a frame range such as 1-250")
            if work.samples is not None and work.samples < 1:
                raise BadInput(
                    f"{work.samples} samples make no picture: ask for at least 1, or leave them as the file has them",
                    samples=work.samples,
                )
            if all(file.path != work.scene_file for file in request.inputs):
                raise BadInput(
                    f"the scene file '{work.scene_file}' is not among the job's {len(request.inputs)} input files: "
                    "add it under exactly this path",
                    scene_file=work.scene_file,
                )
        case DigestWork():
            if not isinstance(request.split, Count):
                raise BadInput("a digest job is split by count: give a number of tasks")
        case _:
            assert_never(request.work)


def written(frames: Frames) -> str:
    """Return the range as `parse_frames` reads it."""
    if frames.first == frames.last and frames.step == 1:
        return str(frames.first)
    step = "" if frames.step == 1 else f"x{frames.step}"
    return f"{frames.first}-{frames.last}{step}"


def check_path(path: str) -> None:
    """Refuse a path that does not stay inside the job's folder on every system. Raises BadInput saying why."""
    if _CONTROL.search(path):
        reason = "it has a control character in it"
    elif any("\ud800" <= letter <= "\udfff" for letter in path):
        reason = "it is not valid text"
    elif "\\" in path:
        reason = "it has a backslash: separate folders with '/'"
    elif path.startswith("/") or _DRIVE.match(path):
        reason = "it is absolute: paths begin at the job's own folder"
    elif ".." in path.split("/"):
        reason = "it leaves the job's folder through '..'"
    elif any(part in {"", "."} for part in path.split("/")):
        reason = "it has an empty or '.' part: write it in its shortest form"
    elif any(len(part.encode()) > 255 for part in path.split("/")):
        reason = "one of its parts is longer than the 255 bytes a file name may have"
    else:
        return
    raise BadInput(f"the input path {path[:200]!r} cannot be used: {reason}", path=ascii(path[:200]))


def _check_frames(frames: Frames, text: str) -> None:
    first, last, step = frames.first, frames.last, frames.step
    forwards = "" if abs(step) == 1 else f"x{abs(step)}"
    if step == 0:
        raise BadInput(
            f"frame range '{text}' has a step of 0 and would never end: write {first}-{last} for every frame",
            frames=text,
        )
    if step > 0 and first > last:
        raise BadInput(
            f"frame range '{text}' runs backwards: write {last}-{first}{forwards}, "
            f"or {first}-{last}x{-step} to render in reverse",
            frames=text,
        )
    if step < 0 and first < last:
        raise BadInput(
            f"frame range '{text}' is empty: a step of {step} leads away from {last}; "
            f"write {first}-{last}{forwards}, or {last}-{first}x{step} to render in reverse",
            frames=text,
        )
    _check_count(frames)


def _check_count(split: Split) -> None:
    count = task_count(split)
    if count > MAX_TASKS:
        raise TooLarge(
            f"{count} tasks are more than one job may have ({MAX_TASKS}): hand it in as several jobs",
            tasks=count,
            limit=MAX_TASKS,
        )


def _check_votes(request: JobRequest) -> None:
    if request.quorum < 1:
        raise BadInput(f"a quorum of {request.quorum} decides nothing: ask for at least 1", quorum=request.quorum)
    if request.replicas < request.quorum:
        raise BadInput(
            f"{request.replicas} replicas can never give the {request.quorum} equal results asked for: "
            f"raise replicas to {request.quorum}, or lower the quorum",
            replicas=request.replicas,
            quorum=request.quorum,
        )


def _check_inputs(request: JobRequest) -> None:
    if len(request.inputs) > MAX_INPUTS:
        raise TooLarge(
            f"{len(request.inputs)} input files are more than one job may bring ({MAX_INPUTS})",
            files=len(request.inputs),
            limit=MAX_INPUTS,
        )
    seen: dict[str, str] = {}
    for file in request.inputs:
        check_path(file.path)
        # Case alone does not tell two files apart on every volunteer's disk.
        folded = file.path.casefold()
        if folded in seen:
            raise BadInput(
                f"the input path '{file.path}' is there twice (first as '{seen[folded]}'): "
                "give each file a name of its own, differing in more than case",
                path=file.path,
            )
        seen[folded] = file.path
    for path in seen.values():
        folder = path.casefold()
        while "/" in folder:
            folder = folder.rpartition("/")[0]
            if folder in seen:
                raise BadInput(
                    f"the input path '{seen[folder]}' is a file, and a folder of '{path}' too: rename one of them",
                    path=seen[folder],
                )
