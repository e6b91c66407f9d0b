"""A server process that the tests of its two ports share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.grid import Grid
from tests.server.callers import BLOB_LIMIT


@pytest.fixture(scope="session")
def web_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A running server that takes blobs of at most `BLOB_LIMIT` bytes. Every test brings its own users and machines."""
    environment = {"XWGRID_SERVER_MAX_BLOB_BYTES": str(BLOB_LIMIT)}
    with Grid(tmp_path_factory.mktemp("web"), environment=environment) as grid:
        yield grid
