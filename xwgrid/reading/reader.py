"""The near side of the reader process: hand it a result, get a fingerprint or a refusal, and how it compares."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from xwgrid.errors import Unavailable, UnreadableResult
from xwgrid.model import Digest, JobRequest, Seconds, TaskNumber
from xwgrid.reading.bubblewrap import Missing, find_bubblewrap
from xwgrid.reading.launch import launch
from xwgrid.reading.messages import (
    MAX_FILES,
    MAX_PACKET,
    Answer,
    Apart,
    Ask,
    Fingerprint,
    Limits,
    Sent,
    Share,
    Unreadable,
    Up,
    Want,
)
from xwgrid.tolerances import Distance, Tolerance, within

# A cold disk and a machine under full load: importing the picture library takes 0.3 s otherwise.
_START_SECONDS = 120.0
# The child keeps the time of a reading itself; this much later it is taken for dead.
_GRACE_SECONDS = 10.0
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class ReadingLimits(Struct, frozen=True, kw_only=True):
    """Caps on the reading of one result."""

    memory_bytes: int = 4 << 30  # the largest picture the grid takes is 2 GiB decoded, and its file lies beside it
    seconds: Seconds = 60.0


class Stored(NamedTuple):
    """A result's files, by name; of an audit also its strips."""

    files: Mapping[str, Path]
    strips: str | None = None
    tolerance: Tolerance | None = None  # when it is of another class: how far apart the two may be and still be alike


class Read(NamedTuple):
    """What was seen of a result."""

    fingerprint: Digest
    # Of each other result it was laid beside: the share of the rows both have in which any pixel differs, 0 to 1. None
    # when they have no row in common, or the other one cannot be read; 0 for a whole result within its tolerance.
    shares: tuple[float | None, ...] = ()


class _ChildDied(Exception):
    """The reader process is gone or says nothing: start another."""


