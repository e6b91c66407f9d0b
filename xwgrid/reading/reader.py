"""The near side of the reader process: hand it a result, get a fingerprint or a refusal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from xwgrid.model import Digest, JobRequest, Seconds, TaskNumber


class ReadingLimits(Struct, frozen=True, kw_only=True):
    """Caps on the reading of one result."""

    memory_bytes: int = 4 << 30
    seconds: Seconds = 60.0


class Reader:
    """One child process that reads results; every result in a fork of its own. Blocking; one caller at a time.

    A second caller waits. A child that dies is replaced at the next read. Where bubblewrap is missing the child runs
    with resource limits only, and `note` says so.
    """

    def __init__(self, limits: ReadingLimits = ReadingLimits()) -> None:
        raise NotImplementedError

    @property
    def note(self) -> str | None:
        """One sentence when the child is not sandboxed, else None."""
        raise NotImplementedError

    def read(self, request: JobRequest, number: TaskNumber, files: Mapping[str, Path]) -> Digest:
        """Return the fingerprint of task `number`'s result, its files given by name.

        Raises UnreadableResult: not what the job asked for, not decodable, too large, or the decoder died of it.
        Raises Unavailable when no reader process could be started.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the child process; a later `read` starts another."""
        raise NotImplementedError
