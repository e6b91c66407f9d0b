"""What the coordinator reads from its store and writes to it. One method is one transaction.

Rows going in are frozen structs: the SQL store sends a whole batch of them as one JSON parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Protocol, TypeAlias

from msgspec import Struct

from xwgrid.model import (
    Cause,
    Digest,
    HostFacts,
    HostId,
    Instant,
    JobId,
    JobRequest,
    JobState,
    ReplicaId,
    ReplicaState,
    ResultFile,
    Seconds,
    TaskNumber,
    TaskState,
    UserId,
)
from xwgrid.ready_tasks import ReadyTask
from xwgrid.tolerances import Tolerance
from xwgrid.trust import NEWCOMER, Climate, Standing
from xwgrid.voting import Attempt, AuditOrder

TaskKey: TypeAlias = tuple[JobId, TaskNumber]


# --- what comes out ---------------------------------------------------------------------------------------------


class HostRow(Struct, frozen=True):
    """A host that calls."""

    host: HostId
    owner: UserId
    state: str
    state_reason: str
    last_seen_at: Instant | None
    facts: HostFacts | None
    standing: Standing = NEWCOMER


class ReplicaRow(Struct, frozen=True):
    """A replica, as far as calls need it."""

    attempt: Attempt
    job: JobId
    task: TaskNumber
    acknowledged_call: int | None
    next_transition: Instant | None
    leased_at: Instant = 0.0


class TaskRow(Struct, frozen=True):
    """A task, all its attempts, and how the hosts stand that made them."""

    job: JobId
    number: TaskNumber
    state: TaskState
    wanted: int
    made: int
    attempts: tuple[Attempt, ...]
    audits: tuple[AuditOrder, ...] = ()  # asked for, and not taken by anybody
    standings: Mapping[HostId, Standing] = MappingProxyType({})  # new hosts have none; may hold other hosts too


class BoxedResult(NamedTuple):
    """A result that was read, of a task whose policy compares results: others are laid beside it."""

    replica: ReplicaId
    audits: ReplicaId | None
    strips: str | None
    files: tuple[ResultFile, ...]
    result_class: str


class JobRow(NamedTuple):
    """A job. `request` lacks the inputs."""

    job: JobId
    owner: UserId
    state: JobState
    request: JobRequest
    spec: Digest
    tasks: int
    ended: int = 0  # tasks that agreed or failed
    timed: int = 0
    seconds: Seconds = 0.0


class CallFacts(NamedTuple):
    """What is known about the hosts and replicas that a batch of calls names."""

    hosts: Mapping[HostId, HostRow]
    replicas: Mapping[ReplicaId, ReplicaRow]  # those named, and every live lease of the hosts
    uploaded: Mapping[ReplicaId, frozenset[Digest]]  # of the named ones: blobs that arrived whole


# --- what goes in -----------------------------------------------------------------------------------------------


class ReplicaChange(Struct, frozen=True, kw_only=True):
    """A replica moves from state `was` to `state`."""

    id: ReplicaId
    was: ReplicaState
    state: ReplicaState
    ended_at: Instant | None = None
    seconds: Seconds | None = None
    cause: Cause | None = None
    message: str | None = None  # None keeps what is there, here and below
    log_tail: str | None = None
    fingerprint: Digest | None = None
    claimed_fingerprint: Digest | None = None
    value: str | None = None
    files: str | None = None
    differences: str | None = None  # JSON of replica → share
    credit: Seconds | None = None


class Renewal(Struct, frozen=True, kw_only=True):
    """A lease goes on."""

    id: ReplicaId
    next_transition: Instant
    acknowledged_call: int


class TaskChange(Struct, frozen=True, kw_only=True):
    """The present truth about a task, before the claims of the same batch."""

    job: JobId
    number: TaskNumber
    was: TaskState
    state: TaskState
    wanted: int
    result_class: str | None
    canonical: ReplicaId | None = None
    reason: str = ""
    audits: str = "[]"  # JSON of the AuditOrders that nobody has taken


class Claim(Struct, frozen=True, kw_only=True):
    """A replica to be: inserted if nobody was faster, and the job is still open."""

    id: ReplicaId
    job: JobId
    task: TaskNumber
    number: int
    host: HostId
    voter: int
    result_class: str
    pinned: str | None  # what the task's class is from now on
    leased_at: Instant
    next_transition: Instant
    audits: ReplicaId | None = None  # the replica whose result it looks at, by these strips
    strips: str | None = None
    audits_left: str = "[]"  # JSON of the task's audits that are wanted after this claim
    is_test: bool = False
    is_beyond: bool = False  # more than the task asks for: what it wants stays as it is
    drawn: bool = True  # False: the owner was not drawn by lot, it asked


class JobChange(Struct, frozen=True, kw_only=True):
    """What to add to a job's counts; the job ends when all its tasks have."""

    job: JobId
    agreed: int = 0
    failed: int = 0
    outvoted: int = 0
    lost: int = 0
    timed: int = 0
    seconds: Seconds = 0.0


