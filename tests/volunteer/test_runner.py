"""A driver process under the runner: what it is told, believed, denied, and how it ends. Real processes throughout."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from xwgrid_volunteer.runner import Ended, Progress, Ready, TaskFailed, TaskFinished
from xwgrid_volunteer.sandbox import detect
from xwgrid_volunteer.staging import remove

from tests.volunteer.driving import PYTHON, Driven, marked_processes
from xwgrid.errors import Conflict, NotFound
from xwgrid.model import Cause, Limits, ReplicaId

ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)
WRITES_A_FILE = """
for replica, folder, arguments in tasks():
    say(event="progress", replica=replica, done=0.5)
    with open(folder + "/a.txt", "w") as file:
        file.write(str(arguments["frame"]))
    say(event="finished", replica=replica, files=["a.txt"])
"""


def limits(**changes: Any) -> Limits:
    """Return small limits."""
    return Limits(**{"seconds": 30.0, "memory_bytes": 1 << 30, "result_bytes": 1 << 20, "processes": 64, **changes})


class RunnerCase(TestCase):
    """Gives each test a folder, and sees to it that no driver outlives its test."""

    timeout = 60
    sandboxed = True

    def setUp(self) -> None:
        """Make the folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="xwgrid-runner-"))
        self.addCleanup(remove, self.folder)

    def drive(self, script: str, **changes: Any) -> Driven:
        """Start a driver."""
        driven = Driven(self.folder / "job", script, sandboxed=self.sandboxed, **changes)
        self.addCleanup(driven.process.stop)
        driven.process.start()
        return driven

    def failure_of(self, script: str, **changes: Any) -> Deferred[TaskFailed]:
        """Give one task to a driver and return how it fails."""

        async def run() -> TaskFailed:
            driven = self.drive(script, **changes)
            driven.process.give(ONE, {})
            return await driven.next(TaskFailed)

        return ensureDeferred(run())


