"""What a program in the sandbox can and cannot do, tried from inside, as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from xwgrid_volunteer.sandbox import detect

from xwgrid.reading.bubblewrap import system_layout
from xwgrid.sandboxing import Bind, Bubblewrap, Caps, Sandbox, limited, sandboxed, shown, within

# The system's own: an ordinary user cannot reach one below root's home, and need not.
PYTHON = "/usr/bin/python3"
IS_ROOT = os.geteuid() == 0
AS = ["root", "nobody"] if IS_ROOT else ["me"]


@pytest.fixture(params=AS)
def who(request: pytest.FixtureRequest) -> str:
    """The user who starts the sandbox."""
    return str(request.param)


@pytest.fixture
def work() -> Iterator[Path]:
    """A folder that is the program's own."""
    folder = Path(tempfile.mkdtemp(prefix="xwgrid-sandbox-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def tool_of(who: str) -> Bubblewrap:
    """Return the tool as this user would have found it."""
    tool = detect().tool
    assert tool is not None, detect().reason
    return replace(tool, as_root=who == "root" or (who == "me" and IS_ROOT))


def run(plan: Sandbox, who: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the sandbox."""
    arguments = sandboxed(plan, command, tool_of(who))
    if who == "nobody":
        arguments = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", *arguments]
    # A name that must not get in, and a folder that is not there inside.
    environment = {**os.environ, "XWGRID_SECRET": "do not tell"}
    return subprocess.run(
        arguments,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        cwd="/",
    )


def python(plan: Sandbox, who: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in the sandbox."""
    return run(plan, who, PYTHON, "-I", "-c", code)


def test_is_nobody(who: str) -> None:
    """The program is uid 65534 without capabilities, sees only its own processes and a host name that tells nothing."""
    code = """
import os, socket
status = open("/proc/self/status").read()
caps = {line.split()[1] for line in status.splitlines() if line.startswith("Cap")}
processes = [each for each in os.listdir("/proc") if each.isdigit()]
print(os.getuid(), os.getgid(), caps, socket.gethostname(), len(processes))
"""
    assert python(Sandbox(), who, code).stdout.split("\n")[0] == "65534 65534 {'0000000000000000'} sandbox 2"


def test_no_network(who: str) -> None:
    """There is no network: no device but a loopback that is down, no way to this host's own ports."""
    code = """
import socket
print(sorted(name for _, name in socket.if_nameindex()))
try:
    socket.create_connection(("127.0.0.1", 1), timeout=5)
except OSError as error:
    print(error.strerror)
try:
    socket.create_connection(("192.0.2.1", 80), timeout=5)
except OSError as error:
    print(error.strerror)
"""
    lines = python(Sandbox(), who, code).stdout.splitlines()
    assert lines[0] == "['lo']"
    assert lines[-1] == "Network is unreachable"


def test_no_secrets(who: str) -> None:
    """Passwords, homes, temporary files and the environment of the host are not there."""
    with tempfile.NamedTemporaryFile() as secret:
        code = f"""
import os
for path in ("/etc/shadow", "/etc/passwd", "/root", "/home", "/var", {secret.name!r}, "/sys", "/run"):
    print(path, os.path.exists(path))
print(sorted(os.environ))
"""
        said = python(Sandbox(environment=(("LANG", "C.UTF-8"),)), who, code).stdout
    assert "True" not in said
    assert said.splitlines()[-1] in ("['LANG', 'PWD']", "['LANG', 'LC_CTYPE', 'PWD']")


def test_cannot_write(who: str, work: Path) -> None:
    """The program writes to its own folder and its private /tmp, and nowhere else."""
    shown_folder = work / "shown"
    shown_folder.mkdir(mode=0o777)
    shown_folder.chmod(0o777)
    own = work / "own"
    own.mkdir()
    own.chmod(0o777)
    plan = Sandbox(read_only=(Bind(str(shown_folder), "/shown"),), writable=(Bind(str(own), "/work"),), cwd="/work")
    code = """
import os
for place in ("/", "/usr", "/etc", "/dev", "/shown", "/proc", "/work", "/tmp", "/dev/shm"):
    try:
        open(place + "/mine", "w").close()
        print("wrote", place)
    except OSError:
        pass
"""
    assert python(plan, who, code).stdout.splitlines() == ["wrote /work", "wrote /tmp", "wrote /dev/shm"]
    assert (own / "mine").exists()
    assert not Path("/tmp/mine").exists()  # noqa: S108  # the private one must not be the host's


def test_temporary_space(who: str) -> None:
    """The private /tmp, which is memory, has an end."""
    code = """
try:
    with open("/tmp/a", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
except OSError as error:
    print(error.strerror)
"""
    assert python(Sandbox(temporary_bytes=16 << 20), who, code).stdout == "No space left on device\n"


def test_memory(who: str) -> None:
    """A program gets the memory it may have, and no more."""
    plan = Sandbox(caps=Caps(memory_bytes=512 << 20))
    assert python(plan, who, "bytes(1 << 30)").stderr.endswith("MemoryError\n")
    assert python(plan, who, "bytes(1 << 20)").returncode == 0


def test_processes(who: str) -> None:
    """A fork bomb stops at its limit, whoever started the sandbox, and nothing of it is left."""
    code = """
import os, signal
count = 0
try:
    while count < 500:
        if os.fork() == 0:
            signal.pause()
        count += 1
except OSError:
    pass
print(count)
"""
    said = python(Sandbox(caps=Caps(processes=40)), who, code)
    assert 10 < int(said.stdout) < 40


def test_file_size(who: str) -> None:
    """A file grows to the limit and no further."""
    code = "open('/tmp/a', 'wb').write(bytes(2 << 20))"
    answer = python(Sandbox(caps=Caps(file_bytes=1 << 20)), who, code)
    assert "File too large" in answer.stderr


def test_processor_time(who: str) -> None:
    """A program that computes beyond its time is ended by the signal that says so."""
    answer = python(Sandbox(caps=Caps(cpu_seconds=1)), who, "while True: pass")
    assert answer.returncode == 128 + 24  # SIGXCPU


def test_no_further_namespaces(who: str) -> None:
    """A program cannot make itself root of a namespace of its own."""
    assert run(Sandbox(), who, "/usr/bin/unshare", "--user", "--map-root-user", "/usr/bin/id").returncode != 0


def test_ends_with_its_parent(who: str) -> None:
    """Killing the process that was started ends everything inside: the pipe it holds closes."""
    arguments = sandboxed(Sandbox(), ("/bin/sh", "-c", "echo up; exec sleep 600"), tool_of(who))
    if who == "nobody":
        arguments = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", *arguments]
    reading, writing = os.pipe()
    process = subprocess.Popen([*arguments], stdout=writing, cwd="/")
    os.close(writing)
    assert os.read(reading, 3) == b"up\n"
    process.kill()
    process.wait()
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_python_anywhere(who: str, work: Path) -> None:
    """A Python that lies in somebody's own folder runs in the sandbox, once it is shown."""
    if who == "nobody" and Path(sys.base_prefix).is_relative_to("/root"):
        pytest.skip("this Python lies where that user cannot reach it")
    tool = tool_of(who)
    plan = Sandbox(read_only=shown([sys.prefix, sys.base_prefix], tool.layout))
    answer = run(plan, who, sys.executable, "-I", "-c", "import json; print('here')")
    assert (answer.stdout, answer.stderr) == ("here\n", "")


def test_limits_without_sandbox(work: Path) -> None:
    """Without bubblewrap memory, file size and time are limited all the same."""
    plan = Sandbox(caps=Caps(memory_bytes=512 << 20))
    arguments = limited(plan, (PYTHON, "-I", "-c", "bytes(1 << 30)"), prlimit=tool_of(AS[0]).prlimit, ceiling=Caps())
    answer = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False, cwd=work)
    assert answer.stderr.endswith("MemoryError\n")


def test_own_limits_are_kept() -> None:
    """No cap is set above what the caller itself is held to."""
    caps = within(Caps(memory_bytes=8, processes=5, file_bytes=None), Caps(memory_bytes=4, processes=9, file_bytes=3))
    assert (caps.memory_bytes, caps.processes, caps.file_bytes) == (4, 5, None)


def test_shown_once() -> None:
    """A folder inside a shown one is not shown again, and the system's never."""
    layout = system_layout()
    paths = ["/opt/a/b", "/opt/a", "/usr/lib", "/opt/ab", "/opt/a"]
    assert [bind.source for bind in shown(paths, layout)] == ["/opt/a", "/opt/ab"]


def test_missing_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where there is no bubblewrap the finding says so and how to get it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = detect()
    assert finding.tool is None
    assert finding.name is None
    assert "apt-get install bubblewrap" in finding.reason


def test_forbidden_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where bubblewrap is installed and may not work, the finding gives its own words."""
    broken = tmp_path / "bwrap"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.8.0 && exit 0\n'
        "echo 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    finding = detect()
    assert finding.tool is None
    assert "No permissions to create new namespace" in finding.reason
