"""The driver's side of docs/protocol.md: tasks in on standard input, `@xwgrid` lines out on standard output.

Part of every application version, beside its driver: the standard library alone, Python 3.10 or newer.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# A reader of progress wants a few lines a second, a renderer would write hundreds.
_PROGRESS_SECONDS = 0.2


class TaskError(Exception):
    """The task, or the whole job, cannot be done; the message is a sentence for the requester."""


class Lines:
    """The protocol's two ends.

    A renderer prints to file descriptor 1 from C, in the middle of anybody's line. So the protocol keeps the
    descriptor for itself under another number, and number 1 becomes the log, like standard error.
    """

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out = os.dup(1)
        os.set_inheritable(self._out, False)
        os.dup2(2, 1)
        # What was printed before may have ended in mid line.
        self._write(b"\n")

    def send(self, event: str, **facts: Any) -> None:
        """Write one event."""
        line = json.dumps({"event": event, **facts}, separators=(",", ":"))
        self._write(b"@xwgrid " + line.encode() + b"\n")

    def serve(self, perform: Callable[[Task], dict[str, Any]]) -> NoReturn:
        """Take tasks in order until told to quit; `perform` returns {"files": […]} or {"value": …}. Ends the process.

        A TaskError becomes the task's failure, any other error too, with its traceback in the log.
        """
        while (command := self._next()) is not None:
            if command.get("do") == "quit":
                break
            if command.get("do") != "task":
                continue
            task = Task(self, command)
            began = time.monotonic()
            try:
                result = perform(task)
            except TaskError as error:
                self.send("failed", replica=task.replica, message=str(error))
            except Exception as error:  # noqa: BLE001  # whatever a scene provokes fails its task, not the process
                traceback.print_exc()
                self.send("failed", replica=task.replica, message=f"{type(error).__name__}: {str(error).strip()}")
            else:
                self.send("finished", replica=task.replica, seconds=round(time.monotonic() - began, 3), **result)
        self.leave(0)

    def leave(self, status: int) -> NoReturn:
        """Say goodbye and end the process at once: a renderer may hang when it is asked to clean up."""
        self.send("bye")
        sys.stderr.flush()
        os._exit(status)

    def _next(self) -> dict[str, Any] | None:
        while line := sys.stdin.buffer.readline():
            try:
                command = json.loads(line)
            except ValueError:
                command = None
            if isinstance(command, dict):
                return command
            print(f"not a command: {line[:200]!r}", file=sys.stderr, flush=True)
        return None

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._out, data) :]
            except OSError:
                os._exit(1)  # nobody listens any more, so nobody wants the result


class Task:
    """One task as it was given."""

    def __init__(self, lines: Lines, command: dict[str, Any]) -> None:
        self.replica: int = command["replica"]
        self.arguments: dict[str, Any] = command.get("arguments") or {}
        self._output: str = command.get("output") or str(self.replica)
        self._lines = lines
        self._said = 0.0
        self._said_at = time.monotonic()

    def folder(self) -> Path:
        """Return the folder for the result's files, made if need be."""
        folder = work_folder() / self._output
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def inputs(self) -> Path:
        """Return the folder of the files that belong to this task alone."""
        return inputs_folder() / f".task-{self.replica}"

    def progress(self, done: float) -> None:
        """Tell the share that is done, 0 to 1; it never falls, and most calls say nothing."""
        now = time.monotonic()
        if done > self._said and now - self._said_at >= _PROGRESS_SECONDS:
            self._said, self._said_at = done, now
            self._lines.send("progress", replica=self.replica, done=round(min(done, 1.0), 4))


def work_folder() -> Path:
    """Return the folder that is the driver's own."""
    return Path(os.environ.get("XWGRID_WORK", "/work"))


def inputs_folder() -> Path:
    """Return the folder of the job's files."""
    return Path(os.environ.get("XWGRID_INPUTS", "/inputs"))


def read_work(path: str) -> dict[str, Any]:
    """Return the `work` of the specification document at `path`. Ends the process with 2 if it is none."""
    try:
        work = json.loads(Path(path).read_text(encoding="utf-8"))["request"]["work"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path} is not a job's specification: {error}", file=sys.stderr, flush=True)
        os._exit(2)
    if not isinstance(work, dict):
        print(f"{path} is not a job's specification", file=sys.stderr, flush=True)
        os._exit(2)
    return work
