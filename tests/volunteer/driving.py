"""Drivers for tests: a few lines of Python, run as a real job in a real sandbox."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import TypeVar

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from xwgrid_volunteer.driver_plan import JobPlan
from xwgrid_volunteer.runner import Ended, JobProcess, RunnerEvent
from xwgrid_volunteer.runtimes import python_runtime
from xwgrid_volunteer.sandbox import detect
from xwgrid_volunteer.staging import stage

from xwgrid.model import Limits

E = TypeVar("E")

# What every driver below begins with: `say` and `tasks`, the two halves of docs/protocol.md.
PREAMBLE = """
import json, os, signal, sys, time
def say(**event):
    os.write(1, b"@xwgrid " + json.dumps(event).encode() + b"\\n")
def tasks():
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "quit":
            say(event="bye")
            return
        yield command["replica"], os.path.join(os.environ["XWGRID_WORK"], command["output"]), command["arguments"]
say(event="ready", version="1", result_class="test", effective={})
"""


class Driven:
    """A driver process, and what it told."""

    def __init__(self, folder: Path, script: str, *, preamble: str = PREAMBLE, **changes: object) -> None:
        sandboxed = changes.pop("sandboxed", True)
        limits = Limits(seconds=30.0, memory_bytes=1 << 30, result_bytes=1 << 20, processes=64)
        staged = stage(folder, inputs=(), application=(), spec=b"{}", blob=Path)
        (staged.application / "driver.py").write_text(preamble + dedent(script))
        plan = JobPlan(
            runtime=python_runtime(),
            staged=staged,
            entry="driver.py",
            limits=limits,
            tool=detect().tool if sandboxed else None,
            start_seconds=30.0,
        )
        self.plan = msgspec.structs.replace(plan, **changes)
        self.events: list[RunnerEvent] = []
        self._acts: list[tuple[type[RunnerEvent], Callable[[], object]]] = []
        self._wanted: list[tuple[Callable[[RunnerEvent], bool], Deferred[RunnerEvent]]] = []
        self.process = JobProcess(reactor, self.plan, self._hear)

    def on(self, kind: type[RunnerEvent], act: Callable[[], object]) -> None:
        """Do something, in the listener itself, at each event of this kind."""
        self._acts.append((kind, act))

    def _hear(self, event: RunnerEvent) -> None:
        self.events.append(event)
        for kind, act in self._acts:
            if isinstance(event, kind):
                act()
        for wanted in list(self._wanted):
            if wanted[0](event):
                self._wanted.remove(wanted)
                wanted[1].callback(event)

    async def next(self, kind: type[E]) -> E:
        """Wait for the next event of this kind."""
        waiting: Deferred[RunnerEvent] = Deferred()
        self._wanted.append((lambda event: isinstance(event, kind), waiting))
        event = await waiting
        assert isinstance(event, kind)
        return event

    async def ended(self) -> Ended:
        """Wait for the end."""
        for event in self.events:
            if isinstance(event, Ended):
                return event
        return await self.next(Ended)

    def told(self, kind: type[E]) -> list[E]:
        """Return the events of this kind so far."""
        return [event for event in self.events if isinstance(event, kind)]


def marked_processes(marker: str) -> list[int]:
    """Return the processes of this machine that have `marker` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if marker.encode() in arguments:
                found.append(int(entry.name))
    return found


PYTHON = sys.executable
