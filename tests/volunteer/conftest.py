"""A real server for the volunteers' tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.grid import Grid

# Whoever waits for a heartbeat in a test waits a second.
_QUICK = {"XWGRID_SERVER_HEARTBEAT_SECONDS": "1", "XWGRID_SERVER_LEASE_SECONDS": "10"}


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A server process with a requester and an owner of machines; each module of tests has its own."""
    with Grid(tmp_path_factory.mktemp("grid") / "grid", environment=_QUICK) as grid:
        grid.add_user("requester")
        grid.add_user("owner")
        yield grid