class TestTasks(RunnerCase):
    """Tasks that are done."""

    def test_serves_many_tasks(self) -> Deferred[None]:
        """One process does tasks in the order given, tells progress, and hands over the files of each."""

        async def run() -> None:
            driven = self.drive(WRITES_A_FILE)
            for replica, number in ((ONE, 7), (TWO, 8)):
                driven.process.give(replica, {"frame": number})
            await driven.next(Ready)
            assert driven.process.running == ONE
            assert driven.process.waiting == (TWO,)
            await driven.next(TaskFinished)
            await driven.next(TaskFinished)
            first, second = driven.told(TaskFinished)
            assert (first.replica, second.replica) == (ONE, TWO)
            assert [(each.folder / "a.txt").read_text() for each in (first, second)] == ["7", "8"]
            assert first.files == ("a.txt",)
            assert first.result_class == "test"
            assert Progress(replica=ONE, done=0.5) in driven.events
            await driven.process.quit()
            assert driven.told(Ended)[0].unbegun == ()

        return ensureDeferred(run())

    def test_value(self) -> Deferred[None]:
        """A result may be a value and no file."""

        async def run() -> None:
            driven = self.drive(
                """
                for replica, folder, arguments in tasks():
                    say(event="finished", replica=replica, value="42")
                """
            )
            driven.process.give(ONE, {})
            done = await driven.next(TaskFinished)
            assert (done.value, done.files) == ("42", ())

        return ensureDeferred(run())

    def test_garbage(self) -> Deferred[None]:
        """Garbage on standard output is log, whatever it looks like, and only its last 8 KiB are kept."""

        async def run() -> None:
            driven = self.drive(
                r"""
                for replica, folder, arguments in tasks():
                    os.write(1, b"@xwgrid {broken\n@xwgrid [1]\n@xwgrid {\"event\":\"dance\"}\n\xff\x00\x1b[2J\n")
                    os.write(1, b"x" * 1_000_000 + b"\n")
                    os.write(2, b"on the other stream\n")
                    os.write(1, b"@xwgrid " + b"[" * 50_000 + b"\nlast words\n")
                    say(event="finished", replica=replica, value="42")
                """
            )
            driven.process.give(ONE, {})
            done = await driven.next(TaskFinished)
            assert len(done.log_tail) <= 8 << 10
            assert done.log_tail.endswith("last words\n")
            assert "\x1b" not in done.log_tail

        return ensureDeferred(run())

    def test_says_no(self) -> Deferred[None]:
        """A task the driver refuses fails with its sentence; the next one is done by the same process."""

        async def run() -> None:
            driven = self.drive(
                """
                for replica, folder, arguments in tasks():
                    if replica == 1:
                        say(event="failed", replica=replica, message="the scene has no camera")
                    else:
                        say(event="finished", replica=replica, value="42")
                """
            )
            driven.process.give(ONE, {})
            driven.process.give(TWO, {})
            await driven.next(TaskFinished)
            (failed,) = driven.told(TaskFailed)
            assert (failed.replica, failed.cause, failed.message) == (ONE, Cause.EXITED, "the scene has no camera")

        return ensureDeferred(run())

    def test_files_of_its_own(self) -> Deferred[None]:
        """A task finds files that belong to it alone, also one given while another runs; they go when it ends, whether
        well or not, and what it was not given is not there.
        """
        script = """
        for replica, folder, arguments in tasks():
            own = os.path.join(os.environ["XWGRID_INPUTS"], f".task-{replica}")
            there = sorted(os.listdir(own)) if os.path.isdir(own) else None
            text = [open(os.path.join(own, name)).read() for name in there or ()]
            if replica == 2:
                say(event="failed", replica=replica, message=repr((there, text)))
            else:
                say(event="finished", replica=replica, value=repr((there, text)))
        """
        blobs = [self.folder / name for name in ("one", "two")]
        for blob in blobs:
            blob.write_text(blob.name)

        async def run() -> None:
            driven = self.drive(script)
            driven.process.give(ONE, {}, [("a.exr", blobs[0]), ("b.exr", blobs[1])])
            driven.process.give(TWO, {}, [("a.exr", blobs[1])])
            driven.process.give(THREE, {})
            while len(driven.told(TaskFinished)) < 2:
                await driven.next(TaskFinished)
            first, third = driven.told(TaskFinished)
            (second,) = driven.told(TaskFailed)
            assert first.value == repr((["a.exr", "b.exr"], ["one", "two"]))
            assert second.message == repr((["a.exr"], ["two"]))
            assert third.value == repr((None, []))
            assert list(driven.plan.staged.inputs.iterdir()) == []
            assert [blob.read_text() for blob in blobs] == ["one", "two"]

        return ensureDeferred(run())

    def test_files_that_cannot_be_given(self) -> Deferred[None]:
        """A task whose files are not there is refused where it is given, and the driver never hears of it."""

        async def run() -> None:
            driven = self.drive(WRITES_A_FILE)
            with pytest.raises(NotFound):
                driven.process.give(ONE, {"frame": 1}, [("a.exr", self.folder / "nothing")])
            driven.process.give(TWO, {"frame": 2})
            assert (await driven.next(TaskFinished)).replica == TWO
            assert driven.told(TaskFailed) == []

        return ensureDeferred(run())

    def test_files_of_a_task_that_comes_too_late(self) -> Deferred[None]:
        """One given when the process is being ended comes back, and nothing is laid out for it."""

        async def run() -> None:
            driven = self.drive("next(tasks())\ntime.sleep(600)")
            driven.process.give(ONE, {})
            await driven.next(Ready)
            ended = driven.process.stop()
            (self.folder / "one").write_text("one")
            driven.process.give(TWO, {}, [("a.exr", self.folder / "one")])
            await ended
            assert driven.told(Ended)[0].unbegun == (ONE, TWO)
            assert list(driven.plan.staged.inputs.iterdir()) == []

        return ensureDeferred(run())


