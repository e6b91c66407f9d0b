"""`xwgrid demo`: the whole grid on this machine, with liars and crashes, and a proof that the frames are right."""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from msgspec import Struct
from rich.console import Console

from xwgrid import wire
from xwgrid.errors import BadInput, GridError
from xwgrid.model import TaskNumber
from xwgrid.requester import results
from xwgrid.requester.client import GridClient
from xwgrid.requester.context import Context, print_json
from xwgrid.requester.demo_crash import Crash, Crasher
from xwgrid.requester.demo_grid import EmbeddedGrid
from xwgrid.requester.demo_reference import Difference, difference, render_plainly
from xwgrid.requester.demo_report import (
    Report,
    agreed_numbers,
    frame_reports,
    print_report,
    problems_of,
    volunteer_reports,
)
from xwgrid.requester.inspection import Renderer, find_renderer
from xwgrid.requester.live_download import watch_and_download
from xwgrid.requester.submission import Prepared, prepared, send
from xwgrid.requester.wishes import Wishes, check_wishes, replicas_for

_EXAMPLE = Path(__file__).parents[2] / "examples" / "orrery" / "orrery.blend"
# Small enough for a minute on two cores.
_EXAMPLE_FRAMES = "1-8"
_EXAMPLE_SAMPLES = 16
_EXAMPLE_RESOLUTION = "50%"
# A job that nobody works on: something is wrong with the machine, and the logs tell what.
_STALLED_SECONDS = 300.0


@click.command("demo")
@click.argument("scene", type=click.Path(path_type=Path), required=False)
@click.option("--frames", help=f"Such as 1-24; default: {_EXAMPLE_FRAMES} of the example, the range of a scene.")
@click.option("--volunteers", type=click.IntRange(1, 64), default=3, show_default=True)
@click.option("--liars", type=click.IntRange(0, 64), default=0, show_default=True, help="Of them, how many lie.")
@click.option("--crashes", type=click.IntRange(0, 64), default=0, show_default=True, help="Kills in mid frame.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for the pictures.",
)
@click.option("--keep", is_flag=True, help="Keep the grid's own folder: database, logs, blobs.")
@click.option("--samples", type=int, help=f"Default: {_EXAMPLE_SAMPLES} for the example, else the scene's.")
@click.option("--resolution", help=f"Default: {_EXAMPLE_RESOLUTION} for the example, else the scene's.")
@click.option("--replicas", type=int, help="Default: the quorum.")
@click.option("--quorum", type=int, help="Default: 2, or 1 with a single volunteer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def demo(
    context: Context,
    /,
    *,
    scene: Path | None,
    frames: str | None,
    volunteers: int,
    liars: int,
    crashes: int,
    out: Path,
    keep: bool,
    samples: int | None,
    resolution: str | None,
    replicas: int | None,
    quorum: int | None,
    as_json: bool,
) -> None:
    """Render an animation by a grid of its own on this machine, and check every frame against a plain render."""
    example = scene is None
    quorum = quorum if quorum is not None else min(2, volunteers)
    wishes = Wishes(
        frames=_EXAMPLE_FRAMES if example and frames is None else frames,
        samples=_EXAMPLE_SAMPLES if example and samples is None else samples,
        resolution=_EXAMPLE_RESOLUTION if example and resolution is None else resolution,
        replicas=replicas if replicas is not None else quorum,
        quorum=quorum,
        # What the liars know how to spoil.
        file_format="PNG",
    )
    check_demo(wishes, volunteers, liars)
    cast = Cast(volunteers=volunteers, liars=liars, crashes=crashes)
    report = perform(scene or _example(), wishes, cast, out.absolute(), context, keep=keep, quiet=as_json)
    if as_json:
        print_json(report)
    else:
        print_report(context.out, report)
    if report.problems:
        sys.exit(1)


class Cast(Struct, frozen=True, kw_only=True):
    """Who takes part."""

    volunteers: int
    liars: int
    crashes: int


def check_demo(wishes: Wishes, volunteers: int, liars: int) -> None:
    """Refuse a demonstration that cannot end well. Raises BadInput or TooLarge."""
    check_wishes(wishes)
    _replicas, quorum = replicas_for(wishes)
    honest = volunteers - liars
    if honest < quorum or honest <= liars:
        raise BadInput(
            f"{volunteers} volunteers of whom {liars} lie leave {max(honest, 0)} honest ones: a frame needs "
            f"{quorum} equal results, and more honest votes than lies; "
            "ask for more --volunteers or fewer --liars"
        )


