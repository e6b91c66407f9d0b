"""On what grounds a result was accepted, in words for whoever asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from xwgrid.auditing import DENOISED, number_of_strips
from xwgrid.model import Credibility, Policy, ReplicaId, ReplicaState
from xwgrid.voting import Attempt

_CAUGHT: Final = "audited again after its host was caught"


class Decided(NamedTuple):
    """An agreed task."""

    policy: Policy
    private: bool
    attempts: Sequence[Attempt]
    accepted_before: ReplicaId | None = None  # whose result was accepted until it was audited again
    undrawn: int = 0  # checks that went to whoever asked


def grounds(task: Decided) -> str:
    """Return why a result was accepted, "5 strips by 1 other owner fit" for instance, and what is odd about it."""
    right = [attempt for attempt in task.attempts if attempt.state is ReplicaState.AGREED and not attempt.is_test]
    equal = sum(attempt.audits is None for attempt in right)
    audits = [attempt for attempt in right if attempt.audits is not None]
    of_strips = [audit for audit in audits if audit.strips != DENOISED]
    strips = sum(number_of_strips(audit.strips or "") for audit in of_strips)
    wrong = sum(a.state is ReplicaState.OUTVOTED and a.audits is None and not a.is_test for a in task.attempts)
    found = [f"{equal} equal results"] if equal > 1 else []
    if equal > 1 and wrong >= equal:
        found = [f"{equal} equal results among {equal + wrong}, and nobody else was about to decide"]
    if of_strips:
        who = _others(task, of_strips)
        found.append(f"{_number(strips, 'strip')} by {who} {'fits' if strips == 1 else 'fit'}")
    if len(of_strips) < len(audits):
        found.append(f"denoising by {_others(task, [a for a in audits if a.strips == DENOISED])} fits")
    if not found:
        proved = isinstance(task.policy, Credibility)
        found = ["1 result, of a host that has proved itself" if proved else "1 result, and nobody checked it"]
    said = [" and ".join(found)]
    if task.accepted_before is not None:
        said.append(f"{_CAUGHT}; {_outcome(task)}")
    if task.undrawn and not task.private:
        checks = _number(task.undrawn, "check")
        said.append(f"{checks} went to whoever asked, for too few owners were about to draw from")
    return "; ".join(said)


def _others(task: Decided, audits: Sequence[Attempt]) -> str:
    return _number(len({audit.voter for audit in audits}), "other host" if task.private else "other owner")


def _outcome(task: Decided) -> str:
    before = next((attempt for attempt in task.attempts if attempt.replica == task.accepted_before), None)
    if before is not None and before.state is ReplicaState.AGREED:
        return "the picture is the same"
    return "the picture changed"


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
