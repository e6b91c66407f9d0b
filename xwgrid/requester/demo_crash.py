"""Volunteers killed in mid frame, and started again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from xwgrid import wire
from xwgrid.errors import GridError, Unavailable
from xwgrid.model import JobId, ReplicaState, TaskNumber, TaskState
from xwgrid.requester.client import ENDED, GridClient
from xwgrid.requester.demo_grid import Volunteer

_LOOK_SECONDS = 0.15
# A frame further than this may be done before the signal arrives.
_MOST_DONE = 0.8


class Crash(Struct, frozen=True, kw_only=True):
    """A volunteer that was killed while it rendered, and what became of its lease."""

    volunteer: str
    task: TaskNumber
    label: str
    replica: int
    done: float  # share of the frame when it was killed
    lost: bool  # False: the frame was finished in that very moment, and was sent after the restart


class Crasher(threading.Thread):
    """Kills one honest volunteer after the other while it renders, until `wanted` leases were lost by it.

    `crashes` tells what was done. Use `stop` when the job has ended.
    """

    def __init__(
        self, client: GridClient, job: JobId, volunteers: Sequence[Volunteer], wanted: int, said: Callable[[str], None]
    ) -> None:
        super().__init__(name="crasher", daemon=True)
        self.crashes: list[Crash] = []
        self.problem: GridError | None = None
        self._client = client
        self._job = job
        self._volunteers = list(volunteers)
        self._wanted = wanted
        self._said = said
        self._stopping = threading.Event()

    def stop(self) -> None:
        """End the thread; no volunteer is left dead by it."""
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Kill and start again; a GridError is kept in `problem`."""
        try:
            while sum(crash.lost for crash in self.crashes) < self._wanted and not self._over():
                self._look()
        except GridError as error:
            self.problem = error

    def _look(self) -> None:
        """Kill the next volunteer in turn if it renders now."""
        volunteer = self._volunteers[len(self.crashes) % len(self._volunteers)]
        for task, replica in self._replicas_of(volunteer.name):
            if replica.state is ReplicaState.LEASED and replica.done is not None and replica.done < _MOST_DONE:
                volunteer.part.kill()
                self._said(f"{volunteer.name} is killed at {replica.done:.0%} of {task.label}, and started again")
                volunteer.part.start()
                lost = self._fate(volunteer.name, replica.replica) is ReplicaState.LOST
                self.crashes.append(
                    Crash(
                        volunteer=volunteer.name,
                        task=task.number,
                        label=task.label,
                        replica=replica.replica,
                        done=replica.done,
                        lost=lost,
                    )
                )
                return

    def _fate(self, name: str, number: int) -> ReplicaState | None:
        """Return what became of a replica, once it has ended."""
        while True:
            for _task, replica in self._replicas_of(name):
                if replica.replica == number and replica.state is not ReplicaState.LEASED:
                    return replica.state
            if self._over():
                return None

    def _replicas_of(self, name: str) -> Iterator[tuple[wire.TaskView, wire.ReplicaView]]:
        try:
            for task in list(self._client.tasks(self._job)):
                for replica in task.replicas:
                    if replica.host == name:
                        yield task, replica
        except Unavailable:
            return

    def _over(self) -> bool:
        """Wait a moment; tell whether there is nothing left to crash in."""
        if self._stopping.wait(_LOOK_SECONDS):
            return True
        return self._client.job(self._job).state in ENDED


def reissued(crash: Crash, tasks: Sequence[wire.TaskView]) -> bool:
    """Tell whether the task of a lost lease was given out again afterwards, and agreed."""
    task = next(each for each in tasks if each.number == crash.task)
    killed = next(each for each in task.replicas if each.replica == crash.replica)
    later = [each for each in task.replicas if each.number > killed.number]
    return crash.lost and bool(later) and task.state is TaskState.AGREED