class HostChange(Struct, frozen=True, kw_only=True):
    """A host was seen, and may have said what it is."""

    id: HostId
    last_seen_at: Instant
    facts: str | None = None


class StandingChange(Struct, frozen=True, kw_only=True):
    """How a host stands from now on: the fields of `xwgrid.trust.Standing`."""

    host: HostId
    earned: str  # JSON of requester → units
    proven: bool
    valid: int
    wrong: int
    streak: int
    on_record: int
    since_wrong: float
    suspected_until: Instant | None
    quarantined_until: Instant | None
    quarantines: int
    vouched: bool
    tested: bool
    audit_again: bool
    reason: str
    edition: int  # as it was read: nothing is written when the operator changed the standing since


class CreditChange(Struct, frozen=True, kw_only=True):
    """What to add to a host's credit for an application; less than 0 when a verdict changed."""

    host: HostId
    application: str
    seconds: Seconds
    results: int


class Changes(Struct, frozen=True, kw_only=True):
    """Everything one batch writes, in one transaction."""

    now: Instant
    replicas: Sequence[ReplicaChange] = ()
    renewals: Sequence[Renewal] = ()
    tasks: Sequence[TaskChange] = ()
    claims: Sequence[Claim] = ()
    jobs: Sequence[JobChange] = ()
    hosts: Sequence[HostChange] = ()
    standings: Sequence[StandingChange] = ()
    credits: Sequence[CreditChange] = ()
    climate: Climate | None = None  # None keeps what is there


class Saved(NamedTuple):
    """How the batch went."""

    refused: frozenset[ReplicaId]  # claims that lost a race
    ended: Mapping[JobId, JobState]  # jobs whose last task ended


class NewJob(NamedTuple):
    """A job to be stored, before its tasks."""

    owner: UserId
    request: JobRequest
    spec: Digest
    blobs: Collection[Digest]
    tasks: int
    now: Instant


class Store(Protocol):
    """Where the coordinator's truth lives. Every method is one transaction; all raise what the database raises."""

    def load(self, hosts: Collection[HostId], replicas: Collection[ReplicaId]) -> CallFacts:
        """Return the hosts, their live leases, and the replicas named."""

    def tasks(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, TaskRow]:
        """Return tasks with all their attempts."""

    def save(self, changes: Changes) -> Saved:
        """Write a batch. Raises Conflict, with nothing written, when a row was not in the state it should be in."""

    def ready(self, job: JobId, after: int, limit: int) -> Sequence[ReadyTask]:
        """Return the job's tasks that want replicas, in order of number, those after number `after`."""

    def due(self, now: Instant, limit: int) -> Sequence[ReplicaRow]:
        """Return leases that ran out, oldest first."""

    def unread(self) -> Sequence[ReplicaId]:
        """Return replicas whose results wait to be read."""

    def result(self, replica: ReplicaId) -> tuple[ReplicaRow, str]:
        """Return a replica and the JSON list of its result's files."""

    def boxed(self, keys: Collection[TaskKey]) -> Mapping[TaskKey, Sequence[BoxedResult]]:
        """Return the results of tasks that were read, oldest first, audits too."""

    def accepted_of(self, host: HostId) -> Sequence[TaskKey]:
        """Return the tasks of open jobs whose canonical result is of a host."""

    def to_audit_again(self) -> Sequence[HostId]:
        """Return the hosts whose standing says `audit_again`."""

    def standings(self, hosts: Collection[HostId]) -> Mapping[HostId, Standing]:
        """Return how hosts stand; new ones are left out."""

    def tolerances(self) -> Sequence[Tolerance]:
        """Return what was measured between classes."""

    def climate(self) -> Climate:
        """Return what the grid has met so far."""

    def job(self, job: JobId) -> JobRow | None:
        """Return a job."""

    def may_steer(self, user: UserId, job: JobId) -> bool:
        """Say whether a job is there and the user its owner, or an operator."""

    def unfinished_jobs(self) -> Sequence[JobRow]:
        """Return jobs that are being entered or open, oldest first."""

    def live_leases(self, job: JobId) -> int:
        """Return how many live leases a job has."""

    def host_failures(self, job: JobId) -> Mapping[HostId, int]:
        """Return how many tasks of a job each host failed."""

    def seen_since(self, since: Instant) -> Sequence[HostRow]:
        """Return the hosts seen since an instant."""

    def last_replica(self) -> ReplicaId:
        """Return the highest replica number in use, 0 at first."""

    def create_job(self, job: NewJob) -> JobId:
        """Store a job that is being entered."""

    def entered(self, job: JobId) -> int:
        """Return how many of the job's tasks are stored."""

    def enter_tasks(self, job: JobId, first: int, last: int, wanted: int) -> None:
        """Store a slab of tasks, both ends included."""

    def open_job(self, job: JobId) -> bool:
        """Let volunteers have the job; say whether it was being entered."""

    def cancel_job(self, job: JobId, now: Instant) -> bool:
        """Cancel a job, its open tasks and its replicas that have no verdict; say whether it was not ended yet."""

    def retry_job(self, job: JobId) -> int:
        """Open the failed tasks of an incomplete job again; return how many."""
