"""What the two sides of the reader say to each other: one JSON message a packet, files as descriptors beside it."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct

from xwgrid.model import Digest, JobRequest, Seconds, TaskNumber
from xwgrid.tolerances import Distance

# One packet of a Unix socket; a request without its list of inputs is under 4 KiB.
MAX_PACKET = 1 << 16
# The kernel passes at most 253 descriptors with one packet.
MAX_FILES = 250


# Of one result its fingerprint; of two the share of rows in which they differ, or how far apart they are.
Want: TypeAlias = Literal["fingerprint", "share", "distance"]


class Limits(Struct, frozen=True, kw_only=True):
    """The first message to the child: caps on each reading."""

    memory_bytes: int
    seconds: Seconds


class Up(Struct, frozen=True, kw_only=True, tag="up", tag_field="answer"):
    """The child's first message: its libraries are loaded."""


class Sent(Struct, frozen=True, kw_only=True):
    """A result. One open, sealed file in memory per name comes with the packet, in the same order."""

    names: tuple[str, ...]
    strips: str | None = None  # an audit's


class Ask(Struct, frozen=True, kw_only=True):
    """Read this result, or lay it beside a second one. The files of both come with the packet, in this order."""

    request: JobRequest  # without its inputs: their number has no bound that fits a packet, and nobody reads them
    number: TaskNumber
    want: Want
    results: tuple[Sent, ...]  # one for its fingerprint, two for how they differ


class Fingerprint(Struct, frozen=True, kw_only=True, tag="fingerprint", tag_field="answer"):
    """It was read."""

    digest: Digest


class Share(Struct, frozen=True, kw_only=True, tag="share", tag_field="answer"):
    """The share of the rows both have in which they differ, 0 to 1; None when they have none in common."""

    share: Annotated[float, Meta(ge=0, le=1)] | None


class Apart(Struct, frozen=True, kw_only=True, tag="apart", tag_field="answer"):
    """How far two results are apart."""

    distance: Distance


class Unreadable(Struct, frozen=True, kw_only=True, tag="unreadable", tag_field="answer"):
    """It was refused, or the decoder died of it."""

    message: str


Answer: TypeAlias = Up | Fingerprint | Share | Apart | Unreadable
