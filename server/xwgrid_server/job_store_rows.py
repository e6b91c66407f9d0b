"""Rows of the job database to the nouns of the store, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from sqlalchemy import Row

from xwgrid.model import (
    Cause,
    HostFacts,
    HostId,
    JobId,
    JobRequest,
    JobState,
    ReplicaId,
    ReplicaState,
    TaskNumber,
    UserId,
)
from xwgrid.ready_tasks import ReadyTask, ready_task
from xwgrid.trust import NEWCOMER, Standing
from xwgrid.voting import Attempt, AuditOrder
from xwgrid_server import job_store_sql as sql
from xwgrid_server.store import Claim, HostRow, JobRow, ReplicaRow

_STATES: Final = {state.value: state for state in ReplicaState}


def claimed(job: JobId, number: TaskNumber, claims: Sequence[Claim]) -> sql.ClaimedTask:
    """Return what claims of one task in one batch do to it."""
    real = [claim for claim in claims if not claim.is_beyond]
    return sql.ClaimedTask(
        job=job,
        number=number,
        made=len(claims),
        wanted=len(real),
        undrawn=sum(not claim.drawn for claim in real),
        pinned=real[-1].pinned if real else None,
        audits=real[-1].audits_left if real else None,
    )


def orders(audits: str) -> tuple[AuditOrder, ...]:
    """Return the audits in a task's row."""
    return () if audits == "[]" else msgspec.json.decode(audits, type=tuple[AuditOrder, ...])


def ready(row: Any, attempts: Sequence[Attempt]) -> ReadyTask:
    """Return what the index keeps of a begun task."""
    audits = orders(row.audits)
    return ready_task(row.number, row.wanted - len(audits), row.made, attempts, audits)


def host(row: Row[Any]) -> HostRow:
    """Return a host, with its standing if it has one."""
    facts = None if row.facts is None else _facts(row.facts)
    stands = NEWCOMER if row.host_id is None else standing(row)
    return HostRow(HostId(row.id), UserId(row.owner_id), row.state, row.state_reason, row.last_seen_at, facts, stands)


def _facts(text: str) -> HostFacts | None:
    """Return what a host said of itself; None for what no host may say any more: it says it again."""
    try:
        return msgspec.json.decode(text, type=HostFacts)
    except msgspec.ValidationError:
        return None


def standing(row: Row[Any]) -> Standing:
    """Return a host's standing."""
    return Standing(
        earned=msgspec.json.decode(row.earned, type=dict[UserId, float]),
        proven=bool(row.proven),
        valid=row.valid,
        wrong=row.wrong,
        streak=row.streak,
        on_record=row.on_record,
        since_wrong=row.since_wrong,
        suspected_until=row.suspected_until,
        quarantined_until=row.quarantined_until,
        quarantines=row.quarantines,
        vouched=bool(row.vouched),
        tested=bool(row.tested),
        audit_again=bool(row.audit_again),
        reason=row.reason,
        edition=row.edition,
    )


def attempt(row: Row[Any]) -> Attempt:
    """Return a replica as the verdict needs it."""
    return Attempt(
        ReplicaId(row.id),
        row.number,
        HostId(row.host_id),
        row.voter,
        ReplicaState(row.state),
        None if row.cause is None else Cause(row.cause),
        row.fingerprint,
        row.result_class,
        row.audits,
        row.strips,
        {} if row.differences is None else msgspec.json.decode(row.differences, type=dict[ReplicaId, float]),
        row.seconds or 0.0,
        row.credit,
        bool(row.is_test),
    )


def replica(row: Row[Any]) -> ReplicaRow:
    """Return a replica as calls need it. The row has the columns of `job_store_sql.REPLICA_COLUMNS`."""
    # In order, not by name: this is where most of a batch's reading goes.
    columns: Any = row
    (
        number_of_replica, job, task, number, host, voter, state, cause, fingerprint, result_class, acknowledged_call,
        next_transition, leased_at, seconds, audits, strips, differences, credit, is_test,
    ) = columns  # fmt: skip
    made = Attempt(
        number_of_replica,
        number,
        host,
        voter,
        _STATES[state],
        None if cause is None else Cause(cause),
        fingerprint,
        result_class,
        audits,
        strips,
        {} if differences is None else msgspec.json.decode(differences, type=dict[ReplicaId, float]),
        seconds or 0.0,
        credit,
        bool(is_test),
    )
    return ReplicaRow(made, job, task, acknowledged_call, next_transition, leased_at)


def job(row: Row[Any]) -> JobRow:
    """Return a job."""
    request = msgspec.json.decode(row.request, type=JobRequest)
    return JobRow(
        JobId(row.id),
        UserId(row.owner_id),
        JobState(row.state),
        request,
        row.spec,
        row.tasks,
        row.agreed + row.failed,
        row.timed,
        row.seconds,
    )
