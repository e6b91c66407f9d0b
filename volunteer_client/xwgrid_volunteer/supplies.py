"""The files that leases need, those of their jobs and those of one lease alone: fetched once, kept while needed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from xwgrid.model import Cause, Digest, ReplicaId
from xwgrid.wire import Lease
from xwgrid_volunteer.preparing import NotPrepared, Prepared, Preparer

_log = logging.getLogger(__name__)


@dataclass
class _Job:
    """A job that leases are held of; `preparing` is under way until `prepared` is there."""

    prepared: Prepared | None = None
    preparing: Deferred[None] | None = None


@dataclass
class _Ordered:
    """A lease, and the fetching of the files that are its alone, if it has any."""

    lease: Lease
    is_fetched: bool
    fetching: Deferred[None] | None = None

    @property
    def holder(self) -> str:
        """The name under which these files are kept."""
        return f"replica {self.lease.replica}"


class Supplies:
    """Fetches for leases. `arrived` is called when files have come, `missing` for each lease that cannot have its own.

    `begin` runs what nobody waits for.
    """

    def __init__(
        self,
        preparer: Preparer,
        begin: Callable[[Coroutine[Any, Any, None]], Deferred[None]],
        *,
        arrived: Callable[[], None],
        missing: Callable[[Lease, NotPrepared], None],
    ) -> None:
        self._preparer = preparer
        self._begin = begin
        self._arrived = arrived
        self._missing = missing
        self._jobs: dict[Digest, _Job] = {}
        self._ordered: dict[ReplicaId, _Ordered] = {}

    @property
    def loaded(self) -> tuple[Digest, ...]:
        """Return the specifications of the jobs at hand."""
        return tuple(spec for spec, job in self._jobs.items() if job.prepared is not None)

    def prepared(self, spec: Digest) -> Prepared | None:
        """Return a job whose files are all here."""
        job = self._jobs.get(spec)
        return None if job is None else job.prepared

    def has(self, lease: Lease) -> bool:
        """Say whether all that a lease needs is here."""
        ordered = self._ordered.get(lease.replica)
        return ordered is not None and ordered.is_fetched and self.prepared(lease.spec) is not None

    def files(self, lease: Lease) -> tuple[tuple[str, Path], ...]:
        """Return where the files lie that are a lease's alone, by name. Raises NotFound."""
        return self._preparer.fetched(lease.inputs)

    def order(self, lease: Lease) -> None:
        """Fetch what a lease needs and is not here or on its way."""
        ordered = self._ordered[lease.replica] = _Ordered(lease, is_fetched=not lease.inputs)
        job = self._jobs.setdefault(lease.spec, _Job())
        if job.prepared is None and job.preparing is None:
            job.preparing = self._begin(self._prepare(lease.spec, job))
        if lease.inputs and lease.replica in self._ordered:
            ordered.fetching = self._begin(self._fetch(ordered))

    def drop(self, lease: Lease) -> None:
        """Let go of the files that are a lease's alone, or fetch no more of them: it has ended."""
        ordered = self._ordered.pop(lease.replica, None)
        if ordered is not None and lease.inputs:
            if ordered.fetching is not None:
                ordered.fetching.cancel()
            self._preparer.release(ordered.holder)

    def keep(self, specs: Collection[Digest]) -> None:
        """Let go of the files of all jobs but these, or fetch no more of them."""
        for spec in [spec for spec in self._jobs if spec not in specs]:
            job = self._jobs.pop(spec)
            if job.preparing is not None:
                job.preparing.cancel()
            self._preparer.release(spec)

    async def _prepare(self, spec: Digest, job: _Job) -> None:
        try:
            job.prepared = await self._preparer.prepare(spec)
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001  # told as what it is; no lease may wait for ever
            reason = _reason(error)
            _log.warning("job %s cannot be run here: %s", spec[:12], reason.message)
            del self._jobs[spec]
            self._preparer.release(spec)
            for ordered in [each for each in self._ordered.values() if each.lease.spec == spec]:
                self._missing(ordered.lease, reason)
            return
        job.preparing = None
        self._arrived()

    async def _fetch(self, ordered: _Ordered) -> None:
        try:
            await self._preparer.fetch(ordered.holder, ordered.lease.inputs)
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001  # as above
            self._missing(ordered.lease, _reason(error))
            return
        ordered.is_fetched, ordered.fetching = True, None
        self._arrived()


def _reason(error: Exception) -> NotPrepared:
    if isinstance(error, NotPrepared):
        return error
    _log.error("a fault of the program", exc_info=error)
    return NotPrepared(f"a fault of the volunteer's program: {type(error).__name__}: {error}", Cause.STAGING)
