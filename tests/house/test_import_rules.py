"""xwgrid decides, the other rooms act: held by reading every import."""

from __future__ import annotations

import sys
import tomllib

import pytest

from tests.house.rooms import ROOT, drivers, imports, modules, rooms, within
from xwgrid.applications.manifests import built_in

# Whom each room may import from among the rooms.
ALLOWED = {
    "xwgrid": {"xwgrid"},
    "xwgrid_schema": {"xwgrid_schema"},
    "xwgrid_server": {"xwgrid_server", "xwgrid", "xwgrid_schema"},
    "xwgrid_volunteer": {"xwgrid_volunteer", "xwgrid"},
}
# Libraries that act on the world: none of them inside `xwgrid`.
ACTING = ("alembic", "klein", "psutil", "psycopg", "pynvml", "sqlalchemy", "treq", "twisted", "web3")
# The shells inside `xwgrid`: the requester's command, the child processes that read strangers' pictures, and what the
# commands of all rooms have in common.
SHELLS = ("xwgrid.requester", "xwgrid.reading", "xwgrid.command_line")
# What shells are for, so no deciding module touches it.
SHELL_LIBRARIES = ("av", "blender_asset_tracer", "click", "httpx", "rich", "socket", "subprocess", "threading")
# What every Blender brings.
BLENDER = ("bpy", "_cycles")


def _deciding() -> list[str]:
    return [
        name
        for name in modules()
        if within(name, "xwgrid") and name not in drivers() and not any(within(name, shell) for shell in SHELLS)
    ]


def test_every_room_has_a_rule() -> None:
    """A new top-level package is told here whom it may import."""
    assert set(rooms()) == set(ALLOWED)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_rooms_import_only_whom_they_may(room: str) -> None:
    """The server builds on xwgrid and the schema, the volunteer on xwgrid, the schema on nobody."""
    strangers = [
        f"{name} imports {wanted}"
        for name, path in modules().items()
        if within(name, room)
        for wanted in imports(name, path)
        if any(within(wanted, other) for other in set(ALLOWED) - ALLOWED[room])
    ]
    assert strangers == []


def test_xwgrid_imports_no_acting_library() -> None:
    """Neither Twisted nor SQL nor the chain nor the machine's sensors are reachable from xwgrid."""
    found = [
        f"{name} imports {wanted}"
        for name, path in modules().items()
        if within(name, "xwgrid")
        for wanted in imports(name, path)
        if any(within(wanted, library) for library in ACTING)
    ]
    assert found == []


def test_deciding_modules_are_pure() -> None:
    """A module that decides imports no shell, and nothing that shells are for."""
    assert _deciding()
    found = [
        f"{name} imports {wanted}"
        for name in _deciding()
        for wanted in imports(name, modules()[name])
        if any(within(wanted, other) for other in (*SHELLS, *SHELL_LIBRARIES))
    ]
    assert found == []


def test_drivers_need_nothing_installed() -> None:
    """A driver imports the standard library, Blender's own modules and other drivers, which are sent with it."""
    sent = {path.removesuffix(".py").replace("/", ".") for _manifest, files in built_in() for path in files}
    assert {name for name in sent if not name.endswith("__init__")} <= drivers()
    found = [
        f"{name} imports {wanted}"
        for name in drivers()
        for wanted in imports(name, modules()[name])
        if wanted.partition(".")[0] not in (*sys.stdlib_module_names, *BLENDER)
        and not any(within(wanted, driver) for driver in drivers())
    ]
    assert found == []


def test_only_the_requester_imports_the_requester() -> None:
    """The command and its library are a leaf: no other room builds on them."""
    found = [
        f"{name} imports {wanted}"
        for name, path in modules().items()
        if not within(name, "xwgrid.requester")
        for wanted in imports(name, path)
        if within(wanted, "xwgrid.requester")
    ]
    assert found == []


def test_ruff_holds_the_same_rule() -> None:
    """The libraries that the issue of the import rule names are banned in Ruff's settings too, for editors to show."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    banned = ruff["lint"]["flake8-tidy-imports"]["banned-api"]
    assert {"twisted", "sqlalchemy", "web3", "psutil", "pynvml"} <= set(banned)
