"""Finds bubblewrap on this host and tries it: there are hosts that have it and forbid it."""

from __future__ import annotations

from msgspec import Struct

from xwgrid.sandboxing import Bubblewrap


class Missing(Struct, frozen=True):
    """There is no working bubblewrap; `reason` says why in a sentence."""

    reason: str


def find_bubblewrap() -> Bubblewrap | Missing:
    """Look on the PATH, and run one small program in it. Blocking, well under a second."""
    raise NotImplementedError
