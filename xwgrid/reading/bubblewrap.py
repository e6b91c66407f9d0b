"""Finds bubblewrap on this host and tries it: there are hosts that have it and forbid it."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from pathlib import Path

from msgspec import Struct

from xwgrid.sandboxing import Bubblewrap, Caps, Sandbox, SystemLayout, sandboxed

_TRIAL_SECONDS = 20.0  # a healthy start takes 0.1 s; a machine under full load much longer
# From this kernel on the limit on processes counts those of a user namespace. Before, all of the user's: then it must
# leave room for a whole desktop, and still stops a fork bomb.
_COUNTS_BY_NAMESPACE = (5, 14)
_A_DESKTOP = 4_096
# What programs need of /etc: where libraries are, which alternative is chosen, fonts, graphics drivers, the time zone.
_ETC = (
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "alternatives",
    "fonts",
    "glvnd",
    "OpenCL",
    "vulkan",
    "localtime",
)


class Missing(Struct, frozen=True):
    """There is no working bubblewrap; `reason` says why in a sentence."""

    reason: str


def find_bubblewrap() -> Bubblewrap | Missing:
    """Look on the PATH, and run one small program in it. Blocking, well under a second."""
    paths = {name: shutil.which(name) for name in ("bwrap", "prlimit", "setpriv")}
    bwrap, prlimit, setpriv = paths["bwrap"], paths["prlimit"], paths["setpriv"]
    if bwrap is None:
        return Missing("bubblewrap is not installed (Debian and Ubuntu: apt-get install bubblewrap)")
    if prlimit is None or setpriv is None:
        return Missing(
            "bubblewrap is here, but not prlimit and setpriv (Debian and Ubuntu: apt-get install util-linux)"
        )
    try:
        answer = subprocess.run(
            [bwrap, "--version"], capture_output=True, text=True, timeout=_TRIAL_SECONDS, check=False
        )
        tool = Bubblewrap(
            version=answer.stdout.strip().removeprefix("bubblewrap "),
            bwrap=bwrap,
            prlimit=prlimit,
            setpriv=setpriv,
            as_root=os.geteuid() == 0,
            layout=system_layout(),
            ceiling=own_ceiling(),
            other_processes=0 if _kernel() >= _COUNTS_BY_NAMESPACE else _A_DESKTOP,
        )
        plan = Sandbox(caps=Caps(memory_bytes=1 << 30, processes=16, file_bytes=1 << 20))
        trial = subprocess.run(
            sandboxed(plan, (prlimit, "--version"), tool),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Missing(f"bubblewrap is installed but does not run here: {error}")
    if trial.returncode != 0:
        said = (trial.stderr.strip().splitlines() or [f"it ended with status {trial.returncode}"])[-1]
        return Missing(
            f"bubblewrap {tool.version} is installed but may not build a sandbox here: {said} "
            "(are unprivileged user namespaces switched off?)"
        )
    return tool


def system_layout() -> SystemLayout:
    """Return how this host's system folders lie."""
    folders = ["/usr"]
    links = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        path = Path("/", name)
        if path.is_symlink():
            links.append((str(path), str(path.readlink())))
        elif path.is_dir():
            folders.append(str(path))
    folders += [str(Path("/etc", name)) for name in _ETC if Path("/etc", name).exists()]
    return SystemLayout(folders=tuple(folders), links=tuple(links))


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def own_ceiling() -> Caps:
    """Return this process's hard limits."""

    def hard(kind: int) -> int | None:
        limit = resource.getrlimit(kind)[1]
        return None if limit == resource.RLIM_INFINITY else limit

    return Caps(
        memory_bytes=hard(resource.RLIMIT_AS),
        processes=hard(resource.RLIMIT_NPROC),
        file_bytes=hard(resource.RLIMIT_FSIZE),
        cpu_seconds=hard(resource.RLIMIT_CPU),
        open_files=hard(resource.RLIMIT_NOFILE) or 1 << 20,
    )
