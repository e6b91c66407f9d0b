"""What a requester asks for on the command line, and what becomes of it for a given scene."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Literal, assert_never

from msgspec import Struct

from xwgrid.applications.blender import DEPTHS, MAX_RAW_PIXELS
from xwgrid.command_line import parse_span
from xwgrid.errors import BadInput
from xwgrid.model import Audit, BlenderWork, Credibility, Fixed, Frames, Instant, Policy
from xwgrid.policy_terms import check_deadline, check_epsilon, check_share
from xwgrid.requester.inspection import FileFacts, SceneFacts
from xwgrid.splitting import parse_frames

MAX_SIDE = 65_536
_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})")
_PERCENTAGE = re.compile(r"([0-9]{1,5})%")

FileFormat = Literal["PNG", "JPEG", "OPEN_EXR"]
Engine = Literal["CYCLES", "EEVEE", "WORKBENCH"]
Depth = Literal["8", "16", "32"]

_FORMATS: dict[str, FileFormat] = {"PNG": "PNG", "JPEG": "JPEG", "OPEN_EXR": "OPEN_EXR"}
_SCENE_DEPTHS: dict[str, Depth] = {"8": "8", "16": "16", "32": "32"}
ENGINES: dict[str, Engine] = {
    "CYCLES": "CYCLES",
    "BLENDER_EEVEE": "EEVEE",
    "BLENDER_EEVEE_NEXT": "EEVEE",
    "BLENDER_WORKBENCH": "WORKBENCH",
}
PolicyName = Literal["fixed", "credibility", "audit"]
_OPTIONS_OF: dict[PolicyName, tuple[str, ...]] = {
    "fixed": ("replicas", "quorum"),
    "credibility": ("epsilon",),
    "audit": ("epsilon", "share"),
}
# What an option means where no policy is named.
_POLICY_OF: dict[str, PolicyName] = {"replicas": "fixed", "quorum": "fixed", "epsilon": "audit", "share": "audit"}
_NO_BLENDER = "without Blender on this machine"


class Wishes(Struct, frozen=True, kw_only=True):
    """What the requester asks for, in the words of `xwgrid submit`; None leaves it to the scene."""

    frames: str | None = None
    samples: int | None = None
    resolution: str | None = None
    policy: PolicyName | None = None  # None: as replicas, quorum, epsilon and share say, else the server's default
    epsilon: float | None = None
    share: float | None = None
    replicas: int | None = None
    quorum: int | None = None
    deadline: Instant | None = None
    file_format: FileFormat | None = None
    engine: Engine | None = None
    seed: int = 0
    denoise: bool | None = None
    renderer: str | None = None  # version to pin; None: the one that looked into the scene; "any": none
    name: str | None = None
    private: bool = False
    priority: int = 0
    allow_missing: bool = False


def check_wishes(wishes: Wishes) -> None:
    """Refuse what is wrong whatever the scene is, before time is spent on it. Raises BadInput or TooLarge."""
    if wishes.frames is not None:
        parse_frames(wishes.frames)
    if wishes.resolution is not None:
        parse_resolution(wishes.resolution)
    policy_for(wishes)
    for name, value, low, high in (
        ("samples", wishes.samples, 1, 1 << 20),
        ("seed", wishes.seed, 0, (1 << 31) - 1),
        ("priority", wishes.priority, -100, 100),
    ):
        if value is not None and not low <= value <= high:
            raise BadInput(f"--{name} {value} is out of bounds: give a number from {low} to {high}")
    if wishes.name is not None and not 1 <= len(wishes.name) <= 200:
        raise BadInput("a job's name has 1 to 200 characters: give another with --name")


def policy_for(wishes: Wishes) -> Policy | None:
    """Return how the results are to be checked, None for the server's default.

    Raises BadInput for numbers out of bounds, and for wishes that belong to different policies.
    """
    if wishes.epsilon is not None:
        check_epsilon(wishes.epsilon)
    if wishes.share is not None:
        check_share(wishes.share)
    given = [name for name in ("replicas", "quorum", "epsilon", "share") if getattr(wishes, name) is not None]
    policy = wishes.policy or next((_POLICY_OF[name] for name in given), None)
    for name in given:
        if policy is not None and name not in _OPTIONS_OF[policy]:
            said = f"--policy {policy}" if wishes.policy else f"--{given[0]}"
            belongs = f"it belongs to --policy {_POLICY_OF[name]}"
            raise BadInput(f"--{name} does not go with {said}, {belongs}: leave one of them out")
    replicas_for(wishes)
    match policy:
        case "fixed":
            return Fixed()
        case "credibility":
            return Credibility() if wishes.epsilon is None else Credibility(epsilon=wishes.epsilon)
        case "audit":
            chosen = {name: value for name in ("epsilon", "share") if (value := getattr(wishes, name)) is not None}
            return Audit(**chosen)
        case None:
            return None
    assert_never(policy)


def replicas_for(wishes: Wishes) -> tuple[int, int]:
    """Return the replicas and the quorum of votes. Raises BadInput when they are out of bounds, or make no majority."""
    replicas = 2 if wishes.replicas is None else wishes.replicas
    quorum = 2 if wishes.quorum is None else wishes.quorum
    for name, value in (("replicas", replicas), ("quorum", quorum)):
        if not 1 <= value <= 16:
            raise BadInput(f"--{name} {value} is out of bounds: give a number from 1 to 16")
    if replicas < quorum:
        raise BadInput(
            f"{replicas} replicas can never give the {quorum} equal results asked for: "
            f"raise --replicas to {quorum}, or lower --quorum"
        )
    return replicas, quorum


def parse_deadline(text: str, now: Instant) -> Instant:
    """Read "in 3h" or an ISO time, of this machine's time zone unless it names one. Raises BadInput."""
    written = text.strip()
    if written.lower().startswith("in "):
        return check_deadline(now + parse_span(written[3:]), now)
    try:
        deadline = datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError, OSError):
        raise BadInput(
            f"'{text[:100]}' is no deadline: write a span such as 'in 3h' or 'in 2d', or a time such as "
            "2031-05-01T18:00 or 2031-05-01T18:00+02:00"
        ) from None
    return check_deadline(deadline, now)


