"""Drivers run as a volunteer runs them, but for the sandbox: the signed files in a folder, lines in, lines out."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.rendering import python_with_blender
from xwgrid import wire
from xwgrid.applications.manifests import built_in
from xwgrid.model import JobRequest, JobSpec, SignedManifest

_SECONDS = 120.0


class Told(Struct, frozen=True, kw_only=True):
    """What a driver said, and what it left behind."""

    status: int
    events: tuple[dict[str, Any], ...]
    log: str
    work: Path

    def all(self, event: str) -> list[dict[str, Any]]:
        """Return the events of this kind."""
        return [each for each in self.events if each["event"] == event]

    @property
    def ready(self) -> dict[str, Any]:
        """Return the one event that says what it is."""
        (event,) = self.all("ready")
        return event

    @property
    def failures(self) -> list[str]:
        """Return the messages of failed tasks."""
        return [str(each["message"]) for each in self.all("failed")]

    def file(self, replica: int) -> bytes:
        """Return the picture of a finished task."""
        (data,) = self.files(replica).values()
        return data

    def files(self, replica: int) -> dict[str, bytes]:
        """Return the files of a finished task, by name and in the order in which it told them."""
        (event,) = (each for each in self.all("finished") if each["replica"] == replica)
        return {name: (self.work / str(replica) / name).read_bytes() for name in event["files"]}


class Staged(Struct, frozen=True, kw_only=True):
    """How to start a driver."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    work: Path


def staged(
    folder: Path,
    command: Sequence[str],
    request: JobRequest,
    *,
    inputs: Path,
    environment: Mapping[str, str] | None = None,
) -> Staged:
    """Lay out the signed files of a job's application and its specification."""
    application = request.work.__struct_config__.tag
    ((manifest, files),) = (each for each in built_in() if each[0].application == application)
    for path, data in files.items():
        target = folder / "app" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    work = folder / "work"
    work.mkdir(exist_ok=True)
    unsigned = SignedManifest(manifest="", signature="", key="")
    (folder / "spec.json").write_bytes(wire.encode(JobSpec(request=request, application=unsigned)))
    places = {"XWGRID_INPUTS": inputs, "XWGRID_APP": folder / "app", "XWGRID_WORK": work, "HOME": work}
    return Staged(
        arguments=(*command, str(folder / "app" / manifest.entry), str(folder / "spec.json")),
        environment={
            "PATH": os.environ["PATH"],
            **{name: str(path) for name, path in places.items()},
            **(environment or {}),
        },
        work=work,
    )


def drive(
    folder: Path,
    command: Sequence[str],
    request: JobRequest,
    tasks: Sequence[Mapping[str, int | str]],
    *,
    inputs: Path,
    environment: Mapping[str, str] | None = None,
    last_line: bytes = b'{"do":"quit"}\n',
) -> Told:
    """Run the driver of a job in a new process, give it all tasks, and return what it told. Replicas count from 1."""
    started = staged(folder, command, request, inputs=inputs, environment=environment)
    lines = [
        json.dumps({"do": "task", "replica": replica, "arguments": arguments, "output": str(replica)}).encode() + b"\n"
        for replica, arguments in enumerate(tasks, start=1)
    ]
    ended = subprocess.run(
        started.arguments,
        input=b"".join(lines) + last_line,
        capture_output=True,
        check=False,
        timeout=_SECONDS,
        cwd=started.work,
        env=started.environment,
    )
    said = ended.stdout.decode().splitlines()
    return Told(
        status=ended.returncode,
        events=tuple(json.loads(line.removeprefix("@xwgrid ")) for line in said if line.startswith("@xwgrid ")),
        log=ended.stderr.decode(errors="replace"),
        work=started.work,
    )


def blender() -> tuple[str, ...]:
    """Return the command of the installed Blender runtime."""
    return (python_with_blender(),)
