"""Whether a call costs the same however many tasks are open."""

from __future__ import annotations

import statistics

from benchmarks.report import Report, machine, versions
from benchmarks.rig import Generator, Rig, rig

LEVELS = (1_000, 100_000)
# So many reports, so many new tasks: the number of open tasks stays as it is, and both levels bear the same feeding.
_FED_AT_ONCE = 250
_SEED = "growth"


def growth(*, database: str | None, seconds: float, connections: int, pairs: int) -> Report:
    """Run the closed loop of `dispatch` at each level in turn, on one grid a level, `pairs` times."""
    measured: dict[int, list[float]] = {level: [] for level in LEVELS}
    kinds: set[str] = set()
    found: dict[str, str] = {}
    for _pair in range(pairs):
        for level in LEVELS:
            with rig(database) as each:
                kinds.add(each.database)
                found |= each.versions
                measured[level].append(_calls_a_second(each, level, seconds, connections))
    medians = {level: statistics.median(measured[level]) for level in LEVELS}
    figures: dict[str, float | int | list[float]] = {
        "slowest_over_fastest": max(medians.values()) / min(medians.values()),
        **{f"calls_per_second_at_{level}": medians[level] for level in LEVELS},
        **{f"all_calls_per_second_at_{level}": measured[level] for level in LEVELS},
    }
    return Report(
        benchmark="growth",
        machine=machine(),
        versions=versions(**found),
        settings={
            "database": ", ".join(kinds),
            "tls": "mutual",
            "connections": connections,
            "seconds": seconds,
            "pairs": pairs,
            "tasks_fed_at_once": _FED_AT_ONCE,
        },
        figures=figures,
    )


def _calls_a_second(measured: Rig, level: int, seconds: float, connections: int) -> float:
    volunteers = measured.volunteers(connections)
    # What the volunteers hold comes on top of what is open.
    measured.submit(level + connections, _SEED)
    plan = measured.plan(volunteers, seed=_SEED, seconds=seconds, warm_up_seconds=3.0, tell_every=_FED_AT_ONCE)
    generator = Generator(plan, measured.grid.folder)
    for _reports in generator:
        measured.submit(_FED_AT_ONCE, _SEED)
    load = generator.load()
    # A volunteer that waits is not the server's cost; a few are let pass, more would measure the feeding.
    if load.idle_answers > load.calls / 100:
        raise RuntimeError(f"{load.idle_answers} of {load.calls} calls found no task: feed sooner")
    return load.calls / load.seconds
