"""Which hosts may have work of which jobs at all, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from xwgrid.drawing import Owners
from xwgrid.model import Digest, HostId, JobRequest, Program, UserId
from xwgrid.ready_tasks import ReadyTasks
from xwgrid.tolerances import Tolerances
from xwgrid.trust import NEWCOMER, Standing
from xwgrid.voting import TASKS_A_HOST_MAY_FAIL


class HostCard(Struct, frozen=True):
    """What the choice needs to know of a host."""

    host: HostId
    owner: UserId
    programs: Mapping[str, Program]  # by runtime
    loaded: frozenset[Digest] = frozenset()
    standing: Standing = NEWCOMER
    has_frame: bool = False  # it holds the lease of a full replica


class Census(Owners, Protocol):
    """Who was seen lately."""

    def seen(self, result_class: str, owner: UserId | None) -> int:
        """Return how many owners have hosts of a class (given an owner: how many hosts it has), seen today."""


class Eligibility:
    """Says which hosts may have work of a job, by what both are and who else is there to compare results with."""

    def __init__(self, census: Census) -> None:
        self._census = census
        self.tolerances = Tolerances()

    def refusal(self, job: ReadyTasks, host: HostCard) -> str | None:
        """Return, in one sentence, why a host gets nothing of a job; None when it may."""
        card = job.card
        if card.request.private and card.owner != host.owner:
            return "the open jobs are private to their owners' own hosts"
        if not card.request.private and card.owner == host.owner:
            return f"job {card.job} is its owner's own and public: others' hosts do it, unless it is made private"
        program = host.programs.get(card.runtime)
        if program is None:
            return f"the open jobs need the runtime '{card.runtime}', which this host has not got"
        if card.renderer is not None and not _version_fits(program.version, card.renderer):
            return f"a job is pinned to {card.runtime} {card.renderer}, this host has {program.version}"
        if card.request.result_class is not None and card.request.result_class != program.result_class:
            return f"job {card.job} is for hosts of the class '{card.request.result_class}' alone"
        if job.failures.get(host.host, 0) >= TASKS_A_HOST_MAY_FAIL:
            return f"this host failed {TASKS_A_HOST_MAY_FAIL} tasks of job {card.job} and is kept off it"
        seen = self._seen(job, program.result_class)
        if seen < job.quorum:
            alike = self.tolerances.partners(card.application, program.result_class)
            seen += sum(self._seen(job, each) for each in alike)
        if seen < job.quorum:
            return (
                f"job {card.job} needs {job.quorum} voters with results of the class "
                f"'{program.result_class}', and {seen} were seen today"
            )
        return None

    def pins_alike(self, job: ReadyTasks, result_class: str) -> list[str]:
        """Return the classes too rare to vote alone, whose results may be compared with those of a class."""
        partners = self.tolerances.partners(job.card.application, result_class)
        return [pin for pin in partners if self._seen(job, pin) < job.quorum]

    def _seen(self, job: ReadyTasks, result_class: str) -> int:
        return self._census.seen(result_class, job.card.owner if job.card.request.private else None)

    def class_of(self, job: ReadyTasks, host: HostCard) -> str:
        """Return the class of the results a host would make for a job."""
        return host.programs[job.card.runtime].result_class


def voter_of(request: JobRequest, host: HostCard) -> int:
    """Return who votes: the host's owner, or in a private job the host itself (negative, so that they never meet)."""
    return -host.host if request.private else host.owner


def _version_fits(version: str, pinned: str) -> bool:
    """Say whether `version` (4.5.15) is of the pinned series (4.5)."""
    return version.split(".")[: len(pinned.split("."))] == pinned.split(".")
