"""Messages between the parts of the grid, and how they become bytes. docs/protocol.md says who sends which where."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from xwgrid.errors import BY_CODE, GridError, Malformed
from xwgrid.model import (
    Cause,
    Digest,
    Fixed,
    HostFacts,
    HostId,
    InputFile,
    Instant,
    JobId,
    JobState,
    LogTail,
    Policy,
    ReplicaId,
    ReplicaState,
    ResultFile,
    Seconds,
    ShortText,
    SignedManifest,
    TaskNumber,
    TaskState,
)

T = TypeVar("T")
# What a database keeps as a number.
_Number = Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Replica = Annotated[ReplicaId, Meta(ge=-(1 << 63), le=(1 << 63) - 1)]

# A work call of a host with a few leases is under 4 KiB; a job of 100,000 input files is about 20 MB.
MAX_WORK_BYTES = 1 << 20
MAX_JOB_BYTES = 64 << 20
# A held call is answered before common proxies give up on a silent connection (60 s).
MAX_WAIT_SECONDS: Seconds = 50.0


# --- a volunteer and the server: POST /v1/work ------------------------------------------------------------------


class Finished(Struct, frozen=True, kw_only=True, tag="finished", tag_field="outcome"):
    """The task was done. Files are uploaded already; `value` is for results small enough to travel in the report."""

    fingerprint: Digest  # the volunteer's own reading of its result; the server reads it again
    files: Annotated[tuple[ResultFile, ...], Meta(max_length=1_000)] = ()
    value: Annotated[str, Meta(max_length=1_024)] | None = None
    seconds: Annotated[float, Meta(ge=0)] = 0.0  # the program's wall time on this task
    result_class: ShortText = ""
    log_tail: LogTail = ""


class Failed(Struct, frozen=True, kw_only=True, tag="failed", tag_field="outcome"):
    """The task was not done, and the machine or the program is why."""

    cause: Cause
    message: Annotated[str, Meta(max_length=2_000)]
    seconds: Annotated[float, Meta(ge=0)] = 0.0
    log_tail: LogTail = ""


class HandedBack(Struct, frozen=True, kw_only=True, tag="handed_back", tag_field="outcome"):
    """The volunteer gives the lease back unharmed: `owner` or `shutdown`. Nobody is blamed."""

    cause: Cause = Cause.OWNER


Outcome: TypeAlias = Finished | Failed | HandedBack


class Report(Struct, frozen=True, kw_only=True):
    """How a replica ended on this host. Repeated until the server confirms it."""

    replica: _Replica
    outcome: Outcome


class Held(Struct, frozen=True, kw_only=True):
    """A lease this host holds: running, waiting to run, or finished and not yet confirmed."""

    replica: _Replica
    done: Annotated[float, Meta(ge=0, le=1)] | None = None  # share of the task; None: not begun


class WorkRequest(Struct, frozen=True, kw_only=True):
    """One call for everything: report, renew and acknowledge, say what is free, take."""

    call: _Number  # grows with every call of this host, across restarts too: tells a late call from news
    held: Annotated[tuple[Held, ...], Meta(max_length=1_000)] = ()  # ALL leases the host holds, reported ones excepted
    reports: Annotated[tuple[Report, ...], Meta(max_length=1_000)] = ()
    want: Annotated[int, Meta(ge=0, le=1_000)] = 0  # new leases wished for
    wait_seconds: Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)] = 0.0  # hold the call this long if there is no work
    facts: HostFacts | None = None  # on the first call of a daemon, and when they change
    loaded: Annotated[tuple[Digest, ...], Meta(max_length=64)] = ()  # specifications of jobs at hand


class Lease(Struct, frozen=True, kw_only=True):
    """The right, and the duty, to try one task until `lease_seconds` after the last call that listed it."""

    replica: ReplicaId
    job: JobId
    task: TaskNumber
    spec: Digest  # the blob that holds the JobSpec
    arguments: dict[str, int | str]  # such as {"frame": 7}
    lease_seconds: Seconds
    inputs: tuple[InputFile, ...] = ()  # of this task alone: somebody's raw passes, which are to be denoised again


class EndedLease(Struct, frozen=True, kw_only=True):
    """A lease the host listed and does not hold any more: stop, throw away, say nothing."""

    replica: ReplicaId
    message: str


class Confirmation(Struct, frozen=True, kw_only=True):
    """A report is dealt with for good; the host may forget it."""

    replica: ReplicaId
    accepted: bool
    message: str = ""


class WorkAnswer(Struct, frozen=True, kw_only=True):
    """What the server made of a work call; everything in it is committed."""

    heartbeat_seconds: Seconds  # call again within this time
    leases: tuple[Lease, ...] = ()
    ended: tuple[EndedLease, ...] = ()
    confirmed: tuple[Confirmation, ...] = ()
    reason: str | None = None  # why there is no work for this host, in one sentence
    standing: str | None = None  # how far this host is trusted and why; said with news, and where there is no work


# --- joining ----------------------------------------------------------------------------------------------------


class EnrolRequest(Struct, frozen=True, kw_only=True):
    """A new volunteer's key, and the one-time token that lets it in."""

    token: Annotated[str, Meta(max_length=2_000)]
    csr_pem: Annotated[str, Meta(max_length=20_000)]
    name: Annotated[str, Meta(min_length=1, max_length=200)]


