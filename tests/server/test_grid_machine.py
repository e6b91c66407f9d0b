"""Anything that may happen to a grid, in any order: whatever was, honest hosts that keep calling finish every job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.server.any_grid import AnyGrid


def test_whatever_happens_every_job_ends_and_nothing_is_counted_twice(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Any interleaving of calls, lies, audits, failures, lost answers, kills and orders keeps the books and ends."""
    migrated = request.getfixturevalue("_migrated_sqlite")

    class HereAndNow(AnyGrid):
        def __init__(self) -> None:
            super().__init__(migrated, tmp_path)

    run_state_machine_as_test(
        HereAndNow,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
