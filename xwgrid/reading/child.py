"""The far side: a process without threads or secrets that forks for every result.

The fork reads one stranger's files, or two strangers' to compare them, and dies, so nothing that a file does to its
decoder outlives that answer. It cannot start processes, and the parent cannot be debugged by it (both run as one user):
what it can do is lie about itself, and about how it compares.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from xwgrid.applications.registry import application_of
from xwgrid.applications.results import ResultFiles
from xwgrid.errors import GridError, UnreadableResult
from xwgrid.reading.messages import (
    MAX_FILES,
    MAX_PACKET,
    Answer,
    Apart,
    Ask,
    Fingerprint,
    Limits,
    Share,
    Unreadable,
    Up,
)

_PR_SET_DUMPABLE = 4
# Loaded once here, shared by every fork: importing them costs more than most pictures.
_HEAVY = ("numpy", "OpenImageIO", "xwgrid.applications.pictures")


def main() -> NoReturn:
    """Serve the socket that is standard input until the other side closes it."""
    near = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    limits = msgspec.json.decode(near.recv(MAX_PACKET), type=Limits)
    for name in _HEAVY:
        importlib.import_module(name)
    # Same user, same sandbox: without this the fork could write into its parent's memory.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _say(near, Up())
    while True:
        data, descriptors, _, _ = socket.recv_fds(near, MAX_PACKET, MAX_FILES)
        if not data:
            os._exit(0)
        _say(near, _read_in_fork(data, descriptors, limits))


def _say(near: socket.socket, answer: Answer) -> None:
    try:
        near.send(msgspec.json.encode(answer))
    except OSError:
        os._exit(0)  # the other side is gone


def _read_in_fork(data: bytes, descriptors: Sequence[int], limits: Limits) -> Answer:
    """Return what a fork says about a result, or what became of it."""
    out, into = os.pipe()
    fork = os.fork()
    if fork == 0:
        _be_the_fork(data, descriptors, limits, into)
    for descriptor in (into, *descriptors):
        os.close(descriptor)
    said = _collect(out, until=time.monotonic() + limits.seconds)
    os.close(out)
    if said is None:
        os.kill(fork, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    if said is None:
        return Unreadable(message=f"reading the result took more than {limits.seconds:g} s")
    with contextlib.suppress(msgspec.MsgspecError):
        return msgspec.json.decode(said, type=Fingerprint | Share | Apart | Unreadable)
    ended = signal.Signals(-status).name if status < 0 else f"status {status}"
    return Unreadable(message=f"the program that decodes results was ended by this one ({ended})")


def _collect(out: int, *, until: float) -> bytes | None:
    """Return what comes out of a pipe until it closes; None when it does not, or says far too much."""
    said = b""
    while (left := until - time.monotonic()) > 0 and len(said) <= MAX_PACKET:
        if select.select([out], [], [], left)[0]:
            data = os.read(out, MAX_PACKET)
            if not data:
                return said
            said += data
    return None


def _be_the_fork(data: bytes, descriptors: Sequence[int], limits: Limits, into: int) -> NoReturn:
    try:
        kept = sorted({0, 1, 2, into, *descriptors})
        for low, high in zip(kept, [*kept[1:], 1 << 16], strict=True):
            os.closerange(low + 1, high)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _lower(resource.RLIMIT_AS, limits.memory_bytes)
        _lower(resource.RLIMIT_CPU, int(limits.seconds) + 1)
        # Nothing may outlive the reading of one result; root is not counted, but then it is no root in the sandbox.
        _lower(resource.RLIMIT_NPROC, 0)
        answer: Answer
        try:
            answer = _answer(msgspec.json.decode(data, type=Ask), descriptors)
        except UnreadableResult as error:
            answer = Unreadable(message=error.message[:2_000])
        except MemoryError:
            answer = Unreadable(message=f"decoding the result needs more than {limits.memory_bytes} bytes of memory")
        except GridError as error:
            answer = Unreadable(message=f"the result cannot be read: {error.message}"[:2_000])
        os.write(into, msgspec.json.encode(answer))
        os._exit(0)
    except BaseException as error:  # noqa: BLE001  # a fork must never return into its parent's loop
        with contextlib.suppress(OSError):
            print(f"reading failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(70)


def _answer(ask: Ask, descriptors: Sequence[int]) -> Answer:
    application = application_of(ask.request)
    left = iter(descriptors)
    one, *others = (
        ResultFiles({name: _contents(next(left)) for name in sent.names}, sent.strips) for sent in ask.results
    )
    match ask.want:
        case "fingerprint":
            return Fingerprint(digest=application.read_result(ask.request, ask.number, *one))
        case "share":
            return Share(share=application.differing_share(ask.request, ask.number, one, *others))
        case "distance":
            return Apart(distance=application.distance(ask.request, ask.number, one.files, others[0].files))


def _lower(kind: int, limit: int) -> None:
    hard = resource.getrlimit(kind)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(kind, (limit, limit))


def _contents(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        return file.read()
