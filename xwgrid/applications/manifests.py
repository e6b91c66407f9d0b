"""The application versions this package carries: what an operator signs and publishes, file by file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct

from xwgrid import __version__
from xwgrid.model import ApplicationManifest, InputFile


class _Recipe(Struct, frozen=True, kw_only=True):
    """Which files of this package make an application; the driver that is started comes first."""

    application: str
    runtime: Literal["blender", "python"]
    sources: tuple[str, ...]


# With them the folder is a package of its own, which no package of that name installed on the host can shadow.
_PACKAGES = ("__init__.py", "applications/__init__.py", "applications/drivers/__init__.py")

_RECIPES = (
    _Recipe(
        application="blender",
        runtime="blender",
        sources=(
            "applications/drivers/blender_driver.py",
            "applications/drivers/blender_canvas.py",
            "applications/drivers/blender_parts.py",
            "applications/drivers/blender_pins.py",
            "applications/drivers/blender_raw.py",
            "applications/drivers/blend_header.py",
            "applications/drivers/driver_lines.py",
            "applications/drivers/frame_strips.py",
        ),
    ),
    _Recipe(
        application="digest",
        runtime="python",
        sources=("applications/drivers/digest_driver.py", "applications/drivers/driver_lines.py"),
    ),
)

BuiltIn: TypeAlias = tuple[ApplicationManifest, Mapping[str, bytes]]


def built_in() -> tuple[BuiltIn, ...]:
    """Return each application version in this package with its files, by path below the application's folder.

    The version is the package's, followed by a digest of the files: another driver is another version, always.
    """
    return tuple(_build(recipe) for recipe in _RECIPES)


def _build(recipe: _Recipe) -> BuiltIn:
    package = resources.files("xwgrid")
    files = {f"xwgrid/{name}": package.joinpath(name).read_bytes() for name in (*recipe.sources, *_PACKAGES)}
    listed = tuple(
        InputFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for path, data in files.items()
    )
    contents = hashlib.sha256("".join(file.path + file.sha256 for file in listed).encode()).hexdigest()
    manifest = ApplicationManifest(
        application=recipe.application,
        version=f"{__version__}+{contents[:12]}",
        runtime=recipe.runtime,
        entry=listed[0].path,
        files=listed,
    )
    return manifest, files


def script(name: str) -> Path:
    """Return where a program of this package lies that a runtime starts: "inspect_scene.py", "blender_driver.py"."""
    return Path(__file__).with_name("drivers") / name
