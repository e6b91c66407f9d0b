"""What a demonstration came to: frame by frame, volunteer by volunteer, and whether it showed what it was to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from xwgrid import wire
from xwgrid.model import JobState, ReplicaState, TaskNumber, TaskState
from xwgrid.requester import results
from xwgrid.requester.demo_crash import Crash, reissued
from xwgrid.requester.demo_reference import Difference


class FrameReport(Struct, frozen=True, kw_only=True):
    """One frame: how it was made, and whether it is the picture a plain render gives."""

    frame: str
    file: str | None
    right: bool | None  # None: there is no accepted frame
    different_pixels: int
    replicas: int
    votes_against: int
    lost: int
    seconds: float | None


class VolunteerReport(Struct, frozen=True, kw_only=True):
    """One volunteer's replicas by what became of them."""

    name: str
    lies: bool
    accepted: int
    outvoted: int
    lost: int
    standing: str = ""  # what the server makes of it in the end: "new", "on probation", "set aside" and so on


class Report(Struct, frozen=True, kw_only=True):
    """A demonstration. `problems` holds one sentence for each thing that did not go as it should."""

    frames: tuple[FrameReport, ...]
    volunteers: tuple[VolunteerReport, ...]
    crashes: tuple[Crash, ...]
    job_seconds: float  # from handing in to the last frame here
    total_seconds: float
    folder: str
    grid_folder: str | None  # where the grid's own folder was kept
    problems: tuple[str, ...]


def frame_reports(
    tasks: Sequence[wire.TaskView], differences: Mapping[TaskNumber, Difference | None]
) -> tuple[FrameReport, ...]:
    """Return a line for each task. `differences` has every task that was compared."""
    made = []
    for task in tasks:
        summary = results.summary_of(task)
        compared = task.number in differences
        found = differences.get(task.number)
        made.append(
            FrameReport(
                frame=task.label.removeprefix("frame "),
                file=f"{results.FRAMES}/{task.files[0].name}" if task.files else None,
                right=(found is None) if compared else None,
                different_pixels=found.pixels if found is not None else 0,
                replicas=summary.replicas,
                votes_against=summary.votes_against,
                lost=summary.lost,
                seconds=summary.seconds,
            )
        )
    return tuple(made)


def volunteer_reports(
    names: Mapping[str, bool], tasks: Sequence[wire.TaskView], standings: Mapping[str, str]
) -> tuple[VolunteerReport, ...]:
    """Return a line for each volunteer; `names` says of each whether it lies, `standings` how it stands."""

    def count(name: str, state: ReplicaState) -> int:
        return sum(replica.host == name and replica.state is state for task in tasks for replica in task.replicas)

    return tuple(
        VolunteerReport(
            name=name,
            lies=lies,
            accepted=count(name, ReplicaState.AGREED),
            outvoted=count(name, ReplicaState.OUTVOTED),
            lost=count(name, ReplicaState.LOST),
            standing=standings.get(name, ""),
        )
        for name, lies in names.items()
    )


def problems_of(
    job: wire.JobView,
    frames: Sequence[FrameReport],
    volunteers: Sequence[VolunteerReport],
    *,
    crashes: Sequence[Crash],
    wanted_crashes: int,
    tasks: Sequence[wire.TaskView],
) -> tuple[str, ...]:
    """Return what did not go as it should."""
    found = [
        f"frame {frame.frame} was accepted and is WRONG: {frame.different_pixels} pixels differ from the plain render"
        for frame in frames
        if frame.right is False
    ]
    if job.state is not JobState.FINISHED:
        reason = f": {job.reason}" if job.reason else ""
        found.append(f"the job ended {job.state.value} with {job.agreed} of {job.tasks} frames{reason}")
    found += [
        f"{each.name} had {each.accepted} of its lies accepted" for each in volunteers if each.lies and each.accepted
    ]
    found += [
        f"{each.name} was never outvoted: it got no frame to lie about; ask for more --frames"
        for each in volunteers
        if each.lies and not each.outvoted and not each.accepted
    ]
    again = sum(reissued(crash, tasks) for crash in crashes)
    if again < wanted_crashes:
        found.append(
            f"{again} of {wanted_crashes} crashes hit a frame that was then given out again: "
            "the job was over too soon; ask for more --frames or --samples"
        )
    return tuple(found)


def agreed_numbers(tasks: Sequence[wire.TaskView]) -> list[TaskNumber]:
    """Return the tasks that have an accepted result."""
    return [task.number for task in tasks if task.state is TaskState.AGREED]


def print_report(console: Console, report: Report) -> None:
    """Print the tables, where the pictures are, and the verdict."""
    table = Table(title="Frames", title_justify="left")
    for heading in ("frame", "replicas", "votes against", "lost leases", "seconds", "plain render"):
        table.add_column(heading, justify="right" if heading != "plain render" else "left")
    for frame in report.frames:
        verdict = {True: "equal", False: f"WRONG: {frame.different_pixels} pixels", None: "missing"}
        table.add_row(
            frame.frame,
            str(frame.replicas),
            str(frame.votes_against),
            str(frame.lost),
            "" if frame.seconds is None else f"{frame.seconds:.1f}",
            verdict[frame.right],
            style="" if frame.right else "bold red",
        )
    console.print(table)
    people = Table(title="Volunteers", title_justify="left")
    for heading in ("volunteer", "frames accepted", "outvoted", "lost leases", "standing"):
        people.add_column(heading, justify="left" if heading in {"volunteer", "standing"} else "right")
    for each in report.volunteers:
        who = f"{each.name} (lies)" if each.lies else each.name
        people.add_row(who, str(each.accepted), str(each.outvoted), str(each.lost), each.standing)
    console.print(people)
    _say(console, f"Job: {report.job_seconds:.1f} s; everything: {report.total_seconds:.1f} s.")
    _say(console, f"Pictures, contact sheet and film are in {report.folder}")
    if report.grid_folder is not None:
        _say(console, f"The grid's own folder, with its logs: {report.grid_folder}")
    for problem in report.problems:
        _say(console, f"Not as it should be: {problem}.")
    if not report.problems:
        _say(console, f"All {len(report.frames)} frames are right.")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
