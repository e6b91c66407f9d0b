"""What a sandboxed program may see and use, and the command line that makes it so. Decided here, run elsewhere.

The sandbox is bubblewrap: own user, process, network, inter-process, host-name, mount and control-group namespaces; no
network; a read-only system; nothing of the host's homes, passwords or temporary files; uid 65534 without capabilities.

An ordinary user's bubblewrap does all of it. Root needs one step before: the kernel counts no processes against root
(a fork bomb would run free), and what root may read an unprivileged uid may not reach (a Python below /root). So a first
bubblewrap, still root, puts the few folders wanted into an otherwise empty tree, changes to uid 65534 for good, and
from there on everything is as for an ordinary user.
"""

from __future__ import annotations

from msgspec import Struct

from xwgrid.model import Seconds

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

    @property
    def name(self) -> str:
        """What the host tells about itself: "bubblewrap 0.8.0"."""
        return f"bubblewrap {self.version}"


def sandboxed(plan: Sandbox, command: tuple[str, ...], tool: Bubblewrap) -> list[str]:
    """Return the argument list that runs `command` as `plan` says. Its paths are those inside the sandbox."""
    raise NotImplementedError


def limited(plan: Sandbox, command: tuple[str, ...], *, prlimit: str) -> list[str]:
    """Return the argument list that runs `command` under the plan's caps only, for a host without bubblewrap.

    Everything stays where it is on the host, so `command` uses the host's paths. Processes are not capped: without a
    user namespace the kernel would count the owner's whole desktop.
    """
    raise NotImplementedError
