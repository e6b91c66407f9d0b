"""`python -m benchmarks voting`: one scenario under three policies, in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from xwgrid_server.settings import Settings

from benchmarks.__main__ import main
from simulator.grid import simulate
from simulator.scenario import parse

SMALL = """
name = "small"
policy = { by = "fixed" }
[[hosts]]
count = 20
[[hosts]]
count = 4
lie_rate = 0.3
[[jobs]]
count = 4
frames = 15
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The path of a small scenario."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def test_three_policies_are_compared(small: str) -> None:
    """The server's default is measured beside BOINC's rule and two of two, on the same scenario and seed; these two as
    others have them, and two of two once more with our lottery and our memory.
    """
    told = CliRunner().invoke(main, ["voting", "--scenario", small, "--set", "seed=5", "--no-blender", "--json"])
    assert told.exit_code == 0, told.output
    report = json.loads(told.stdout)
    figures = report["figures"]
    plain = ["server.draws=false", "server.sets_aside=false"]
    ours, fixed, drawn = (
        simulate(parse(SMALL, "small.toml", ["seed=5", f"policy={policy}", *more])).figures
        for policy, more in (('{by="audit"}', []), ('{by="fixed"}', plain), ('{by="fixed"}', []))
    )
    assert figures["replicas_per_task"] == ours.replicas_per_task
    assert figures["wrong_accepted_share"] == ours.wrong_accepted_share
    assert figures["fixed_2_replicas_per_task"] == fixed.replicas_per_task >= 2.0
    assert figures["fixed_2_wrong_accepted_share"] == fixed.wrong_accepted_share
    assert figures["drawn_fixed_2_replicas_per_task"] == drawn.replicas_per_task >= 2.0
    assert figures["drawn_fixed_2_wrong_accepted_share"] == drawn.wrong_accepted_share
    assert 1.0 <= figures["boinc_replicas_per_task"] <= 3.0
    assert 0.0 <= figures["boinc_wrong_accepted_share"] <= 1.0
    settings = report["settings"]
    assert (settings["seed"], settings["kappa"], settings["tasks"]) == (5, 0.015, 60)
    assert settings["policy"] == msgspec.json.encode(Settings().trust.default).decode()


def test_bad_scenario_is_refused_by_a_sentence(small: str) -> None:
    """What is no scenario is refused before anything runs."""
    told = CliRunner().invoke(main, ["voting", "--scenario", small, "--set", "hosts.0.count=none"])
    assert told.exit_code == 2
    assert "$.hosts[0].count" in told.stderr
