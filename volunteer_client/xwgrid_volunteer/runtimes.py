"""Runtimes: what a host starts an application's driver with. Found, installed, redefined by the owner's settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct


class RuntimeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A runtime as the owner redefines it: `[runtimes.blender]` in the volunteer's settings."""

    command: tuple[str, ...]  # the driver script and the specification follow it
    read_only: tuple[str, ...] = ()  # further folders or files the command needs, shown read-only at the same place


class Runtime(Struct, frozen=True, kw_only=True):
    """How to start a driver: `command`, the driver script, `before_spec`, the specification."""

    name: str  # "blender", "python"
    command: tuple[str, ...]
    before_spec: tuple[str, ...] = ()  # a `blender` executable wants "--" between the script and its argument
    read_only: tuple[str, ...] = ()  # what the sandbox must show beside the system's own folders
    origin: str  # where it was found, for the owner


def runtimes_folder(configured: Path | None, environment: Mapping[str, str]) -> Path:
    """Return the folder of installed runtimes: the setting, XWGRID_RUNTIMES, or the user's data folder."""
    raise NotImplementedError


def find_runtimes(
    folder: Path, redefined: Mapping[str, RuntimeSettings], *, search_path: str | None = None
) -> dict[str, Runtime]:
    """Return the usable runtimes by name; "python" is always among them.

    `redefined` wins over what is installed in `folder`, and that over a `blender` found on `search_path` (PATH).
    """
    raise NotImplementedError
