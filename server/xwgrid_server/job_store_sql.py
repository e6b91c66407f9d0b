"""The statements of the job store that work on whole batches; one text for both databases wherever they agree."""

from __future__ import annotations

from typing import Final

from msgspec import Struct
from sqlalchemy import text

from xwgrid_server.batch_rows import number_list, statement
from xwgrid_server.store import (
    Claim,
    CreditChange,
    HostChange,
    JobChange,
    Renewal,
    ReplicaChange,
    StandingChange,
    TaskChange,
)


class ClaimedTask(Struct, frozen=True, kw_only=True):
    """How many replicas of a task were claimed in this batch."""

    job: int
    number: int
    made: int
    wanted: int  # of these, how many count against what the task wants: not its audits, nor tests
    undrawn: int
    pinned: str | None
    audits: str | None  # those left; None: only tests were claimed, and nothing else changes


class ClaimedJob(Struct, frozen=True, kw_only=True):
    """How many leases of a job were given out in this batch."""

    job: int
    leased: int


REPLICA_COLUMNS: Final = """
    x.id, x.job_id, x.task, x.number, x.host_id, x.voter, x.state, x.cause, x.fingerprint, x.result_class,
    x.acknowledged_call, x.next_transition, x.leased_at, x.seconds, x.audits, x.strips, x.differences, x.credit,
    x.is_test"""
_STANDING_COLUMNS: Final = """
    s.host_id, s.earned, s.proven, s.valid, s.wrong, s.streak, s.on_record, s.since_wrong, s.suspected_until,
    s.quarantined_until, s.quarantines, s.vouched, s.tested, s.audit_again, s.reason, s.edition"""
# Of jobs whose results are compared as pictures, what can be laid beside another.
BOXED: Final = "x.state IN ('voting', 'agreed', 'outvoted')"
ACCEPTED_OF: Final = """
    SELECT t.job_id, t.number FROM jobs AS j JOIN tasks AS t ON t.job_id = j.id
    JOIN replicas AS x ON x.id = t.canonical_replica
    WHERE j.state = 'open' AND t.state = 'agreed' AND x.host_id = :host ORDER BY t.job_id, t.number"""

# A cancelled job's replicas in the box or on the way to it end with it; a verdict stays a verdict.
CANCEL_JOB: Final = """
    UPDATE jobs SET state = 'cancelled', finished_at = :now
    WHERE id = :job AND state IN ('entering', 'open', 'incomplete')"""
CANCEL_TASKS: Final = """
    UPDATE tasks SET state = 'cancelled', wanted = 0, audits = '[]' WHERE job_id = :job AND state = 'open'"""
CANCEL_REPLICAS: Final = """
    UPDATE replicas SET state = 'cancelled', cause = 'cancelled', ended_at = :now, next_transition = NULL
    WHERE job_id = :job AND state IN ('leased', 'reading', 'voting')"""

REOPEN_JOB: Final = """
    UPDATE jobs SET state = 'open', finished_at = NULL, failed = 0 WHERE id = :job AND state = 'incomplete'"""
# Failures and losses of the first try must not count against the second; they stay readable as cancelled.
CLEAR_OLD_BALLOTS: Final = """
    UPDATE replicas SET state = 'cancelled'
    WHERE job_id = :job AND state IN ('voting', 'outvoted', 'failed', 'lost')
    AND task IN (SELECT number FROM tasks WHERE job_id = :job AND state = 'failed')"""
# Late replicas of the first try go on, and count.
REOPEN_TASKS: Final = """
    UPDATE tasks SET state = 'open', reason = '', result_class = NULL, audits = '[]', undrawn = 0,
    accepted_before = NULL, wanted = (
        SELECT CASE WHEN COUNT(*) < :wanted THEN :wanted - COUNT(*) ELSE 0 END FROM replicas AS x
        WHERE x.job_id = :job AND x.task = tasks.number AND x.audits IS NULL
        AND x.state IN ('leased', 'reading'))
    WHERE job_id = :job AND state = 'failed'"""

_ENTER_SQLITE: Final = """
    INSERT INTO tasks (job_id, number, state, wanted)
    WITH RECURSIVE slab(number) AS (SELECT :first UNION ALL SELECT number + 1 FROM slab WHERE number < :last)
    SELECT :job, number, 'open', :wanted FROM slab"""
_ENTER_POSTGRESQL: Final = """
    INSERT INTO tasks (job_id, number, state, wanted)
    SELECT :job, number, 'open', :wanted
    FROM generate_series(CAST(:first AS integer), CAST(:last AS integer)) AS number"""


