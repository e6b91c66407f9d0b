"""Scenario files: those that come along are read, and bad ones are refused by a sentence that names file and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.scenario import find, parse, parse_policy, read, scenario_names
from xwgrid.errors import BadInput, BadSettings, NotFound
from xwgrid.model import Audit, Boinc, Credibility, Fixed

SMALL = """
name = "small"

[[hosts]]
count = 5

[[jobs]]
count = 2
frames = 3
"""
NAMES = [
    "baseline",
    "churn",
    "deadline",
    "fairness",
    "hundred_thousand_hosts",
    "liars_20_collude",
    "liars_5",
    "mixed_classes",
    "sleepers",
    "sybils",
]


def test_scenarios_come_along() -> None:
    """Ten scenarios are there, each under its own name, with what it is about."""
    assert scenario_names() == NAMES
    for name in NAMES:
        scenario = read(find(name))
        assert scenario.name == name
        assert scenario.about


@pytest.mark.parametrize(
    ("name", "hosts", "tasks"),
    [
        ("baseline", 1_000, 200_000),
        ("liars_5", 1_000, 200_000),
        ("liars_20_collude", 1_000, 200_000),
        ("sleepers", 1_000, 400_000),
        ("hundred_thousand_hosts", 100_000, 1_000_000),
    ],
)
def test_scenarios_are_of_the_size_they_are_known_for(name: str, hosts: int, tasks: int) -> None:
    """The scenarios that are measured have the hosts and tasks they are quoted with."""
    scenario = read(find(name))
    assert sum(group.count for group in scenario.hosts) == hosts
    assert sum(jobs.count * jobs.frames for jobs in scenario.jobs) == tasks
    assert scenario.policy == Audit()
    assert (scenario.lie_share, scenario.costs.kappa) == (0.05, 0.015)


@pytest.mark.parametrize(
    ("line", "blamed"),
    [
        ("speed = 3", "speed"),
        ("seed = -1", "$.seed"),
        ('seed = "one"', "$.seed"),
        ("lie_share = nan", "$.lie_share"),
        ("lie_share = inf", "$.lie_share"),
        ("lie_share = 0", "$.lie_share"),
        ("lie_share = 1.5", "$.lie_share"),
        ("hosts = []", "$.hosts"),
        ("hosts = [{}]", "count"),
        ("hosts = [{count = 0}]", "$.hosts[0].count"),
        ("hosts = [{count = -5}]", "$.hosts[0].count"),
        ("hosts = [{count = 100000000000000000000000}]", "$.hosts[0].count"),
        ("hosts = [{count = 2.5}]", "$.hosts[0].count"),
        ("hosts = [{count = 2, lier_rate = 0.5}]", "lier_rate"),
        ("hosts = [{count = 2, lie_rate = nan}]", "$.hosts[0].lie_rate"),
        ("hosts = [{count = 2, classes = {}}]", "$.hosts[0].classes"),
        ("hosts = [{count = 2, classes = {a = 0.0}}]", "$.hosts[0].classes"),
        ("hosts = [{count = 2, classes = {a = nan}}]", "$.hosts[0].classes"),
        ("hosts = [{count = 2, availability = {mean_seconds = 5.0}}]", "away_mean_seconds"),
        ("hosts = [{count = 2, availability = {mean_seconds = 0, away_mean_seconds = 1}}]", "mean_seconds"),
        ("hosts = [{count = 2, availability = {mean_seconds = inf, away_mean_seconds = 1}}]", "mean_seconds"),
        ("jobs = [{count = 2, frames = 0}]", "$.jobs[0].frames"),
        ("jobs = [{count = 2, frames = 2000000}]", "$.jobs[0].frames"),
        ("jobs = [{count = 2, height = 100000}]", "$.jobs[0].height"),
        ("jobs = [{count = 2, frame_seconds = -1.0}]", "$.jobs[0].frame_seconds"),
        ("jobs = [{count = 2, deadline_seconds = 0}]", "$.jobs[0].deadline_seconds"),
        ("costs = {kappa = 2.0}", "$.costs.kappa"),
        ("costs = {lambda = 2.0}", "lambda"),
        ("server = {batch_seconds = 0.0}", "$.server.batch_seconds"),
        ("server = 5", "$.server"),
        ('policy = {by = "trust me"}', "$.policy"),
        ('policy = {by = "audit", epsilon = 0.0}', "$.policy"),
        ('policy = {by = "audit", epsilon = 0.6}', "$.policy"),
        ('policy = {by = "audit", epsilon = nan}', "$.policy"),
        ('policy = "audit"', "$.policy"),
    ],
)
def test_bad_values_are_refused(line: str, blamed: str) -> None:
    """A key nobody knows, or a value out of bounds, is named with the file."""
    key = line.partition("=")[0].strip()
    with pytest.raises(BadSettings) as refused:
        parse(_without(key) + line, "bad.toml")
    assert refused.value.message.startswith("bad.toml: ")
    assert blamed in refused.value.message


@pytest.mark.parametrize("text", ["", "name = 'x'", "[[hosts]\n", "name = 5", "\x00"])
def test_what_is_no_scenario_is_refused(text: str) -> None:
    """What is not TOML, or lacks what a scenario must say, is refused."""
    with pytest.raises(BadSettings, match=r"bad\.toml"):
        parse(text, "bad.toml")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    """A file that is no text, or that is not there, is refused by name."""
    path = tmp_path / "picture.toml"
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(BadSettings, match=r"picture\.toml cannot be read"):
        read(path)
    with pytest.raises(NotFound, match="there is no scenario file 'nowhere': give a path, or one of baseline, churn"):
        find("nowhere")


def test_values_can_be_set() -> None:
    """Values are set by their place, where they were said before and where not."""
    scenario = parse(
        SMALL,
        "small.toml",
        [
            "lie_share=0.2",
            "hosts.0.count=7",
            "hosts.0.ring=friends",
            "costs.kappa=0.02",
            'policy={by="credibility", epsilon=0.01}',
        ],
    )
    assert (scenario.lie_share, scenario.hosts[0].count, scenario.hosts[0].ring) == (0.2, 7, "friends")
    assert scenario.costs.kappa == 0.02
    assert scenario.policy == Credibility(epsilon=0.01)


@pytest.mark.parametrize(
    "override",
    [
        "lie_share",
        "=5",
        "lie_share=2",
        "hosts.3.count=1",
        "hosts.x.count=1",
        "name.deep=1",
        "hosts.0.count.more=1",
        "hosts.9=1",
        "hosts.0=1",
        "nonsense=1",
        "costs.nonsense=1",
    ],
)
def test_bad_overrides_are_refused(override: str) -> None:
    """What is set must lead somewhere, and be allowed there."""
    with pytest.raises(BadSettings):
        parse(SMALL, "small.toml", [override])


def test_policies_have_names() -> None:
    """Each policy can be asked for by its name; others are refused."""
    chosen = [parse(SMALL, "small.toml", [f"policy={parse_policy(name)}"]).policy for name in _POLICIES]
    assert chosen == list(_POLICIES.values())
    with pytest.raises(BadInput, match="there is no policy 'faith': there are audit, boinc, credibility, fixed"):
        parse_policy("faith")


_POLICIES = {"audit": Audit(), "boinc": Boinc(), "credibility": Credibility(), "fixed": Fixed()}


def _without(key: str) -> str:
    """Return the small scenario without the tables of a key, ready for a line at its top level."""
    tables = {"hosts": "hosts = [{count = 5}]\n", "jobs": "jobs = [{count = 2, frames = 3}]\n"}
    return 'name = "small"\n' + "".join(text for name, text in tables.items() if name != key)
