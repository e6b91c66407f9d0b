"""The trees a driver sees: the job's files and the application's, linked from the blob cache, removed afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from xwgrid.errors import BadInput, GridError, NotFound, OutOfSpace
from xwgrid.model import Digest, InputFile
from xwgrid.sandboxing import NOBODY

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READABLE = 0o444


class Staged(Struct, frozen=True, kw_only=True):
    """A job's files on disk, ready for its driver. All below one folder, which `remove` takes away."""

    folder: Path
    inputs: Path
    application: Path
    spec: Path
    work: Path  # the driver's own folder
    results: Path  # where the runner keeps finished results, out of the driver's reach


def stage(
    folder: Path,
    *,
    inputs: Sequence[InputFile],
    application: Sequence[InputFile],
    spec: bytes,
    blob: Callable[[Digest], Path],
) -> Staged:
    """Build the trees in `folder`, which is emptied first. Blocking.

    `blob` gives the cached file of a digest. Files are hard links where the file system allows it, else copies.
    A linked blob is made readable for all and writable for nobody: what guards it is the cache's own folder.
    Raises BadInput for a path that would leave the tree or meet another, NotFound for a blob that is not cached,
    OutOfSpace. Nothing is left after an error.
    """
    remove(folder)
    staged = Staged(
        folder=folder,
        inputs=folder / "inputs",
        application=folder / "app",
        spec=folder / "spec.json",
        work=folder / "work",
        results=folder / "results",
    )
    try:
        folder.mkdir(parents=True, mode=0o700)
        for tree, files in ((staged.inputs, inputs), (staged.application, application)):
            tree.mkdir()
            tree.chmod(0o755)
            for file in files:
                _place(tree, safe_path(file.path), blob(file.sha256))
        staged.spec.write_bytes(spec)
        staged.spec.chmod(_READABLE)
        for own in (staged.work, staged.results):
            own.mkdir(mode=0o700)
        if os.geteuid() == 0:
            # In a sandbox started by root the driver is uid 65534.
            os.chown(staged.work, NOBODY, NOBODY)
    except (OSError, GridError) as error:
        remove(folder)
        if isinstance(error, OSError):
            raise _explained(error, folder) from error
        raise
    return staged


def add(staged: Staged, task: str, files: Sequence[tuple[str, Path]]) -> None:
    """Lay files, by name, out for one task alone, where its driver looks for them; `take_away` removes them. Blocking.

    Raises BadInput, NotFound and OutOfSpace as `stage` does; nothing is left then but what was there before.
    """
    folder = _of_task(staged, task)
    try:
        folder.mkdir()
    except OSError as error:
        raise _explained(error, folder) from error
    try:
        folder.chmod(0o755)
        for name, source in files:
            _place(folder, safe_path(name), source)
    except (OSError, GridError) as error:
        remove(folder)
        if isinstance(error, OSError):
            raise _explained(error, folder) from error
        raise


def take_away(staged: Staged, task: str) -> None:
    """Remove what `add` laid out. Where there is nothing it is no error."""
    shutil.rmtree(_of_task(staged, task), ignore_errors=True)


def _of_task(staged: Staged, task: str) -> Path:
    # As `xwgrid.applications.drivers.driver_lines.Task.inputs`.
    return staged.inputs / f".task-{task}"


def safe_path(path: str) -> PurePosixPath:
    """Return a job's path as one that stays below the folder it is put in. Raises BadInput."""
    parts = path.split("/")
    if "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in parts):
        raise BadInput(f"the job names the path {path[:200]!a}, which does not stay inside the job", path=path[:200])
    return PurePosixPath(*parts)


def remove(folder: Path) -> None:
    """Remove a staged folder, whatever a program left in it. One that is gone already is no error."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        # A program may have closed its own folders, even to their owner.
        folder.chmod(0o700)
        for above, folders, _ in os.walk(folder):
            for name in folders:
                path = Path(above, name)
                if stat.S_ISDIR(path.lstat().st_mode):
                    path.chmod(0o700)
        shutil.rmtree(folder)


def _place(tree: Path, path: PurePosixPath, source: Path) -> None:
    target = tree / path
    above = tree
    for part in path.parts[:-1]:
        above /= part
        with contextlib.suppress(FileExistsError):
            above.mkdir()
            above.chmod(0o755)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        shutil.copyfile(source, target, follow_symlinks=False)
    target.chmod(_READABLE)


def _explained(error: OSError, folder: Path) -> GridError:
    if error.errno in _FULL:
        return OutOfSpace(f"the disk of {folder} is full: nothing was kept of this job's files", folder=str(folder))
    if isinstance(error, FileExistsError | NotADirectoryError):
        return BadInput(f"two of the job's files want the same place: {Path(error.filename2 or error.filename).name}")
    if isinstance(error, FileNotFoundError):
        return NotFound(f"a file of the job is not in the cache: {error.filename}")
    return OutOfSpace(f"the job's files cannot be laid out in {folder}: {error}", folder=str(folder))
