"""What a job leaves in its output folder: frames/, contact_sheet.png, video.mp4 and summary.json."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from xwgrid import wire
from xwgrid.applications.registry import delivered_names
from xwgrid.errors import BadInput, GridError
from xwgrid.model import BlenderWork, Frames, JobRequest, ReplicaState, ResultFile, TaskState
from xwgrid.requester.client import GridClient
from xwgrid.requester.contact_sheet import write_contact_sheet
from xwgrid.requester.film import write_film
from xwgrid.requester.pictures import PICTURE_SUFFIXES
from xwgrid.requester.transfer import download

FRAMES = "frames"
CONTACT_SHEET = "contact_sheet.png"
FILM = "video.mp4"
SUMMARY = "summary.json"


class TaskSummary(Struct, frozen=True, kw_only=True):
    """How one task went."""

    number: int
    label: str
    state: TaskState
    files: tuple[str, ...]
    value: str | None
    replicas: int  # leases given out for it, those of audits too
    audits: int = 0  # of these, looks at a few strips of another's result
    votes_against: int  # ballots and audits that lost
    lost: int  # leases that ran out or were dropped
    seconds: float | None  # the program's wall time of the accepted replica
    reason: str
    accepted: str = ""  # on what grounds


class Summary(Struct, frozen=True, kw_only=True):
    """What became of a job: the content of summary.json. Paths are relative to the output folder."""

    job: wire.JobView
    tasks: tuple[TaskSummary, ...]
    frames: tuple[str, ...]
    contact_sheet: str | None = None
    film: str | None = None


def require_writable(folder: Path) -> None:
    """Refuse an output folder in which nothing can be written, leaving things as they are. Raises BadInput."""
    made: list[Path] = []
    try:
        for each in (*reversed(folder.absolute().parents), folder, folder / FRAMES):
            if not each.is_dir():
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder / FRAMES):
            pass
    except OSError as error:
        raise BadInput(
            f"the output folder {folder} cannot be written ({error.strerror}): choose another with --out",
            folder=str(folder),
        ) from error
    finally:
        for each in reversed(made):
            each.rmdir()


def places(folder: Path, task: wire.TaskView) -> list[tuple[ResultFile, Path]]:
    """Return an agreed task's files, each with its place in the output folder."""
    return [(file, folder / FRAMES / file.name) for file in task.files]


def fetch(
    client: GridClient,
    job: wire.JobView,
    folder: Path,
    connections: int,
    said: Callable[[str], None],
) -> Summary:
    """Bring a job's output folder up to what is agreed by now, and return its summary.

    Files that are there and right are not fetched again. `said` hears one sentence per step. Raises GridError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tasks = list(client.tasks(job.id))
    wanted = [place for task in tasks if task.state is TaskState.AGREED for place in places(folder, task)]
    fetched = download(client, wanted, connections, lambda _size: None)
    said(f"{len(wanted)} files are in {folder / FRAMES}, {fetched} of them fetched just now")
    request = client.specification(job).request
    if stale := _not_accepted(request, tasks, folder):
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        said(f"{', '.join(stale[:3])}{more} in {folder / FRAMES}: not accepted now, so not in the film")
    in_order = reversed(tasks) if runs_backwards(request) else tasks
    pictures = [
        (task.label.removeprefix("frame "), path)
        for task in in_order
        for _file, path in places(folder, task)
        if task.state is TaskState.AGREED and path.suffix.lower() in PICTURE_SUFFIXES
    ]
    sheet = film = None
    if pictures and isinstance(request.work, BlenderWork):
        with reporting(said):
            write_contact_sheet(pictures, folder / CONTACT_SHEET)
            sheet = CONTACT_SHEET
        with reporting(said):
            write_film([path for _label, path in pictures], folder / FILM, request.work.frames_per_second)
            film = FILM
    summary = Summary(
        job=job,
        tasks=tuple(summary_of(task) for task in tasks),
        frames=tuple(f"{FRAMES}/{path.name}" for _file, path in wanted),
        contact_sheet=sheet,
        film=film,
    )
    write_summary(folder, summary)
    return summary


def _not_accepted(request: JobRequest, tasks: Sequence[wire.TaskView], folder: Path) -> list[str]:
    """Return the names of files that lie there from a time when they were accepted, or from another job."""
    there = {path.name for path in (folder / FRAMES).iterdir()} if (folder / FRAMES).is_dir() else set()
    if not there:
        return []
    doubtful = [task.number for task in tasks if task.state is not TaskState.AGREED]
    return [name for number in doubtful for name in delivered_names(request, number) if name in there]


@contextlib.contextmanager
def reporting(said: Callable[[str], None]) -> Iterator[None]:
    """Say what went wrong with an extra, and go on: the frames are there all the same."""
    try:
        yield
    except GridError as error:
        said(error.message)
    except OSError as error:
        said(f"{error.filename or 'the output folder'} cannot be written: {error.strerror}")


def runs_backwards(request: JobRequest) -> bool:
    """Tell whether frames are rendered last to first; they are shown first to last all the same."""
    return isinstance(request.split, Frames) and request.split.step < 0


def summary_of(task: wire.TaskView) -> TaskSummary:
    """Return how a task went."""
    full = [replica for replica in task.replicas if replica.audits is None]
    accepted = [replica.seconds for replica in full if replica.state is ReplicaState.AGREED]
    return TaskSummary(
        number=task.number,
        label=task.label,
        state=task.state,
        files=tuple(file.name for file in task.files),
        value=task.value,
        replicas=len(task.replicas),
        audits=len(task.replicas) - len(full),
        votes_against=sum(replica.state is ReplicaState.OUTVOTED for replica in task.replicas),
        lost=sum(replica.state is ReplicaState.LOST for replica in task.replicas),
        seconds=next(iter(accepted), None),
        reason=task.reason,
        accepted=task.accepted,
    )


def write_summary(folder: Path, summary: Summary) -> None:
    """Write summary.json in one step. Raises GridError when the folder cannot be written."""
    partial = folder / (SUMMARY + ".part")
    try:
        partial.write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n")
        partial.replace(folder / SUMMARY)
    except OSError as error:
        raise GridError(f"{folder / SUMMARY} cannot be written: {error.strerror}", folder=str(folder)) from error
