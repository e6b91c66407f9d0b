"""What a simulation found."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from xwgrid.model import Policy, Seconds


class Figures(Struct, frozen=True, kw_only=True):
    """The results of one run. Works and costs are in frames: a full replica costs 1."""

    tasks: int  # of all jobs
    accepted: int
    given_up: int
    replicas_per_task: float  # all work that hosts did, audits at their cost, per task
    full_replicas_per_task: float
    audits_per_task: float
    strips_per_task: float
    cold_audits_share: float  # of the audits, on hosts that had another scene loaded
    wrong_accepted: int  # canonical results when their jobs ended
    wrong_accepted_share: float  # of all accepted
    wasted_work_share: float  # of all work: lost, failed, handed back, outvoted, cancelled
    makespan_seconds: Seconds  # from the first job's begin to the last one's end
    ideal_seconds: Seconds  # the same work, once, by all hosts that were there, without a pause
    makespan_over_ideal: float
    first_frame_seconds: Seconds  # from handing a job in to its first accepted frame; median over the jobs
    fairness: float  # Jain's index over the requesters' mean slowdowns: 1 is fair
    deadlines_met_share: float | None  # None: no job had one
    calls: int
    calls_per_second: float
    most_calls_per_second: float  # over a minute
    reopened: int  # verdicts that were taken back
    changed_verdicts: int  # of these, those that came out otherwise
    liars: int
    liars_caught: int  # set aside at least once
    honest_hosts_caught: int


class Sample(Struct, frozen=True, kw_only=True):
    """How things stood at one moment."""

    seconds: Seconds  # since the first job
    accepted: int
    wrong_accepted: int  # in jobs that had ended
    work: float
    busy_share: float  # of the hosts that were there
    caught: int


class Cost(Struct, frozen=True, kw_only=True):
    """What the run itself took; differs from run to run."""

    wall_seconds: Seconds
    processor_seconds: Seconds
    coordinator_share: float  # of the time, in the coordinator and its store
    microseconds_per_replica: float  # of the processor's time
    peak_memory_bytes: int


class SimulationReport(Struct, frozen=True, kw_only=True):
    """One run of one scenario."""

    scenario: str
    seed: int
    policy: Policy
    hosts: int
    lie_share: float
    kappa: float
    figures: Figures
    samples: tuple[Sample, ...]
    cost: Cost

    def text(self) -> str:
        """Return a table for people."""
        policy = msgspec.json.encode(self.policy).decode()
        lines = [f"{self.scenario}: {self.hosts:,} hosts, seed {self.seed}, policy {policy}"]
        shown = msgspec.structs.asdict(self.figures) | msgspec.structs.asdict(self.cost)
        width = max(len(name) for name in shown)
        lines += [f"  {name:<{width}}  {_shown(value)}" for name, value in shown.items()]
        return "\n".join(lines)

    def repeatable(self) -> bytes:
        """Return what two runs of one scenario have in common, as JSON."""
        values = msgspec.to_builtins(self)
        del values["cost"]
        return msgspec.json.encode(values)


def as_json(value: Struct) -> str:
    """Return JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _shown(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