class TestLies(RunnerCase):
    """Results that are none."""

    def check(self, writes: str, says: str, message: str) -> Deferred[None]:
        """See a driver fail with BAD_RESULT that does `writes` and then says its files are `says`."""

        async def run() -> None:
            failed = await self.failure_of(
                f"""
                for replica, folder, arguments in tasks():
                    {writes}
                    say(event="finished", replica=replica, files={says})
                """
            )
            assert failed.cause is Cause.BAD_RESULT
            assert message in failed.message
            assert list((self.folder / "job" / "results").iterdir()) == []

        return ensureDeferred(run())

    def test_missing(self) -> Deferred[None]:
        """A file that is not there is no result."""
        return self.check("pass", "['a.txt']", "there is no such file")

    def test_nothing(self) -> Deferred[None]:
        """Nothing is no result."""
        return self.check("pass", "[]", "no file and no value")

    def test_link(self) -> Deferred[None]:
        """A link is no result, wherever it leads."""
        return self.check("os.symlink('/etc/ld.so.cache', folder + '/a.txt')", "['a.txt']", "that is a link")

    def test_second_name(self) -> Deferred[None]:
        """A second name for another file is no result."""
        writes = "open('old', 'w').close(); os.link('old', folder + '/a.txt')"
        return self.check(writes, "['a.txt']", "another name of some other file")

    def test_folder(self) -> Deferred[None]:
        """A folder is no result."""
        return self.check("os.mkdir(folder + '/a.txt')", "['a.txt']", "not a regular file")

    def test_path(self) -> Deferred[None]:
        """A path is no name of a file."""
        return self.check("pass", "['../../spec.json']", "no plain name")

    def test_pipe(self) -> Deferred[None]:
        """A pipe is no result, and nobody waits for it."""
        return self.check("os.mkfifo(folder + '/a.txt')", "['a.txt']", "not a regular file")

    def test_twice(self) -> Deferred[None]:
        """A file is named once."""
        return self.check("open(folder + '/a.txt', 'w').close()", "['a.txt', 'a.txt']", "twice")

    def test_moved_folder(self) -> Deferred[None]:
        """A folder that became a link is not followed."""
        return self.check("os.rmdir(folder); os.symlink('/etc', folder)", "['ld.so.cache']", "replaced the folder")

    def test_too_large(self) -> Deferred[None]:
        """Files that together are larger than the job allows are no result."""
        writes = "[open(folder + f'/{n}.bin', 'wb').write(bytes(400_000)) for n in range(3)]"
        return self.check(writes, "['0.bin', '1.bin', '2.bin']", "the job allows 1048576")

    def test_other_task(self) -> Deferred[None]:
        """A driver that speaks of a task it was not given is ended, and its task fails."""

        async def run() -> None:
            failed = await self.failure_of(
                """
                for replica, folder, arguments in tasks():
                    say(event="finished", replica=99, value="1")
                """
            )
            assert "replica 99" in failed.message

        return ensureDeferred(run())


