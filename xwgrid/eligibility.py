"""Which hosts may have work of which jobs at all, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from msgspec import Struct

from xwgrid.drawing import LEAST_OWNERS, Owners
from xwgrid.model import Digest, HostId, Instant, JobRequest, Program, UserId
from xwgrid.policies import uses_standing
from xwgrid.ready_tasks import JobCard, ReadyTasks
from xwgrid.tolerances import Tolerances
from xwgrid.trust import NEWCOMER, Standing
from xwgrid.voting import TASKS_A_HOST_MAY_FAIL

# Where others have proved themselves, so many owners must have hosts of a class before it may vote alone: enough for
# checks to be drawn among them.
LEAST_VOTERS_OF_ODD_CLASS: Final = LEAST_OWNERS + 1


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

    def is_established(self, result_class: str, runtime: str) -> bool:
        """Say whether a class is one that friends cannot have made up: enough proved themselves with it."""

    @property
    def settled_at(self) -> Instant:
        """When all who were here before the server's last start had the time to call."""


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
        if uses_standing(card.request) and not card.request.private and self._is_odd(card, program, seen):
            return (
                f"too few have proved themselves with results of the class '{program.result_class}' yet: {seen} owners "
                f"have such hosts; it takes {LEAST_VOTERS_OF_ODD_CLASS}, a measured tolerance, or the operator's word"
            )
        return None

    def _is_odd(self, card: JobCard, program: Program, seen: int) -> bool:
        """Say whether a class might be one that friends made up, to be alone with each other's results."""
        if seen >= LEAST_VOTERS_OF_ODD_CLASS or self._census.is_established(program.result_class, card.runtime):
            return False
        return not self.tolerances.partners(card.application, program.result_class)

    def pins_alike(self, job: ReadyTasks, result_class: str) -> list[str]:
        """Return the classes too rare to vote alone, whose results may be compared with those of a class."""
        partners = self.tolerances.partners(job.card.application, result_class)
        return [pin for pin in partners if self._seen(job, pin) < job.quorum]

    def _seen(self, job: ReadyTasks, result_class: str) -> int:
        """Return how many voters with hosts of a class a job has: of a public one its owner is none."""
        own = self._census.seen(result_class, job.card.owner)
        return own if job.card.request.private else self._census.seen(result_class, None) - (own > 0)

    def class_of(self, job: ReadyTasks, host: HostCard) -> str:
        """Return the class of the results a host would make for a job."""
        return host.programs[job.card.runtime].result_class


def voter_of(request: JobRequest, host: HostCard) -> int:
    """Return who votes: the host's owner, or in a private job the host itself."""
    return voter_of_host(host.host) if request.private else host.owner


def voter_of_host(host: HostId) -> int:
    """Return a host as a voter of its own: negative, so that it is no owner."""
    return -host


def _version_fits(version: str, pinned: str) -> bool:
    """Say whether `version` (4.5.15) is of the pinned series (4.5)."""
    return version.split(".")[: len(pinned.split("."))] == pinned.split(".")
