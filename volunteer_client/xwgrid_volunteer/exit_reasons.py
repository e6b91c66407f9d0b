"""Why a program ended, from the status its parent sees."""

from __future__ import annotations

import signal

from xwgrid.model import Cause

_WHY = {
    "SIGSEGV": "it touched memory that is not its own",
    "SIGKILL": "most likely the machine ran out of memory",
    "SIGXCPU": "it used up its processor time",
    "SIGXFSZ": "it wrote a larger file than the job allows",
    "SIGABRT": "it gave up on itself",
}


def explain(status: int | None, number: int | None, *, sandboxed: bool) -> tuple[Cause, str]:
    """Return cause and sentence for a program that nobody killed: its exit status, or the number of a signal."""
    # Bubblewrap, like a shell, gives 128 + N for a program that signal N ended.
    if sandboxed and number is None and status is not None and 128 < status <= 128 + signal.SIGRTMAX:
        number = status - 128
    if number is not None:
        return Cause.CRASHED, f"the program was ended by {_name(number)}"
    if status == 0:
        return Cause.EXITED, "the program ended with status 0 and no result"
    return Cause.EXITED, f"the program ended with status {status}"


def _name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name} ({_WHY[name]})" if name in _WHY else name
