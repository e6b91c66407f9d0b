"""What a sandboxed program may see and use, and the command line that makes it so. Decided here, run elsewhere.

The sandbox is bubblewrap: own user, process, network, inter-process, host-name, mount and control-group namespaces; no
network; a read-only system; nothing of the host's homes, passwords or temporary files; uid 65534 without capabilities.

An ordinary user's bubblewrap does all of it. Root needs one step before: the kernel counts no processes against root
(a fork bomb would run free), and what root may read an unprivileged uid may not reach (a Python below /root). So a
first bubblewrap, still root, puts the few folders wanted into an otherwise empty tree, changes to uid 65534 for good,
and from there on everything is as for an ordinary user.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from xwgrid.model import Seconds

N = TypeVar("N", int, float)

NOBODY = 65_534
# Where root's first step puts the folders that the second step binds to their places.
_ANTEROOM = "/n"


class Bind(Struct, frozen=True):
    """A file or folder of the host, and where the program sees it. Both absolute."""

    source: str
    target: str


class Caps(Struct, frozen=True, kw_only=True):
    """Limits on what runs inside; None is no limit. Memory, file size and CPU time count per process."""

    memory_bytes: int | None = None  # address space
    processes: int | None = None  # processes and threads together, of the whole sandbox
    file_bytes: int | None = None  # largest file that may be written
    cpu_seconds: Seconds | None = None
    open_files: int = 1_024


class Sandbox(Struct, frozen=True, kw_only=True):
    """What a program gets. There is no field for the network: it never has any."""

    read_only: tuple[Bind, ...] = ()
    writable: tuple[Bind, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()  # all of it; nothing is inherited
    cwd: str = "/"
    caps: Caps = Caps()
    temporary_bytes: int = 1 << 30  # size of the private /tmp, which lives in memory
    # The kernel ends the program with the *thread* that started it. A caller whose threads come and go says False
    # and ends the program by closing its standard input.
    dies_with_parent: bool = True


class SystemLayout(Struct, frozen=True, kw_only=True):
    """How the host's system folders lie, so that they can be shown as they are."""

    folders: tuple[str, ...]  # real folders and files to show read-only, such as "/usr" and "/etc/ld.so.cache"
    links: tuple[tuple[str, str], ...] = ()  # (place, what it points to), such as ("/lib", "usr/lib")


class Bubblewrap(Struct, frozen=True, kw_only=True):
    """The programs that build the sandbox on this host, found and tried."""

    version: str  # "0.8.0"
    bwrap: str  # absolute paths of the programs
    prlimit: str
    setpriv: str
    as_root: bool  # whether the caller is root
    layout: SystemLayout
    ceiling: Caps = Caps()  # the caller's own hard limits: caps above them could not be set
    # A kernel before 5.14 counts all processes of the user, not those of the sandbox: what to allow for the others.
    other_processes: int = 0

    @property
    def name(self) -> str:
        """What the host tells about itself: "bubblewrap 0.8.0"."""
        return f"bubblewrap {self.version}"


