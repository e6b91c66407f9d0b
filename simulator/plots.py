"""Draws reports into PNG files, with matplotlib."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulator.report import SimulationReport
from simulator.sweep import Sweep

_HOUR = 3_600.0


def draw_run(report: SimulationReport, path: Path) -> None:
    """Draw how a run went: progress, the price of a task, what was wrong, and how busy the hosts were."""
    hours = [sample.seconds / _HOUR for sample in report.samples]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.scenario}, policy {type(report.policy).__struct_config__.tag}, seed {report.seed}")
    progress, price, wrong, busy = figure.subplots(2, 2, sharex=True).flat
    _line(progress, hours, [float(sample.accepted) for sample in report.samples], "tasks accepted")
    prices = [sample.work / sample.accepted if sample.accepted else float("nan") for sample in report.samples]
    _line(price, hours, prices, "work per accepted task, in frames")
    price.set_ylim(bottom=1.0)
    _line(wrong, hours, [float(sample.wrong_accepted) for sample in report.samples], "wrong results delivered")
    _line(wrong, hours, [float(sample.caught) for sample in report.samples], "hosts set aside so far")
    wrong.legend()
    _line(busy, hours, [sample.busy_share for sample in report.samples], "share of the hosts at work")
    busy.set_ylim(0, 1.02)
    for axes in (wrong, busy):
        axes.set_xlabel("hours")
    figure.savefig(path)


def draw_sweep(sweep: Sweep, path: Path) -> None:
    """Draw price and harm over the values of the key that was swept."""
    numbers = [float(value) for value in sweep.values]
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{sweep.reports[0].scenario}")
    price, wrong = figure.subplots(1, 2)
    _line(price, numbers, [each.figures.replicas_per_task for each in sweep.reports], "replicas per task")
    _line(wrong, numbers, [each.figures.wrong_accepted_share for each in sweep.reports], "wrong accepted, share")
    for axes in (price, wrong):
        axes.set_xlabel(sweep.key)
        if min(numbers) > 0 and max(numbers) / min(numbers) > 20:
            axes.set_xscale("log")
    figure.savefig(path)


def _line(axes: Axes, x: list[float], y: list[float], what: str) -> None:
    axes.plot(x, y, marker="." if len(x) < 40 else "", label=what)
    axes.set_title(what, fontsize="medium")
    axes.grid(visible=True, alpha=0.3)
