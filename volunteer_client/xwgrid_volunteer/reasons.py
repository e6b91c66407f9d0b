"""Why nothing runs, in one sentence. Pure."""

from __future__ import annotations

from collections.abc import Collection

from xwgrid.activation import Decision, Run
from xwgrid.model import HostFacts
from xwgrid_volunteer.benches import Stage
from xwgrid_volunteer.work_loop import Line


def state_and_reason(
    offered: HostFacts | None, decision: Decision, line: Line, stages: Collection[Stage]
) -> tuple[str, str | None]:
    """Return "starting", "paused", "working", "away" or "idle", and why nothing runs (None when something does)."""
    if offered is None:
        return "starting", "it is looking at what this machine can do"
    if not isinstance(decision, Run):
        return "paused", decision.reason
    if Stage.GIVEN in stages:
        return "working", None
    if not offered.programs:
        return "idle", _no_programs(offered)
    if line.trouble is not None:
        return "away", f"{line.trouble}; it tries again by itself"
    if Stage.FETCHING in stages or Stage.WAITING in stages:
        return "working", "the files of the next task are being fetched"
    if Stage.CHECKING in stages:
        return "working", "the last result is being checked"
    return "idle", line.reason or "the server has no work at the moment"


def _no_programs(facts: HostFacts) -> str:
    if facts.sandbox is None:
        return (
            "there is no sandbox on this machine, and no application is trusted without one: "
            "install bubblewrap, or name applications in the setting trusted_without_sandbox"
        )
    return "there is nothing to run work with: xwgrid-volunteer runtime install blender"
