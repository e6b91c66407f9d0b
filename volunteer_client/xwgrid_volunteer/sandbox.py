"""Whether this host can run strangers' programs safely: bubblewrap, found and tried."""

from __future__ import annotations

from msgspec import Struct

from xwgrid.reading.bubblewrap import Missing, find_bubblewrap
from xwgrid.sandboxing import Bubblewrap


class SandboxFinding(Struct, frozen=True, kw_only=True):
    """What was found."""

    tool: Bubblewrap | None
    reason: str  # one sentence for the owner: what is there, or what is missing and how to get it

    @property
    def name(self) -> str | None:
        """What `HostFacts.sandbox` says: "bubblewrap 0.8.0", or None."""
        return None if self.tool is None else self.tool.name


def detect() -> SandboxFinding:
    """Look for bubblewrap and run one small program in it. Blocking, well under a second."""
    found = find_bubblewrap()
    if isinstance(found, Missing):
        return SandboxFinding(tool=None, reason=f"{found.reason}; only applications you marked trusted will run")
    return SandboxFinding(tool=found, reason=f"every task runs in a sandbox of its own ({found.name})")
