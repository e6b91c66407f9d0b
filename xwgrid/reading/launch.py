"""The command line of the reader process."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import xwgrid
from xwgrid.reading.bubblewrap import own_ceiling, system_layout
from xwgrid.sandboxing import Bubblewrap, Caps, Sandbox, limited, sandboxed, shown

_CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from xwgrid.reading.child import main; main()"
# The fork's own caps on memory and time are set by its parent. Files: the bytes of a picture become one in memory,
# which the decoder opens.
_CAPS = Caps(processes=32, file_bytes=4 << 30)


def launch(tool: Bubblewrap | None) -> list[str]:
    """Return the argument list of the reader process, sandboxed if there is a `tool`."""
    package = Path(xwgrid.__file__).resolve().parent
    libraries = [folder for folder in sys.path if folder and Path(folder).is_dir()]
    # The package's parent may be a whole checkout, or a folder of secrets: only the package itself is shown.
    search = [*(folder for folder in libraries if "-packages" in folder or _standard(folder)), str(package.parent)]
    wanted = [sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent), *search[:-1], str(package)]
    plan = Sandbox(
        read_only=shown(wanted, tool.layout if tool else system_layout()),
        environment=(
            ("PATH", "/usr/bin:/bin"),
            ("HOME", "/tmp"),  # noqa: S108  # the sandbox's own
            ("LANG", "C.UTF-8"),
            # Threads would count against the caps, and one result is read at a time on purpose.
            *((name, "1") for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "OPENIMAGEIO_THREADS")),
            ("OPENIMAGEIO_OPTIONS", "exr_threads=1,threads=1"),
        ),
        caps=_CAPS,
        # Started by whichever thread of the server comes first; it ends when its socket closes.
        dies_with_parent=False,
    )
    command = (sys.executable, "-I", "-B", "-c", _CODE, json.dumps(search))
    if tool is not None:
        return sandboxed(plan, command, tool)
    environment = [f"{name}={value}" for name, value in plan.environment]
    prlimit = shutil.which("prlimit")
    bare = list(command) if prlimit is None else limited(plan, command, prlimit=prlimit, ceiling=own_ceiling())
    return [shutil.which("env") or "/usr/bin/env", "-i", *environment, *bare]


def _standard(folder: str) -> bool:
    """Whether a folder of the search path belongs to the interpreter itself."""
    return any(Path(folder).is_relative_to(prefix) for prefix in (sys.prefix, sys.base_prefix))
