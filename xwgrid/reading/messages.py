"""What the two sides of the reader say to each other: one JSON message a packet, files as descriptors beside it."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from xwgrid.model import Digest, JobRequest, Seconds, TaskNumber

# One packet of a Unix socket; a request without its list of inputs is under 4 KiB.
MAX_PACKET = 1 << 16
# The kernel passes at most 253 descriptors with one packet.
MAX_FILES = 250


class Limits(Struct, frozen=True, kw_only=True):
    """The first message to the child: caps on each reading."""

    memory_bytes: int
    seconds: Seconds


class Up(Struct, frozen=True, kw_only=True, tag="up", tag_field="answer"):
    """The child's first message: its libraries are loaded."""


class Ask(Struct, frozen=True, kw_only=True):
    """Read this result. One open, sealed file in memory per name comes with the packet, in the same order."""

    request: JobRequest  # without its inputs: their number has no bound that fits a packet, and nobody reads them
    number: TaskNumber
    names: tuple[str, ...]


class Fingerprint(Struct, frozen=True, kw_only=True, tag="fingerprint", tag_field="answer"):
    """It was read."""

    digest: Digest


class Unreadable(Struct, frozen=True, kw_only=True, tag="unreadable", tag_field="answer"):
    """It was refused, or the decoder died of it."""

    message: str


Answer: TypeAlias = Up | Fingerprint | Unreadable