class TestEnds(RunnerCase):
    """Drivers that die, hang, or are ended."""

    def test_crash(self) -> Deferred[None]:
        """A crash fails the task at work with the signal's name; the tasks behind it come back as not begun."""

        async def run() -> None:
            driven = self.drive(
                """
                for replica, folder, arguments in tasks():
                    print("about to fall", flush=True)
                    os.kill(os.getpid(), signal.SIGSEGV)
                """
            )
            for replica in (ONE, TWO, THREE):
                driven.process.give(replica, {})
            ended = await driven.ended()
            (failed,) = driven.told(TaskFailed)
            assert (failed.replica, failed.cause) == (ONE, Cause.CRASHED)
            assert "SIGSEGV" in failed.message
            assert "about to fall" in failed.log_tail
            assert ended.unbegun == (TWO, THREE)
            with pytest.raises(Conflict):
                driven.process.give(ONE, {})

        return ensureDeferred(run())

    def test_given_too_late(self) -> Deferred[None]:
        """A task given between a driver's death and its end, as its queue's next, comes back as not begun."""

        async def run() -> None:
            driven = self.drive("next(tasks())\nsys.exit(5)")
            driven.on(TaskFailed, lambda: driven.process.give(TWO, {}))
            driven.process.give(ONE, {})
            assert (await driven.ended()).unbegun == (TWO,)

        return ensureDeferred(run())

    def test_failing_listener(self) -> Deferred[None]:
        """A fault in whoever listens does not keep the process from its end."""

        async def run() -> None:
            driven = self.drive("next(tasks())\nsys.exit(5)")
            driven.on(TaskFailed, lambda: 1 // 0)
            driven.process.give(ONE, {})
            await driven.ended()

        return ensureDeferred(run())

    def test_exit(self) -> Deferred[None]:
        """A driver that leaves in mid task fails it, with its exit status."""

        async def run() -> None:
            failed = await self.failure_of("next(tasks())\nsys.exit(5)")
            assert (failed.cause, failed.message) == (Cause.EXITED, "the program ended with status 5")

        return ensureDeferred(run())

    def test_does_not_start(self) -> Deferred[None]:
        """A driver that never gets ready fails the first task, whose next try would end alike, and no other."""

        async def run() -> None:
            driven = self.drive("", preamble="raise SystemExit('no bpy here')")
            driven.process.give(ONE, {})
            driven.process.give(TWO, {})
            ended = await driven.ended()
            (failed,) = driven.told(TaskFailed)
            assert failed.replica == ONE
            assert "no bpy here" in failed.log_tail
            assert ended.unbegun == (TWO,)

        return ensureDeferred(run())

    def test_too_slow(self) -> Deferred[None]:
        """A task past its time fails, and the whole tree with grandchildren of their own sessions is gone."""
        marker = uuid4().hex

        async def run() -> None:
            driven = self.drive(
                f"""
                import subprocess
                for replica, folder, arguments in tasks():
                    subprocess.Popen([{PYTHON!r}, "-c", "import time; time.sleep(600)", {marker!r}],
                        start_new_session=True)
                    print("hanging", flush=True)
                    time.sleep(600)
                """,
                limits=limits(seconds=1.0),
            )
            driven.process.give(ONE, {})
            failed = await driven.next(TaskFailed)
            assert (failed.cause, failed.message) == (Cause.TIMED_OUT, "the task took more than 1 s")
            await driven.ended()
            assert marked_processes(marker) == []
            assert [child for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE] == []

        return ensureDeferred(run())

    def test_suspension(self) -> Deferred[None]:
        """While suspended no process of the driver runs and its clock stands still; then it goes on and finishes."""

        async def run() -> None:
            driven = self.drive(
                """
                for replica, folder, arguments in tasks():
                    if os.fork() == 0:
                        while True:
                            time.sleep(0.01)
                    for step in range(20):
                        say(event="progress", replica=replica, done=step / 20)
                        time.sleep(0.05)
                    say(event="finished", replica=replica, value="1")
                """,
                limits=limits(seconds=2.0),
            )
            driven.process.give(ONE, {})
            await driven.next(Progress)
            driven.process.suspend()
            pid = driven.process.pid
            assert pid is not None
            top = psutil.Process(pid)
            # A signal is delivered when its receiver is next looked at, on a busy machine a little later.
            while [each.status() for each in (top, *top.children(recursive=True))].count(psutil.STATUS_STOPPED) < 2:
                await deferLater(reactor, 0.01)
            # Longer than the task may take: time as such is the thing under test here.
            await deferLater(reactor, 2.2)
            heard = len(driven.events)
            await deferLater(reactor, 0.2)
            assert len(driven.events) == heard
            driven.process.resume()
            done = await driven.next(TaskFinished)
            assert done.seconds < 2.0

        return ensureDeferred(run())

    def test_stop_while_suspended(self) -> Deferred[None]:
        """A suspended driver can be stopped; its task is nobody's fault and comes back."""

        async def run() -> None:
            driven = self.drive(
                """
                for replica, folder, arguments in tasks():
                    say(event="progress", replica=replica, done=0.1)
                    time.sleep(600)
                """
            )
            driven.process.give(ONE, {})
            await driven.next(Progress)
            driven.process.suspend()
            await driven.process.stop()
            (ended,) = driven.told(Ended)
            assert ended.unbegun == (ONE,)
            assert driven.told(TaskFailed) == []

        return ensureDeferred(run())

    def test_never_exits(self) -> Deferred[None]:
        """A renderer that says goodbye and stays is killed; what it did is kept."""

        async def run() -> None:
            driven = self.drive(
                """
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                for replica, folder, arguments in tasks():
                    say(event="finished", replica=replica, value="1")
                while True:
                    time.sleep(1)
                """,
                bye_seconds=0.3,
            )
            driven.process.give(ONE, {})
            await driven.process.quit()
            assert len(driven.told(TaskFinished)) == 1
            assert "did not end" in driven.told(Ended)[0].message

        return ensureDeferred(run())

    def test_stop_at_once(self) -> Deferred[None]:
        """A driver stopped before it was up is gone all the same."""

        async def run() -> None:
            driven = self.drive(WRITES_A_FILE)
            driven.process.give(ONE, {})
            pid = driven.process.pid
            assert pid is not None
            await driven.process.stop()
            assert not psutil.pid_exists(pid)
            assert driven.told(Ended)[0].unbegun == (ONE,)

        return ensureDeferred(run())

    def test_holds_the_pipes(self) -> Deferred[None]:
        """A child that outlives its driver and keeps its pipes open does not keep the runner waiting."""
        marker = uuid4().hex

        async def run() -> None:
            failed = await self.failure_of(
                f"""
                import subprocess
                next(tasks())
                subprocess.Popen([{PYTHON!r}, "-c", "import time; time.sleep(600)", {marker!r}], start_new_session=True)
                os._exit(3)
                """
            )
            assert failed.message == "the program ended with status 3"
            assert marked_processes(marker) == []

        return ensureDeferred(run())

    def test_no_such_program(self) -> Deferred[None]:
        """A program that is not there fails the task and is named."""

        async def run() -> None:
            driven = Driven(self.folder / "job", "", sandboxed=self.sandboxed)
            runtime = driven.plan.runtime
            changed = type(runtime)(name="python", command=("/nowhere/python",), origin="a test")
            driven = Driven(self.folder / "job", "", sandboxed=self.sandboxed, runtime=changed)
            driven.process.give(ONE, {})
            driven.process.start()
            await driven.ended()
            (failed,) = driven.told(TaskFailed)
            assert "/nowhere/python" in failed.message + failed.log_tail

        return ensureDeferred(run())


class TestEndsWithoutSandbox(TestEnds):
    """The same where there is no bubblewrap, for applications the owner trusts."""

    sandboxed = False


class TestTasksWithoutSandbox(TestTasks):
    """The same where there is no bubblewrap, for applications the owner trusts."""

    sandboxed = False


class TestBounds(RunnerCase):
    """What the sandbox allows a driver."""

    def value_of(self, expression: str, **changes: Any) -> Deferred[str]:
        """Return what an expression is worth inside the sandbox."""

        async def run() -> str:
            driven = self.drive(
                f"""
                for replica, folder, arguments in tasks():
                    say(event="finished", replica=replica, value=str({expression}))
                """,
                **changes,
            )
            driven.process.give(ONE, {})
            done = await driven.next(TaskFinished)
            return done.value or ""

        return ensureDeferred(run())

    def test_sees_little(self) -> Deferred[None]:
        """A driver sees the system, its runtime and its own folders, nothing of the host's homes, and is nobody."""

        async def run() -> None:
            assert await self.value_of("os.getuid()") == "65534"
            assert await self.value_of("os.path.exists('/etc/passwd') or os.path.exists('/home')") == "False"
            assert await self.value_of("sorted(os.environ)") == str(
                sorted(
                    (
                        *("PATH", "HOME", "TMPDIR", "LANG", "PYTHONDONTWRITEBYTECODE", "BLENDER_USER_RESOURCES", "PWD"),
                        *("XWGRID_INPUTS", "XWGRID_APP", "XWGRID_WORK"),
                    )
                )
            )

        return ensureDeferred(run())

    def test_memory(self) -> Deferred[None]:
        """A task that takes more memory than its job allows fails by itself and takes nothing else with it."""

        async def run() -> None:
            failed = await self.failure_of("next(tasks())\nbytes(2 << 30)", limits=limits(memory_bytes=512 << 20))
            assert "MemoryError" in failed.log_tail

        return ensureDeferred(run())

    def test_file_size(self) -> Deferred[None]:
        """A task that writes a larger file than its job allows fails, and the limit is named."""

        async def run() -> None:
            failed = await self.failure_of(
                """
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                replica, folder, arguments = next(tasks())
                open(folder + "/a.bin", "wb").write(bytes(2 << 20))
                """
            )
            assert failed.cause is Cause.CRASHED
            assert "SIGXFSZ" in failed.message

        return ensureDeferred(run())

    def test_fork_bomb(self) -> Deferred[None]:
        """A fork bomb meets its limit, as root as well, and is gone with its sandbox."""

        async def run() -> None:
            failed = await self.failure_of(
                """
                next(tasks())
                count = 0
                try:
                    while os.fork():
                        count += 1
                    signal.pause()
                except OSError as error:
                    print("stopped after", count, flush=True)
                os._exit(9)
                """
            )
            assert failed.message == "the program ended with status 9"
            assert "stopped after " in failed.log_tail
            assert int(failed.log_tail.split("stopped after ")[1].split()[0]) < 64 + 4 * (os.cpu_count() or 1)

        return ensureDeferred(run())


DAEMON = """
import sys
from pathlib import Path
from twisted.internet import reactor
from tests.volunteer.driving import Driven
from xwgrid_volunteer.runner import Progress
script = '''
import subprocess
for replica, folder, arguments in tasks():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", MARKER], start_new_session=True)
    say(event="progress", replica=replica, done=0.5)
    time.sleep(600)
'''
driven = Driven(Path(sys.argv[1]), script.replace("MARKER", repr(sys.argv[2])))
driven.on(Progress, lambda: print("rendering", flush=True))
reactor.callWhenRunning(driven.process.start)
reactor.callWhenRunning(driven.process.give, 1, {})
reactor.run()
"""


def test_killed_daemon(tmp_path: Path) -> None:
    """A daemon that is killed, with no chance to tidy up, takes its sandboxed drivers along."""
    marker = uuid4().hex
    tmp_path.chmod(0o755)
    daemon = subprocess.Popen(
        [PYTHON, "-c", DAEMON, str(tmp_path / "job"), marker],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline() == b"rendering\n"
    rendering = [psutil.Process(pid) for pid in marked_processes(marker)]
    assert len(rendering) >= 2
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    gone, alive = psutil.wait_procs([each for each in rendering if each.pid != daemon.pid], timeout=30)
    assert gone
    assert [each for each in alive if each.status() != psutil.STATUS_ZOMBIE] == []


def test_sandbox_is_here() -> None:
    """These tests mean something only where bubblewrap works."""
    assert detect().tool is not None, detect().reason
    assert os.path.exists(PYTHON)  # noqa: PTH110
