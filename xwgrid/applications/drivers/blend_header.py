"""Which version of Blender saved a .blend, told by its first bytes: before any Blender has tried to open it."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

# "BLENDER-v405" up to 4.5; Blender 5 writes the header's length and its own version too: "BLENDER17-01v0500".
_HEADER = re.compile(rb"BLENDER(?:[_-][vV](\d)(\d\d)|\d\d-\d\d[vV](\d\d)(\d\d))")
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def looks_like_blend(beginning: bytes) -> bool:
    """Return whether a file that begins so may be a .blend, plain or compressed."""
    return beginning.startswith((b"BLENDER", _GZIP, _ZSTANDARD))


def saved_by(path: Path) -> tuple[int, int] | None:
    """Return (major, minor) of the Blender that saved `path`, None where its first bytes do not tell.

    The header of a file compressed with Zstandard is not looked into. Raises OSError.
    """
    with path.open("rb") as file:
        beginning = file.read(64)
    if beginning.startswith(_GZIP):
        try:
            with gzip.open(path) as unpacked:
                beginning = unpacked.read(64)
        except (EOFError, OSError):
            return None
    match = _HEADER.match(beginning)
    if match is None:
        return None
    major, minor = (int(part) for part in match.groups() if part is not None)
    return major, minor
