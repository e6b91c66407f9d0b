"""What this machine is: processor, memory, GPUs by NVML, programs and the class of their results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from xwgrid.model import HostFacts
from xwgrid_volunteer.runtimes import Runtime
from xwgrid_volunteer.sandbox import SandboxFinding


class HostProbe(Struct, frozen=True, kw_only=True):
    """The facts the server gets, and remarks for the owner (`xwgrid-volunteer status`), one sentence each."""

    facts: HostFacts
    remarks: tuple[str, ...] = ()


def probe(
    *, name: str, sandbox: SandboxFinding, runtimes: Mapping[str, Runtime], cache: Path, client_version: str
) -> HostProbe:
    """Look at the machine. Blocking, some seconds when a renderer is asked for the first time: run it in a thread.

    `cache` is a file that remembers what a runtime said about itself until it changes. Whatever might crash or hang
    (a GPU driver, a renderer) is asked in a child process with a time limit.
    """
    raise NotImplementedError
