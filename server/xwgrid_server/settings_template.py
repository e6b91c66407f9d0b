"""The settings file as `xwgrid-admin init` writes it: every key with its reason, the defaults commented out."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec
from msgspec import Struct

from xwgrid_server.settings import Settings

_REASONS = {
    "state": "Holds the CA, the blobs, uploads that are not complete and, by default, the database.",
    "database": "sqlite:////path/file or postgresql+psycopg://user@host/name. Empty: xwgrid.sqlite in `state`.",
    "api": "Where people's port listens: HOST:PORT. 0.0.0.0:8443 is every IPv4 address of this machine.",
    "volunteers": "Where the volunteers' port listens.",
    "host_names": "Names and addresses this server is dialled by: all are in its certificate, the first in tokens.",
    "api_url": "What others dial instead of https://FIRST_HOST_NAME:PORT, where a router forwards another port.",
    "volunteer_url": "The same for volunteers.",
    "heartbeat_seconds": "A volunteer with leases calls at least this often.",
    "lease_seconds": "How long a lease outlives its host's last call: three lost heartbeats.",
    "max_blob_bytes": "No single file is bigger.",
    "max_job_tasks": "No job has more tasks.",
    "log_level": "debug, info, warn or error.",
    "readers": "Processes that decode strangers' results, what each may take and for how long (one result).",
    "trust": "How results are checked: the policy of jobs that ask for none (fixed, credibility or audit), the chance\n"
    "# of a wrong one, the part of a frame it is about, what jobs may ask for, how many owners checks are drawn from.",
}


def settings_text(chosen: Mapping[str, str | tuple[str, ...]]) -> str:
    """Return a settings file with the values of `chosen`; what is not chosen stands there commented out."""
    lines = ["# Settings of an xwgrid server. A line that begins with '#' shows a default."]
    tables: dict[str, Struct] = {}
    for field in msgspec.structs.fields(Settings):
        default = msgspec.structs.asdict(Settings())[field.name]
        if isinstance(default, Struct):
            tables[field.name] = default
            continue
        lines += ["", f"# {_REASONS[field.name]}"]
        value = chosen.get(field.name)
        lines.append(_line(field.name, default, "# ") if value is None else _line(field.name, value, ""))
    # Tables stand at the end: in TOML whatever follows belongs to them.
    for name, table in tables.items():
        lines += ["", f"# {_REASONS[name]}", f"[{name}]"]
        lines += [_line(key, value, "# ") for key, value in msgspec.structs.asdict(table).items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: object, before: str) -> str:
    # JSON's strings, numbers and lists of strings are TOML's too.
    return f"{before}{key} = {json.dumps(value, ensure_ascii=False)}"
