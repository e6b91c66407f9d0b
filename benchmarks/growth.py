"""Whether a call costs the same however many tasks are open."""

from __future__ import annotations

import statistics

from benchmarks.load import Burst
from benchmarks.report import Report, machine, versions
from benchmarks.rig import Rig, bursts, rig

LEVELS = (1_000, 100_000)
# The clock runs only while a burst takes the number of open tasks from level + BURST down to level; then new tasks are
# handed in. So nothing but work calls is measured, and both levels are measured alike.
BURST = 1_000
_SEED = "growth"


def growth(*, database: str | None, number_of_bursts: int, connections: int, pairs: int) -> Report:
    """Run bursts of the closed loop of `dispatch` at each level in turn, each time on a new grid, `pairs` times."""
    measured: dict[int, list[float]] = {level: [] for level in LEVELS}
    kinds: set[str] = set()
    found: dict[str, str] = {}
    for _pair in range(pairs):
        for level in LEVELS:
            with rig(database) as each:
                kinds.add(each.database)
                found |= each.versions
                measured[level].append(_calls_a_second(each, level, number_of_bursts, connections))
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
            "bursts": number_of_bursts,
            "calls_a_burst": BURST,
            "pairs": pairs,
        },
        figures=figures,
    )


def _calls_a_second(measured: Rig, level: int, number_of_bursts: int, connections: int) -> float:
    volunteers = measured.volunteers(connections)
    # One task for every volunteer to hold, the level, and what the first burst takes.
    measured.submit(connections + level + BURST, _SEED)
    plan = measured.plan(volunteers, seed=_SEED, burst=BURST)
    with bursts(plan, measured.grid.folder) as burst:
        # The first one finds cold caches.
        burst()
        found: list[Burst] = []
        for _burst in range(number_of_bursts):
            measured.submit(BURST, _SEED)
            found.append(burst())
    return sum(each.calls for each in found) / sum(each.seconds for each in found)
