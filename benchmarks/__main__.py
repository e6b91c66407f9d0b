"""`python -m benchmarks NAME`: see docs/performance.md for what each figure means."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.dispatch import dispatch
from benchmarks.growth import growth
from benchmarks.kappa import kappa
from benchmarks.latency import latency
from benchmarks.overhead import overhead
from benchmarks.report import Report
from benchmarks.voting import voting
from xwgrid.command_line import Refusal
from xwgrid.errors import GridError

_DATABASE = click.option(
    "--database", help="Address of an empty database, or 'sqlite'; by default a PostgreSQL server of its own."
)
_CONNECTIONS = click.option("--connections", type=click.IntRange(1, 4_096), default=256, show_default=True)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def main() -> None:
    """Measure the grid on this machine, against real processes."""


@main.command("dispatch")
@_DATABASE
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=20.0, show_default=True)
@_CONNECTIONS
@_JSON
def dispatch_command(database: str | None, seconds: float, connections: int, as_json: bool) -> None:
    """Report one task, take one, as fast as the server answers."""
    _tell(dispatch(database=database, seconds=seconds, connections=connections), as_json)


@main.command("growth")
@_DATABASE
@click.option("--bursts", type=click.IntRange(1, 1_000), default=20, show_default=True, help="Of 1,000 calls, a run.")
@_CONNECTIONS
@click.option("--pairs", type=click.IntRange(1, 20), default=3, show_default=True)
@_JSON
def growth_command(database: str | None, bursts: int, connections: int, pairs: int, as_json: bool) -> None:
    """The same with 1,000 and with 100,000 open tasks."""
    _tell(growth(database=database, number_of_bursts=bursts, connections=connections, pairs=pairs), as_json)


@main.command("latency")
@_DATABASE
@click.option("--jobs", type=click.IntRange(1, 1_000), default=30, show_default=True)
@_JSON
def latency_command(database: str | None, jobs: int, as_json: bool) -> None:
    """From posting a job to the lease in the hands of a volunteer that waits."""
    _tell(latency(database=database, jobs=jobs), as_json)


@main.command("overhead")
@click.option("--pairs", type=click.IntRange(1, 20), default=3, show_default=True)
@click.option("--frames", type=click.IntRange(2, 250), default=16, show_default=True)
@click.option("--frame-seconds", type=click.FloatRange(0.5, 60), default=4.0, show_default=True)
@click.option("--scene", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A .blend file.")
@_JSON
def overhead_command(pairs: int, frames: int, frame_seconds: float, scene: Path | None, as_json: bool) -> None:
    """An animation through the grid against one plain Blender process."""
    _tell(overhead(scene=scene, frames=frames, frame_seconds=frame_seconds, pairs=pairs), as_json)


@main.command("kappa")
@click.option("--scene", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A .blend file.")
@click.option(
    "--resolution", type=click.Choice(["640x360", "1280x720", "1920x1080"]), default="1280x720", show_default=True
)
@click.option("--frame-seconds", type=click.FloatRange(0.5, 600), default=6.0, show_default=True)
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@_JSON
def kappa_command(scene: Path | None, resolution: str, frame_seconds: float, rounds: int, as_json: bool) -> None:
    """What a strip of a frame costs beside its area, with the scene loaded and without."""
    width, height = map(int, resolution.split("x"))
    _tell(kappa(scene=scene, width=width, height=height, frame_seconds=frame_seconds, rounds=rounds), as_json)


@main.command("voting")
@click.option("--scenario", default="baseline", show_default=True, help="A file, or a name from simulator/scenarios.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value of the scenario.")
@click.option("--processes", type=click.IntRange(1, 4), default=2, show_default=True)
@click.option("--blender/--no-blender", default=True, help="Measure κ on Blender, too; it takes about a minute.")
@_JSON
def voting_command(scenario: str, overrides: tuple[str, ...], processes: int, blender: bool, as_json: bool) -> None:
    """What checking costs and lets through in a simulated grid, beside BOINC's rule and replicating twice."""
    try:
        _tell(voting(scenario=scenario, overrides=overrides, processes=processes, blender=blender), as_json)
    except GridError as error:
        raise Refusal(error, "python -m benchmarks voting", as_json=as_json) from error


def _tell(report: Report, as_json: bool) -> None:
    click.echo(report.text(as_json=as_json))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
