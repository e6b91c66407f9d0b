"""The pure parts around a driver: where its folders are, what its output says, why it ended, how time is counted."""

from __future__ import annotations

import json

import pytest
from twisted.internet.task import Clock
from xwgrid_volunteer.driver_output import MAX_LINE, LogTail, Output, SaidFinished, SaidProgress, SaidReady
from xwgrid_volunteer.driver_plan import places
from xwgrid_volunteer.exit_reasons import explain
from xwgrid_volunteer.stoppable_timer import StoppableTimer

from xwgrid.model import Cause, ReplicaId


def test_usual_places() -> None:
    """A driver finds its folders at /inputs, /app and /work."""
    found = places(["/usr/lib/python3", "/home/somebody/python"])
    assert (found.inputs, found.application, found.work) == ("/inputs", "/app", "/work")


def test_places_that_are_taken() -> None:
    """Where the runtime itself lies in one of these, the driver's folders move out of its way."""
    found = places(["/app/venv", "/job0/work/python"])
    assert (found.inputs, found.application, found.work) == ("/job1/inputs", "/job1/app", "/job1/work")


@pytest.mark.parametrize("size", [1, 2, 7, 1_000])
def test_output_in_any_pieces(size: int) -> None:
    """Events are the same however their bytes arrive; a line that is too long is log and nothing after it is lost."""
    ready = {"event": "ready", "version": "1", "result_class": "c"}
    data = b"noise\n@xwgrid " + json.dumps(ready).encode() + b"\n@xwgrid " + b" " * MAX_LINE + b"{}\n"
    data += b'@xwgrid {"event":"finished","replica":3,"files":["a"],"new_field":1}\nno end'
    log = LogTail()
    output = Output(log)
    said = [event for at in range(0, len(data), size) for event in output.feed(data[at : at + size])]
    assert said == [SaidReady("1", "c"), SaidFinished(ReplicaId(3), ("a",))]
    output.flush()
    assert log.text().endswith("no end")


@pytest.mark.parametrize(
    "line",
    ['{"event":"progress","replica":1,"done":2}', '{"event":"progress","replica":1,"done":NaN}', '{"event":"x"}', "[]"],
)
def test_nonsense_is_log(line: str) -> None:
    """What is marked as an event and is none is kept as log."""
    log = LogTail()
    assert list(Output(log).feed(f"@xwgrid {line}\n".encode())) == []
    assert line in log.text()


def test_progress() -> None:
    """Progress is a share."""
    line = b'@xwgrid {"event":"progress","replica":1,"done":0.25}\n'
    assert list(Output(LogTail()).feed(line)) == [SaidProgress(ReplicaId(1), 0.25)]


@pytest.mark.parametrize(
    ("status", "number", "sandboxed", "cause", "said"),
    [
        (None, 11, False, Cause.CRASHED, "SIGSEGV"),
        (139, None, True, Cause.CRASHED, "SIGSEGV"),
        (139, None, False, Cause.EXITED, "status 139"),
        (137, None, True, Cause.CRASHED, "out of memory"),
        (1, None, True, Cause.EXITED, "status 1"),
        (0, None, True, Cause.EXITED, "no result"),
        (255, None, True, Cause.EXITED, "status 255"),
    ],
)
def test_reasons(status: int | None, number: int | None, sandboxed: bool, cause: Cause, said: str) -> None:
    """A signal is named, also where bubblewrap hands it on as a status; a status is told as it is."""
    found, message = explain(status, number, sandboxed=sandboxed)
    assert found is cause
    assert said in message


def test_timer_stands_still() -> None:
    """Time spent paused does not count, and a timer started while paused waits for the end of the pause."""
    clock = Clock()
    rang: list[float] = []
    timer = StoppableTimer(clock)
    timer.start(10.0, lambda: rang.append(clock.seconds()))
    clock.advance(4.0)
    timer.pause()
    clock.advance(100.0)
    assert timer.elapsed == 4.0
    timer.go_on()
    clock.advance(5.9)
    assert rang == []
    clock.advance(0.2)
    assert len(rang) == 1
    timer.pause()
    timer.start(1.0, lambda: rang.append(0.0))
    clock.advance(5.0)
    assert len(rang) == 1
    timer.go_on()
    clock.advance(1.0)
    assert rang[1:] == [0.0]
