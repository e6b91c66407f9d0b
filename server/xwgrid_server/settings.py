"""What the operator of a server can decide: one TOML file, parsed once into a frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, assert_never

import msgspec
from msgspec import Meta, Struct
from platformdirs import user_config_path, user_data_path
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from xwgrid import settings_file
from xwgrid.drawing import LEAST_OWNERS
from xwgrid.errors import BadInput, BadSettings
from xwgrid.model import Audit, Credibility, Fixed, Policy, Seconds
from xwgrid.policy_terms import check_epsilon, check_share

ENVIRONMENT_PREFIX = "XWGRID_SERVER_"
MOST_DRAWN_FROM: Final = 1_000


class Address(Struct, frozen=True):
    """Where a port listens. Port 0 takes any free one."""

    host: str
    port: int

    def url(self, name: str) -> str:
        """Return the address as others dial it, under the host name `name`."""
        return f"https://{bracketed(name)}:{self.port}"


class ReaderLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decoding strangers' results may cost. Table `[readers]`."""

    # A frame of 4K takes about 0.3 s to decode: one process reads three results a second.
    processes: Annotated[int, Meta(ge=1, le=64)] = 2
    # The largest picture the grid takes is 2 GiB decoded, and its file lies beside it.
    memory_bytes: Annotated[int, Meta(ge=64 << 20)] = 4 << 30
    seconds: Annotated[float, Meta(gt=0)] = 60.0  # for one result; a big EXR on a busy disk takes ten


PolicyName = Literal["fixed", "credibility", "audit"]


