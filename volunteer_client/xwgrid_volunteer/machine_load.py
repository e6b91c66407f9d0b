"""How busy other programs keep this machine: all processor time, less that of every volunteer and its tasks."""

from __future__ import annotations

import os

import psutil

# Other volunteers on the machine (of another user, or a demonstration's) are xwgrid tasks as well.
_MARKS = ("xwgrid-volunteer", "xwgrid_volunteer")


class MachineLoad:
    """Measures between two calls of `measure`."""

    def __init__(self) -> None:
        self._marked: dict[tuple[int, float], bool] = {}  # (process, its start) → a volunteer's daemon
        self._before = self._total()
        self._own_before = self._own()

    def measure(self) -> float | None:
        """Return the share of all cores that other programs used since the last call, 0 to 1; None: too soon."""
        total, own = self._total(), self._own()
        span = total[1] - self._before[1]
        if span < 0.2:
            return None
        busy = (total[0] - self._before[0]) - max(0.0, own - self._own_before)
        self._before, self._own_before = total, own
        return min(1.0, max(0.0, busy / span))

    @staticmethod
    def _total() -> tuple[float, float]:
        times = psutil.cpu_times()
        idle = times.idle + getattr(times, "iowait", 0.0)
        everything = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
        return everything - idle, everything

    def _own(self) -> float:
        """Return the processor seconds of all volunteers' process trees, ended and waited-for children included."""
        children: dict[int, list[psutil.Process]] = {}
        roots: list[psutil.Process] = []
        known: dict[tuple[int, float], bool] = {}
        for process in psutil.process_iter(["ppid", "create_time"]):
            key = (process.pid, process.info["create_time"])
            known[key] = self._is_root(process, key)
            children.setdefault(process.info["ppid"], []).append(process)
            if known[key]:
                roots.append(process)
        self._marked = known
        seconds, seen = 0.0, set[int]()
        while roots:
            process = roots.pop()
            if process.pid in seen:
                continue
            seen.add(process.pid)
            roots.extend(children.get(process.pid, ()))
            try:
                seconds += sum(process.cpu_times()[:4])
            except psutil.Error:
                continue
        return seconds

    def _is_root(self, process: psutil.Process, key: tuple[int, float]) -> bool:
        if process.pid == os.getpid():
            return True
        found = self._marked.get(key)
        if found is not None:
            return found
        try:
            return any(mark in part for part in process.cmdline()[:4] for mark in _MARKS)
        except psutil.Error:
            return False
