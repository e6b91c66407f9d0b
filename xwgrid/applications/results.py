"""A result on its way into the hands of an application."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class ResultFiles(NamedTuple):
    """The files of a result by name; of an audit also the strips it holds, as `xwgrid.auditing.written` has them."""

    files: Mapping[str, bytes]
    strips: str | None = None
