"""People who use a grid by its commands, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.grid import BIN, RUNTIMES, Grid
from xwgrid.requester.settings import save_credentials


class Ended:
    """How a command ended."""

    def __init__(self, command: list[str], given: str | None, environment: dict[str, str]) -> None:
        began = time.monotonic()
        standard = {"stdin": subprocess.DEVNULL} if given is None else {}
        run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
        ended = run(command, input=given, capture_output=True, text=True, env=environment, timeout=120, **standard)
        self.seconds = time.monotonic() - began
        self.status, self.out, self.said = ended.returncode, ended.stdout, ended.stderr

    def refused(self, *sentences: str) -> None:
        """Hold it to 2, nothing on standard output, and one sentence without a traceback."""
        assert (self.status, self.out) == (2, ""), self.said
        assert "Traceback" not in self.said
        for sentence in sentences:
            assert sentence in self.said


class Person:
    """Somebody with an account, credentials, and the commands."""

    def __init__(self, grid: Grid, folder: Path, name: str) -> None:
        self.grid = grid
        self.folder = folder / name
        self.folder.mkdir()
        grid.add_user(name)
        self.name = name
        self.credentials = self.folder / "credentials"
        save_credentials(self.credentials, grid.credentials(name))
        self.settings = self.folder / "requester.toml"
        self.settings.write_text(
            f"credentials = {json.dumps(str(self.credentials))}\nruntimes = {json.dumps(str(RUNTIMES))}\n"
        )

    def run(self, *arguments: str, given: str | None = None) -> Ended:
        """Run `xwgrid` as a process of its own."""
        command = [str(BIN / "xwgrid"), "--settings", str(self.settings), *arguments]
        return Ended(command, given, self.grid.environment)

    def ask(self, *arguments: str) -> Any:
        """Run a command that must succeed, with --json; return what it said."""
        ended = self.run(*arguments, "--json")
        assert ended.status == 0, ended.said
        return json.loads(ended.out)
