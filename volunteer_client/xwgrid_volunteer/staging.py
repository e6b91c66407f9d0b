"""The trees a driver sees: the job's files and the application's, linked from the blob cache, removed afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from xwgrid.model import Digest, InputFile


class Staged(Struct, frozen=True, kw_only=True):
    """A job's files on disk, ready for its driver. Below one folder, which `remove` takes away."""

    folder: Path
    inputs: Path
    application: Path
    spec: Path
    work: Path  # the driver's own folder


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
    Raises BadInput for a path that would leave the tree, NotFound for a blob that is not cached, OutOfSpace.
    """
    raise NotImplementedError


def remove(folder: Path) -> None:
    """Remove a staged folder, whatever a program left in it. One that is gone already is no error."""
    raise NotImplementedError