def sandboxed(plan: Sandbox, command: tuple[str, ...], tool: Bubblewrap) -> list[str]:
    """Return the argument list that runs `command` as `plan` says. Its paths are those inside the sandbox."""
    caps = plan.caps
    if caps.processes is not None:
        caps = replace(caps, processes=caps.processes + tool.other_processes)
    caps = within(caps, tool.ceiling)
    inner = [tool.prlimit, *_prlimit_arguments(caps, processes=True), "--", *command]
    if not tool.as_root:
        return [tool.bwrap, *_isolation(plan, tool.layout), "--", *inner]
    moved, doors = _through_anteroom(plan)
    return [
        tool.bwrap,
        # Its first process ends with this one, and takes everything inside along. Without a process namespace here the
        # kernel would ask whether this one, root without capabilities, may kill what runs as somebody else: it may not.
        *("--unshare-pid", *_parent(plan)),
        *_system(tool.layout),
        # Uncovered, or the kernel would refuse a fresh /proc to the second step.
        *("--bind", "/proc", "/proc", "--dev-bind", "/dev", "/dev"),
        *("--perms", "1777", "--tmpfs", "/tmp", "--perms", "0755", "--dir", _ANTEROOM),  # noqa: S108  inside
        *doors,
        "--",
        tool.setpriv,
        *(f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
        "--",
        tool.bwrap,
        *_isolation(replace(moved, dies_with_parent=True), tool.layout),
        "--",
        *inner,
    ]


def limited(plan: Sandbox, command: tuple[str, ...], *, prlimit: str, ceiling: Caps) -> list[str]:
    """Return the argument list that runs `command` under the plan's caps only, for a host without bubblewrap.

    Everything stays where it is on the host, so `command` uses the host's paths. Processes are not capped: without a
    user namespace the kernel would count the owner's whole desktop.
    """
    return [prlimit, *_prlimit_arguments(within(plan.caps, ceiling), processes=False), "--", *command]


def within(caps: Caps, ceiling: Caps) -> Caps:
    """Return `caps`, none of them above `ceiling`."""
    return Caps(
        memory_bytes=_lower(caps.memory_bytes, ceiling.memory_bytes),
        processes=_lower(caps.processes, ceiling.processes),
        file_bytes=_lower(caps.file_bytes, ceiling.file_bytes),
        cpu_seconds=_lower(caps.cpu_seconds, ceiling.cpu_seconds),
        open_files=min(caps.open_files, ceiling.open_files),
    )


def shown(paths: Iterable[str], layout: SystemLayout) -> tuple[Bind, ...]:
    """Return read-only binds that show `paths` at their own places, without those a shown folder holds already."""
    kept: list[PurePosixPath] = []
    folders = [PurePosixPath(folder) for folder in layout.folders]
    for path in sorted({PurePosixPath(path) for path in paths}):
        if not any(path == above or above in path.parents for above in (*folders, *kept)):
            kept.append(path)
    return tuple(Bind(str(path), str(path)) for path in kept)


def _isolation(plan: Sandbox, layout: SystemLayout) -> list[str]:
    binds: list[str] = []
    for bind in plan.read_only:
        binds += ["--ro-bind", bind.source, bind.target]
    for bind in plan.writable:
        binds += ["--bind", bind.source, bind.target]
    environment = [word for name, value in plan.environment for word in ("--setenv", name, value)]
    return [
        *("--unshare-user", "--disable-userns", "--uid", str(NOBODY), "--gid", str(NOBODY)),
        *("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", "sandbox", "--new-session", *_parent(plan)),
        *_system(layout),
        *("--proc", "/proc", "--dev", "/dev"),
        *("--perms", "1777", "--size", str(plan.temporary_bytes), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"),  # noqa: S108
        *("--perms", "1777", "--size", str(plan.temporary_bytes), "--tmpfs", "/tmp"),  # noqa: S108  inside
        *binds,
        # The root itself is a file system in memory, and would be an unlimited place to write.
        *("--remount-ro", "/"),
        *("--clearenv", *environment, "--chdir", plan.cwd),
    ]


def _parent(plan: Sandbox) -> list[str]:
    return ["--die-with-parent"] if plan.dies_with_parent else []


def _system(layout: SystemLayout) -> list[str]:
    # A folder that bubblewrap makes on the way to a file is closed to others: the second step is another user.
    parents = {str(PurePosixPath(folder).parent) for folder in layout.folders} - {"/"}
    words = [word for parent in sorted(parents) for word in ("--perms", "0755", "--dir", parent)]
    for folder in layout.folders:
        words += ["--ro-bind", folder, folder]
    for place, target in layout.links:
        words += ["--symlink", target, place]
    return words


def _through_anteroom(plan: Sandbox) -> tuple[Sandbox, list[str]]:
    """Return the plan with its sources in the anteroom, and the binds that put them there."""
    doors: list[str] = []
    moved: dict[str, list[Bind]] = {"--ro-bind": [], "--bind": []}
    for kind, binds in (("--ro-bind", plan.read_only), ("--bind", plan.writable)):
        for bind in binds:
            place = f"{_ANTEROOM}/{len(doors) // 3}"
            doors += [kind, bind.source, place]
            moved[kind].append(Bind(place, bind.target))
    return replace(plan, read_only=tuple(moved["--ro-bind"]), writable=tuple(moved["--bind"])), doors


def _prlimit_arguments(caps: Caps, *, processes: bool) -> list[str]:
    words = ["--core=0", f"--nofile={caps.open_files}"]
    if caps.memory_bytes is not None:
        words.append(f"--as={caps.memory_bytes}")
    if caps.file_bytes is not None:
        words.append(f"--fsize={caps.file_bytes}")
    if caps.cpu_seconds is not None:
        seconds = max(1, round(caps.cpu_seconds))
        # First SIGXCPU, which tells what happened; SIGKILL a second later for a program that ignores it.
        words.append(f"--cpu={seconds}:{seconds + 1}")
    if processes and caps.processes is not None:
        words.append(f"--nproc={caps.processes}")
    return words


def _lower(cap: N | None, ceiling: N | None) -> N | None:
    if cap is None or ceiling is None:
        return cap  # a limit that is not asked for is left as it is
    return min(cap, ceiling)
