"""How many report-one-take-one calls a second the server answers, each after its commit."""

from __future__ import annotations

from benchmarks.report import Report, machine, versions
from benchmarks.rig import generate, rig, shares

# More than any server here can give away in the time, so that the tasks last.
_TASKS_A_SECOND = 12_000


def dispatch(*, database: str | None, seconds: float, connections: int, warm_up_seconds: float = 3.0) -> Report:
    """Run the closed loop: `connections` volunteers, each with one call under way at any time.

    Raises RuntimeError when a report is refused, the tasks run out, or the server's count of them differs.
    """
    tasks = max(1_000, min(1_000_000, int((seconds + warm_up_seconds) * _TASKS_A_SECOND)))
    with rig(database) as measured:
        volunteers = measured.volunteers(connections)
        job = measured.submit(tasks, "dispatch")
        plan = measured.plan(volunteers, seed="dispatch", seconds=seconds, warm_up_seconds=warm_up_seconds)
        load = generate(plan, measured.grid.folder)
        if load.idle_answers:
            raise RuntimeError(f"{load.idle_answers} calls found no task although {tasks:,} were handed in")
        agreed = measured.client.job(job).agreed
        if agreed != load.reports:
            raise RuntimeError(f"{load.reports:,} reports were confirmed, but {agreed:,} tasks are agreed")
        # The plain names belong to PostgreSQL with mutual TLS.
        mode = "" if measured.database == "postgresql" else f"{measured.database}_"
        figures: dict[str, float | int | list[float]] = {
            f"{mode}calls_per_second": load.calls / load.seconds,
            f"{mode}p50_seconds": load.p50_seconds,
            f"{mode}p99_seconds": load.p99_seconds,
            f"{mode}worst_seconds": load.worst_seconds,
            **{f"{mode}{name}": share for name, share in shares(load).items()},
        }
        return Report(
            benchmark="dispatch",
            machine=machine(),
            versions=versions(**measured.versions),
            settings={
                "database": measured.database,
                "tls": "mutual",
                "connections": connections,
                "seconds": seconds,
                "warm_up_seconds": warm_up_seconds,
                "tasks": tasks,
            },
            figures=figures,
        )
