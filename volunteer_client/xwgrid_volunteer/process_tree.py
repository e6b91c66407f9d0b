"""A driver's processes, all of them: found, stopped, continued, killed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import psutil

# Each round of stopping catches what the processes not yet stopped have forked meanwhile.
_ROUNDS = 20


def processes(top: int | None, *, marker: str | None) -> list[int]:
    """Return the driver's processes, the oldest first, the caller's direct child `top` included.

    `marker` is None in a sandbox: there everything descends from `top`, and bubblewrap's own processes outside the
    process namespace are left out, since they must live to bury the others. Else it is the value of XWGRID_WORK that
    marks the driver's processes: one that has made itself independent is found by it, also when `top` is gone (None).
    """
    found = [] if top is None else _descendants(top)
    if marker is None:
        return sorted(pid for pid in found if _in_a_namespace(pid))
    marked = f"XWGRID_WORK={marker}".encode()
    for pid in psutil.pids():
        with contextlib.suppress(OSError):
            if marked in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return sorted({*found} if top is None else {top, *found})


def stop(top: int, *, marker: str | None) -> None:
    """Stop every process where it stands."""
    stopped: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = set(processes(top, marker=marker)) - stopped
        if not fresh:
            return
        _signal(fresh, signal.SIGSTOP)
        stopped |= fresh


def go_on(top: int, *, marker: str | None) -> None:
    """Let stopped processes go on."""
    _signal(set(processes(top, marker=marker)), signal.SIGCONT)


def kill(top: int | None, *, marker: str | None) -> None:
    """Kill every process. In a sandbox its first process takes all others with it; `top` then ends by itself."""
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        fresh = set(processes(top, marker=marker)) - killed
        if not fresh:
            break
        _signal(fresh, signal.SIGKILL)
        killed |= fresh
    if not killed and top is not None:  # bubblewrap has not got so far yet
        _signal({top, *_descendants(top)}, signal.SIGKILL)


def _descendants(top: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(top).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in sorted(pids):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _in_a_namespace(pid: int) -> bool:
    """Whether a process lives in a process namespace below ours: it has a number in each."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return any(line.startswith("NSpid:") and len(line.split()) > _OWN_DEPTH + 1 for line in status.splitlines())


def _own_depth() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return next((len(line.split()) - 1 for line in status.splitlines() if line.startswith("NSpid:")), 1)


_OWN_DEPTH = _own_depth()
