"""Databases of a test's own, and a server process that the tests of its two ports share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from xwgrid_server.database import open_engine

from tests.grid import Grid
from tests.server.callers import BLOB_LIMIT


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A database with the present schema."""
    made = open_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture(scope="session")
def web_grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A running server that takes blobs of at most `BLOB_LIMIT` bytes. Every test brings its own users and machines."""
    environment = {"XWGRID_SERVER_MAX_BLOB_BYTES": str(BLOB_LIMIT)}
    with Grid(tmp_path_factory.mktemp("web"), environment=environment) as grid:
        yield grid
