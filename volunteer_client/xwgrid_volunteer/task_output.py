"""The folder a task writes to, and what of it counts as a result. The driver is not trusted with any of it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from xwgrid.errors import GridError
from xwgrid.sandboxing import NOBODY

# As `xwgrid.model.ResultFile.name`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
# A driver that leaves more entries than this in its folder is not worth the counting.
_MAX_ENTRIES = 10_000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BadOutput(GridError):
    """What the driver left is not the result it spoke of; the message says what is wrong with which file."""

    code = "bad_output"


def fresh_folder(work: Path, name: str, *, for_nobody: bool) -> str:
    """Make a new, empty folder below `work` and return its name: `name`, or with a number behind it.

    `for_nobody` gives it to uid 65534, which a sandbox started by root runs as. The driver may be running and playing
    tricks with links meanwhile, so nothing here follows one.
    """
    above = os.open(work, _FOLDER)
    try:
        for number in range(_MAX_ENTRIES):
            tried = name if number == 0 else f"{name}-{number}"
            with contextlib.suppress(FileExistsError):
                os.mkdir(tried, mode=0o700, dir_fd=above)
                if for_nobody:
                    os.chown(tried, NOBODY, NOBODY, dir_fd=above, follow_symlinks=False)
                return tried
    finally:
        os.close(above)
    raise BadOutput("the driver has taken all names for its output folders")


def collect(work: Path, folder: str, names: Sequence[str], kept: Path, *, limit: int) -> None:
    """Move a task's files out of the driver's reach into `kept`, which is made new.

    Raises BadOutput unless every file is there, regular, with one name only, and all together within `limit` bytes;
    `kept` is gone then.
    """
    kept.mkdir(mode=0o700, parents=True)
    try:
        _move(work, folder, names, kept)
        _check(names, kept, limit)
    except OSError as error:
        shutil.rmtree(kept, ignore_errors=True)
        raise BadOutput(f"the result cannot be taken: {error.strerror}") from error
    except BadOutput:
        shutil.rmtree(kept, ignore_errors=True)
        raise


def size_of(folder: Path, *, enough: int) -> int:
    """Return the bytes in a tree, counting no further than `enough`; a tree of too many entries counts as more."""
    total = entries = 0
    for above, folders, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(above, name).lstat().st_size
        entries += len(folders) + len(files)
        if entries > _MAX_ENTRIES:
            return enough + 1
        if total > enough:
            break
    return total


def _move(work: Path, folder: str, names: Sequence[str], kept: Path) -> None:
    if len(set(names)) != len(names):
        raise BadOutput("the driver names a file of its result twice")
    above = os.open(work, _FOLDER)
    try:
        try:
            source = os.open(folder, _FOLDER, dir_fd=above)
        except OSError as error:
            raise BadOutput("the driver has replaced the folder of its result") from error
        target = os.open(kept, _FOLDER)
        try:
            for name in names:
                if not _NAME.fullmatch(name):
                    raise BadOutput(f"the driver names {name[:200]!a} as a file of its result, which is no plain name")
                try:
                    os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
                except FileNotFoundError as error:
                    raise BadOutput(f"the driver says it wrote {name}, and there is no such file") from error
        finally:
            os.close(source)
            os.close(target)
    finally:
        os.close(above)


def _check(names: Sequence[str], kept: Path, limit: int) -> None:
    total = 0
    for name in names:
        path = kept / name
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            kind = "a link" if stat.S_ISLNK(facts.st_mode) else "not a regular file"
            raise BadOutput(f"the driver says it wrote {name}, and that is {kind}")
        if facts.st_nlink != 1:
            raise BadOutput(f"the driver says it wrote {name}, and that is another name of some other file")
        # Through a descriptor that follows no link; whoever receives the file can read it, and nothing runs it.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if os.geteuid() == 0:
                os.fchown(file, 0, 0)
            os.fchmod(file, 0o644)
        finally:
            os.close(file)
        total += facts.st_size
    if total > limit:
        raise BadOutput(f"the result has {total} bytes, the job allows {limit}")
