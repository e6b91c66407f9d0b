"""What this machine is: processor, memory, GPUs by NVML, programs and the class of their results."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil
from msgspec import Struct

from xwgrid.applications.manifests import BuiltIn, built_in
from xwgrid.model import HostFacts, Program, Seconds
from xwgrid_volunteer.driver_output import LogTail, Output, SaidReady
from xwgrid_volunteer.gpu_probe import GpuFinding, find_gpus
from xwgrid_volunteer.runtimes import Runtime
from xwgrid_volunteer.sandbox import SandboxFinding

# A first import of Blender from a cold disk takes 8 s; a machine under full load much longer.
_ASK_SECONDS = 120.0


class HostProbe(Struct, frozen=True, kw_only=True):
    """The facts the server gets, and remarks for the owner (`xwgrid-volunteer status`), one sentence each."""

    facts: HostFacts
    remarks: tuple[str, ...] = ()


class _Remembered(Struct, frozen=True, kw_only=True):
    """What a runtime said about itself, and the state of files that it said it in."""

    state: str
    program: Program


def probe(
    *,
    name: str,
    sandbox: SandboxFinding,
    runtimes: Mapping[str, Runtime],
    cache: Path,
    client_version: str,
    gpus: Callable[[], GpuFinding] = find_gpus,
) -> HostProbe:
    """Look at the machine. Blocking, some seconds when a renderer is asked for the first time: run it in a thread.

    `cache` is a file that remembers what a runtime said about itself until it changes. Whatever might crash or hang
    (a GPU driver, a renderer) is asked in a child process with a time limit.
    """
    programs, remarks = _programs(runtimes, cache)
    found = gpus()
    if found.remark is not None:
        remarks.append(found.remark)
    remarks.append(sandbox.reason)
    facts = HostFacts(
        name=name,
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)),
        memory_bytes=psutil.virtual_memory().total,
        gpus=found.gpus,
        programs=tuple(programs),
        sandbox=sandbox.name,
        client_version=client_version,
    )
    return HostProbe(facts=facts, remarks=tuple(remarks))


def ask_runtime(runtime: Runtime, *, seconds: Seconds = _ASK_SECONDS) -> Program | str:
    """Start a runtime once and return what it is, or a sentence that says why it is of no use. Blocking."""
    known = _application(runtime.name)
    if known is None:
        return f"there is no application for a runtime called '{runtime.name}': it is left out"
    manifest, files = known
    with tempfile.TemporaryDirectory(prefix="xwgrid-probe-") as folder:
        for path, data in files.items():
            place = Path(folder, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        # In place of a specification, `probe` asks a driver only what it runs on.
        command = [*runtime.command, str(Path(folder, manifest.entry)), *runtime.before_spec, "probe"]
        try:
            answer = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                check=False,
                cwd=folder,
                # As bare as in the sandbox: what the owner has set for their own Blender must not enter the class.
                env={"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8"},
            )
        except subprocess.TimeoutExpired:
            return f"{runtime.name} ({runtime.origin}) did not answer within {seconds:g} s and is left out"
        except OSError as error:
            return f"{runtime.name} ({runtime.origin}) does not start and is left out: {error}"
    log = LogTail()
    for said in Output(log).feed(answer.stdout + b"\n"):
        if isinstance(said, SaidReady):
            return Program(runtime=runtime.name, version=said.version, result_class=said.result_class)
    log.add(answer.stderr)
    last = (log.text().strip().splitlines() or [f"it ended with status {answer.returncode}"])[-1]
    return f"{runtime.name} ({runtime.origin}) does not work and is left out: {last}"


def _programs(runtimes: Mapping[str, Runtime], cache: Path) -> tuple[list[Program], list[str]]:
    remembered = _recall(cache)
    programs: list[Program] = []
    remarks: list[str] = []
    kept: dict[str, _Remembered] = {}
    for name, runtime in sorted(runtimes.items()):
        state = _state(runtime)
        known = remembered.get(name)
        if known is None or known.state != state:
            answer = ask_runtime(runtime)
            if isinstance(answer, str):
                remarks.append(answer)
                continue
            known = _Remembered(state=state, program=answer)
        kept[name] = known
        programs.append(known.program)
    if "blender" not in runtimes:
        remarks.append("there is no Blender here: xwgrid-volunteer runtime install blender")
    if kept != remembered:
        with contextlib.suppress(OSError):  # asking again next time is all that is lost
            cache.parent.mkdir(parents=True, exist_ok=True)
            beside = cache.with_suffix(".new")
            beside.write_bytes(msgspec.json.encode(kept))
            beside.replace(cache)
    return programs, remarks


def _recall(cache: Path) -> dict[str, _Remembered]:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=dict[str, _Remembered])
    except (OSError, msgspec.MsgspecError):
        return {}


def _state(runtime: Runtime) -> str:
    """Return what changes when a runtime, its driver or the processor's abilities do."""
    places = {word for word in (*runtime.command, *runtime.read_only) if word.startswith("/")}
    times = []
    for place in sorted(places):
        for path in (Path(place), Path(place).resolve()):
            with contextlib.suppress(OSError):
                times.append(f"{path} {path.stat().st_mtime_ns}")
    known = _application(runtime.name)
    version = None if known is None else known[0].version
    return msgspec.json.encode([runtime, times, version, _processor()]).decode()


def _application(runtime: str) -> BuiltIn | None:
    """Return an application that a runtime can be asked with."""
    return next((each for each in built_in() if each[0].runtime == runtime), None)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()[:200]
    return (platform.processor() or platform.machine())[:200]
