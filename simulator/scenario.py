"""What is simulated: hosts, jobs, costs and the server's terms. A TOML file, parsed once into a frozen value."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, Struct, field

from xwgrid.errors import BadInput, BadSettings, NotFound
from xwgrid.model import Audit, Policy, Seconds, ShortText

SCENARIOS: Final = Path(__file__).parent / "scenarios"
ONE_CLASS: Final = "blender 4.5 cpu avx2"

# Upper bounds refuse infinity, and what would never end.
_Share = Annotated[float, Meta(ge=0, le=1)]
_Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)]
_Many = Annotated[int, Meta(ge=1, le=10_000_000)]
Weight = Annotated[float, Meta(gt=0, le=1_000_000)]
_Spread = Annotated[float, Meta(ge=0, le=3)]  # standard deviation of the logarithm


class Availability(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How hosts come and go.

    Times in which a host is there follow a Weibull distribution, which fits those of desktop computers far better than
    an exponential one (Nurmi, Brevik and Wolski, Modeling Machine Availability in Enterprise and Wide-Area Distributed
    Computing Environments, Euro-Par 2005); with a shape below 1, who has been there for long stays for longer. Times in
    which it is away are log-normal, one of the families that Javadi, Kondo, Vincent and Anderson fitted to SETI@home
    (Discovering Statistical Models of Availability in Large Distributed Systems, IEEE TPDS 22(11), 2011). The families
    are theirs, the numbers the scenario's.
    """

    mean_seconds: Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]
    shape: Annotated[float, Meta(ge=0.2, le=10)] = 0.6
    away_mean_seconds: Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]
    away_spread: _Spread = 1.0
    hands_back: _Share = 0.5  # leaves in good order; else its lease runs out


class Hosts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group of hosts that are alike."""

    name: ShortText = "hosts"
    count: _Many
    owners: _Many | None = None  # None: one for each host
    # Speeds are log-normal, as Heien, Kondo and Anderson found (A Correlated Resource Model of Internet End Hosts, IEEE
    # TPDS 23(6), 2012), with mean 1.
    speed_spread: _Spread = 0.3
    classes: Annotated[dict[ShortText, Weight], Meta(min_length=1)] = field(default_factory=lambda: {ONE_CLASS: 1.0})
    availability: Availability | None = None  # None: always there
    joins_within_seconds: _Seconds = 300.0
    proven: bool = False  # it has proved itself before the scenario begins
    honest_error_rate: _Share = 0.001  # of its results, audits too: wrong all over, like nobody else's
    failure_rate: _Share = 0.0  # of its replicas: the program crashes
    vanish_rate: _Share = 0.0  # of its replicas: nothing is heard of it for `vanish_seconds`
    vanish_seconds: _Seconds = 7_200.0
    # Lies: a band of the picture is not what was asked for.
    lie_rate: _Share = 0.0  # of its full replicas; of a ring: of the tasks
    honest_first: Annotated[int, Meta(ge=0, le=10_000_000)] = 0  # full replicas it does well before it ever lies
    # Hosts of one ring decide together for each task, tell the same lie, pass each other's audits and ask together.
    ring: ShortText | None = None
    accuse_rate: _Share = 0.0  # of its audits of others' results: made up


class Jobs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Jobs that are alike, handed in one after the other."""

    name: ShortText = "jobs"
    count: _Many
    frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    requesters: _Many = 10  # who take turns
    frame_seconds: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 300.0  # on a host of speed 1
    frame_spread: _Spread = 0.2  # of a job's frames around their mean
    height: Annotated[int, Meta(ge=1, le=65_536)] = 1_080
    begin: _Seconds = 0.0
    # Seconds from one to the next; None hands the next one in when fewer than `backlog` tasks a host are open.
    every: _Seconds | None = None
    backlog: Annotated[float, Meta(gt=0, le=1_000)] = 2.0
    deadline_seconds: Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)] | None = None  # after it is handed in
    priority: Annotated[int, Meta(ge=-100, le=100)] = 0


