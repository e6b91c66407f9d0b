"""What a benchmark prints: one object that says what was measured, where, and with what."""

from __future__ import annotations

import os
import platform
import ssl
import sys
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct


class Report(Struct, frozen=True, kw_only=True):
    """One run of one benchmark."""

    benchmark: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    settings: dict[str, str | int | float | bool | None]
    figures: dict[str, float | int | list[float]]

    def text(self, *, as_json: bool) -> str:
        """Return one JSON object, or lines for people."""
        if as_json:
            return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()
        lines = [f"{self.benchmark} on {self.machine['processor']}, {self.machine['cores']} cores"]
        width = max(len(name) for name in self.figures)
        for name, figure in self.figures.items():
            shown = ", ".join(f"{each:.4g}" for each in figure) if isinstance(figure, list) else f"{figure:.6g}"
            lines.append(f"  {name:<{width}}  {shown}")
        return "\n".join(lines)


def machine() -> dict[str, str | int]:
    """Return what the figures depend on and cannot be set."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "system": platform.platform(),
    }


def versions(**more: str) -> dict[str, str]:
    """Return the versions of everything that takes part; `more` names further ones, such as the database's."""
    packages = {name: version(name) for name in ("xwgrid", "Twisted", "SQLAlchemy", "psycopg", "msgspec")}
    return {"Python": sys.version.split()[0], "OpenSSL": ssl.OPENSSL_VERSION, **packages, **more}


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
