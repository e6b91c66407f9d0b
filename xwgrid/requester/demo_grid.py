"""An embedded grid on this machine: one real server and its volunteers, each a process, all in one folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from msgspec import Struct

from xwgrid.errors import GridError
from xwgrid.reading.bubblewrap import Missing, find_bubblewrap
from xwgrid.requester.client import first_contact
from xwgrid.requester.inspection import Renderer
from xwgrid.requester.settings import Credentials
from xwgrid.tokens import parse

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
_LOOK_SECONDS = 0.05
_TAIL = 2_000
# So that progress shows, and a crash is noticed, within a second; a real grid calls less often.
_HEARTBEAT_SECONDS = 1.0
_LEASE_SECONDS = 15.0


class Part:
    """A process of the grid: it can be started, ended, killed and started again. What it says goes to `log`."""

    def __init__(self, name: str, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process. Raises GridError when there is no such program."""
        try:
            with self.log.open("ab") as log:
                # A session of its own: ^C is for us, and we end our parts in order.
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise GridError(f"{self.name} cannot be started: {self._command[0]}: {error.strerror}") from error

    def check(self) -> None:
        """Raise GridError with the end of its log if the process has ended by itself."""
        if self._process is not None and (status := self._process.poll()) is not None:
            raise GridError(f"{self.name} ended with status {status}. Its last words:\n{self.tail()}")

    def kill(self) -> None:
        """End the process as a power cut would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask_to_end(self) -> None:
        """Ask the process to end in good order; it is not waited for."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """End the process in good order, or else for good."""
        if self._process is None:
            return
        self.ask_to_end()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def tail(self) -> str:
        """Return the end of what the process said."""
        return self.log.read_text(errors="replace")[-_TAIL:] if self.log.exists() else ""


class Volunteer(Struct, frozen=True, kw_only=True):
    """A volunteer of the grid: its host's name is its owner's too."""

    name: str
    part: Part
    lies: bool


class EmbeddedGrid:
    """A server and its volunteers below `folder`. `with EmbeddedGrid(…) as grid:` ends all of them, come what may."""

    def __init__(self, folder: Path, runtimes: Path, renderer: Renderer) -> None:
        self.folder = folder
        self.volunteers: list[Volunteer] = []
        self._renderer = renderer
        # The user's own server, volunteer and settings have no say here.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("XWGRID_")}
        self._environment = {**kept, "XWGRID_RUNTIMES": str(runtimes)}
        self._settings = folder / "server.toml"
        self._ready = folder / "server.ready"
        command = [
            _program("xwgrid-server"),
            "run",
            *("--settings", str(self._settings)),
            *("--ready-file", str(self._ready)),
        ]
        self._server = Part("the server", command, folder / "server.log", self._environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for volunteer in self.volunteers:
            volunteer.part.ask_to_end()
        for volunteer in self.volunteers:
            volunteer.part.stop()
        self._server.stop()

    def start_server(self) -> Credentials:
        """Make a server with SQLite on loopback, start it, and return its first user's credentials.

        Raises GridError with the end of its log when it does not start.
        """
        options = ["--state", str(self.folder / "server"), "--host-name", "127.0.0.1"]
        options += ["--api", "127.0.0.1:0", "--volunteers", "127.0.0.1:0"]
        options += ["--signing-key", str(self.folder / "signing-key.pem")]
        self._admin("init", *options)
        written = self._settings.read_text(encoding="utf-8")
        extra = f"heartbeat_seconds = {_HEARTBEAT_SECONDS}\nlease_seconds = {_LEASE_SECONDS}\n"
        # Top-level keys come before the first table.
        self._settings.write_text(extra + written, encoding="utf-8")
        self._server.start()
        end = time.monotonic() + _START_SECONDS
        while not self._ready.exists():
            self._server.check()
            if time.monotonic() > end:
                raise GridError(f"the server did not start in {_START_SECONDS:g} s:\n{self._server.tail()}")
            # The file is the only sign a process of its own gives.
            time.sleep(_LOOK_SECONDS)
        return first_contact(parse(self._admin("token", "requester", "--user", "operator"), kind="requester"))

    def start_volunteers(self, count: int, liars: int) -> str | None:
        """Enrol and start volunteers, each of an owner of its own, the last `liars` of which lie.

        Returns a sentence when they run without a sandbox, for there is none. Raises GridError.
        """
        sandbox = find_bubblewrap()
        warning = None
        if isinstance(sandbox, Missing):
            warning = (
                f"The volunteers render without a sandbox, this demonstration's scene is trusted: {sandbox.reason}."
            )
        wrapper = self.folder / "liar"
        wrapper.mkdir()
        shutil.copy(Path(__file__).with_name("demo_liar.py"), wrapper / "renderer.py")
        with ThreadPoolExecutor(max_workers=count) as pool:
            made = [
                pool.submit(self._enrol, number, lies=number > count - liars, trusted=warning is not None)
                for number in range(1, count + 1)
            ]
            self.volunteers = [future.result() for future in made]
        for volunteer in self.volunteers:
            volunteer.part.start()
        self._wait_for_volunteers()
        return warning

    def _wait_for_volunteers(self) -> None:
        """Return once every volunteer has called: with small frames the first two would do all of them alone."""
        end = time.monotonic() + _START_SECONDS
        while any(host["last_seen_at"] is None for host in json.loads(self._admin("host", "list", "--json"))):
            self.check()
            if time.monotonic() > end:
                tails = "\n".join(f"{each.name}:\n{each.part.tail()}" for each in self.volunteers)
                raise GridError(f"not every volunteer called within {_START_SECONDS:g} s:\n{tails}")
            time.sleep(_LOOK_SECONDS)

    def standings(self) -> dict[str, str]:
        """Return what the server makes of each volunteer: "new", "on probation", "set aside" and so on."""
        listed = json.loads(self._admin("trust", "list", "--json"))
        return {each["name"]: str(each["rank"]) for each in listed}

    def check(self) -> None:
        """Raise GridError if a part of the grid has ended by itself."""
        self._server.check()
        for volunteer in self.volunteers:
            volunteer.part.check()

    def _enrol(self, number: int, *, lies: bool, trusted: bool) -> Volunteer:
        name = f"liar-{number}" if lies else f"volunteer-{number}"
        folder = self.folder / name
        folder.mkdir()
        settings = folder / "volunteer.toml"
        # Load is no reason to pause here: the volunteers share one machine. Quotes are the same in TOML and JSON.
        lines = [f"state = {json.dumps(str(folder / 'state'))}", "max_load = 1", 'proxy = ""']
        if trusted:
            lines.append('trusted_without_sandbox = ["blender"]')
        if lies:
            lines += ["[runtimes.blender]", f"command = {json.dumps(self._lying_command(number))}"]
            lines.append(f"read_only = {json.dumps([str(self.folder / 'liar')])}")
        settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._admin("user", "add", name)
        token = self._admin("token", "enrol", "--user", name)
        options = ["--settings", str(settings)]
        self._run(
            [_program("xwgrid-volunteer"), "enrol", *options, "--name", name, "--token-file", "-"], standard_input=token
        )
        part = Part(name, [_program("xwgrid-volunteer"), "run", *options], folder / "log", self._environment)
        return Volunteer(name=name, part=part, lies=lies)

    def _lying_command(self, number: int) -> list[str]:
        script = str(self.folder / "liar" / "renderer.py")
        between = self._renderer.before_arguments or ("-",)
        return [sys.executable, "-I", "-B", script, str(number), *between, *self._renderer.command]

    def _admin(self, *arguments: str) -> str:
        command, *rest = arguments
        group = [command, rest.pop(0)] if command in {"user", "token", "host", "trust"} else [command]
        return self._run([_program("xwgrid-admin"), *group, "--settings", str(self._settings), *rest])

    def _run(self, command: Sequence[str], standard_input: str = "") -> str:
        try:
            ended = subprocess.run(
                command,
                input=standard_input,
                capture_output=True,
                text=True,
                check=False,
                env=self._environment,
                timeout=_START_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GridError(f"{Path(command[0]).name} {command[1]} did not run: {error}") from error
        if ended.returncode != 0:
            said = ended.stderr.strip() or ended.stdout.strip()
            raise GridError(f"{Path(command[0]).name} {command[1]} ended with {ended.returncode}: {said}")
        return ended.stdout.strip()


def _program(name: str) -> str:
    """Return the entry point installed beside this Python, or the one on the search path."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    found = shutil.which(name)
    if found is None:
        raise GridError(
            f"the demonstration needs {name}, which is not installed: pip install 'xwgrid[server,volunteer]'"
        )
    return found
