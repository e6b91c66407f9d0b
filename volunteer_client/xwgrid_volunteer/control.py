"""The daemon's ear for its owner: a Unix socket in the state folder, one JSON object a line each way."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineOnlyReceiver

from xwgrid import wire
from xwgrid.errors import GridError, Malformed, Unavailable
from xwgrid.model import Gpu, Instant, JobId, ReplicaId, Seconds

_SOCKET = "control.sock"
# The kernel takes 107 bytes for a socket's path; folders may lie deeper than that.
_MAX_PATH = 100
_MAX_LINE = 1 << 20


class AskStatus(Struct, frozen=True, tag="status", tag_field="do"):
    """Say how you are. Answered by `Status`."""


class AskPause(Struct, frozen=True, tag="pause", tag_field="do"):
    """Stop working, for `seconds` or until told otherwise. Answered by `Status`."""

    seconds: Seconds | None = None


class AskResume(Struct, frozen=True, tag="resume", tag_field="do"):
    """End the owner's pause. Answered by `Status`."""


Ask: TypeAlias = AskStatus | AskPause | AskResume
_asks: msgspec.json.Decoder[Ask] = msgspec.json.Decoder(Ask)


class LeaseStatus(Struct, frozen=True, kw_only=True):
    """A lease this volunteer works on."""

    replica: ReplicaId
    job: JobId
    label: str = ""  # "frame 7"
    stage: str  # "fetching", "waiting", "given", "checking", "unconfirmed"
    done: float | None


class Totals(Struct, frozen=True, kw_only=True):
    """What was done since the daemon started."""

    accepted: int = 0
    refused: int = 0
    failed: int = 0
    handed_back: int = 0
    seconds: Seconds = 0.0  # of the programs, on accepted results


class Status(Struct, frozen=True, kw_only=True):
    """How a volunteer stands."""

    name: str
    host: int
    server: str
    state: str  # "starting", "working", "idle", "paused", "away"
    why: str | None  # why nothing runs, in one sentence; None when something does
    leases: tuple[LeaseStatus, ...] = ()
    totals: Totals = Totals()
    started_at: Instant
    paused_until: Instant | None = None
    paused: bool = False  # by its owner
    sandbox: str | None = None
    programs: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    remarks: tuple[str, ...] = ()  # about the machine, one sentence each
    load_of_others: float | None = None
    cache_bytes: int = 0
    heartbeat_seconds: Seconds = 0.0
    trouble: str | None = None  # why the server cannot be talked to
    standing: str | None = None  # how far the server trusts this host and why, as it last said


class _Ear(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = _MAX_LINE
    transport: Any

    def __init__(self, answer: Callable[[Ask], Status]) -> None:
        self._answer = answer

    def lineReceived(self, line: bytes) -> None:
        try:
            said = wire.encode(self._answer(_asks.decode(line)))
        except msgspec.MsgspecError as error:
            said = wire.error_body(Malformed(f"this is nothing a volunteer understands: {error}"))
        except GridError as error:
            said = wire.error_body(error)
        self.transport.write(said + b"\n")


def listen(reactor: Any, state: Path, answer: Callable[[Ask], Status]) -> Any:
    """Open the socket, readable and writable for the owner alone. Returns Twisted's port."""
    (state / _SOCKET).unlink(missing_ok=True)  # left by a daemon that was killed; the lock says that there is none
    factory = Factory.forProtocol(lambda: _Ear(answer))
    path = state / _SOCKET
    if len(os.fsencode(path)) > _MAX_PATH:
        folder = os.open(state, os.O_PATH)  # stays open as long as the daemon: the path below goes through it
        path = Path(f"/proc/self/fd/{folder}") / _SOCKET
    return reactor.listenUNIX(str(path), factory, mode=0o600)


def ask(state: Path, question: Ask, seconds: Seconds = 10.0) -> Status:
    """Ask the daemon of a state folder. Blocking. Raises Unavailable when none runs there."""
    with _reachable(state / _SOCKET) as path, socket.socket(socket.AF_UNIX) as line:
        line.settimeout(seconds)
        try:
            line.connect(str(path))
            line.sendall(wire.encode(question) + b"\n")
            said = b""
            while not said.endswith(b"\n"):
                part = line.recv(1 << 16)
                if not part:
                    break
                said += part
        except OSError as error:
            raise Unavailable(
                f"no volunteer runs for {state} ({error.strerror or error}): start it with xwgrid-volunteer run"
            ) from error
    try:
        return msgspec.json.decode(said, type=Status)
    except msgspec.MsgspecError:
        raise wire.error_from_body(said, 500) from None


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[Path]:
    if len(os.fsencode(path)) <= _MAX_PATH or not path.parent.is_dir():
        yield path
        return
    folder = os.open(path.parent, os.O_PATH)
    try:
        yield Path(f"/proc/self/fd/{folder}") / path.name
    finally:
        os.close(folder)
