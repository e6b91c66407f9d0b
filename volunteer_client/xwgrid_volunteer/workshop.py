"""From a lease to its outcome: files fetched, a driver process fed, the result looked at. One bench per slot.

A driver process is kept for the next task of its job, and has that task in its input before it is done with the present
one, so that there is no gap between two frames.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, gatherResults

from xwgrid.errors import BadInput, NotFound, OutOfSpace
from xwgrid.model import Cause, Digest, ReplicaId, Seconds
from xwgrid.wire import Failed, HandedBack, Lease, Outcome
from xwgrid_volunteer import placement
from xwgrid_volunteer.benches import Bench, Stage, Work
from xwgrid_volunteer.checking import Inspector
from xwgrid_volunteer.placement import Slot, Waiting
from xwgrid_volunteer.preparing import NotPrepared, Prepared, Preparer
from xwgrid_volunteer.runner import Ended, JobProcess, Progress, Ready, RunnerEvent, TaskFailed, TaskFinished
from xwgrid_volunteer.supplies import Supplies

_log = logging.getLogger(__name__)

# An idle process keeps its scene loaded this long for the next lease of its job.
IDLE_SECONDS: Seconds = 30.0
# A process that ends before it began anything is started again once; then the lease fails.
_STARTS = 2


Ending = Callable[[Lease, Outcome, Mapping[str, Path]], Awaitable[None]]


class Workshop:
    """Works on leases. `ended` gets every outcome and keeps it; `changed` is called when there may be news to tell."""

    def __init__(
        self,
        reactor: Any,
        preparer: Preparer,
        inspector: Inspector,
        *,
        slots: int,
        folder: Path,
        ended: Ending,
        changed: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._preparer = preparer
        self._supplies = Supplies(preparer, self._begin, arrived=self._arrived, missing=self._missing)
        self._inspector = inspector
        self._folder = folder
        self._ended = ended
        self._changed = changed
        self._works: dict[ReplicaId, Work] = {}
        self._benches = [Bench(number) for number in range(slots)]
        self._folders = 0
        self._suspended = False
        self._concluding: set[Deferred[None]] = set()

    @property
    def works(self) -> tuple[Work, ...]:
        """Return the leases that have no outcome yet, oldest first."""
        return tuple(self._works.values())

    @property
    def loaded(self) -> tuple[Digest, ...]:
        """Return the specifications of the jobs at hand."""
        return self._supplies.loaded

    def take(self, lease: Lease) -> None:
        """Begin with a lease. One that is known already is left as it is."""
        if lease.replica in self._works:
            return
        self._works[lease.replica] = Work(lease)
        self._supplies.order(lease)
        if self._supplies.has(lease):
            self._arrived()

    def end(self, replica: ReplicaId) -> None:
        """Stop working on a lease and throw away what there is of it: the server ended it."""
        work = self._forget(replica)
        if work is not None:
            self._stop_unwanted()
            self._tidy()

    def suspend(self) -> None:
        """Stop every driver where it is, and give out nothing."""
        self._suspended = True
        for bench in self._benches:
            if bench.process is not None:
                bench.process.suspend()

    def resume(self) -> None:
        """Go on after `suspend`."""
        self._suspended = False
        for bench in self._benches:
            if bench.process is not None:
                bench.process.resume()
        self._place()

    async def hand_back(self, cause: Cause) -> None:
        """End every process and hand back whatever has no result yet. Results being looked at go their way."""
        open_works = [work for work in self._works.values() if work.stage is not Stage.CHECKING]
        for work in open_works:
            # From here on nobody runs it any more, whatever its process still says.
            work.stage = Stage.CHECKING
        for bench in self._benches:
            bench.given.clear()
        stopped = gatherResults([self._stop(bench) for bench in self._benches], consumeErrors=True)
        for work in open_works:
            await self._settle(work, HandedBack(cause=cause), {})
        await stopped

    async def concluded(self) -> None:
        """Wait until every result that was being looked at is in the outbox. Cancelling it leaves them be."""
        while self._concluding:
            one: Deferred[None] = Deferred()
            next(iter(self._concluding)).addBoth(_pass_on, one)
            await one

    def _track(self, concluding: Deferred[None]) -> None:
        if not concluding.called:
            self._concluding.add(concluding)
            concluding.addBoth(lambda _result: self._concluding.discard(concluding))

    # --- files ------------------------------------------------------------------------------------------------

    def _arrived(self) -> None:
        """Have those leases wait for a place whose files are all here."""
        for work in self._works.values():
            if work.stage is Stage.FETCHING and self._supplies.has(work.lease):
                work.stage = Stage.WAITING
        self._place()

    def _missing(self, lease: Lease, error: NotPrepared) -> None:
        """A lease whose files cannot be had has failed, unless it was handed back meanwhile."""
        work = self._works.get(lease.replica)
        if work is not None and work.stage is Stage.FETCHING:
            self._begin(self._settle(work, _failure(error), {}))

    def _forget(self, replica: ReplicaId) -> Work | None:
        """Forget a lease, and let go of the files that were its alone."""
        work = self._works.pop(replica, None)
        if work is not None:
            self._supplies.drop(work.lease)
        return work

    def _tidy(self) -> None:
        """Forget jobs that nobody needs any more, and stop fetching for them."""
        benches = {bench.spec for bench in self._benches if bench.spec is not None}
        self._supplies.keep({work.lease.spec for work in self._works.values()} | benches)

    # --- processes --------------------------------------------------------------------------------------------

    def _place(self) -> None:
        if self._suspended:
            return
        slots = [Slot(number=b.number, spec=b.spec, queue=len(b.given)) for b in self._benches if not b.leaving]
        waiting = [Waiting(r, work.lease.spec) for r, work in self._works.items() if work.stage is Stage.WAITING]
        for give in placement.place(slots, waiting):
            bench = self._benches[give.slot]
            if bench.leaving:
                continue
            if bench.spec not in (None, give.spec):
                self._leave(bench)
                continue
            self._give(bench, self._works[give.replica])
        self._changed()

    def _give(self, bench: Bench, work: Work) -> None:
        if bench.idle is not None and bench.idle.active():
            bench.idle.cancel()
        work.stage = Stage.GIVEN
        bench.given.append(work.lease.replica)
        if bench.process is not None:
            self._hand(bench, bench.process, work)
        elif bench.spec is None:
            bench.spec = work.lease.spec
            prepared = self._supplies.prepared(work.lease.spec)
            if prepared is not None:
                self._begin(self._start(bench, prepared))

    async def _start(self, bench: Bench, prepared: Prepared) -> None:
        self._folders += 1
        folder = self._folder / f"{prepared.spec[:16]}-{self._folders}"
        try:
            plan = await self._preparer.plan(prepared, folder)
        except NotPrepared as error:
            works = [self._works[replica] for replica in bench.given if replica in self._works]
            self._clear(bench)
            for work in works:
                await self._settle(work, _failure(error), {})
            return
        if not bench.given:  # ended or handed back meanwhile
            self._clear(bench)
            self._place()
            await self._inspector.throw_away(folder)
            return
        process = JobProcess(self._reactor, plan, lambda event: self._heard(bench, prepared, folder, event))
        bench.process, bench.ready = process, False
        process.start()
        for replica in list(bench.given):
            self._hand(bench, process, self._works[replica])
        if self._suspended:
            process.suspend()

    def _hand(self, bench: Bench, process: JobProcess, work: Work) -> None:
        """Give a task to its process."""
        lease = work.lease
        try:
            process.give(lease.replica, lease.arguments, self._supplies.files(lease))
        except (BadInput, NotFound, OutOfSpace) as error:
            message = f"the files of the task could not be laid out: {error.message}"
            bench.given.remove(lease.replica)
            self._rest(bench)
            self._begin(self._settle(work, _failure(NotPrepared(message, Cause.STAGING)), {}))
            # Not at once: this may be one of several that are being placed.
            self._reactor.callLater(0.0, self._place)

    def _heard(self, bench: Bench, prepared: Prepared, folder: Path, event: RunnerEvent) -> None:
        if isinstance(event, Ready):
            bench.ready = True
            _log.info("%s %s is up: %s", prepared.manifest.application, event.version, event.effective)
        elif isinstance(event, Progress):
            if event.replica in self._works:
                self._works[event.replica].done = event.done
        elif isinstance(event, Ended):
            self._gone(bench, event)
            self._begin(self._inspector.remove_when_done(folder))
        else:
            if event.replica in bench.given:
                bench.given.remove(event.replica)
            work = self._works.get(event.replica)
            if work is not None and work.stage is Stage.GIVEN:
                work.stage = Stage.CHECKING
                self._track(self._begin(self._conclude(work, prepared, folder, event), work))
            elif isinstance(event, TaskFinished):
                self._begin(self._inspector.throw_away(event.folder))
            self._stop_unwanted()
            self._rest(bench)
            self._place()

    async def _conclude(self, work: Work, prepared: Prepared, folder: Path, event: TaskFinished | TaskFailed) -> None:
        if isinstance(event, TaskFailed):
            outcome: Outcome = Failed(
                cause=event.cause, message=event.message[:2_000], seconds=event.seconds, log_tail=event.log_tail
            )
            await self._settle(work, outcome, {})
            return
        work.done = 1.0
        async with self._inspector.using(folder):
            outcome, files = await self._inspector.inspect(prepared, work.lease, event)
            await self._settle(work, outcome, files)
            await self._inspector.throw_away(event.folder)

    async def _settle(self, work: Work, outcome: Outcome, files: Mapping[str, Path]) -> None:
        work.stage = Stage.CHECKING
        if work.lease.replica in self._works:
            await self._ended(work.lease, outcome, files)
            self._forget(work.lease.replica)
        self._tidy()
        self._changed()

    def _gone(self, bench: Bench, event: Ended) -> None:
        """The process is no more: what it had not begun goes to another."""
        expected, ready = bench.leaving, bench.ready
        returned = [self._works[replica] for replica in bench.given if replica in self._works]
        self._clear(bench)
        for work in returned:
            if work.stage is not Stage.GIVEN:
                continue
            work.stage, work.done = Stage.WAITING, None
            work.starts += 0 if expected or ready else 1
            if work.starts >= _STARTS:
                message = f"the program could not be started: {event.message}"[:2_000]
                outcome = Failed(cause=Cause.CRASHED, message=message, log_tail=event.log_tail)
                self._begin(self._settle(work, outcome, {}))
        self._tidy()
        self._place()

    def _clear(self, bench: Bench) -> None:
        if bench.idle is not None and bench.idle.active():
            bench.idle.cancel()
        bench.spec, bench.process, bench.leaving, bench.ready = None, None, False, False
        bench.given = []

    def _rest(self, bench: Bench) -> None:
        """Keep a process that has nothing to do for a while."""
        if not bench.given and not bench.leaving:
            bench.idle = self._reactor.callLater(IDLE_SECONDS, self._leave, bench)

    def _leave(self, bench: Bench) -> None:
        """Let an idle process end in good order."""
        if bench.process is not None and not bench.leaving:
            bench.leaving = True
            bench.process.quit()

    def _stop(self, bench: Bench) -> Deferred[None]:
        if bench.process is None:
            done: Deferred[None] = Deferred()
            done.callback(None)
            return done
        bench.leaving = True
        return bench.process.stop()

    def _stop_unwanted(self) -> None:
        """Kill processes that work on a lease that was ended. Its successors in the queue begin anew elsewhere."""
        for bench in self._benches:
            unwanted = [replica for replica in bench.given if replica not in self._works]
            if not unwanted or bench.leaving:
                continue
            if bench.process is None:  # being laid out
                bench.given = [replica for replica in bench.given if replica in self._works]
            elif bench.process.running in unwanted or len(unwanted) == len(bench.given):
                self._stop(bench)

    def _begin(self, doing: Coroutine[Any, Any, None], work: Work | None = None) -> Deferred[None]:
        return Deferred.fromCoroutine(self._guarded(doing, work))

    async def _guarded(self, doing: Coroutine[Any, Any, None], work: Work | None) -> None:
        """Run something nobody waits for. A fault in it must neither be silent nor keep a lease for ever."""
        try:
            await doing
        except CancelledError:
            return
        except Exception as error:  # noqa: BLE001  # the daemon outlives a fault in one task
            _log.exception("a fault of the program")
            if work is not None and work.lease.replica in self._works:
                message = f"a fault of the volunteer's program: {type(error).__name__}: {error}"[:2_000]
                await self._guarded(self._settle(work, Failed(cause=Cause.STAGING, message=message), {}), None)


def _failure(error: NotPrepared) -> Failed:
    return Failed(cause=error.cause, message=error.message[:2_000])


def _pass_on(result: None, waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(result)
