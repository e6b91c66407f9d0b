"""The rooms of the house as they lie on the disk, and what their modules import."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def settings() -> configparser.ConfigParser:
    """Return setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(section: str, key: str) -> list[str]:
    """Return a value of setup.cfg that is a list, one entry a line."""
    return [line for line in settings()[section][key].splitlines() if line]


def rooms() -> dict[str, Path]:
    """Return each top-level package's folder, from `package_dir`."""
    pairs = (line.split("=") for line in lines("options", "package_dir"))
    return {name.strip(): ROOT / folder.strip() for name, folder in pairs}


def files(room: Path) -> Iterator[Path]:
    """Yield every file of a room that belongs to its source."""
    for path in sorted(room.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc":
            yield path


def modules() -> dict[str, Path]:
    """Return every module of every room by its full name."""
    found = {}
    for package, room in rooms().items():
        for path in files(room):
            if path.suffix == ".py":
                parts = (package, *path.relative_to(room).with_suffix("").parts)
                found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imports(name: str, path: Path) -> set[str]:
    """Return the full names of all that module `name` imports, wherever in the file; `from a import b` gives `a.b`."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                start = ".".join([*above, start] if start else above)
            found.update(f"{start}.{alias.name}" for alias in node.names)
    return found


def drivers() -> set[str]:
    """Return the modules that run inside a renderer's own Python."""
    return {name for name in modules() if within(name, "xwgrid.applications.drivers")}


def within(name: str, package: str) -> bool:
    """Tell whether a full name is `package` or lies in it."""
    return name == package or name.startswith(f"{package}.")
