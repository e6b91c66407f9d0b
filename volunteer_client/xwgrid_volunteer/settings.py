"""The volunteer's settings: one TOML file and environment overrides, read once into a frozen value."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import platformdirs
from msgspec import Meta, Struct
from msgspec.structs import replace

from xwgrid import settings_file
from xwgrid.activation import Wishes, parse_hours
from xwgrid.errors import BadInput, BadSettings
from xwgrid.model import Seconds
from xwgrid_volunteer.runtimes import RuntimeSettings, runtimes_folder

PREFIX = "XWGRID_VOLUNTEER_"


class VolunteerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the owner of a machine asks for. `load` fills the two folders in."""

    state: str = ""  # folder of the identity, the cache, the outbox and the control socket
    runtimes_folder: str = ""  # folder of the installed runtimes
    slots: Annotated[int, Meta(ge=1, le=256)] = 1  # tasks at once
    prefetch: Annotated[int, Meta(ge=0, le=16)] = 1  # leases ahead of each slot
    cache_bytes: Annotated[int, Meta(ge=1 << 20)] = 20 << 30
    memory_bytes: Annotated[int, Meta(ge=64 << 20)] | None = None  # cap on one task; None: what the job allows
    hours: tuple[str, ...] = ()  # "mon-fri 18:00-08:00", "sat-sun all"; empty: at any time
    max_load: Annotated[float, Meta(gt=0)] = 0.5  # share of all cores other programs may use; 1: load never matters
    grace_seconds: Annotated[float, Meta(ge=0)] = 600.0  # a pause longer than this hands the leases back
    trusted_without_sandbox: tuple[str, ...] = ()  # applications that may run where there is no sandbox
    proxy: str | None = None  # "http://host:port"; None: HTTPS_PROXY and NO_PROXY decide; "": none
    runtimes: dict[str, RuntimeSettings] = {}

    @property
    def state_folder(self) -> Path:
        """Where everything this volunteer keeps lies."""
        return Path(self.state)

    def wishes(self) -> Wishes:
        """Return what the owner asked for, as `xwgrid.activation` takes it."""
        grace: Seconds = self.grace_seconds
        return Wishes(hours=parse_hours(self.hours), max_load=self.max_load, grace=grace)


def default_file() -> Path:
    """Return where the settings are looked for without --settings."""
    return Path(platformdirs.user_config_dir("xwgrid")) / "volunteer.toml"


def load(file: Path | None, environment: Mapping[str, str] = os.environ) -> VolunteerSettings:
    """Read `file`; without one, the default file if it exists.

    Raises BadSettings naming file, key and value, also when a named file cannot be read.
    """
    path = file or default_file()
    try:
        text = path.read_text(encoding="utf-8") if file is not None or path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"the settings file {path} cannot be read: {error}", file=str(path)) from error
    found = settings_file.parse(VolunteerSettings, text, source=str(path), environment=environment, prefix=PREFIX)
    try:
        found.wishes()
    except BadInput as error:
        raise BadSettings(f"{path}: {error.message}", file=str(path)) from error
    data = Path(platformdirs.user_data_dir("xwgrid"))
    configured = Path(found.runtimes_folder).expanduser() if found.runtimes_folder else None
    return replace(
        found,
        state=str(Path(found.state or data / "volunteer").expanduser().absolute()),
        runtimes_folder=str(runtimes_folder(configured, environment).absolute()),
    )
