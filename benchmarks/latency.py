"""How long a volunteer that waits needs to hold the lease of a job that is being posted."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.load import Connection, Lease
from benchmarks.report import Report, machine, versions
from benchmarks.rig import rig

_SEED = "latency"
_HELD_SECONDS = 0.2


def latency(*, database: str | None, jobs: int) -> Report:
    """Post `jobs` jobs of one task, one after the other, each while one volunteer waits in a held call.

    A time runs from before the post until the answer with the lease is read.
    """
    with rig(database) as measured:
        plan = measured.plan(measured.volunteers(1), seed=_SEED, seconds=0, warm_up_seconds=0)
        connection = Connection(plan, plan.volunteers[0])
        connection.introduce(want=0)
        connection.answer()
        times = []
        with ThreadPoolExecutor(1) as threads:
            for _job in range(jobs):
                connection.wait_for_work()
                arrival = threads.submit(_arrival, connection)
                # The call is held by now; that it travels is not to be measured.
                time.sleep(_HELD_SECONDS)
                posted = time.perf_counter()
                measured.submit(1, _SEED)
                arrived, lease = arrival.result()
                times.append(arrived - posted)
                connection.report(lease, want=0)
                connection.answer()
        connection.socket.close()
        figures: dict[str, float | int | list[float]] = {
            "post_to_lease_seconds_median": statistics.median(times),
            "post_to_lease_seconds_worst": max(times),
            "post_to_lease_seconds": times,
        }
        return Report(
            benchmark="latency",
            machine=machine(),
            versions=versions(**measured.versions),
            settings={"database": measured.database, "tls": "mutual", "jobs": jobs},
            figures=figures,
        )


def _arrival(connection: Connection) -> tuple[float, Lease]:
    """Wait for the end of the held call; return when it came, and its lease."""
    answer = connection.answer()
    arrived = time.perf_counter()
    if not answer.leases:
        raise RuntimeError(f"the held call ended without a lease: {answer.reason}")
    return arrived, answer.leases[0]
