"""Calibration through all parts: the operator's command, the server, two real volunteers of two classes, Blender."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.grid import BIN, Grid
from tests.rendering import python_with_blender
from xwgrid.applications import reference_frames
from xwgrid.tolerances import LEAST_SAMPLES, WIDEST, Distance, within

_SEEN_WITHIN_SECONDS = 120.0


@pytest.mark.slow
def test_two_classes_are_measured_against_each_other(tmp_path: Path) -> None:
    """The same processor with and without its newest instructions: two classes, two hosts, one tolerance that is kept.

    The command is broken off while hosts render; run again, it waits for the same jobs. Nothing is rendered twice.
    """
    with Grid(tmp_path / "grid") as grid:
        for owner in ("ada", "grace"):
            grid.add_user(owner)
        older = ["/usr/bin/env", "CYCLES_CPU_NO_AVX2=1", python_with_blender(), "-I", "-B"]
        grid.add_volunteer("new", "ada").start()
        grid.add_volunteer("old", "grace", f"[runtimes.blender]\ncommand = {json.dumps(older)}\n").start()
        classes = sorted(classes_of(grid, 2))
        if len(classes) < 2:
            pytest.skip("this processor has no instructions to do without")
        assert [name.rpartition(" cpu ")[2] for name in classes] == ["AVX2", "baseline"]

        break_off(grid)
        (first, second) = ask(grid, "job", "list")["jobs"]
        assert {first["tasks"], second["tasks"]} == {12}

        (done,) = ask(grid, "trust", "calibrate", "--classes", "AVX2", "baseline")
        (kept,) = ask(grid, "trust", "tolerances")
        assert sorted(done["jobs"]) == sorted((first["id"], second["id"]))
        assert done["tolerance"] == kept
        assert done["hosts_agreed"] == [1, 1]
        assert [kept["class_a"], kept["class_b"]] == classes
        assert kept["samples"] >= LEAST_SAMPLES
        assert kept["excepted"] == ["hair", "volume"]
        bounds = Distance(share=kept["share"], largest=kept["largest"], block=kept["block"])
        assert within(bounds, WIDEST)
        farthest = {kind: Distance(**distance) for kind, distance in done["farthest"].items()}
        assert set(farthest) == set(reference_frames.KINDS)
        for kind, distance in farthest.items():
            assert within(distance, bounds) == (kind not in kept["excepted"])
        # Each class rendered its own frames: no picture of the one is that of the other everywhere.
        assert any(distance.share > 0 for distance in farthest.values())

        # Nothing is left to render: it is measured again from what is there.
        (again,) = ask(grid, "trust", "calibrate", "--margin", "1")
        assert again["jobs"] == done["jobs"]
        assert again["farthest"] == done["farthest"]
        assert again["tolerance"]["block"] <= kept["block"]
        told = grid.run("xwgrid-admin", "trust", "calibrate", "--settings", str(grid.settings_file))
        for part in (f"'{classes[0]}' against '{classes[1]}'", "motion blur", "hair, volume"):
            assert part in told


def ask(grid: Grid, *arguments: str) -> Any:
    """Run an admin command and return its answer."""
    return json.loads(grid.run("xwgrid-admin", *arguments, "--settings", str(grid.settings_file), "--json"))


def classes_of(grid: Grid, hosts: int) -> set[str]:
    """Return the classes of this many hosts that can render, when they have called."""
    end = time.monotonic() + _SEEN_WITHIN_SECONDS
    while True:
        called = [host["facts"] for host in ask(grid, "host", "list") if host["facts"] is not None]
        found = [
            program["result_class"]
            for facts in called
            for program in facts["programs"]
            if program["runtime"] == "blender"
        ]
        if len(found) == hosts:
            return set(found)
        assert time.monotonic() < end, f"only {len(found)} hosts that render came: {called}"
        # Nothing tells another process that a host has called.
        time.sleep(0.5)


def break_off(grid: Grid) -> None:
    """Run `trust calibrate` until the first frame is there, and end it as Ctrl-C does."""
    command = [str(BIN / "xwgrid-admin"), "trust", "calibrate", "--settings", str(grid.settings_file)]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=grid.environment
    ) as run:
        assert run.stderr is not None
        for line in run.stderr:
            if ": 1 of 12 frames" in line:
                run.send_signal(signal.SIGINT)
                break
        else:
            raise AssertionError(f"it ended by itself: {run.communicate()}")
        run.communicate()
    assert run.returncode == 1
