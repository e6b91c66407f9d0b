"""The driver of the digest chain, and the protocol every driver speaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.applications.driven import drive
from xwgrid.applications.digest import expected_value
from xwgrid.applications.manifests import script
from xwgrid.model import Count, DigestWork, JobRequest, TaskNumber

PYTHON = (sys.executable,)


def chains(rounds: int) -> JobRequest:
    return JobRequest(name="chains", work=DigestWork(seed="s", rounds=rounds), split=Count(count=9))


def test_values_are_those_of_the_chain(tmp_path: Path) -> None:
    """One process works on many tasks in order, and each value is the one its description says."""
    told = drive(tmp_path, PYTHON, chains(1_000), [{"number": 4}, {"number": 0}], inputs=tmp_path)
    assert told.status == 0, told.log
    assert [each["value"] for each in told.all("finished")] == [
        expected_value(DigestWork(seed="s", rounds=1_000), TaskNumber(number)) for number in (4, 0)
    ]
    assert told.ready["result_class"] == "python exact"
    assert told.ready["effective"] == {"seed": "s", "rounds": 1_000}
    assert told.events[-1] == {"event": "bye"}


def test_progress_is_told_now_and_then(tmp_path: Path) -> None:
    """A long task says how far it is, growing, some times a second and not at every round."""
    told = drive(tmp_path, PYTHON, chains(1_500_000), [{"number": 1}], inputs=tmp_path)
    (finished,) = told.all("finished")
    done = [each["done"] for each in told.all("progress")]
    assert done == sorted(done)
    assert all(0 < each <= 1 for each in done)
    assert 1 <= len(done) <= finished["seconds"] / 0.2 + 1


def test_a_task_that_fails_does_not_end_the_process(tmp_path: Path) -> None:
    """An error of one task is told with its reason, its traceback goes to the log, and the next task is done."""
    told = drive(tmp_path, PYTHON, chains(1), [{"frame": 1}, {"number": 1}], inputs=tmp_path)
    assert told.failures == ["KeyError: 'number'"]
    assert "Traceback" in told.log
    assert [each["replica"] for each in told.all("finished")] == [2]


def test_no_line_of_the_protocol_is_cut_by_others(tmp_path: Path) -> None:
    """Whatever a program prints from anywhere goes to the log, also by file descriptor 1 and from its children."""
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]);"
        "os.write(1, b'half a line');"
        "from xwgrid.applications.drivers.driver_lines import Lines;"
        "lines = Lines(); os.write(1, b'from C'); print('from Python', flush=True); os.system('echo from a child');"
        "lines.send('progress', replica=1, done=0.5); os.write(1, b'again'); lines.leave(0)"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run([*PYTHON, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == [
        "half a line",
        '@xwgrid {"event":"progress","replica":1,"done":0.5}',
        '@xwgrid {"event":"bye"}',
    ]
    for text in ("from C", "from Python", "from a child", "again"):
        assert text in ended.stderr


def test_driver_ends_when_nobody_listens(tmp_path: Path) -> None:
    """With the volunteer's end of the line gone, the process ends by itself at its next word."""
    (tmp_path / "spec.json").write_text('{"request": {"work": {"seed": "s", "rounds": 1}}}')
    near, far = os.pipe()
    os.close(near)
    ended = subprocess.run(
        [*PYTHON, str(script("digest_driver.py")), str(tmp_path / "spec.json")],
        input=b'{"do":"task","replica":1,"arguments":{"number":1}}\n',
        stdout=far,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
    )
    os.close(far)
    assert ended.returncode == 1


def test_what_is_no_specification(tmp_path: Path) -> None:
    """A specification that is none ends the driver with 2 and a sentence in the log."""
    (tmp_path / "spec.json").write_text("[]")
    for path in ("spec.json", "absent.json"):
        ended = subprocess.run(
            [*PYTHON, str(script("digest_driver.py")), str(tmp_path / path)],
            input="",
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2
        assert "is not a job's specification" in ended.stderr


def test_probe_says_what_it_is() -> None:
    """Asked by `probe`, the driver tells version and class of its results, and ends."""
    ended = subprocess.run(
        [*PYTHON, str(script("digest_driver.py")), "probe"], capture_output=True, text=True, check=True
    )
    lines = [line.removeprefix("@xwgrid ") for line in ended.stdout.splitlines() if line]
    assert [json.loads(line)["event"] for line in lines] == ["ready", "bye"]
    assert json.loads(lines[0])["result_class"] == "python exact"
