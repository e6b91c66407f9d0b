"""The simulator runs the server's decisions without its database and its network: held by reading every import."""

from __future__ import annotations

import subprocess
import sys

from tests.house.rooms import ROOT, files, imports, modules, within
from tests.house.test_import_rules import ACTING

# Of the server: the coordinator, and the nouns it speaks in.
OF_THE_SERVER = ("xwgrid_server.coordinator", "xwgrid_server.calls", "xwgrid_server.store")
# Of xwgrid: no shell but what all commands have in common.
SHELLS = ("xwgrid.requester", "xwgrid.reading")


def test_simulator_imports_only_what_it_may() -> None:
    """The simulator builds on what decides: xwgrid, and the coordinator with its neighbours."""
    found = []
    for path in files(ROOT / "simulator"):
        if path.suffix != ".py":
            continue
        for wanted in imports(f"simulator.{path.stem}", path):
            server = within(wanted, "xwgrid_server") and not any(within(wanted, each) for each in OF_THE_SERVER)
            others = ("xwgrid_schema", "xwgrid_volunteer", "tests", "benchmarks", *SHELLS, *ACTING)
            if server or any(within(wanted, each) for each in others):
                found.append(f"{path.name} imports {wanted}")
    assert found == []


def test_no_room_imports_the_simulator() -> None:
    """The simulator is not installed: whatever is does without it."""
    found = [name for name, path in modules().items() if any(within(each, "simulator") for each in imports(name, path))]
    assert found == []


def test_simulation_loads_neither_sql_nor_twisted() -> None:
    """What the simulator imports imports no database, network or picture library either."""
    libraries = ("sqlalchemy", "twisted", "matplotlib", "numpy", "OpenImageIO", "httpx")
    script = f"import sys, simulator.__main__; print([name for name in {libraries!r} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ended.stdout.strip() == "[]"
