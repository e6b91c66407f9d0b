"""What a running server says about its ports, in a file for those beside it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from xwgrid_server.authority import write_private


class Listening(Struct, frozen=True, kw_only=True):
    """Where a server is, since it said that it is ready."""

    api: str  # https://host:port
    volunteers: str
    pid: int


def write_listening(path: Path, listening: Listening) -> None:
    """Write the file, whole or not at all. Raises OSError."""
    write_private(path, msgspec.json.encode(listening) + b"\n", mode=0o644, replace=True)


def read_listening(path: Path) -> Listening | None:
    """Return what a server wrote there last; None when none did."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Listening)
    except (OSError, msgspec.MsgspecError):
        return None
