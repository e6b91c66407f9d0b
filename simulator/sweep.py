"""One scenario, run once for each of several values of one key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from simulator.grid import simulate
from simulator.report import SimulationReport
from simulator.scenario import read
from xwgrid.errors import BadInput

_SHOWN = ("replicas_per_task", "wrong_accepted_share", "wasted_work_share", "makespan_over_ideal", "changed_verdicts")


class Sweep(Struct, frozen=True, kw_only=True):
    """The runs, in the order of the values."""

    key: str
    values: tuple[str, ...]
    reports: tuple[SimulationReport, ...]

    def text(self) -> str:
        """Return a table for people."""
        width = max(len(self.key), *(len(value) for value in self.values))
        lines = [f"{self.reports[0].scenario}", f"  {self.key:>{width}}  " + "  ".join(_SHOWN)]
        for value, report in zip(self.values, self.reports, strict=True):
            columns = (f"{getattr(report.figures, name):>{len(name)}.5g}" for name in _SHOWN)
            lines.append(f"  {value:>{width}}  " + "  ".join(columns))
        return "\n".join(lines)


def sweep(path: Path, swept: str, overrides: Sequence[str]) -> Sweep:
    """Run the scenario at `path` for each value of `swept`, such as "lie_share=0.005,0.05,1.0".

    Every value is read before the first run begins. Raises BadInput or BadSettings.
    """
    key, sign, written = swept.partition("=")
    values = tuple(value.strip() for value in written.split(",") if value.strip())
    if not sign or not values:
        raise BadInput(f"'{swept}' is no sweep: write for example lie_share=0.005,0.05,1.0")
    scenarios = [read(path, (*overrides, f"{key}={value}")) for value in values]
    return Sweep(key=key, values=values, reports=tuple(simulate(scenario) for scenario in scenarios))
