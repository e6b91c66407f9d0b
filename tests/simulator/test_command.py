"""`python -m simulator`: what it prints, what it draws, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from simulator.__main__ import main

SMALL = """
name = "small"
[[hosts]]
count = 12
[[hosts]]
count = 3
lie_rate = 0.5
[[jobs]]
count = 3
frames = 10
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    """The path of a small scenario."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return str(path)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def test_figures_are_printed(small: str) -> None:
    """A run prints a table; with --json one object that holds the same figures."""
    told = _run(small)
    assert told.exit_code == 0
    assert told.output.startswith('small: 15 hosts, seed 1, policy {"by":"audit"')
    figures = json.loads(_run(small, "--json").stdout)["figures"]
    assert figures["tasks"] == 30
    assert f"replicas_per_task         {figures['replicas_per_task']:,.6g}" in told.output


def test_policy_can_be_chosen(small: str) -> None:
    """A policy by name takes the place of the scenario's."""
    report = json.loads(_run(small, "--policy", "fixed", "--set", "hosts.1.lie_rate=0.0", "--json").stdout)
    assert report["policy"] == {"by": "fixed"}
    assert report["figures"]["full_replicas_per_task"] >= 2.0


def test_runs_are_drawn(small: str, tmp_path: Path) -> None:
    """A run, and a sweep, end up in a PNG file."""
    for name, more in (("run.png", ()), ("sweep.png", ("--sweep", "lie_share=0.01,0.1,1.0"))):
        path = tmp_path / name
        assert _run(small, "--plot", str(path), *more).exit_code == 0
        assert path.read_bytes().startswith(b"\x89PNG\r\n")


def test_sweep_runs_once_for_each_value(small: str) -> None:
    """A sweep has one row for each value, in their order."""
    told = _run(small, "--sweep", "lie_share=0.02,0.5")
    assert told.exit_code == 0
    assert [line.split()[0] for line in told.output.splitlines()] == ["small", "lie_share", "0.02", "0.5"]
    report = json.loads(_run(small, "--sweep", "lie_share=0.02,0.5", "--json").stdout)
    assert [each["lie_share"] for each in report["reports"]] == [0.02, 0.5]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "hosts.0.cuont=3"], "unknown field `cuont`"),
        (["--set", "nothing"], "'nothing' sets nothing"),
        (["--policy", "faith"], "there is no policy 'faith'"),
        (["--sweep", "lie_share"], "'lie_share' is no sweep"),
        (["--sweep", "lie_share="], "is no sweep"),
        (["--sweep", "lie_share=0.1,7"], "$.lie_share"),
        (["--plot", "picture.gif"], "let it end in .png"),
    ],
)
def test_refusals_are_sentences(small: str, arguments: list[str], said: str) -> None:
    """What cannot be done is refused by one sentence, before anything runs."""
    told = _run(small, *arguments)
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr.startswith("python -m simulator: ")
    assert said in told.stderr
    as_json = _run(small, *arguments, "--json")
    assert said in json.loads(as_json.stderr)["message"]


def test_unknown_scenario_is_refused() -> None:
    """A scenario that is neither a file nor known is refused, with those that are."""
    told = _run("nowhere")
    assert told.exit_code == 2
    assert "there is no scenario file 'nowhere'" in told.stderr
