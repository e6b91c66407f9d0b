"""What a report, or a reader's word on a result, does to its replica."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from xwgrid.applications.registry import Application, application_of
from xwgrid.errors import UnreadableResult
from xwgrid.lifecycle import ReplicaEvent
from xwgrid.model import Cause, Digest, HostId, JobId, JobRequest, ReplicaState
from xwgrid.ready_tasks import JobCard
from xwgrid.wire import Confirmation, Failed, Finished, HandedBack, Report
from xwgrid_server.batch import Batch
from xwgrid_server.calls import Reading, ReadOrder
from xwgrid_server.store import ReplicaRow

_HOSTS_OWN_CAUSES = frozenset(
    {Cause.EXITED, Cause.CRASHED, Cause.TIMED_OUT, Cause.BAD_RESULT, Cause.STAGING, Cause.REFUSED}
)
# A report that is repeated since its confirmation was lost finds its replica in one of these.
_HAD = frozenset({ReplicaState.READING, ReplicaState.VOTING, ReplicaState.AGREED, ReplicaState.OUTVOTED})


def take_report(
    batch: Batch, card: Callable[[JobId], JobCard], host: HostId, report: Report, uploaded: frozenset[Digest]
) -> Confirmation:
    """Move the replica on as its host reports; `uploaded` are the blobs that arrived for it. Always confirms."""
    replica = report.replica
    row = batch.row(replica)
    if row is None or row.attempt.host != host:
        message = f"replica {replica} was never leased to this host"
        return Confirmation(replica=replica, accepted=False, message=message)
    if row.attempt.state is not ReplicaState.LEASED:
        known = isinstance(report.outcome, Finished) and row.attempt.state in _HAD
        return Confirmation(replica=replica, accepted=known, message="" if known else why_ended(row, host))
    match report.outcome:
        case Finished() as finished:
            _take_result(batch, row, card(row.job).request, finished, uploaded)
        case Failed() as failed:
            batch.end(
                row,
                ReplicaEvent.FAILURE_REPORTED,
                cause=failed.cause if failed.cause in _HOSTS_OWN_CAUSES else Cause.EXITED,
                message=failed.message,
                log_tail=failed.log_tail,
                seconds=failed.seconds,
            )
        case HandedBack(cause=cause):
            cause = cause if cause is Cause.SHUTDOWN else Cause.OWNER
            batch.end(row, ReplicaEvent.HANDED_BACK, cause=cause, message="")
    return Confirmation(replica=replica, accepted=True)


def take_reading(batch: Batch, reading: Reading) -> None:
    """Put the ballot into the box, or fail the replica whose result could not be read."""
    row = batch.row(reading.replica)
    if row is None or row.attempt.state is not ReplicaState.READING:
        return  # cancelled while it was read
    if isinstance(reading.fingerprint, UnreadableResult):
        message = reading.fingerprint.message
        batch.end(row, ReplicaEvent.UNREADABLE, cause=Cause.BAD_RESULT, message=message)
    else:
        told = msgspec.json.encode(dict(reading.differences)).decode() if reading.differences else None
        batch.end(row, ReplicaEvent.READ, fingerprint=reading.fingerprint, differences=told)


def why_ended(row: ReplicaRow | None, host: HostId) -> str:
    """Return, in one sentence, why a lease that a host believes to have is none."""
    if row is None or row.attempt.host != host:
        return "it was never leased to this host"
    cause = "" if row.attempt.cause is None else f" ({row.attempt.cause})"
    return f"its lease has ended: {row.attempt.state}{cause}"


def _take_result(
    batch: Batch, row: ReplicaRow, request: JobRequest, finished: Finished, uploaded: frozenset[Digest]
) -> None:
    application = application_of(request)
    reads_value = application.reads == "value"
    told = {
        "log_tail": finished.log_tail,
        "seconds": finished.seconds,
        "claimed_fingerprint": finished.fingerprint,
        # Of a value's files nobody has looked at a byte.
        "files": "[]" if reads_value else msgspec.json.encode(finished.files).decode(),
    }
    try:
        if reads_value:
            fingerprint = _value(application, finished)
            batch.end(row, ReplicaEvent.VALUE_REPORTED, fingerprint=fingerprint, value=finished.value, **told)
            return
        wrong = _wrong_files(application, request, row, finished, uploaded)
    except UnreadableResult as error:
        wrong = error.message
    if wrong is not None:
        batch.end(row, ReplicaEvent.FAILURE_REPORTED, cause=Cause.BAD_RESULT, message=wrong, **told)
        return
    batch.end(row, ReplicaEvent.FILES_REPORTED, **told)
    attempt = row.attempt
    batch.to_be_read(ReadOrder(attempt.replica, request, row.job, row.task, finished.files, attempt.strips))


def _value(application: Application, finished: Finished) -> Digest:
    """Return the fingerprint of a value. Raises UnreadableResult."""
    if finished.value is None:
        raise UnreadableResult("the report has no value, and this application's results are values")
    return application.value_fingerprint(finished.value)


def _wrong_files(
    application: Application, request: JobRequest, row: ReplicaRow, finished: Finished, uploaded: frozenset[Digest]
) -> str | None:
    """Return what is wrong with a result that can be told without reading its files."""
    if row.attempt.strips is None:
        names = application.result_names(request, row.task)
    else:
        names = application.audit_names(request, row.task, row.attempt.strips)
    if sorted(file.name for file in finished.files) != sorted(names):
        return f"the result should be the files {', '.join(names)}"
    if sum(file.size for file in finished.files) > request.limits.result_bytes:
        return f"the result is larger than the {request.limits.result_bytes} bytes the job allows"
    missing = [file.name for file in finished.files if file.sha256 not in uploaded]
    return f"{', '.join(missing)} did not arrive before the report" if missing else None
