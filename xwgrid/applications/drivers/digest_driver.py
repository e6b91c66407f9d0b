"""The driver of application `digest`: python digest_driver.py SPEC.json, or `probe` in place of the specification."""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any

# The signed files beside this one, and no other package of that name.
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
from xwgrid.applications.drivers.driver_lines import Lines, Task, read_work

sys.path.pop(0)

# SHA-256 is the same everywhere, so all hosts are of one class.
RESULT_CLASS = "python exact"
# Some 30 ms of work between two looks at the clock.
_ROUNDS_AT_ONCE = 1 << 15


def main() -> None:
    """Say what this is, then serve tasks until told to quit."""
    lines = Lines()
    ready = {"version": platform.python_version(), "result_class": RESULT_CLASS}
    if sys.argv[-1] == "probe":
        lines.send("ready", **ready, effective={})
        lines.leave(0)
    work = read_work(sys.argv[-1])
    seed, rounds = str(work.get("seed", "xwgrid")), int(work.get("rounds", 1))
    lines.send("ready", **ready, effective={"seed": seed, "rounds": rounds})

    def perform(task: Task) -> dict[str, Any]:
        return {"value": _chain(f"{seed}/{task.arguments['number']}", rounds, task)}

    lines.serve(perform)


def _chain(text: str, rounds: int, task: Task) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    done = 1
    while done < rounds:
        until = min(rounds, done + _ROUNDS_AT_ONCE)
        for _ in range(until - done):
            digest = hashlib.sha256(digest).digest()
        done = until
        task.progress(done / rounds)
    return digest.hex()


if __name__ == "__main__":
    main()