class EnrolAnswer(Struct, frozen=True, kw_only=True):
    """The volunteer's certificate and whom to trust from now on."""

    host: HostId
    certificate_pem: str
    ca_pem: str
    volunteer_url: str  # https://host:port of the mutual TLS port
    application_keys: tuple[str, ...]  # Ed25519 public keys whose application versions may run, base64


# --- a requester and the server ---------------------------------------------------------------------------------


class DigestList(Struct, frozen=True, kw_only=True):
    """Blobs by name."""

    digests: Annotated[tuple[Digest, ...], Meta(max_length=100_000)]


class UserView(Struct, frozen=True, kw_only=True):
    """Who a token belongs to."""

    name: str
    role: str


class JobView(Struct, frozen=True, kw_only=True):
    """A job as its owner sees it."""

    id: JobId
    name: str
    owner: str
    application: str
    state: JobState
    tasks: int
    agreed: int
    failed: int
    running: int  # tasks with at least one live lease
    replicas: int  # leases given out so far
    outvoted: int
    lost: int  # leases that ran out or were dropped
    created_at: Instant
    finished_at: Instant | None
    quorum: int
    spec: Digest
    private: bool = False
    seconds_left: Seconds | None = None
    reason: str | None = None  # why it waits, or why it is incomplete
    policy: Policy = Fixed()  # how its results are checked
    policy_note: str = ""  # why that is not what was asked for
    deadline: Instant | None = None


class ReplicaView(Struct, frozen=True, kw_only=True):
    """One attempt, as the job's owner sees it.

    Until its task is decided nobody is told its fingerprint, whether it is an audit and what that found, nor, as that
    would tell it, how long it took and what it logged.
    """

    replica: ReplicaId
    number: int
    host: str
    state: ReplicaState
    leased_at: Instant
    ended_at: Instant | None
    done: float | None = None
    seconds: Seconds | None = None
    cause: Cause | None = None
    message: str = ""
    log_tail: str = ""
    fingerprint: str | None = None
    result_class: str = ""
    audits: ReplicaId | None = None  # the replica whose result it looked at; None: it is a full one
    # Of an audit: the rows it looked at, such as "12+2,90+2" (first and how many); "denoised": it denoised once more.
    strips: str | None = None
    differed: Annotated[float, Meta(ge=0, le=1)] | None = None  # of an audit: the share of its rows that differ
    test: bool = False  # of a host that had to prove itself, on a task that was decided before


class TaskView(Struct, frozen=True, kw_only=True):
    """One task, its attempts and its accepted result."""

    job: JobId
    number: TaskNumber
    label: str  # "frame 7"
    state: TaskState
    reason: str = ""
    value: str | None = None
    files: tuple[ResultFile, ...] = ()
    replicas: tuple[ReplicaView, ...] = ()
    accepted: str = ""  # of an agreed task: on what grounds, in a sentence
    accepted_before: ReplicaId | None = None  # whose result was accepted until it was audited again
    undrawn: int = 0  # of a decided task: checks that went to whoever asked, for too few owners were about


class TaskPage(Struct, frozen=True, kw_only=True):
    """Tasks in order of number; `next_after` is the `after` of the next page, None at the end."""

    tasks: tuple[TaskView, ...]
    next_after: int | None


class JobList(Struct, frozen=True, kw_only=True):
    """Jobs, newest first."""

    jobs: tuple[JobView, ...]


class Event(Struct, frozen=True, kw_only=True):
    """A server-sent event's data: the job as it stands now, and the tasks that changed."""

    job: JobView
    tasks: tuple[TaskView, ...] = ()


class HostView(Struct, frozen=True, kw_only=True):
    """A host as the operator sees it."""

    id: HostId
    name: str
    owner: str
    state: str  # "active", "banned"
    last_seen_at: Instant | None
    facts: HostFacts | None = None
    leases: int = 0


class ApplicationView(Struct, frozen=True, kw_only=True):
    """A published application version."""

    application: str
    version: str
    runtime: str
    published_at: Instant
    signed: SignedManifest


class ErrorBody(Struct, frozen=True, kw_only=True):
    """Any refusal."""

    code: str
    message: str
    facts: dict[str, Any] = {}


# --- bytes ------------------------------------------------------------------------------------------------------

_encoder = msgspec.json.Encoder()
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def encode(message: Any) -> bytes:
    """Return `message` as JSON."""
    return _encoder.encode(message)


def decode(data: bytes | str, kind: type[T]) -> T:
    """Read a message of `kind` from JSON.

    Raises Malformed, with the place in the message that is wrong.
    """
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        return decoder.decode(data)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        name = getattr(kind, "__name__", str(kind))
        raise Malformed(f"this is not a {name}: {error}", kind=name) from error


def error_body(error: GridError) -> bytes:
    """Return the body of a refusal."""
    return encode(ErrorBody(code=error.code, message=error.message, facts=dict(error.facts)))


def told(error: GridError, program: str, *, as_json: bool) -> str:
    """Return the line a command ends a refusal with, on standard error: a sentence, or an ErrorBody for programs."""
    return error_body(error).decode() if as_json else f"{program}: {error.message}"


def error_from_body(data: bytes, status: int) -> GridError:
    """Return the error a refusal stands for; a body that is none of ours gives a plain GridError with the status."""
    try:
        body = decode(data, ErrorBody)
    except Malformed:
        return GridError(f"the server answered with status {status} and no explanation", status=status)
    return BY_CODE.get(body.code, GridError)(body.message, **body.facts)
