"""How busy other programs are."""

from __future__ import annotations

import subprocess
import sys

from xwgrid_volunteer.machine_load import MachineLoad

BURN = "import time\nwhile time.process_time() < 0.5: pass"
# The kernel books processor time in ticks of 10 ms, and that of the program and of its system calls apart.
BURNT = 0.45


def test_our_own_tasks_are_no_load() -> None:
    """What a task used counts as ours while it runs and after it has ended; so it never is the others'."""
    load = MachineLoad()
    before = load._own()
    with subprocess.Popen([sys.executable, "-c", f"{BURN}\nprint(flush=True)\ninput()"], stdin=-1, stdout=-1) as task:
        assert task.stdout is not None
        task.stdout.readline()
        while_it_runs = load._own()
        task.communicate(b"\n")
    assert while_it_runs - before >= BURNT
    assert load._own() >= while_it_runs


def test_another_volunteers_tasks_are_no_load_either() -> None:
    """A second daemon on the machine, of whatever user, is found by its command line, with all its children."""
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); print(flush=True); input()"
    load = MachineLoad()
    # A process that is nobody's child here: its parent ends at once.
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1], 'xwgrid-volunteer', 'run'])"
    before = load._own()
    with subprocess.Popen([sys.executable, "-c", parent, child], stdin=-1, stdout=-1) as starter:
        assert starter.stdout is not None
        starter.wait()
        starter.stdout.readline()
        assert load._own() - before >= BURNT


def test_the_share_is_a_share() -> None:
    """Between none and all of the cores; two looks at once tell nothing."""
    load = MachineLoad()
    assert load.measure() is None
    subprocess.run([sys.executable, "-c", BURN], check=True)
    found = load.measure()
    assert found is not None
    assert 0.0 <= found <= 1.0
