"""Which files a .blend needs, and where each goes in the job's tree so that its references still resolve."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import zstandard
from blender_asset_tracer import blendfile, bpathlib, trace
from blender_asset_tracer.pack import Packer
from blender_asset_tracer.pack.transfer import FileTransferer
from blender_asset_tracer.trace.result import BlockUsage
from msgspec import Struct

from xwgrid.errors import BadInput
from xwgrid.requester.inspection import Reference

# What a .blend may begin with: plain, gzip (until 2.9), Zstandard (since 3.0).
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_BEGINNINGS = (b"BLENDER", _GZIP, _ZSTANDARD)
_CHUNK_BYTES = 1 << 20
_END_BYTES = 64


class Tree(Struct, frozen=True, kw_only=True):
    """The files of a job. `files` gives the place in the job (forward slashes) and the file on this machine."""

    scene_file: str
    files: tuple[tuple[str, Path], ...]
    missing: tuple[Path, ...]  # referred to, used or not, and not there


def check_is_blend(scene: Path) -> None:
    """Refuse what is not there or does not begin like a .blend. Raises BadInput."""
    try:
        with scene.open("rb") as file:
            beginning = file.read(16)
    except OSError as error:
        raise BadInput(f"the scene {scene} cannot be read: {error.strerror}", file=str(scene)) from error
    if not beginning.startswith(_BEGINNINGS):
        raise BadInput(f"{scene} is not a .blend file: hand in a scene saved by Blender", file=str(scene))


@contextlib.contextmanager
def traced(scene: Path, besides: Collection[Reference] = ()) -> Iterator[Tree]:
    """Yield the tree of everything `scene` refers to, libraries and what is linked from them included.

    `besides` is what Blender itself says it uses, some of which the asset tracer does not know. References relative to
    their .blend keep their places below the common folder of all files, and nothing is copied. When a reference is
    absolute, or leads to the root of the disk, the .blend files concerned are rewritten into a temporary folder that
    lives as long as this context.
    Raises BadInput when the file is damaged, or when something can only be reached by an absolute path.
    """
    scene = bpathlib.make_absolute(scene)
    check_is_blend(scene)
    blendfile.close_all_cached()
    try:
        with _damage_told(scene):
            _check_whole(scene)
            usages = list(trace.deps(scene))
        found, missing = _files_of(usages)
        known = {path.resolve() for _usage, paths in found for path in paths}
        more = _unknown(besides, known | {scene})
        near = [scene, *(path for usage, paths in found for path in paths if usage.asset_path.is_blendfile_relative())]
        rewrite = any(not usage.asset_path.is_blendfile_relative() for usage, _paths in found)
        root = _common_folder([*near, *more])
        if root == Path(root.anchor):
            root, rewrite = scene.parent, True
        if not rewrite:
            files = {path.relative_to(root).as_posix(): path for path in (*near, *more)}
            yield _tree(scene.relative_to(root).as_posix(), files, missing)
            return
        packer = _RecordingPacker(scene, root, "/job")
        with packer:
            with _damage_told(scene):
                packer.strategise()
                packer.execute()
            files = packer.recorded()
            files |= {_inside(path, root): path for path in more}
            yield _tree(scene.relative_to(root).as_posix(), files, missing)
    finally:
        blendfile.close_all_cached()


class _RecordingPacker(Packer):
    """Plans a pack, rewrites what must be rewritten, and copies nothing."""

    def __init__(self, scene: Path, root: Path, target: str) -> None:
        super().__init__(scene, root, target)
        self._root = PurePosixPath(target)
        self._recorder = _Recorder()

    def _create_file_transferer(self) -> _Recorder:
        return self._recorder

    def recorded(self) -> dict[str, Path]:
        """Return the file for each place in the job, the tracer's own note to the reader left out."""
        placed = {
            PurePosixPath(target).relative_to(self._root).as_posix(): source for target, source in self._recorder.files
        }
        placed.pop("pack-info.txt", None)
        return placed


class _Recorder(FileTransferer):
    """Stands where the asset tracer copies files, and notes which would go where."""

    def __init__(self) -> None:
        super().__init__()
        self.files: list[tuple[str, Path]] = []

    def run(self) -> None:
        for source, target, _action in self.iter_queue():
            self.files.append((str(target), Path(source)))


def _check_whole(scene: Path) -> None:
    """Refuse a file that ends before its end mark, before the asset tracer trusts what it says. Raises EOFError."""
    with _unpacked(scene) as file:
        before = last = b""
        while chunk := file.read(_CHUNK_BYTES):
            before, last = last, chunk
    # The end mark is the head of an empty block, of 20 to 32 bytes.
    if b"ENDB" not in (before + last)[-_END_BYTES:]:
        raise EOFError("the end mark is missing")


@contextlib.contextmanager
def _unpacked(scene: Path) -> Iterator[BinaryIO | gzip.GzipFile | zstandard.ZstdDecompressionReader]:
    with scene.open("rb") as file:
        beginning = file.read(4)
        file.seek(0)
        if beginning.startswith(_GZIP):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        elif beginning == _ZSTANDARD:
            with zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
                yield reader
        else:
            yield file


def _files_of(usages: Iterable[BlockUsage]) -> tuple[list[tuple[BlockUsage, list[Path]]], set[Path]]:
    """Return the files each usage brings, and the paths of those that bring none."""
    found: list[tuple[BlockUsage, list[Path]]] = []
    missing: set[Path] = set()
    for usage in usages:
        paths: list[Path] = []
        for path in usage.files():
            paths.extend(_plain_files(Path(path)))
        if paths:
            found.append((usage, paths))
        elif bytes(usage.asset_path).strip(b"\0/"):
            missing.add(Path(usage.abspath))
    return found, missing


def _plain_files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from (file for file in sorted(path.rglob("*")) if file.is_file())
    elif path.is_file():
        yield path


def _common_folder(paths: Collection[Path]) -> Path:
    return Path(os.path.commonpath([path.parent for path in paths]))


def _unknown(besides: Collection[Reference], known: Collection[Path]) -> list[Path]:
    """Return the files the asset tracer did not find. It cannot move them either, so they must be relative."""
    found: list[Path] = []
    for reference in besides:
        paths = [Path(file) for file in reference.files if Path(file).resolve() not in known]
        if paths and not reference.reference.startswith("//"):
            raise _unmovable(Path(reference.path), f"is the {reference.kind} '{reference.name}'")
        found.extend(paths)
    return found


def _inside(path: Path, root: Path) -> str:
    if not path.is_relative_to(root):
        raise _unmovable(path, f"lies outside {root}")
    return path.relative_to(root).as_posix()


def _unmovable(path: Path, what: str) -> BadInput:
    return BadInput(
        f"the scene uses {path}, which {what} and is referred to in a way that cannot be followed on another machine: "
        "in Blender choose File > External Data > Make Paths Relative, or pack it, then save",
        file=str(path),
    )


def _tree(scene_file: str, files: dict[str, Path], missing: set[Path]) -> Tree:
    return Tree(
        scene_file=scene_file,
        files=tuple(sorted(files.items())),
        missing=tuple(sorted(missing)),
    )


@contextlib.contextmanager
def _damage_told(scene: Path) -> Iterator[None]:
    """Turn what the asset tracer stumbles over into a sentence: it reads binary structures and trusts them."""
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(
            f"{scene} is truncated or damaged ({type(error).__name__}: {error}): "
            "open it in Blender, save it again, and check that the copy is complete",
            file=str(scene),
        ) from error
