"""Scenarios that take a fraction of a second."""

from __future__ import annotations

from msgspec.structs import replace

from simulator.grid import simulate
from simulator.report import Figures
from simulator.scenario import Hosts, Jobs, Scenario
from xwgrid.model import Fixed, Policy

HONEST = Hosts(name="honest", count=20, honest_error_rate=0.0)
JOBS = Jobs(count=6, frames=20, requesters=3)
FIXED = Fixed()


def scenario(*hosts: Hosts, jobs: tuple[Jobs, ...] = (JOBS,), policy: Policy | None = None) -> Scenario:
    """Return a scenario of honest hosts, or of those given."""
    made = Scenario(name="small", hosts=hosts or (HONEST,), jobs=jobs)
    return made if policy is None else replace(made, policy=policy)


def figures(*hosts: Hosts, jobs: tuple[Jobs, ...] = (JOBS,), policy: Policy | None = None) -> Figures:
    """Run such a scenario and return what it found."""
    return simulate(scenario(*hosts, jobs=jobs, policy=policy)).figures
