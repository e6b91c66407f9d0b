"""`python -m simulator SCENARIO.toml`: see docs/simulator.md."""

from __future__ import annotations

from pathlib import Path

import click

from simulator.grid import simulate
from simulator.report import SimulationReport, as_json
from simulator.scenario import find, parse_policy, read, scenario_names
from simulator.sweep import Sweep, sweep
from xwgrid.command_line import Refusal
from xwgrid.errors import BadInput, GridError

_PROGRAM = "python -m simulator"


@click.command(epilog=f"Scenarios that come along: {', '.join(scenario_names())}.")
@click.argument("scenario")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a value: hosts.1.lie_rate=0.5.")
@click.option("--policy", metavar="NAME", help="fixed, credibility, audit or boinc, in place of the scenario's.")
@click.option("--sweep", "swept", metavar="KEY=V,V,…", help="One run for each value: lie_share=0.005,0.05,1.0.")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw it into a PNG file.")
@click.option("--json", "json", is_flag=True, help="Print one JSON object.")
def main(
    scenario: str, overrides: tuple[str, ...], policy: str | None, swept: str | None, plot: Path | None, *, json: bool
) -> None:
    """Simulate a grid in virtual time; SCENARIO is a file, or one of those that come along."""
    try:
        path = find(scenario)
        chosen = (f"policy={parse_policy(policy)}",) if policy is not None else ()
        if plot is not None and plot.suffix != ".png":
            raise BadInput(f"'{plot}' is no name for a PNG file: let it end in .png")
        if swept is None:
            report: SimulationReport | Sweep = simulate(read(path, (*chosen, *overrides)))
        else:
            report = sweep(path, swept, (*chosen, *overrides))
        click.echo(as_json(report) if json else report.text())
        if plot is not None:
            _draw(report, plot)
    except GridError as error:
        raise Refusal(error, _PROGRAM, as_json=json) from error


def _draw(report: SimulationReport | Sweep, path: Path) -> None:
    # Not at the top: only plots need the library.
    try:
        from simulator.plots import draw_run, draw_sweep  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BadInput(f"plots need {error.name}: pip install 'xwgrid[simulator]', or leave --plot out") from error
    if isinstance(report, Sweep):
        draw_sweep(report, path)
    else:
        draw_run(report, path)


if __name__ == "__main__":
    main(prog_name=_PROGRAM)
