"""setup.cfg tells all that is in the tree: packages, and what they need."""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house.rooms import ROOT, drivers, files, imports, lines, modules, rooms

# Which of the extras each room's commands are installed with.
EXTRAS: dict[str, tuple[str, ...]] = {
    "xwgrid": (),
    "xwgrid_schema": ("server",),
    "xwgrid_server": ("server",),
    "xwgrid_volunteer": ("volunteer",),
}


def test_packages_list_is_complete() -> None:
    """Every folder of Python in the rooms is a package, and every package is in setup.cfg's list."""
    present = set()
    for package, room in rooms().items():
        for path in files(room):
            if path.suffix == ".py":
                present.add(".".join((package, *path.parent.relative_to(room).parts)))
                assert (path.parent / "__init__.py").exists(), f"{path.parent} lacks an __init__.py"
    assert present == set(lines("options", "packages"))


def test_packages_list_is_sorted() -> None:
    """The list reads in order, so that a missing one is seen."""
    assert lines("options", "packages") == sorted(lines("options", "packages"))


def test_every_import_is_declared() -> None:
    """Whatever a room imports is among its requirements: an installation of its extra alone runs."""
    known = packages_distributions()
    undeclared = set()
    for name, path in modules().items():
        if name in drivers():
            continue
        room = name.partition(".")[0]
        wanted = _requirements("options", "install_requires")
        for extra in EXTRAS[room]:
            wanted |= _requirements("options.extras_require", extra)
        for imported in imports(name, path):
            top = imported.partition(".")[0]
            if top in sys.stdlib_module_names or top in rooms():
                continue
            distributions = {canonicalize_name(distribution) for distribution in known.get(top, [top])}
            if not distributions & wanted:
                undeclared.add(f"{name} imports {top}")
    assert undeclared == set()


def test_the_lock_holds_all_requirements() -> None:
    """Each requirement of setup.cfg is pinned in requirements-dev.lock, at a version it allows."""
    pinned = {}
    for line in (ROOT / "requirements-dev.lock").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = version
    for section, key in [("options", "install_requires"), *(("options.extras_require", e) for e in _extras())]:
        for line in lines(section, key):
            requirement = Requirement(line)
            name = canonicalize_name(requirement.name)
            if name != "xwgrid":
                assert requirement.specifier.contains(pinned[name]), line
                assert requirement.specifier, f"{line} needs a lower bound"


def test_the_lock_names_no_host() -> None:
    """The lock says what, not from where."""
    assert "://" not in (ROOT / "requirements-dev.lock").read_text()


def _requirements(section: str, key: str) -> set[str]:
    return {str(canonicalize_name(Requirement(line).name)) for line in lines(section, key)}


def _extras() -> list[str]:
    return ["server", "volunteer", "tray", "oracle", "simulator", "dev", "all"]
