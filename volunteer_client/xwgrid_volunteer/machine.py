"""What this machine offers to the grid, looked up before the first call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from xwgrid.applications.registry import application, names
from xwgrid.model import HostFacts
from xwgrid_volunteer import host_probe
from xwgrid_volunteer.host_probe import HostProbe
from xwgrid_volunteer.runtimes import Runtime, find_runtimes
from xwgrid_volunteer.sandbox import SandboxFinding, detect
from xwgrid_volunteer.settings import VolunteerSettings


class Finding(Struct, frozen=True, kw_only=True):
    """Sandbox, runtimes and the facts that the server gets."""

    sandbox: SandboxFinding
    runtimes: Mapping[str, Runtime]
    host: HostProbe
    offered: HostFacts


def look(settings: VolunteerSettings, name: str, client_version: str) -> Finding:
    """Look at the machine. Blocking, some seconds the first time."""
    sandbox = detect()
    runtimes = find_runtimes(Path(settings.runtimes_folder), settings.runtimes)
    host = host_probe.probe(
        name=name,
        sandbox=sandbox,
        runtimes=runtimes,
        cache=settings.state_folder / "probe.json",
        client_version=client_version,
    )
    offer = offered(host.facts, frozenset(settings.trusted_without_sandbox))
    return Finding(sandbox=sandbox, runtimes=runtimes, host=host, offered=offer)


def offered(facts: HostFacts, trusted: frozenset[str]) -> HostFacts:
    """Return the facts with the programs that may really be used: without a sandbox, those of trusted applications."""
    if facts.sandbox is not None:
        return facts
    usable = {application(name).runtime for name in names() if name in trusted}
    return replace(facts, programs=tuple(program for program in facts.programs if program.runtime in usable))