def parse_resolution(text: str) -> int | tuple[int, int]:
    """Read "50%" as 50 and "1920x1080" as (1920, 1080). Raises BadInput for anything else."""
    written = "".join(text.split()).lower()
    if match := _SIZE.fullmatch(written):
        width, height = int(match[1]), int(match[2])
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise BadInput(f"a picture of {written} pixels cannot be rendered: each side has 1 to {MAX_SIDE}")
        return width, height
    if match := _PERCENTAGE.fullmatch(written):
        if int(match[1]) < 1:
            raise BadInput("a resolution of 0% leaves no picture: give at least 1%", resolution=text)
        return int(match[1])
    raise BadInput(
        f"'{text[:100]}' is not a resolution: write a share of the scene's own, such as 50%, or 1920x1080",
        resolution=text[:100],
    )


def frames_for(wishes: Wishes, facts: FileFacts | None) -> Frames:
    """Return the frames asked for, or the scene's. Raises BadInput when neither is known."""
    if wishes.frames is not None:
        return parse_frames(wishes.frames)
    if facts is None:
        raise BadInput(f"{_NO_BLENDER} the scene's frame range is not known: say it, such as --frames 1-250")
    return parse_frames(f"{facts.scene.first}-{facts.scene.last}x{facts.scene.step}")


def work_for(scene_file: str, wishes: Wishes, facts: FileFacts | None) -> BlenderWork:
    """Return everything that changes pixels, pinned. `scene_file` is its path in the job.

    Raises BadInput when the resolution is unknown, or the scene's engine is none of the grid's.
    """
    own = facts.scene if facts is not None else None
    width, height = _size(wishes, own)
    file_format = wishes.file_format or (_FORMATS.get(own.format, "PNG") if own is not None else "PNG")
    denoise = _denoise(wishes, own)
    return BlenderWork(
        scene_file=scene_file,
        scene=own.name if own is not None else None,
        renderer=_renderer(wishes, facts),
        engine=wishes.engine or (_engine(own) if own is not None else "CYCLES"),
        samples=wishes.samples,
        seed=wishes.seed,
        width=width,
        height=height,
        denoise=denoise,
        raw_passes=bool(denoise) and width * height <= MAX_RAW_PIXELS and _in_steps(wishes, facts),
        format=file_format,
        color_depth=_depth(file_format, own),
        allow_missing=wishes.allow_missing,
        frames_per_second=own.fps if own is not None else 24.0,
    )


def _size(wishes: Wishes, own: SceneFacts | None) -> tuple[int, int]:
    if wishes.resolution is None:
        if own is None:
            raise BadInput(
                f"{_NO_BLENDER} the scene's resolution is not known: say it, such as --resolution 1920x1080, "
                "or install one: xwgrid-volunteer runtime install blender"
            )
        return own.width, own.height
    wanted = parse_resolution(wishes.resolution)
    if isinstance(wanted, tuple):
        return wanted
    if own is None:
        raise BadInput(
            f"{_NO_BLENDER} {wanted}% of the scene's resolution is not known: "
            "write it out, such as --resolution 960x540"
        )
    # As Blender does it: rounded down.
    width, height = max(own.full_width * wanted // 100, 1), max(own.full_height * wanted // 100, 1)
    if width > MAX_SIDE or height > MAX_SIDE:
        raise BadInput(f"{wanted}% of the scene's resolution is {width}x{height}: a side has at most {MAX_SIDE} pixels")
    return width, height


def _denoise(wishes: Wishes, own: SceneFacts | None) -> bool | None:
    """Return the scene's own where it is known: whether frames can be rendered in parts hangs on it."""
    if wishes.denoise is None and own is not None and own.engine == "CYCLES" and wishes.engine in {None, "CYCLES"}:
        return own.denoise
    return wishes.denoise


def _in_steps(wishes: Wishes, facts: FileFacts | None) -> bool:
    """Say whether frames are to be denoised in a step of their own, so that audits can look at what comes before."""
    may_be_audited = not wishes.private and isinstance(policy_for(wishes), Audit | None)
    if not may_be_audited or facts is None or facts.scene.denoised_in_one is not None:
        return False
    # Whether it can be one hangs on the version too, and only the one that looked has said so.
    pinned = _renderer(wishes, facts)
    return pinned is not None and f"{facts.blender}.".startswith(f"{pinned}.")


def _depth(file_format: FileFormat, own: SceneFacts | None) -> Depth:
    """Return the scene's own depth where the format has it, else the format's smallest."""
    depths = DEPTHS[file_format]
    chosen = own.color_depth if own is not None and own.color_depth in depths else depths[0]
    return _SCENE_DEPTHS[chosen]


def _engine(own: SceneFacts) -> Engine:
    if own.engine not in ENGINES:
        raise BadInput(
            f"the scene '{own.name}' is rendered by {own.engine}, which the grid does not have: "
            "choose --engine cycles, eevee or workbench",
            engine=own.engine,
        )
    return ENGINES[own.engine]


def _renderer(wishes: Wishes, facts: FileFacts | None) -> str | None:
    """Return the version to pin: frames of two versions side by side would flicker."""
    if wishes.renderer is not None:
        return None if wishes.renderer == "any" else wishes.renderer
    return None if facts is None else ".".join(facts.blender.split(".")[:2])
