"""The volunteer daemon: everything wired together. Decisions are in xwgrid.activation, work_loop and placement."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from xwgrid.activation import Decision, HandBack, Run
from xwgrid.errors import Conflict, OutOfSpace
from xwgrid.model import Cause, Instant, ReplicaId, Seconds
from xwgrid.reading import Reader
from xwgrid.wire import Failed, Finished, HandedBack, Held, Lease, Outcome, Report, WorkAnswer, WorkRequest
from xwgrid_volunteer import control, reasons
from xwgrid_volunteer.benches import Stage, Work
from xwgrid_volunteer.cache import BlobCache
from xwgrid_volunteer.checking import Inspector
from xwgrid_volunteer.control import Ask, AskPause, AskResume, LeaseStatus, Status, Totals
from xwgrid_volunteer.conversation import CallNumbers, Conversation
from xwgrid_volunteer.delivery import Delivery
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.grid_api import GridApi
from xwgrid_volunteer.machine import Finding, look
from xwgrid_volunteer.outbox import Outbox
from xwgrid_volunteer.owner import Owner
from xwgrid_volunteer.preparing import Preparer, Terms
from xwgrid_volunteer.proxy import proxy_for
from xwgrid_volunteer.settings import VolunteerSettings
from xwgrid_volunteer.work_loop import Situation
from xwgrid_volunteer.workshop import Workshop

_log = logging.getLogger(__name__)

# A server that has not confirmed this many outcomes gets no more for now.
_FULL_OUTBOX = 500
_GOODBYE: Seconds = 4.0
# More leases than a host ends while one answer is on its way.
_REMEMBERED = 10_000


def lock(state: Path) -> int:
    """Make sure that only one daemon uses a state folder; it ends with the process. Returns the file's descriptor.

    Raises Conflict when there is one already.
    """
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(
            f"a volunteer runs for {state} already: xwgrid-volunteer status shows it; "
            "a second one on this machine needs a state folder of its own"
        ) from error
    return descriptor


class Daemon:
    """One volunteer. `stop` hands everything back in good order."""

    def __init__(
        self,
        reactor: Any,
        settings: VolunteerSettings,
        identity: Identity,
        *,
        uniform: Callable[[float, float], float],
        client_version: str = "",
        clock: Callable[[], Instant] = time.time,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._reactor = reactor
        self._settings = settings
        self._identity = identity
        self._uniform = uniform
        self._client_version = client_version
        self._clock = clock
        self._state = settings.state_folder
        self._finding: Finding | None = None
        self._workshop: Workshop | None = None
        self._facts_told = self._handing_back = self._stopping = False
        self._totals = Totals()
        self._done_with: dict[ReplicaId, None] = {}
        self._port: Any = None
        self._started_at = clock()
        url = identity.enrolment.volunteer_url
        self._api = GridApi(reactor, identity, proxy_for(url, settings.proxy, environment))
        self._cache = BlobCache(self._state / "cache" / "blobs", settings.cache_bytes, clock)
        self._outbox = Outbox(self._state / "outbox", identity.grid)
        self._inspector = Inspector(Reader())
        self._owner = Owner(reactor, self._state, settings.wishes(), clock=clock, follow=self._follow)
        self._conversation = Conversation(
            reactor,
            self._api,
            CallNumbers(self._state / "calls", clock),
            situation=self._situation,
            take=self._take,
            uniform=uniform,
        )
        self._delivery = Delivery(
            reactor,
            self._api,
            self._outbox,
            clock=clock,
            uniform=uniform,
            changed=self._conversation.nudge,
            doubt=lambda: self._conversation.nudge(hurry=True),
        )

    async def start(self) -> None:
        """Look at the machine, take up what an earlier run left in the outbox, and begin to work."""
        jobs = self._state / "jobs"
        shutil.rmtree(jobs, ignore_errors=True)  # a daemon that was killed could not; its programs died with it
        jobs.mkdir(mode=0o700)
        self._cache.drop_old_partial()
        self._port = control.listen(self._reactor, self._state, self._answer)
        finding = await deferToThread(look, self._settings, self._identity.enrolment.name, self._client_version)
        if self._stopping:
            return
        self._finding = finding
        for remark in finding.host.remarks:
            _log.info("%s", remark)
        self._workshop = self._open_workshop(finding)
        for entry in self._outbox.entries:
            self._delivery.send(entry)
        self._owner.start()
        self._conversation.start()
        _log.info("host %s works for %s", self._identity.enrolment.host, self._identity.enrolment.volunteer_url)

    def _open_workshop(self, finding: Finding) -> Workshop:
        terms = Terms(
            application_keys=frozenset(self._identity.enrolment.application_keys),
            trusted_without_sandbox=frozenset(self._settings.trusted_without_sandbox),
            memory_bytes=self._settings.memory_bytes,
            cache_bytes=self._settings.cache_bytes,
            tool=finding.sandbox.tool,
            runtimes=finding.runtimes,
        )
        return Workshop(
            self._reactor,
            Preparer(self._reactor, self._api, self._cache, terms, self._uniform),
            self._inspector,
            slots=self._settings.slots,
            folder=self._state / "jobs",
            ended=self._keep,
            changed=self._conversation.nudge,
        )

    async def stop(self) -> None:
        """Hand back what is unfinished, tell the server if it answers quickly, and close everything."""
        self._stopping = True
        self._owner.stop()
        if self._workshop is not None:
            goodbye = Deferred.fromCoroutine(self._say_goodbye(self._workshop))
            late = self._reactor.callLater(_GOODBYE, goodbye.cancel)
            try:
                await goodbye
            except CancelledError:
                _log.warning("the server does not answer: what is in the outbox is told at the next start")
            if late.active():
                late.cancel()
        self._conversation.stop()
        self._delivery.stop()
        if self._port is not None:
            await self._port.stopListening()
        await self._inspector.close()
        await self._api.close()

    async def _say_goodbye(self, workshop: Workshop) -> None:
        await workshop.hand_back(Cause.SHUTDOWN)
        await workshop.concluded()
        await self._conversation.say_goodbye()

    # --- what the conversation asks and brings ----------------------------------------------------------------

    def _situation(self) -> Situation:
        works = self._workshop.works if self._workshop is not None else ()
        kept = {entry.report.replica for entry in self._outbox.entries}
        return Situation(
            now=self._reactor.seconds(),
            leases=tuple(_held(work) for work in works if work.lease.replica not in kept),
            finished=self._delivery.uploading,
            reports=self._delivery.ready,
            want=self._want(works),
            facts=None if self._facts_told or self._finding is None else self._finding.offered,
            loaded=self._workshop.loaded if self._workshop is not None else (),
        )

    def _want(self, works: tuple[Work, ...]) -> int:
        welcome = isinstance(self._owner.decision, Run) and not self._stopping
        able = self._finding is not None and bool(self._finding.offered.programs)
        if not welcome or not able or len(self._outbox.entries) >= _FULL_OUTBOX:
            return 0
        unfinished = sum(work.stage is not Stage.CHECKING for work in works)
        return max(0, self._settings.slots * (1 + self._settings.prefetch) - unfinished)

    def _take(self, request: WorkRequest, answer: WorkAnswer) -> None:
        workshop = self._workshop
        if workshop is None:
            return
        self._facts_told = self._facts_told or request.facts is not None
        for confirmation in answer.confirmed:
            entry = self._outbox.get(confirmation.replica)
            if entry is None:
                continue
            if not confirmation.accepted:
                _log.warning("the server refused lease %s: %s", confirmation.replica, confirmation.message)
            self._totals = counted(self._totals, entry.report.outcome, accepted=confirmation.accepted)
            self._be_done_with(confirmation.replica)
            self._delivery.forget(confirmation.replica)
        for ended in answer.ended:
            _log.info("lease %s was ended by the server: %s", ended.replica, ended.message)
            self._be_done_with(ended.replica)
            workshop.end(ended.replica)
            self._delivery.forget(ended.replica)
        for lease in answer.leases:
            # An answer that was overtaken by another may bring a lease that was dealt with meanwhile.
            if lease.replica not in self._done_with and self._outbox.get(lease.replica) is None:
                workshop.take(lease)

    def _be_done_with(self, replica: ReplicaId) -> None:
        self._done_with[replica] = None
        while len(self._done_with) > _REMEMBERED:
            del self._done_with[next(iter(self._done_with))]

    async def _keep(self, lease: Lease, outcome: Outcome, files: Mapping[str, Path]) -> None:
        """Put an outcome into the outbox, and on its way."""
        if isinstance(outcome, Failed):
            _log.warning("lease %s of job %s failed: %s", lease.replica, lease.job, outcome.message)
        report = Report(replica=lease.replica, outcome=outcome)
        try:
            entry = await deferToThread(self._outbox.put, lease.job, report, self._clock(), files)
        except OutOfSpace as error:
            _log.warning("%s", error.message)
            if isinstance(outcome, Finished):
                report = replace(report, outcome=Failed(cause=Cause.STAGING, message=error.message))
            entry = self._outbox.remember(lease.job, report, self._clock())
        if lease.replica in self._done_with:  # ended while it was written
            self._outbox.forget(lease.replica)
            return
        self._delivery.send(entry)

    # --- what the owner says ----------------------------------------------------------------------------------

    def _follow(self, before: Decision, decision: Decision) -> None:
        workshop = self._workshop
        if workshop is None or self._stopping:
            return
        if type(decision) is not type(before):
            _log.info("%s", "working" if isinstance(decision, Run) else f"not working: {decision.reason}")
            self._conversation.nudge()
        if isinstance(decision, Run):
            if not isinstance(before, Run):
                workshop.resume()
            return
        if isinstance(before, Run):
            workshop.suspend()
        unfinished = any(work.stage is not Stage.CHECKING for work in workshop.works)
        if isinstance(decision, HandBack) and unfinished and not self._handing_back:
            self._handing_back = True
            Deferred.fromCoroutine(workshop.hand_back(Cause.OWNER)).addBoth(self._handed_back)

    def _handed_back(self, result: Failure | None) -> None:
        self._handing_back = False
        if isinstance(result, Failure):
            _log.error("a fault of the program: %s", result.getTraceback())

    def _answer(self, ask: Ask) -> Status:
        if isinstance(ask, AskPause):
            self._owner.pause(ask.seconds)
        elif isinstance(ask, AskResume):
            self._owner.resume()
        return self._status()

    def _status(self) -> Status:
        works = self._workshop.works if self._workshop is not None else ()
        finding, line, pause = self._finding, self._conversation.line, self._owner.pause_record
        facts = None if finding is None else finding.offered
        state, why = reasons.state_and_reason(facts, self._owner.decision, line, {work.stage for work in works})
        unconfirmed = [
            LeaseStatus(replica=entry.report.replica, job=entry.job, stage="unconfirmed", done=1.0)
            for entry in self._outbox.entries
        ]
        return Status(
            name=self._identity.enrolment.name,
            host=self._identity.enrolment.host,
            server=self._identity.enrolment.volunteer_url,
            state=state,
            why=why,
            leases=(*(_lease_status(work) for work in works), *unconfirmed),
            totals=self._totals,
            started_at=self._started_at,
            paused=pause is not None,
            paused_until=None if pause is None else pause.until,
            sandbox=None if facts is None else facts.sandbox,
            programs=() if facts is None else tuple(f"{each.runtime} {each.version}" for each in facts.programs),
            gpus=() if facts is None else facts.gpus,
            remarks=() if finding is None else finding.host.remarks,
            load_of_others=self._owner.load_of_others,
            cache_bytes=self._cache.bytes_used,
            heartbeat_seconds=line.heartbeat,
            trouble=line.trouble,
            standing=line.standing,
        )


def _held(work: Work) -> Held:
    return Held(replica=work.lease.replica, done=1.0 if work.stage is Stage.CHECKING else work.done)


def _lease_status(work: Work) -> LeaseStatus:
    lease = work.lease
    arguments = tuple(f"{name} {value}" for name, value in lease.arguments.items())
    return LeaseStatus(
        replica=lease.replica,
        job=lease.job,
        label=", ".join(arguments) or f"task {lease.task}",
        stage=work.stage.value,
        done=work.done,
    )


def counted(totals: Totals, outcome: Outcome, *, accepted: bool) -> Totals:
    """Return the totals with one more outcome that the server has dealt with."""
    if isinstance(outcome, HandedBack):
        return replace(totals, handed_back=totals.handed_back + 1)
    if isinstance(outcome, Failed):
        return replace(totals, failed=totals.failed + 1)
    if not accepted:
        return replace(totals, refused=totals.refused + 1)
    return replace(totals, accepted=totals.accepted + 1, seconds=totals.seconds + outcome.seconds)