class Statements:
    """The statements for one dialect, "sqlite" or "postgresql"; `key` is a struct with `job` and `number`."""

    def __init__(self, dialect: str, key: type[Struct]) -> None:
        listed = number_list(dialect)
        self.hosts = text(f"""
            SELECT h.id, h.owner_id, h.state, h.state_reason, h.last_seen_at, h.facts, {_STANDING_COLUMNS}
            FROM hosts AS h LEFT JOIN standings AS s ON s.host_id = h.id WHERE h.id IN {listed}""")
        self.seen_since = text(f"""
            SELECT h.id, h.owner_id, h.state, h.state_reason, h.last_seen_at, h.facts, {_STANDING_COLUMNS}
            FROM hosts AS h LEFT JOIN standings AS s ON s.host_id = h.id WHERE h.last_seen_at >= :since""")
        self.standings = text(f"SELECT {_STANDING_COLUMNS} FROM standings AS s WHERE s.host_id IN {listed}")
        self.leases_of_hosts = text(f"""
            SELECT {REPLICA_COLUMNS} FROM replicas AS x WHERE x.state = 'leased' AND x.host_id IN {listed}""")
        self.replicas = text(f"SELECT {REPLICA_COLUMNS} FROM replicas AS x WHERE x.id IN {listed}")
        self.uploaded = text(f"SELECT replica_id, digest FROM replica_blobs WHERE replica_id IN {listed}")
        self.due = text(f"""
            SELECT {REPLICA_COLUMNS} FROM replicas AS x WHERE x.state = 'leased' AND x.next_transition <= :now
            ORDER BY x.next_transition LIMIT :most""")
        self.tasks = statement(
            dialect,
            key,
            """
            SELECT t.job_id, t.number, t.state, t.wanted, t.made, t.audits FROM {rows}
            JOIN tasks AS t ON t.job_id = r.job AND t.number = r.number""",
        )
        self.attempts = statement(
            dialect,
            key,
            f"""
            SELECT {REPLICA_COLUMNS} FROM {{rows}}
            JOIN replicas AS x ON x.job_id = r.job AND x.task = r.number ORDER BY x.id""",
        )
        self.boxed = statement(
            dialect,
            key,
            f"""
            SELECT x.job_id, x.task, x.id, x.audits, x.strips, x.files, x.result_class FROM {{rows}}
            JOIN replicas AS x ON x.job_id = r.job AND x.task = r.number WHERE {BOXED} ORDER BY x.id""",
        )
        self.change_replicas = statement(
            dialect,
            ReplicaChange,
            """
            UPDATE replicas SET state = r.state, next_transition = NULL,
                ended_at = COALESCE(r.ended_at, replicas.ended_at), seconds = COALESCE(r.seconds, replicas.seconds),
                cause = COALESCE(r.cause, replicas.cause), message = COALESCE(r.message, replicas.message),
                log_tail = COALESCE(r.log_tail, replicas.log_tail),
                fingerprint = COALESCE(r.fingerprint, replicas.fingerprint),
                claimed_fingerprint = COALESCE(r.claimed_fingerprint, replicas.claimed_fingerprint),
                value = COALESCE(r.value, replicas.value), files = COALESCE(r.files, replicas.files),
                differences = COALESCE(r.differences, replicas.differences),
                credit = COALESCE(r.credit, replicas.credit)
            FROM {rows} WHERE replicas.id = r.id AND replicas.state = r.was""",
        )
        self.renew = statement(
            dialect,
            Renewal,
            """
            UPDATE replicas SET next_transition = r.next_transition,
                acknowledged_call = COALESCE(replicas.acknowledged_call, r.acknowledged_call)
            FROM {rows} WHERE replicas.id = r.id AND replicas.state = 'leased'""",
        )
        self.change_tasks = statement(
            dialect,
            TaskChange,
            """
            UPDATE tasks SET state = r.state, wanted = r.wanted, result_class = r.result_class,
                canonical_replica = r.canonical, reason = r.reason, audits = r.audits,
                accepted_before = CASE WHEN r.was = 'agreed' THEN tasks.canonical_replica
                    ELSE tasks.accepted_before END
            FROM {rows} WHERE tasks.job_id = r.job AND tasks.number = r.number AND tasks.state = r.was""",
        )
        # The claim looks at the job's state again: cancelling a job needs no purge of the index.
        self.claim = statement(
            dialect,
            Claim,
            """
            INSERT INTO replicas
                (id, job_id, task, number, host_id, voter, state, result_class, leased_at, next_transition,
                audits, strips, is_test)
            SELECT r.id, r.job, r.task, r.number, r.host, r.voter, 'leased', r.result_class, r.leased_at,
                r.next_transition, r.audits, r.strips, r.is_test
            FROM {rows} JOIN jobs ON jobs.id = r.job WHERE jobs.state = 'open'
            ON CONFLICT DO NOTHING RETURNING id""",
        )
        self.claim_tasks = statement(
            dialect,
            ClaimedTask,
            """
            UPDATE tasks SET wanted = tasks.wanted - r.wanted, made = tasks.made + r.made,
                undrawn = tasks.undrawn + r.undrawn, audits = COALESCE(r.audits, tasks.audits),
                result_class = CASE WHEN r.audits IS NULL THEN tasks.result_class ELSE r.pinned END
            FROM {rows} WHERE tasks.job_id = r.job AND tasks.number = r.number""",
        )
        self.claim_jobs = statement(
            dialect, ClaimedJob, "UPDATE jobs SET leased = jobs.leased + r.leased FROM {rows} WHERE jobs.id = r.job"
        )
        ended = "jobs.state = 'open' AND jobs.agreed + r.agreed + jobs.failed + r.failed = jobs.tasks"
        self.count_jobs = statement(
            dialect,
            JobChange,
            f"""
            UPDATE jobs SET agreed = jobs.agreed + r.agreed, failed = jobs.failed + r.failed,
                outvoted = jobs.outvoted + r.outvoted, lost = jobs.lost + r.lost,
                timed = jobs.timed + r.timed, seconds = jobs.seconds + r.seconds,
                state = CASE WHEN {ended}
                    THEN CASE WHEN jobs.failed + r.failed = 0 THEN 'finished' ELSE 'incomplete' END
                    ELSE jobs.state END,
                finished_at = CASE WHEN {ended} THEN :now ELSE jobs.finished_at END
            FROM {{rows}} WHERE jobs.id = r.job RETURNING jobs.id, jobs.state, jobs.finished_at""",
        )
        self.change_hosts = statement(
            dialect,
            HostChange,
            """
            UPDATE hosts SET last_seen_at = r.last_seen_at, facts = COALESCE(r.facts, hosts.facts)
            FROM {rows} WHERE hosts.id = r.id""",
        )
        self.change_standings = statement(
            dialect,
            StandingChange,
            """
            INSERT INTO standings (host_id, earned, proven, valid, wrong, streak, on_record, since_wrong,
                suspected_until, quarantined_until, quarantines, vouched, tested, audit_again, reason, edition)
            SELECT r.host, r.earned, r.proven, r.valid, r.wrong, r.streak, r.on_record, r.since_wrong,
                r.suspected_until, r.quarantined_until, r.quarantines, r.vouched, r.tested, r.audit_again, r.reason,
                r.edition
            FROM {rows} WHERE true
            ON CONFLICT (host_id) DO UPDATE SET earned = excluded.earned, proven = excluded.proven,
                valid = excluded.valid, wrong = excluded.wrong, streak = excluded.streak,
                on_record = excluded.on_record, since_wrong = excluded.since_wrong,
                suspected_until = excluded.suspected_until, quarantined_until = excluded.quarantined_until,
                quarantines = excluded.quarantines, vouched = excluded.vouched, tested = excluded.tested,
                audit_again = excluded.audit_again, reason = excluded.reason
            WHERE standings.edition = excluded.edition""",
        )
        self.add_credits = statement(
            dialect,
            CreditChange,
            """
            INSERT INTO credits (host_id, application, seconds, results)
            SELECT r.host, r.application, r.seconds, r.results FROM {rows} WHERE true
            ON CONFLICT (host_id, application) DO UPDATE SET seconds = credits.seconds + excluded.seconds,
                results = credits.results + excluded.results""",
        )
        self.change_climate = text("""
            INSERT INTO climate (id, results, wrong, lies, liars) VALUES (1, :results, :wrong, :lies, :liars)
            ON CONFLICT (id) DO UPDATE SET results = excluded.results, wrong = excluded.wrong,
                lies = excluded.lies, liars = excluded.liars""")
        self.enter = text(_ENTER_POSTGRESQL if dialect == "postgresql" else _ENTER_SQLITE)