class Costs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What audits cost, in frames, and what a scene that is not loaded costs beside."""

    kappa: _Share = 0.015  # each strip costs this and its area
    load_seconds: _Seconds = 10.0  # before the first replica of a job, on a host of speed 1; not counted as work


class Server(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The server's terms, and how closely time is looked at."""

    heartbeat_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 300.0
    batch_seconds: Annotated[float, Meta(ge=0.01, le=60)] = 1.0  # calls within this time are decided together
    expire_every: Annotated[float, Meta(ge=1, le=3_600)] = 10.0
    # A host that found nothing asks again after a held call of this length; one that is set aside asks seldom. Held
    # calls that are repeated are counted, and really made once a heartbeat: new work wakes their hosts anyway.
    ask_again_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 50.0
    turned_away_seconds: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    # A server without these two hands checks to whoever asks, and forgives: what others' servers do, to compare with.
    draws: bool = True
    sets_aside: bool = True


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. `policy` is that of every job."""

    name: ShortText
    about: Annotated[str, Meta(max_length=2_000)] = ""
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 1
    policy: Policy = Audit()
    lie_share: Annotated[float, Meta(ge=0.0001, le=1)] = 0.05  # of the picture's height, in one piece
    # Classes between which a tolerance was measured: honest results of the two are alike, lies are not.
    tolerances: Annotated[tuple[tuple[ShortText, ShortText], ...], Meta(max_length=1_000)] = ()
    hosts: Annotated[tuple[Hosts, ...], Meta(min_length=1, max_length=100)]
    jobs: Annotated[tuple[Jobs, ...], Meta(min_length=1, max_length=100)]
    costs: Costs = Costs()
    server: Server = Server()


def find(name: str) -> Path:
    """Return a scenario's file: a path, or the name of one that comes with the simulator. Raises NotFound."""
    path = Path(name)
    if path.is_file():
        return path
    known = SCENARIOS / f"{name}.toml"
    if known.is_file():
        return known
    names = ", ".join(scenario_names())
    raise NotFound(f"there is no scenario file '{name}': give a path, or one of {names}", scenario=name)


def scenario_names() -> list[str]:
    """Return the names of the scenarios that come with the simulator."""
    return sorted(path.stem for path in SCENARIOS.glob("*.toml"))


def read(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario, with `overrides` such as "lie_share=0.2" or "hosts.1.lie_rate=0.5" applied.

    Raises BadSettings naming the file, the key and what is wrong with it.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} cannot be read: {error}", file=str(path)) from error
    return parse(text, str(path), overrides)


def parse(text: str, source: str, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario from TOML; `source` names it in messages. Raises BadSettings."""
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{source} is not TOML: {error}", file=source) from error
    for override in overrides:
        _override(values, override)
    try:
        return msgspec.convert(values, Scenario)
    except msgspec.ValidationError as error:
        raise BadSettings(f"{source}: {error}", file=source) from error


def _override(values: dict[str, Any], override: str) -> None:
    """Put one value in the place of another, or beside them. The key must lead somewhere."""
    key, sign, written = override.partition("=")
    if not sign:
        raise BadSettings(f"'{override}' sets nothing: write for example lie_share=0.2", key=key)
    *way, last = key.strip().split(".")
    place: Any = values
    for step in way:
        place = _within(place, step, key)
    if isinstance(place, list):
        _within(place, last, key)
        place[int(last)] = _value(written)
    elif isinstance(place, dict):
        place[last] = _value(written)
    else:
        raise BadSettings(f"'{key}' leads nowhere in the scenario", key=key)


def _within(place: Any, step: str, key: str) -> Any:
    if isinstance(place, dict):
        return place.setdefault(step, {})
    if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
        return place[int(step)]
    raise BadSettings(f"'{key}' leads nowhere in the scenario: there is no '{step}'", key=key)


def _value(written: str) -> Any:
    """Read a value as TOML where it is TOML (numbers, true, tables), else take it as text."""
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written.strip()


def parse_policy(written: str) -> str:
    """Return a policy of this name as TOML, with its usual values. Raises BadInput."""
    names = sorted(str(kind.__struct_config__.tag) for kind in get_args(Policy))
    if written not in names:
        raise BadInput(f"there is no policy '{written[:100]}': there are {', '.join(names)}", policy=written[:100])
    return f'{{by = "{written}"}}'


def seconds_of_work(jobs: Jobs) -> Seconds:
    """Return what a group of jobs costs a host of speed 1, when every frame is rendered once."""
    return jobs.count * jobs.frames * jobs.frame_seconds
