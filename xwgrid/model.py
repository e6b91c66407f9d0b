"""The nouns of the grid. Frozen values, no behaviour beyond what their own fields say.

Instants are seconds since 1970-01-01 UTC, spans are seconds, sizes are bytes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, NewType, TypeAlias

from msgspec import Meta, Struct

Instant: TypeAlias = float
Seconds: TypeAlias = float

UserId = NewType("UserId", int)
HostId = NewType("HostId", int)
JobId = NewType("JobId", int)
ReplicaId = NewType("ReplicaId", int)
TaskNumber = NewType("TaskNumber", int)

Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256, 64 lower-case hexadecimal digits")]
ShortText = Annotated[str, Meta(max_length=200)]
LogTail = Annotated[str, Meta(max_length=8_192, description="the last lines a program wrote")]
# A path inside a job: forward slashes, relative. `xwgrid.splitting.check_request` refuses `..`, drives and roots.
JobPath = Annotated[str, Meta(min_length=1, max_length=1_024)]

MAX_TASKS = 1_000_000
MAX_INPUTS = 100_000


class JobState(StrEnum):
    """Where a job stands."""

    ENTERING = "entering"  # its tasks are being written, nobody may have one yet
    OPEN = "open"
    FINISHED = "finished"  # every task agreed
    INCOMPLETE = "incomplete"  # every task ended, some failed: `retry` opens those again
    CANCELLED = "cancelled"


class TaskState(StrEnum):
    """Where a task stands."""

    OPEN = "open"
    AGREED = "agreed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ReplicaState(StrEnum):
    """Where one attempt at a task by one host stands."""

    LEASED = "leased"
    READING = "reading"  # reported; its result is being decoded in a reader process
    VOTING = "voting"  # its ballot is in the box
    AGREED = "agreed"  # its ballot was of the majority
    OUTVOTED = "outvoted"
    FAILED = "failed"
    HANDED_BACK = "handed_back"
    LOST = "lost"
    CANCELLED = "cancelled"


class Cause(StrEnum):
    """Why a replica ended without a ballot."""

    OWNER = "owner"  # the machine's owner came back
    SHUTDOWN = "shutdown"  # the daemon was stopped in good order
    LOST = "lost"  # the lease ran out
    DROPPED = "dropped"  # the volunteer came back without it
    EXITED = "exited"  # the program said no: a wrong exit status, or an error of its own
    CRASHED = "crashed"  # the program was ended by a signal
    TIMED_OUT = "timed_out"
    BAD_RESULT = "bad_result"  # no output, an old one, one that does not decode, or of the wrong size
    STAGING = "staging"  # inputs could not be fetched, or there was no disk for them
    REFUSED = "refused"  # the host will not run it: signature, sandbox or runtime missing
    CANCELLED = "cancelled"


class InputFile(Struct, frozen=True, kw_only=True):
    """One file a job brings: where it lies inside the job, and the bytes it has."""

    path: JobPath
    sha256: Digest
    size: Annotated[int, Meta(ge=0)]


class Frames(Struct, frozen=True, kw_only=True, tag="frames", tag_field="by"):
    """One task per frame: first, first + step, … up to last, both included. Backwards when step < 0."""

    first: Annotated[int, Meta(ge=-1_048_574, le=1_048_574)]  # Blender's own bounds
    last: Annotated[int, Meta(ge=-1_048_574, le=1_048_574)]
    step: int = 1


class Count(Struct, frozen=True, kw_only=True, tag="count", tag_field="by"):
    """Tasks 0 … count - 1."""

    count: Annotated[int, Meta(ge=1, le=MAX_TASKS)]


Split: TypeAlias = Frames | Count


class BlenderWork(Struct, frozen=True, kw_only=True, tag="blender", tag_field="application"):
    """Everything that changes the pixels of a Blender job, pinned when it is handed in."""

    scene_file: JobPath
    scene: ShortText | None = None  # scene data-block; None is the file's active one
    renderer: ShortText | None = None  # version such as "4.5"; None lets the first replica's class decide
    engine: Literal["CYCLES", "EEVEE", "WORKBENCH"] = "CYCLES"
    device: Literal["cpu"] = "cpu"
    samples: Annotated[int, Meta(ge=1, le=1 << 20)] | None = None  # None keeps the file's
    seed: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    width: Annotated[int, Meta(ge=1, le=65_536)]  # of the picture that comes out, resolution percentage applied
    height: Annotated[int, Meta(ge=1, le=65_536)]
    denoise: bool | None = None  # None keeps the file's
    # Denoised in a step of its own, of raw passes that come with the picture: these can be audited by parts.
    raw_passes: bool = False
    format: Literal["PNG", "JPEG", "OPEN_EXR"] = "PNG"
    color_depth: Literal["8", "16", "32"] = "8"
    allow_missing: bool = False  # render although linked libraries are missing, without what they hold
    # Of the film made of the frames; the only value here that changes no pixel.
    frames_per_second: Annotated[float, Meta(gt=0, le=1_000)] = 24.0


class DigestWork(Struct, frozen=True, kw_only=True, tag="digest", tag_field="application"):
    """A chain of SHA-256 per task: the smallest honest bag of tasks, for self-tests and benchmarks.

    Task n's value is the `rounds`-fold SHA-256 of f"{seed}/{n}", in hexadecimal.
    """

    seed: ShortText = "xwgrid"
    rounds: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1


Work: TypeAlias = BlenderWork | DigestWork


# The chance of accepting a wrong result that a requester puts up with. At 0.5 a coin would do as well.
Epsilon = Annotated[float, Meta(gt=0, le=0.5)]


class Fixed(Struct, frozen=True, kw_only=True, tag="fixed", tag_field="by"):
    """Every task is done `JobRequest.replicas` times, and `JobRequest.quorum` equal results are needed."""


class Credibility(Struct, frozen=True, kw_only=True, tag="credibility", tag_field="by"):
    """As many replicas as it takes until the chance that the leading result is wrong is below `epsilon`."""

    epsilon: Epsilon = 0.001


class Audit(Struct, frozen=True, kw_only=True, tag="audit", tag_field="by"):
    """One replica, and strips of it done again by others, until the chance of a wrong result is below `epsilon`.

    `share` is the least part of a frame that must be altered for the alteration to matter: strips are laid so that
    smaller lies may slip through.
    """

    epsilon: Epsilon = 0.001
    share: Annotated[float, Meta(ge=0.001, le=1)] = 0.05


class Boinc(Struct, frozen=True, kw_only=True, tag="boinc", tag_field="by"):
    """BOINC's adaptive replication: a host with `trusted_after` valid results in a row is checked only now and then.

    For comparison in the simulator; a server lets no job choose it.
    """

    trusted_after: Annotated[int, Meta(ge=1)] = 10


Policy: TypeAlias = Fixed | Credibility | Audit | Boinc


class Limits(Struct, frozen=True, kw_only=True):
    """Caps on one replica."""

    seconds: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 3_600.0
    memory_bytes: Annotated[int, Meta(ge=1 << 20)] = 8 << 30
    result_bytes: Annotated[int, Meta(ge=1)] = 1 << 30  # all files of one result together
    processes: Annotated[int, Meta(ge=1, le=65_536)] = 256


class JobRequest(Struct, frozen=True, kw_only=True):
    """What a requester hands in."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    work: Work
    split: Split
    inputs: Annotated[tuple[InputFile, ...], Meta(max_length=MAX_INPUTS)] = ()
    # How results are checked. None asks for the server's default, which the server writes in its place.
    policy: Policy | None = None
    # Full replication: by the policy `fixed`, and where the other policies find results that differ.
    replicas: Annotated[int, Meta(ge=1, le=16)] = 2  # made at first
    quorum: Annotated[int, Meta(ge=1, le=16)] = 2  # equal ballots needed
    limits: Limits = Limits()
    private: bool = False  # only the requester's own hosts; votes from distinct hosts instead of distinct owners
    result_class: ShortText | None = None  # only hosts whose results are of this class; None takes any
    deadline: Instant | None = None  # the requester hopes to have everything by then; jobs in time trouble go first
    policy_note: ShortText = ""  # written by the server: why the policy is not the one that was asked for
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0


