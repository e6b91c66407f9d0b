"""The outbox."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from xwgrid_volunteer.outbox import Outbox

from xwgrid.model import Cause, JobId, ReplicaId, ResultFile
from xwgrid.wire import Failed, Finished, Report

JOB = JobId(7)


def result(tmp_path: Path, replica: int, data: bytes = b"a picture") -> tuple[Report, dict[str, Path]]:
    """Return a finished report and its one file."""
    source = tmp_path / f"made-{replica}"
    source.write_bytes(data)
    file = ResultFile(name="frame.png", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    finished = Finished(fingerprint="f" * 64, files=(file,), seconds=1.5)
    return Report(replica=ReplicaId(replica), outcome=finished), {"frame.png": source}


def test_an_outcome_waits_until_it_is_forgotten(tmp_path: Path) -> None:
    """With its files, over a restart, oldest first."""
    outbox = Outbox(tmp_path / "outbox", "grid/1")
    report, files = result(tmp_path, 11)
    outbox.put(JOB, report, 1.0, files)
    failed = Report(replica=ReplicaId(12), outcome=Failed(cause=Cause.TIMED_OUT, message="too slow"))
    outbox.put(JOB, failed, 2.0)
    again = Outbox(tmp_path / "outbox", "grid/1")
    assert [entry.report for entry in again.entries] == [report, failed]
    assert again.file(ReplicaId(11), "frame.png").read_bytes() == b"a picture"
    again.forget(ReplicaId(11))
    again.forget(ReplicaId(99))
    assert [entry.report for entry in Outbox(tmp_path / "outbox", "grid/1").entries] == [failed]


def test_another_grid_gets_nothing(tmp_path: Path) -> None:
    """What was done under an old identity means nothing to a new server, and is thrown away."""
    report, files = result(tmp_path, 11)
    Outbox(tmp_path / "outbox", "grid/1").put(JOB, report, 1.0, files)
    assert Outbox(tmp_path / "outbox", "other/1").entries == ()


def test_damaged_entries_are_thrown_away(tmp_path: Path) -> None:
    """A record that cannot be read, or that has lost its file, must not stop the daemon."""
    folder = tmp_path / "outbox"
    outbox = Outbox(folder, "grid/1")
    for replica in (1, 2, 3):
        report, files = result(tmp_path, replica)
        outbox.put(JOB, report, 1.0, files)
    (folder / "1" / "record.json").write_bytes(b"{")
    (folder / "2" / "frame.png").write_bytes(b"short")
    assert [entry.report.replica for entry in Outbox(folder, "grid/1").entries] == [3]


_WRITER = """
import hashlib, sys
from pathlib import Path
from xwgrid_volunteer.outbox import Outbox
from xwgrid.model import ResultFile
from xwgrid.wire import Finished, Report
folder = Path(sys.argv[1])
outbox = Outbox(folder / "outbox", "grid/1")
for number in range(1, 1_000_000):
    data = number.to_bytes(4) * 20_000
    source = folder / "made"
    source.write_bytes(data)
    file = ResultFile(name="frame.png", sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    report = Report(replica=number, outcome=Finished(fingerprint="f" * 64, files=(file,)))
    outbox.put(1, report, 1.0, {"frame.png": source})
    if number % 3 == 0:
        outbox.forget(number)
    print(number, flush=True)
"""


def test_kill_9_loses_no_outcome(tmp_path: Path) -> None:
    """A writer killed at any moment: every outcome that was kept is there with all its bytes, and none forgotten."""
    for kept in (1, 4, 9):
        folder = tmp_path / str(kept)
        folder.mkdir()
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < kept:
                pass
            os.kill(writer.pid, signal.SIGKILL)
        outbox = Outbox(folder / "outbox", "grid/1")
        there = {entry.report.replica for entry in outbox.entries}
        assert there >= {number for number in range(1, kept + 1) if number % 3}
        assert not {number for number in range(1, kept + 1) if number % 3 == 0} & there
        for entry in outbox.entries:
            for file in entry.files:
                data = outbox.file(entry.report.replica, file.name).read_bytes()
                assert hashlib.sha256(data).hexdigest() == file.sha256
