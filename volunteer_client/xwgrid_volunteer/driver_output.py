"""What a driver says: its output cut into events and log, whatever it contains. Decided here, no I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Meta, Struct

from xwgrid.model import ReplicaId

# A ready line carries the effective settings of a scene; a log line may be anything, and only its start is kept.
MAX_LINE = 64 << 10
TAIL_BYTES = 8 << 10
_MARK = b"@xwgrid "


class SaidReady(Struct, frozen=True, tag="ready", tag_field="event"):
    """The driver is up."""

    version: Annotated[str, Meta(max_length=200)]
    result_class: Annotated[str, Meta(max_length=200)]
    effective: dict[str, Any] = {}


class SaidProgress(Struct, frozen=True, tag="progress", tag_field="event"):
    """A share of the task is done."""

    replica: ReplicaId
    done: Annotated[float, Meta(ge=0, le=1)]


class SaidFinished(Struct, frozen=True, tag="finished", tag_field="event"):
    """The driver says it is done; what it says about files is looked at before it is believed."""

    replica: ReplicaId
    files: Annotated[tuple[str, ...], Meta(max_length=1_000)] = ()
    value: Annotated[str, Meta(max_length=1_024)] | None = None


class SaidFailed(Struct, frozen=True, tag="failed", tag_field="event"):
    """The driver says the task cannot be done."""

    replica: ReplicaId
    message: str


class SaidBye(Struct, frozen=True, tag="bye", tag_field="event"):
    """The driver is about to end."""


Said: TypeAlias = SaidReady | SaidProgress | SaidFinished | SaidFailed | SaidBye
_decoder: msgspec.json.Decoder[Said] = msgspec.json.Decoder(Said)


class Output:
    """Standard output, fed as it comes; gives the events, and keeps everything else in `log`."""

    def __init__(self, log: LogTail) -> None:
        self._log = log
        self._line = b""
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[Said]:
        """Take the next bytes; yield the events whose lines they end."""
        *ends, rest = data.split(b"\n")
        for end in ends:
            self._grow(end)
            line, whole = self._line, not self._too_long
            self._line, self._too_long = b"", False
            said = _event(line) if whole else None
            if said is None:
                self._log.add(line + b"\n")
            else:
                yield said
        self._grow(rest)

    def _grow(self, data: bytes) -> None:
        room = MAX_LINE - len(self._line)
        self._too_long = self._too_long or len(data) > room
        self._line += data[:room]

    def flush(self) -> None:
        """The output ended: what is left without an end of line is log."""
        if self._line:
            self._log.add(self._line)
            self._line = b""


class LogTail:
    """The last 8 KiB of what a driver wrote, both streams as they came."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        """Append."""
        self._kept = (self._kept + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    def text(self) -> str:
        """Return the tail as text without control characters: its reader's terminal is not the program's."""
        text = self._kept.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
        return "".join(each if each.isprintable() or each in "\n\t" else "\N{REPLACEMENT CHARACTER}" for each in text)


def _event(line: bytes) -> Said | None:
    if not line.startswith(_MARK):
        return None
    try:
        return _decoder.decode(line[len(_MARK) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
