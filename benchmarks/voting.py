"""What checking results costs and lets through, simulated: by the server's default, by BOINC's rule, and by two of two.

The figures without a prefix are those of the server's default policy. BOINC's rule (`boinc_`) and two of two
(`fixed_2_`) run as other grids have them: whoever asks gets the second replica, and nobody is set aside. With
`drawn_fixed_2_` it is two of two on our server, which draws second replicas by lot and sets hosts aside. All run over
the same hosts and jobs, with the same seed; the hosts' luck depends on neither the policy nor the order of events.

Beside the κ that was simulated stands the one of Blender on this machine (`benchmarks.kappa`, in processor time).
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import cast

import msgspec
from msgspec.structs import asdict, replace
from xwgrid_server.settings import Settings

from benchmarks.kappa import kappa
from benchmarks.report import Report, machine, versions
from simulator.grid import simulate
from simulator.report import SimulationReport
from simulator.scenario import find, read
from xwgrid.model import Boinc, Fixed

_COMPARED = ("replicas_per_task", "wrong_accepted_share", "makespan_over_ideal")


def voting(*, scenario: str, overrides: Sequence[str], processes: int, blender: bool) -> Report:
    """Run a scenario, by name or path, in each of the four ways, so many at once; with `blender`, measure its κ first.

    Raises NotFound or BadSettings for a scenario that is none, Unavailable for one that never ends.
    """
    ours = replace(read(find(scenario), overrides), policy=Settings().trust.default)
    plain = replace(ours, server=replace(ours.server, draws=False, sets_aside=False))
    runs = [ours, replace(plain, policy=Boinc()), replace(plain, policy=Fixed()), replace(ours, policy=Fixed())]
    measured = _of_blender() if blender else {}
    # Spawned, not forked: each process measures its own memory.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=min(processes, len(runs)), mp_context=context) as pool:
        report, boinc, fixed, drawn = pool.map(simulate, runs)
    figures = _numbers(report) | measured
    for prefix, other in (("boinc_", boinc), ("fixed_2_", fixed), ("drawn_fixed_2_", drawn)):
        numbers = _numbers(other)
        figures |= {prefix + name: numbers[name] for name in _COMPARED}
    return Report(
        benchmark="voting",
        machine=machine(),
        versions=versions(),
        settings={
            "scenario": report.scenario,
            "seed": report.seed,
            "hosts": report.hosts,
            "tasks": report.figures.tasks,
            "policy": msgspec.json.encode(report.policy).decode(),
            "boinc_policy": msgspec.json.encode(boinc.policy).decode(),
            "fixed_2_policy": msgspec.json.encode(fixed.policy).decode(),
            "kappa": report.kappa,
            "lie_share": report.lie_share,
            "processes": processes,
        },
        figures=figures,
    )


def _of_blender() -> dict[str, float]:
    """Return what a strip of a small frame costs on Blender beside its area, in frames."""
    told = kappa(scene=None, width=640, height=360, frame_seconds=3.0, rounds=3).figures
    wanted = ("kappa_warm", "kappa_warm_of_several", "kappa_cold")
    return {f"blender_{name}": float(cast("float", told[f"processor_{name}"])) for name in wanted}


def _numbers(report: SimulationReport) -> dict[str, float | int | list[float]]:
    """Return all figures of a run that are numbers."""
    values = asdict(report.figures) | asdict(report.cost)
    return {name: value for name, value in values.items() if value is not None}