class Trust(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How results are checked. Table `[trust]`."""

    policy: PolicyName = "audit"  # of jobs that ask for none
    epsilon: float = 0.001  # the chance of accepting a wrong result that is put up with, above 0 to 0.5
    share: float = 0.05  # audits look for alterations of at least this part of a frame, 0.001 to 1
    allowed: tuple[PolicyName, ...] = ("fixed", "credibility", "audit")  # what jobs may ask for
    # With fewer others about, a liar's friend is as good as certain to be drawn.
    draw_from: int = LEAST_OWNERS

    def __post_init__(self) -> None:
        """Refuse what parses but means nothing. Raises ValueError, as that of Settings does."""
        try:
            check_epsilon(self.epsilon)
            check_share(self.share)
        except BadInput as error:
            raise ValueError(error.message) from None
        if self.policy not in self.allowed:
            raise ValueError(
                f"policy = {self.policy!r} is not among those of allowed = {list(self.allowed)}: "
                "jobs that ask for none get it, so allow it or choose another"
            )
        if not 1 <= self.draw_from <= MOST_DRAWN_FROM:
            raise ValueError(
                f"draw_from = {self.draw_from}: write how many owners to draw from, 1 to {MOST_DRAWN_FROM}"
            )

    @property
    def default(self) -> Policy:
        """What a job that asks for nothing gets."""
        match self.policy:
            case "fixed":
                return Fixed()
            case "credibility":
                return Credibility(epsilon=self.epsilon)
            case "audit":
                return Audit(epsilon=self.epsilon, share=self.share)
        assert_never(self.policy)


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one server. Every key has a default that suits one machine trying it out."""

    # Holds ca/, blobs/, staging/ and, by default, the database.
    state: str = ""
    # SQLAlchemy's form: sqlite:////path/file or postgresql+psycopg://user@host/name. Empty: xwgrid.sqlite in `state`.
    database: str = ""
    # Loopback until the operator says otherwise: a new server is nobody's business yet.
    api: str = "127.0.0.1:8443"
    volunteers: str = "127.0.0.1:8444"
    # Names and addresses the server's certificate is good for; the first one goes into tokens.
    host_names: Annotated[tuple[str, ...], Meta(min_length=1, max_length=100)] = ("localhost", "127.0.0.1", "::1")
    # What others dial, where that is not https://FIRST_HOST_NAME:PORT (a port forwarded by a router, say).
    api_url: str = ""
    volunteer_url: str = ""
    # A volunteer with leases calls at least this often. 1,000 hosts at 30 s are 33 calls a second.
    heartbeat_seconds: Annotated[Seconds, Meta(gt=0, le=3_600)] = 30.0
    # How long a lease outlives its host's last call: three lost heartbeats. A laptop that changes networks is back
    # within two.
    lease_seconds: Annotated[Seconds, Meta(gt=0, le=86_400)] = 90.0
    # Big enough for a fluid cache, small enough that one upload does not fill a disk unseen.
    max_blob_bytes: Annotated[int, Meta(ge=1)] = 16 << 30
    # A task is a row of about 60 bytes: a million are 60 MB.
    max_job_tasks: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000_000
    readers: ReaderLimits = ReaderLimits()
    trust: Trust = Trust()
    log_level: Literal["debug", "info", "warn", "error"] = "info"

    def __post_init__(self) -> None:
        """Refuse what parses but means nothing. Raises ValueError, which `load` turns into BadSettings."""
        for key, text in (("api", self.api), ("volunteers", self.volunteers)):
            parse_address(key, text)
        for key, text in (("api_url", self.api_url), ("volunteer_url", self.volunteer_url)):
            if text and (not text.startswith("https://") or "/" in text[8:] or not text[8:] or " " in text):
                raise ValueError(f"{key} = {text!r}: write https://host or https://host:port, without a path")
        for name in self.host_names:
            if not name or len(name) > 253 or any(c in name for c in "/ []@"):
                raise ValueError(f"host_names: {name!r} is neither a host name nor an IP address")
        if self.lease_seconds < 2 * self.heartbeat_seconds:
            raise ValueError(
                f"lease_seconds = {self.lease_seconds:g} is less than twice heartbeat_seconds = "
                f"{self.heartbeat_seconds:g}: one lost call would cost a lease"
            )
        try:
            backend = make_url(self.database_url).get_backend_name()
        except ArgumentError:
            raise ValueError("database is not a URL: write sqlite:////path or postgresql+psycopg://…") from None
        if backend not in {"sqlite", "postgresql"}:
            raise ValueError(f"database: {backend} is not supported, use sqlite or postgresql+psycopg")

    def __repr__(self) -> str:
        """Tell all but the database's password."""
        values = msgspec.structs.asdict(self)
        if self.database:
            values["database"] = make_url(self.database).render_as_string(hide_password=True)
        shown = (f"{name}={value!r}" for name, value in values.items())
        return f"Settings({', '.join(shown)})"

    @property
    def folder(self) -> Path:
        """The state folder, absolute."""
        return (Path(self.state).expanduser() if self.state else user_data_path("xwgrid") / "server").absolute()

    @property
    def authority_folder(self) -> Path:
        """Where the CA and the server's certificate lie."""
        return self.folder / "ca"

    @property
    def blobs_folder(self) -> Path:
        """Where complete blobs lie."""
        return self.folder / "blobs"

    @property
    def staging_folder(self) -> Path:
        """Where uploads grow until their hash is known."""
        return self.folder / "staging"

    @property
    def listening_file(self) -> Path:
        """What a running server says about its ports, for commands beside it."""
        return self.folder / "listening.json"

    @property
    def database_url(self) -> str:
        """The database as SQLAlchemy names it, a password included: never print this."""
        return self.database or f"sqlite:///{self.folder / 'xwgrid.sqlite'}"

    @property
    def api_address(self) -> Address:
        """Where the API port listens."""
        return parse_address("api", self.api)

    @property
    def volunteer_address(self) -> Address:
        """Where the volunteers' port listens."""
        return parse_address("volunteers", self.volunteers)

    def public_api_url(self, port: int) -> str:
        """Return what goes into tokens when the API listens on `port`."""
        return self.api_url or Address(self.api_address.host, port).url(self.host_names[0])

    def public_volunteer_url(self, port: int) -> str:
        """Return where volunteers are sent when their port is `port`."""
        return self.volunteer_url or Address(self.volunteer_address.host, port).url(self.host_names[0])


def bracketed(name: str) -> str:
    """Return a host name or address as it stands in a URL."""
    return f"[{name}]" if ":" in name else name


def parse_address(key: str, text: str) -> Address:
    """Read `host:port`, `[v6]:port`. Raises ValueError naming the key."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not colon or not host or not port.isascii() or not port.isdecimal() or int(port) > 65_535:
        raise ValueError(f"{key} = {text!r}: write HOST:PORT, such as 127.0.0.1:8443 or [::1]:8443, port 0 to 65535")
    return Address(host, int(port))


def default_file() -> Path:
    """Return where the settings are looked for when no --settings is given."""
    return user_config_path("xwgrid") / "server.toml"


def load(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from `file`, or from the default place if there is such a file.

    Raises BadSettings naming file, key and value; also when a file that was named does not exist.
    """
    source = file or default_file()
    try:
        text = source.read_text(encoding="utf-8")
    except FileNotFoundError:
        if file is not None:
            raise BadSettings(
                f"there is no settings file {file}: xwgrid-admin init makes one", file=str(file)
            ) from None
        text = ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"the settings file {source} cannot be read: {error}", file=str(source)) from error
    return parse(text, source=str(source), environment=environment)


def parse(text: str, *, source: str, environment: Mapping[str, str]) -> Settings:
    """Read settings from TOML `text`; relative folders in it count from where the command runs."""
    return settings_file.parse(Settings, text, source=source, environment=environment, prefix=ENVIRONMENT_PREFIX)