def perform(scene: Path, wishes: Wishes, cast: Cast, out: Path, context: Context, *, keep: bool, quiet: bool) -> Report:
    """Make a grid, render by it, end it, render plainly, compare.

    Raises BadInput for what was asked, GridError when a part does not start or Blender is not there.
    """
    began = time.monotonic()
    results.require_writable(out)
    renderer = find_renderer(context.settings)
    if renderer is None:
        raise GridError(
            f"the demonstration renders with Blender, and there is none (none in {context.settings.runtimes_folder()}, "
            "no blender command): install one with: xwgrid-volunteer runtime install blender"
        )
    console = context.err if quiet else context.out
    with _ended_in_order(), _folder(keep=keep) as folder, prepared(scene, wishes, context.settings, console) as job:
        with EmbeddedGrid(folder, context.settings.runtimes_folder().absolute(), renderer) as grid:
            context.say(f"Starting a server and {cast.volunteers} volunteers, of whom {cast.liars} lie …")
            with GridClient(grid.start_server()) as client:
                warning = grid.start_volunteers(cast.volunteers, cast.liars)
                if warning:
                    context.say(warning)
                handed_in = time.monotonic()
                view, crashes = _through_the_grid(
                    client, grid, job, cast=cast, out=out, context=context, console=console
                )
                job_seconds = time.monotonic() - handed_in
                tasks = list(client.tasks(view.id))
                standings = grid.standings()
        differences = _compared(renderer, job, tasks, out=out, folder=folder, context=context)
        frames = frame_reports(tasks, differences)
        volunteers = volunteer_reports({each.name: each.lies for each in grid.volunteers}, tasks, standings)
        return Report(
            frames=frames,
            volunteers=volunteers,
            crashes=tuple(crashes),
            job_seconds=job_seconds,
            total_seconds=time.monotonic() - began,
            folder=str(out),
            grid_folder=str(folder) if keep else None,
            problems=problems_of(view, frames, volunteers, crashes=crashes, wanted_crashes=cast.crashes, tasks=tasks),
        )


def _through_the_grid(
    client: GridClient,
    grid: EmbeddedGrid,
    job: Prepared,
    *,
    cast: Cast,
    out: Path,
    context: Context,
    console: Console,
) -> tuple[wire.JobView, list[Crash]]:
    """Hand in, watch and download as `xwgrid submit --out` does, with crashes meanwhile."""
    view = send(client, job, context.settings, console)
    honest = [volunteer for volunteer in grid.volunteers if not volunteer.lies]
    crasher = Crasher(client, view.id, honest, cast.crashes, context.say)
    watched = _Watched(grid)
    crasher.start()
    try:
        summary = watch_and_download(
            client,
            view.id,
            out,
            connections=context.settings.connections,
            console=console,
            said=context.say,
            heard=watched.heard,
            idle=watched.idle,
        )
    finally:
        crasher.stop()
    if crasher.problem is not None:
        raise crasher.problem
    return summary.job, crasher.crashes


class _Watched:
    """Ends the demonstration when a part of the grid died, or nothing moved for minutes."""

    def __init__(self, grid: EmbeddedGrid) -> None:
        self._grid = grid
        self._moved = time.monotonic()

    def heard(self, _event: wire.Event) -> None:
        self._moved = time.monotonic()

    def idle(self) -> None:
        self._grid.check()
        if time.monotonic() - self._moved > _STALLED_SECONDS:
            tails = "\n".join(f"{each.name}:\n{each.part.tail()}" for each in self._grid.volunteers)
            raise GridError(f"nothing happened for {_STALLED_SECONDS:g} s. The volunteers' last words:\n{tails}")


def _compared(
    renderer: Renderer, job: Prepared, tasks: list[wire.TaskView], *, out: Path, folder: Path, context: Context
) -> dict[TaskNumber, Difference | None]:
    """Render every accepted frame plainly and compare."""
    numbers = agreed_numbers(tasks)
    context.say(f"Rendering the same {len(numbers)} frames plainly, for comparison …")
    references = render_plainly(renderer, job, numbers, folder / "reference")
    accepted = {task.number: results.places(out, task)[0][1] for task in tasks if task.number in references}
    return {number: difference(accepted[number], reference) for number, reference in references.items()}


@contextmanager
def _folder(*, keep: bool) -> Iterator[Path]:
    """Yield the grid's own folder, and take it away afterwards unless it is to be kept."""
    folder = Path(tempfile.mkdtemp(prefix="xwgrid-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Let SIGTERM end the demonstration as ^C does: with all its parts."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _example() -> Path:
    """Return the scene in examples/, which a checkout has and a wheel has not."""
    if not _EXAMPLE.is_file():
        raise BadInput("the example scene is only in a checkout of xwgrid: name a scene, xwgrid demo SCENE.blend")
    return _EXAMPLE