class Reader:
    """One child process that reads results; every result in a fork of its own. Blocking; one caller at a time.

    A second caller waits. A child that dies is replaced. Where bubblewrap is missing the child runs with resource
    limits only, and `note` says so.
    """

    def __init__(self, limits: ReadingLimits | None = None) -> None:
        self._limits = limits or ReadingLimits()
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        found = find_bubblewrap()
        self._tool = None if isinstance(found, Missing) else found
        self._note = f"results are read without a sandbox: {found.reason}" if isinstance(found, Missing) else None

    @property
    def note(self) -> str | None:
        """One sentence when the child is not sandboxed, else None."""
        return self._note

    @property
    def pid(self) -> int | None:
        """The child's process id while there is one."""
        return None if self._process is None else self._process.pid

    def read(
        self,
        request: JobRequest,
        number: TaskNumber,
        files: Mapping[str, Path],
        strips: str | None = None,
        others: Sequence[Stored] = (),
    ) -> Read:
        """Return the fingerprint of task `number`'s result, its files given by name, and how far it is from others.

        With `strips` it is an audit. Each of `others` is laid beside it in a reading of its own, two pictures at a
        time: whatever is wrong with one of them is not this result's fault.
        Raises UnreadableResult: not what the job asked for, not decodable, too large, or the decoder died of it.
        Raises Unavailable when no reader process could be started.
        """
        if len(files) > MAX_FILES:
            raise UnreadableResult(f"a result of {len(files)} files is more than is read: at most {MAX_FILES}")
        with self._turn, _sealed(files, request.limits.result_bytes) as descriptors:
            one = Sent(names=tuple(files), strips=strips)
            answer = self._told(request, number, "fingerprint", (one,), descriptors)
            if not isinstance(answer, Fingerprint):
                raise _refusal(answer)
            shares = [self._share(request, number, one, descriptors, other) for other in others]
        return Read(answer.digest, tuple(shares))

    def distance(
        self, request: JobRequest, number: TaskNumber, one: Mapping[str, Path], other: Mapping[str, Path]
    ) -> Distance:
        """Return how far two results of task `number` are apart. Raises UnreadableResult, Unavailable."""
        limit = request.limits.result_bytes
        with self._turn, _sealed(one, limit) as first, _sealed(other, limit) as second:
            both = (Sent(names=tuple(one)), Sent(names=tuple(other)))
            answer = self._told(request, number, "distance", both, [*first, *second])
        if not isinstance(answer, Apart):
            raise _refusal(answer)
        return answer.distance

    def close(self) -> None:
        """End the child process; a later `read` starts another."""
        with self._turn:
            self._end()

    def _share(
        self, request: JobRequest, number: TaskNumber, one: Sent, descriptors: list[int], other: Stored
    ) -> float | None:
        """Return the share of the rows in which two results differ, None when that cannot be told."""
        with contextlib.suppress(UnreadableResult), _sealed(other.files, request.limits.result_bytes) as more:
            both, files = (one, Sent(names=tuple(other.files), strips=other.strips)), [*descriptors, *more]
            if other.tolerance is not None and one.strips is None and other.strips is None:
                told = self._told(request, number, "distance", both, files)
                if isinstance(told, Apart) and within(told.distance, other.tolerance):
                    return 0.0
            answer = self._told(request, number, "share", both, files)
            return answer.share if isinstance(answer, Share) else None
        return None

    def _told(
        self, request: JobRequest, number: TaskNumber, want: Want, results: tuple[Sent, ...], descriptors: list[int]
    ) -> Answer:
        """Return what the child says of one result, or of two. Raises UnreadableResult, Unavailable."""
        ask = msgspec.json.encode(Ask(request=replace(request, inputs=()), number=number, want=want, results=results))
        if len(descriptors) > MAX_FILES or len(ask) > MAX_PACKET:
            raise UnreadableResult(f"{len(descriptors)} files are more than are read at once: at most {MAX_FILES}")
        try:
            return self._ask(ask, descriptors)
        except _ChildDied:
            # Perhaps not this result's fault: somebody killed the child, or the machine ran out of memory.
            try:
                return self._ask(ask, descriptors)
            except _ChildDied as error:
                raise UnreadableResult("the program that reads results died of this one, twice") from error

    def _ask(self, ask: bytes, descriptors: list[int]) -> Answer:
        """Hand one result over. Raises _ChildDied, having buried it, and Unavailable."""
        near = self._socket or self._start()
        try:
            near.settimeout(self._limits.seconds + _GRACE_SECONDS)
            socket.send_fds(near, [ask], descriptors)
            return _decode(near.recv(MAX_PACKET))
        except (OSError, _ChildDied) as error:
            self._end()
            raise _ChildDied from error

    def _start(self) -> socket.socket:
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far, tempfile.TemporaryFile() as log:
            try:
                self._process = subprocess.Popen(
                    launch(self._tool),
                    stdin=far.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    start_new_session=True,
                    env={},
                )
                far.close()
                near.settimeout(_START_SECONDS)
                near.send(msgspec.json.encode(Limits(**msgspec.structs.asdict(self._limits))))
                if not isinstance(_decode(near.recv(MAX_PACKET)), Up):
                    raise _ChildDied
            except (OSError, _ChildDied) as error:
                near.close()
                self._end()
                raise Unavailable(f"the process that reads results did not start: {_last_line(log)}") from error
        self._socket = near
        return near

    def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()  # which ends a healthy child
            self._socket = None
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.5)
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None


def _refusal(answer: Answer) -> UnreadableResult:
    message = answer.message if isinstance(answer, Unreadable) else "the reader process does not make sense"
    return UnreadableResult(message)


@contextlib.contextmanager
def _sealed(files: Mapping[str, Path], limit: int) -> Iterator[list[int]]:
    """Copy files into sealed memory: the child gets bytes, and no way back to a file of this host.

    Raises UnreadableResult for what is no regular file, or together larger than `limit` bytes.
    """
    descriptors: list[int] = []
    try:
        for name, path in files.items():
            limit -= _copy(name, path, limit, descriptors)
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _copy(name: str, path: Path, limit: int, descriptors: list[int]) -> int:
    """Append a sealed copy of one file; return its size."""
    try:
        source = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise UnreadableResult(f"{name[:200]} cannot be opened: {error.strerror}", file=name[:200]) from error
    try:
        facts = os.fstat(source)
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableResult(f"{name[:200]} is not a regular file", file=name[:200])
        if facts.st_size > limit:
            raise UnreadableResult(f"the result is larger than its job allows (at {name[:200]})", file=name[:200])
        copy = os.memfd_create("result", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        descriptors.append(copy)
        done = 0
        while done < facts.st_size and (count := os.sendfile(copy, source, done, facts.st_size - done)):
            done += count
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, _SEALS)
        return done
    finally:
        os.close(source)


def _decode(data: bytes) -> Answer:
    """Read a packet; what the child says is not trusted to be well formed. Raises _ChildDied for none at all."""
    if not data:
        raise _ChildDied
    try:
        answer: Answer = msgspec.json.decode(data, type=Answer)
    except msgspec.MsgspecError as error:
        raise _ChildDied from error
    return answer


def _last_line(log: IO[bytes]) -> str:
    log.seek(0)
    lines = log.read(1 << 16).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
