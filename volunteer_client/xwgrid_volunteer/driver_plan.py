"""How a job's driver is started: what it sees where, and the command line. Decided here, no I/O."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from msgspec import Struct

from xwgrid.model import Limits, Seconds
from xwgrid.sandboxing import Bind, Bubblewrap, Caps, Sandbox, limited, sandboxed, shown
from xwgrid_volunteer.runtimes import Runtime
from xwgrid_volunteer.staging import Staged

# What a runtime itself opens: libraries, fonts, caches, pipes.
_OPEN_FILES = 4_096
_THREADS_PER_CORE = 4


class JobPlan(Struct, frozen=True, kw_only=True):
    """What is started, and within which bounds."""

    runtime: Runtime
    staged: Staged
    entry: str  # the driver script, relative to `staged.application`
    limits: Limits
    tool: Bubblewrap | None  # None: no sandbox, for applications the owner marked trusted
    start_seconds: Seconds = 300.0  # a first import of Blender from a cold disk takes 8 s, a large scene minutes
    bye_seconds: Seconds = 10.0  # between `quit` and the end of the process; some renderers hang at exit


class Places(Struct, frozen=True, kw_only=True):
    """Where the driver finds its folders."""

    inputs: str
    application: str
    work: str
    spec: str


def places(runtime: Iterable[str]) -> Places:
    """Return the folders' places in the sandbox: /inputs, /app and /work, unless the runtime itself lies there.

    A container image may well have its Python in /app.
    """
    taken = [PurePosixPath(path) for path in runtime]
    for prefix in ("", *(f"/job{number}" for number in range(len(taken) + 1))):
        found = Places(
            inputs=f"{prefix}/inputs", application=f"{prefix}/app", work=f"{prefix}/work", spec=f"{prefix}/spec.json"
        )
        roots = [PurePosixPath(place) for place in (found.inputs, found.application, found.work, found.spec)]
        if not any(path.is_relative_to(root) for path in taken for root in roots):
            return found
    raise AssertionError("each runtime path can take one prefix at most")


class Bare(Struct, frozen=True, kw_only=True):
    """What a host has that cannot build a sandbox."""

    prlimit: str | None  # the program that sets limits; None: then there are none
    setsid: str | None  # the one that keeps the terminal's Ctrl-C, which is meant for the daemon, from the driver
    ceiling: Caps  # the caller's own hard limits


def command_line(plan: JobPlan, *, cores: int, bare: Bare) -> tuple[list[str], dict[str, str]]:
    """Return the argument list that starts the driver, and the environment to start it with.

    `bare` serves where there is no sandbox.
    """
    tool = plan.tool
    caps = Caps(
        memory_bytes=plan.limits.memory_bytes,
        # Renderers start some threads per core, and no requester knows how many cores there are.
        processes=plan.limits.processes + _THREADS_PER_CORE * cores,
        file_bytes=plan.limits.result_bytes,
        open_files=_OPEN_FILES,
    )
    if tool is None:
        here = Places(
            inputs=str(plan.staged.inputs),
            application=str(plan.staged.application),
            work=str(plan.staged.work),
            spec=str(plan.staged.spec),
        )
        command = _command(plan, here)
        environment = _environment(here, home=here.work)
        arguments = list(command)
        if bare.prlimit is not None:
            arguments = limited(Sandbox(caps=caps), command, prlimit=bare.prlimit, ceiling=bare.ceiling)
        return [bare.setsid, *arguments] if bare.setsid is not None else arguments, environment
    binds = shown(plan.runtime.read_only, tool.layout)
    there = places(bind.target for bind in binds)
    sandbox = Sandbox(
        read_only=(
            *binds,
            Bind(str(plan.staged.inputs), there.inputs),
            Bind(str(plan.staged.application), there.application),
            Bind(str(plan.staged.spec), there.spec),
        ),
        writable=(Bind(str(plan.staged.work), there.work),),
        environment=tuple(_environment(there, home="/tmp").items()),  # noqa: S108  # the sandbox's own
        cwd=there.work,
        caps=caps,
    )
    return sandboxed(sandbox, _command(plan, there), tool), {}


def _command(plan: JobPlan, where: Places) -> tuple[str, ...]:
    entry = f"{where.application}/{plan.entry}"
    return (*plan.runtime.command, entry, *plan.runtime.before_spec, where.spec)


def _environment(where: Places, *, home: str) -> dict[str, str]:
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Nothing of the owner's own Blender: no start-up file, no add-ons, no preferences.
        "BLENDER_USER_RESOURCES": f"{home}/blender",
        "XWGRID_INPUTS": where.inputs,
        "XWGRID_APP": where.application,
        "XWGRID_WORK": where.work,
    }
