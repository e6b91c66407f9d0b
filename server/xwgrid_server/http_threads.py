"""Blocking work beside the reactor: reading SQL, hashing, waiting for a disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")


class Clock(Protocol):
    """What is asked of a reactor about time."""

    def seconds(self) -> float:
        """Return the time in seconds."""

    def callLater(self, delay: float, call: Callable[..., Any], /, *arguments: Any) -> Any:  # noqa: N802
        """Make a call after `delay` seconds; return its IDelayedCall."""


class Threads:
    """A pool of threads of its own, so that slow disks never take the threads that answer from the database."""

    def __init__(self, reactor: IReactorFromThreads, name: str, size: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=size, name=name)

    def start(self) -> None:
        """Take work from now on."""
        self._pool.start()

    def stop(self) -> None:
        """Finish what was begun, then return: blocks."""
        self._pool.stop()

    def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T]:
        """Call `function` in a thread; the Deferred fires in the reactor's with what it returned or raised."""
        return deferToThreadPool(self._reactor, self._pool, function, *arguments, **named)
