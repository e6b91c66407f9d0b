"""One driver process of one job in its sandbox, spoken to line by line. docs/protocol.md describes the lines."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from xwgrid.errors import Conflict
from xwgrid.model import Cause, ReplicaId
from xwgrid.reading.bubblewrap import own_ceiling
from xwgrid_volunteer import process_tree, staging, task_output
from xwgrid_volunteer.driver_output import (
    LogTail,
    Output,
    Said,
    SaidBye,
    SaidFailed,
    SaidFinished,
    SaidProgress,
    SaidReady,
)
from xwgrid_volunteer.driver_plan import Bare, JobPlan, command_line
from xwgrid_volunteer.exit_reasons import explain
from xwgrid_volunteer.runner_events import Ended, Progress, Ready, RunnerEvent, TaskFailed, TaskFinished
from xwgrid_volunteer.stoppable_timer import StoppableTimer

__all__ = ["Ended", "JobPlan", "JobProcess", "Progress", "Ready", "RunnerEvent", "TaskFailed", "TaskFinished"]

_log = logging.getLogger(__name__)

# More than any honest renderer writes while it works on one task; a flood would keep the daemon from everything else.
_MAX_OUTPUT = 256 << 20
# How often a running task's folder is measured.
_MEASURE_SECONDS = 10.0
# Scratch files beside the result itself; what the private /tmp holds does not count.
_SCRATCH_BYTES = 1 << 30
# Between the death of a sandbox's first process and the last word of bubblewrap itself.
_BURIAL_SECONDS = 5.0
# A sandbox is built in less.
_STOP_AGAIN_SECONDS = 0.2
# Shares of a task closer together than this are not worth an event.
_PROGRESS_STEP = 0.001


class _Task(Struct, kw_only=True):
    replica: ReplicaId
    folder: str
    done: float = -1.0


class JobProcess(ProcessProtocol):
    """A driver process. `listener` gets every event, in order, from the reactor; `Ended` exactly once.

    Tasks are worked on in the order they are given. The first counts as begun once the driver is ready; a driver that
    dies before that fails the first task all the same, since its next try would end likewise.
    """

    def __init__(self, reactor: Any, plan: JobPlan, listener: Callable[[RunnerEvent], None]) -> None:
        self._reactor = reactor
        self._plan = plan
        self._listener = listener
        self._log = LogTail()
        self._output = Output(self._log)
        self._written = 0
        self._tasks: deque[_Task] = deque()
        self._results = 0
        self._ready: SaidReady | None = None
        self._late: list[ReplicaId] = []
        self._quitting = self._suspended = self._ended = self._told_end = False
        self._stopped_by_us: str | None = None
        self._exited = False
        self._waiters: list[Deferred[None]] = []
        self._limit = StoppableTimer(reactor)
        self._measuring = StoppableTimer(reactor)
        self._burial = StoppableTimer(reactor)
        self._stopping = StoppableTimer(reactor)
        self._child: Any = None  # IProcessTransport, whose `pid` is None once it is buried
        self._unsent: list[bytes] = []
        self._marker = None if plan.tool is not None else str(plan.staged.work)

    @property
    def pid(self) -> int | None:
        """The process id of the direct child while there is one."""
        return None if self._child is None else self._child.pid

    @property
    def running(self) -> ReplicaId | None:
        """The task being worked on."""
        return self._tasks[0].replica if self._tasks and self._ready else None

    @property
    def waiting(self) -> tuple[ReplicaId, ...]:
        """Tasks given and not begun."""
        return tuple(task.replica for task in self._tasks)[1 if self._ready else 0 :]

    def start(self) -> None:
        """Spawn the process. A start that fails is told by `Ended`, never raised."""
        bare = Bare(prlimit=shutil.which("prlimit"), setsid=shutil.which("setsid"), ceiling=own_ceiling())
        arguments, environment = command_line(self._plan, cores=os.cpu_count() or 1, bare=bare)
        self._limit.start(self._plan.start_seconds, self._too_slow)
        try:
            self._reactor.spawnProcess(self, arguments[0], arguments, env=environment, path=str(self._plan.staged.work))
        except OSError as error:
            self._log.add(f"{arguments[0]} cannot be started: {error}\n".encode())
            self._finish(Cause.EXITED, f"the program {arguments[0]} cannot be started: {error.strerror}")

    def give(
        self, replica: ReplicaId, arguments: Mapping[str, int | str], inputs: Sequence[tuple[str, Path]] = ()
    ) -> None:
        """Queue a task, with files, by name, that belong to it alone. The driver gets it at once.

        One given when the process is ending comes back in `Ended.unbegun`. Raises Conflict once that was told, and what
        `staging.add` raises.
        """
        if self._told_end:
            raise Conflict(f"the driver has ended: replica {replica} needs another", replica=replica)
        if self._ended or self._exited or self._quitting or self._stopped_by_us is not None:
            self._late.append(replica)
            return
        if inputs:
            staging.add(self._plan.staged, str(replica), inputs)
        nobody = self._plan.tool is not None and self._plan.tool.as_root
        folder = task_output.fresh_folder(self._plan.staged.work, str(replica), for_nobody=nobody)
        self._tasks.append(_Task(replica=replica, folder=folder))
        self._send({"do": "task", "replica": replica, "arguments": dict(arguments), "output": folder})
        if self._ready and len(self._tasks) == 1:
            self._begin()

    def suspend(self) -> None:
        """Stop every process of the sandbox where it stands. Its clock stops too."""
        if self._suspended or self._exited or self.pid is None:
            return
        self._suspended = True
        for timer in (self._limit, self._measuring):
            timer.pause()
        self._stop_all()

    def resume(self) -> None:
        """Let them go on."""
        if not self._suspended or self.pid is None:
            return
        self._suspended = False
        self._stopping.cancel()
        process_tree.go_on(self.pid, marker=self._marker)
        for timer in (self._limit, self._measuring):
            timer.go_on()

    def quit(self) -> Deferred[None]:
        """Let the tasks given finish, then end in good order; fires after `Ended`."""
        if not self._quitting and not self._ended:
            self._quitting = True
            self._send({"do": "quit"})
            if self._ready and not self._tasks:
                self._limit.start(self._plan.bye_seconds, self._no_goodbye)
        return self._when_ended()

    def stop(self) -> Deferred[None]:
        """Kill the whole tree now. No task fails by it: all tasks come back in `Ended.unbegun`. Fires after `Ended`."""
        if not self._ended:
            self._kill("it was stopped", fails=None)
        return self._when_ended()

    def _stop_all(self) -> None:
        if self.pid is not None and self._suspended and not self._exited:
            process_tree.stop(self.pid, marker=self._marker)
            if self._ready is None:
                # A sandbox that is still being built has processes yet to come.
                self._stopping.start(_STOP_AGAIN_SECONDS, self._stop_all)

    # --- what the driver says ---------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Hand over what was given before the process was there."""
        self._child = self.transport
        for line in self._unsent:
            self._child.write(line)
        self._unsent.clear()

    def outReceived(self, data: bytes) -> None:
        """Take standard output as it comes."""
        self._count(data)
        for said in self._output.feed(data):
            if self._stopped_by_us is None:
                self._hear(said)

    def errReceived(self, data: bytes) -> None:
        """Take standard error as it comes."""
        self._count(data)
        self._log.add(data)

    def _count(self, data: bytes) -> None:
        self._written += len(data)
        if self._written > _MAX_OUTPUT and self._stopped_by_us is None:
            self._kill(f"the program wrote more than {_MAX_OUTPUT} bytes of log during one task", fails=Cause.EXITED)

    def _hear(self, said: Said) -> None:
        if isinstance(said, SaidReady):
            if self._ready is None:
                self._ready = said
                self._tell(Ready(version=said.version, result_class=said.result_class, effective=said.effective))
                self._begin()
        elif isinstance(said, SaidBye):
            if not self._tasks:
                self._limit.start(self._plan.bye_seconds, self._no_goodbye)
        elif self._ready is None or not self._tasks or said.replica != self._tasks[0].replica:
            self._kill(f"the driver speaks of replica {said.replica}, which it does not work on", fails=Cause.EXITED)
        elif isinstance(said, SaidProgress):
            task = self._tasks[0]
            if said.done >= task.done + _PROGRESS_STEP or said.done == 1.0 > task.done:
                task.done = said.done
                self._tell(Progress(replica=said.replica, done=said.done))
        else:
            self._end_task(said)

    def _end_task(self, said: SaidFinished | SaidFailed) -> None:
        task = self._tasks.popleft()
        seconds = self._limit.elapsed
        event: RunnerEvent
        if isinstance(said, SaidFailed):
            event = self._failed(task, Cause.EXITED, said.message[:2_000], seconds)
        else:
            event = self._finished(task, said, seconds)
        shutil.rmtree(self._plan.staged.work / task.folder, ignore_errors=True)
        staging.take_away(self._plan.staged, str(task.replica))
        self._limit.cancel()
        self._measuring.cancel()
        self._begin()
        self._tell(event)

    def _finished(self, task: _Task, said: SaidFinished, seconds: float) -> TaskFinished | TaskFailed:
        self._results += 1
        kept = self._plan.staged.results / f"{task.replica}-{self._results}"
        staged, limit = self._plan.staged, self._plan.limits.result_bytes
        if not said.files and said.value is None:
            return self._failed(task, Cause.BAD_RESULT, "the driver finished with no file and no value", seconds)
        try:
            task_output.collect(staged.work, task.folder, said.files, kept, limit=limit)
        except task_output.BadOutput as error:
            return self._failed(task, Cause.BAD_RESULT, error.message, seconds)
        return TaskFinished(
            replica=task.replica,
            folder=kept,
            files=said.files,
            value=said.value,
            seconds=seconds,
            log_tail=self._log.text(),
            result_class=self._ready.result_class if self._ready else "",
        )

    def _failed(self, task: _Task, cause: Cause, message: str, seconds: float) -> TaskFailed:
        return TaskFailed(
            replica=task.replica, cause=cause, message=message, seconds=seconds, log_tail=self._log.text()
        )

    def _begin(self) -> None:
        """Start the clocks of the task that is first now."""
        self._written = 0
        if self._tasks:
            self._limit.start(self._plan.limits.seconds, self._too_slow)
            self._measuring.start(_MEASURE_SECONDS, self._measure)
        elif self._quitting:
            self._limit.start(self._plan.bye_seconds, self._no_goodbye)
        else:
            self._limit.cancel()

    # --- bounds -----------------------------------------------------------------------------------------------

    def _too_slow(self) -> None:
        if self._ready is None:
            self._kill(f"the driver was not ready within {self._plan.start_seconds:g} s", fails=Cause.TIMED_OUT)
        else:
            self._kill(f"the task took more than {self._plan.limits.seconds:g} s", fails=Cause.TIMED_OUT)

    def _no_goodbye(self) -> None:
        self._kill(f"the driver did not end within {self._plan.bye_seconds:g} s of its goodbye", fails=None)

    def _measure(self) -> None:
        limit = self._plan.limits.result_bytes + _SCRATCH_BYTES
        if task_output.size_of(self._plan.staged.work, enough=limit) > limit:
            self._kill(f"the program filled its folder with more than {limit} bytes", fails=Cause.BAD_RESULT)
        else:
            self._measuring.start(_MEASURE_SECONDS, self._measure)

    # --- the end ----------------------------------------------------------------------------------------------

    def _kill(self, why: str, *, fails: Cause | None) -> None:
        """Kill the tree. The first task fails for the cause `fails`, if one is given."""
        if self._stopped_by_us is None:
            self._stopped_by_us = why
            if fails is not None and self._tasks:
                task = self._tasks.popleft()
                self._tell(self._failed(task, fails, why, self._limit.elapsed))
        for timer in (self._limit, self._measuring):
            timer.cancel()
        if self.pid is None:
            if not self._exited:
                self._finish(None, why)
            return
        process_tree.kill(self.pid, marker=self._marker)
        self._burial.start(_BURIAL_SECONDS, self._bury)

    def _bury(self) -> None:
        """What should be gone is not: the direct child lives on, or somebody holds its pipes."""
        if self.pid is not None:
            process_tree.kill(self.pid, marker=self._marker)
            os.kill(self.pid, signal.SIGKILL)
        if self._child is not None:
            self._child.loseConnection()

    def processExited(self, reason: Failure) -> None:  # noqa: ARG002
        """The direct child is gone. Whatever it left behind must not hold its pipes open."""
        self._exited = True
        if self._marker is not None:
            process_tree.kill(None, marker=self._marker)
        self._burial.start(_BURIAL_SECONDS, self._bury)

    def processEnded(self, reason: Failure) -> None:
        """The child is gone, and so are its pipes."""
        self._exited = True
        self._output.flush()
        if self._stopped_by_us is not None:
            self._finish(None, self._stopped_by_us)
        else:
            value: Any = reason.value  # ProcessDone or ProcessTerminated
            if value.exitCode == 0 and not self._tasks:
                self._finish(None, "it ended in good order")
            else:
                self._finish(*explain(value.exitCode, value.signal, sandboxed=self._plan.tool is not None))

    def _finish(self, cause: Cause | None, message: str) -> None:
        if self._ended:
            return
        self._ended = True
        for timer in (self._limit, self._measuring, self._burial, self._stopping):
            timer.cancel()
        if cause is not None and self._tasks:
            self._tell(self._failed(self._tasks.popleft(), cause, message, self._limit.elapsed))
        unbegun = (*(task.replica for task in self._tasks), *self._late)
        self._tasks.clear()
        self._told_end = True
        self._tell(Ended(message=message, unbegun=unbegun, log_tail=self._log.text()))
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _tell(self, event: RunnerEvent) -> None:
        try:
            self._listener(event)
        except Exception:  # noqa: BLE001  # a fault of the listener's must not keep a process from its end
            _log.exception("a listener failed")

    def _when_ended(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        if self._ended:
            waiter.callback(None)
        else:
            self._waiters.append(waiter)
        return waiter

    def _send(self, message: dict[str, Any]) -> None:
        line = msgspec.json.encode(message) + b"\n"
        if self._child is None:
            self._unsent.append(line)
        else:
            self._child.write(line)
