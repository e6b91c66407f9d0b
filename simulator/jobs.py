"""Simulated requesters: which jobs they hand in, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from msgspec.structs import replace

from simulator.contents import Content
from simulator.scenario import Jobs, Scenario
from xwgrid.model import (
    BlenderWork,
    Frames,
    InputFile,
    Instant,
    JobId,
    JobRequest,
    Limits,
    Seconds,
    TaskNumber,
    UserId,
)

# Users that hand in jobs have numbers above those of the owners of hosts.
FIRST_REQUESTER: Final = 1_000_000_000
_SCENE: Final = InputFile(path="scene.blend", sha256="0" * 64, size=1)


@dataclass(slots=True)
class SimulatedJob:
    """A job that was handed in."""

    number: JobId
    requester: UserId
    request: JobRequest
    frames: int
    frame_seconds: Seconds
    frame_spread: float
    height: int
    handed_in_at: Instant
    ended_at: Instant | None = None
    # What a ring says of a task, once one of its hosts lied about it: all its hosts know.
    lies: dict[tuple[int, TaskNumber], Content] = field(default_factory=dict)


class Stream:
    """One group of jobs: what of it is still to come, and what is open."""

    def __init__(self, jobs: Jobs, scenario: Scenario, first_requester: int, start: Instant) -> None:
        self.jobs = jobs
        self.handed_in = 0
        self.open: dict[JobId, SimulatedJob] = {}
        self._policy = scenario.policy
        self._first_requester = first_requester
        self._start = start + jobs.begin

    @property
    def is_done(self) -> bool:
        """Whether all jobs were handed in."""
        return self.handed_in == self.jobs.count

    def due_at(self) -> Instant | None:
        """Return when the next job comes at the earliest, None after the last."""
        if self.is_done:
            return None
        return self._start + (self.jobs.every or 0.0) * self.handed_in

    def hands_in(self, now: Instant, open_frames: int, hosts: int) -> bool:
        """Say whether the next job comes now, while so many frames of it are open in a grid of so many hosts."""
        due = self.due_at()
        if due is None or due > now:
            return False
        return self.jobs.every is not None or open_frames < self.jobs.backlog * hosts

    def request(self, now: Instant) -> tuple[UserId, JobRequest]:
        """Return whose job comes next, and what it asks for."""
        jobs = self.jobs
        number = self.handed_in
        request = JobRequest(
            name=f"{jobs.name} {number + 1}",
            work=BlenderWork(scene_file="scene.blend", width=max(1, jobs.height * 16 // 9), height=jobs.height),
            split=Frames(first=1, last=jobs.frames),
            inputs=(_SCENE,),
            policy=self._policy,
            limits=Limits(seconds=min(30 * 86_400.0, max(3_600.0, 100 * jobs.frame_seconds))),
            priority=jobs.priority,
        )
        if jobs.deadline_seconds is not None:
            request = replace(request, deadline=now + jobs.deadline_seconds)
        return UserId(self._first_requester + number % jobs.requesters), request


def streams(scenario: Scenario, start: Instant) -> Iterator[Stream]:
    """Yield the groups of jobs; each has requesters of its own."""
    first = FIRST_REQUESTER
    for jobs in scenario.jobs:
        yield Stream(jobs, scenario, first, start)
        first += jobs.requesters


def simulated(jobs: Jobs, number: JobId, requester: UserId, request: JobRequest, now: Instant) -> SimulatedJob:
    """Return a job that was handed in."""
    return SimulatedJob(
        number, requester, request, jobs.frames, jobs.frame_seconds, jobs.frame_spread, jobs.height, now
    )