class SignedManifest(Struct, frozen=True, kw_only=True):
    """An application version as its publisher signed it. `manifest` is the exact text that was signed."""

    manifest: Annotated[str, Meta(max_length=1 << 20)]
    signature: Annotated[str, Meta(description="Ed25519 over the manifest's UTF-8 bytes, base64")]
    key: Annotated[str, Meta(description="the publisher's Ed25519 public key, 32 bytes, base64")]


class ApplicationManifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version of an application consists of: the JSON inside `SignedManifest.manifest`."""

    application: ShortText
    version: ShortText
    runtime: Literal["blender", "python"]  # what the host must have to run `entry`
    entry: JobPath  # one of `files`: a driver script, see docs/applications.md
    files: tuple[InputFile, ...]


class JobSpec(Struct, frozen=True, kw_only=True):
    """The document a volunteer works from: the request, and the application version pinned for it.

    Stored as a blob, so that its SHA-256 names it; a lease carries that name.
    """

    request: JobRequest
    application: SignedManifest


class Gpu(Struct, frozen=True, kw_only=True):
    """One graphics processor as NVML tells it."""

    uuid: str
    name: str
    memory_total: int
    memory_free: int
    capability: str  # compute capability, such as "9.0"
    driver: str


class Program(Struct, frozen=True, kw_only=True):
    """A runtime this host can start, and the class of its results.

    Results of two hosts may be compared exactly only when their `result_class` strings are equal
    (renderer build + device kind + instruction set).
    """

    runtime: ShortText  # "blender", "python"
    version: ShortText
    result_class: ShortText


class HostFacts(Struct, frozen=True, kw_only=True):
    """What a volunteer's machine is."""

    name: ShortText
    system: ShortText  # "Linux x86_64"
    processor: ShortText
    cores: int
    memory_bytes: int
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=64)] = ()
    programs: Annotated[tuple[Program, ...], Meta(max_length=16)] = ()
    sandbox: ShortText | None = None  # "bubblewrap 0.8.0"; None: only applications its owner marked trusted run
    client_version: ShortText = ""


class ResultFile(Struct, frozen=True, kw_only=True):
    """One file of a result, uploaded before it is reported."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}$")]
    sha256: Digest
    size: Annotated[int, Meta(ge=0)]
