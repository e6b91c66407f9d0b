"""The trees a driver sees are built from the cache and nowhere else, and go away whatever was done to them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from xwgrid_volunteer.staging import remove, safe_path, stage

from xwgrid.errors import BadInput, NotFound
from xwgrid.model import Digest, InputFile


def blob_of(data: bytes, folder: Path) -> InputFile:
    """Put bytes into a cache folder, and return a file that names them; its path is to be changed."""
    digest = hashlib.sha256(data).hexdigest()
    folder.mkdir(exist_ok=True)
    (folder / digest).write_bytes(data)
    return InputFile(path="a", sha256=digest, size=len(data))


def cache(tmp_path: Path) -> Callable[[Digest], Path]:
    """Return the road from a digest to its cached file."""
    return lambda digest: tmp_path / "cache" / digest


def test_builds_the_tree(tmp_path: Path) -> None:
    """Inputs and application lie under their own names, are not copied, and can be read by whoever runs inside."""
    scene = blob_of(b"scene", tmp_path / "cache")
    staged = stage(
        tmp_path / "job",
        inputs=[InputFile(path="textures/wood/scene.blend", sha256=scene.sha256, size=5)],
        application=[InputFile(path="driver.py", sha256=scene.sha256, size=5)],
        spec=b"{}",
        blob=cache(tmp_path),
    )
    placed = staged.inputs / "textures" / "wood" / "scene.blend"
    assert placed.read_bytes() == b"scene"
    assert placed.stat().st_ino == (tmp_path / "cache" / scene.sha256).stat().st_ino
    assert placed.stat().st_mode & 0o777 == 0o444
    assert (staged.application / "driver.py").read_bytes() == b"scene"
    assert staged.spec.read_bytes() == b"{}"
    assert list(staged.work.iterdir()) == []


@pytest.mark.parametrize(
    "path", ["../a", "/etc/passwd", "a/../../b", "a//b", ".", "a/.", "", "a\\b", "a\0b", "..", "a/"]
)
def test_unsafe_paths(path: str, tmp_path: Path) -> None:
    """A path that would leave the tree is refused by name, and nothing is left."""
    with pytest.raises(BadInput):
        safe_path(path)
    scene = blob_of(b"scene", tmp_path / "cache")
    bad = InputFile(path=path, sha256=scene.sha256, size=5)
    with pytest.raises(BadInput, match="does not stay inside"):
        stage(tmp_path / "job", inputs=[bad], application=(), spec=b"{}", blob=cache(tmp_path))
    assert not (tmp_path / "job").exists()


def test_two_files_one_place(tmp_path: Path) -> None:
    """Two files that want the same place, or one the folder of the other, are refused."""
    scene = blob_of(b"scene", tmp_path / "cache")
    for second in ("a", "a/b"):
        files = [InputFile(path=path, sha256=scene.sha256, size=5) for path in ("a", second)]
        with pytest.raises(BadInput, match="same place"):
            stage(tmp_path / "job", inputs=files, application=(), spec=b"{}", blob=cache(tmp_path))
        assert not (tmp_path / "job").exists()


def test_missing_blob(tmp_path: Path) -> None:
    """A blob that is not cached is named, and nothing is left."""
    missing = InputFile(path="a", sha256="0" * 64, size=1)
    with pytest.raises(NotFound, match="0000"):
        stage(tmp_path / "job", inputs=[missing], application=(), spec=b"{}", blob=cache(tmp_path))
    assert not (tmp_path / "job").exists()


def test_staged_twice(tmp_path: Path) -> None:
    """What an earlier process left is gone when a job is staged again."""
    staged = stage(tmp_path / "job", inputs=(), application=(), spec=b"{}", blob=cache(tmp_path))
    (staged.work / "old.png").write_bytes(b"old")
    stage(tmp_path / "job", inputs=(), application=(), spec=b"{}", blob=cache(tmp_path))
    assert list(staged.work.iterdir()) == []


def test_remove_anything(tmp_path: Path) -> None:
    """Closed folders are removed, links are not followed, and a folder that is gone is no error."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    staged = stage(tmp_path / "job", inputs=(), application=(), spec=b"{}", blob=cache(tmp_path))
    closed = staged.work / "closed"
    (closed / "deep").mkdir(parents=True)
    (closed / "deep" / "file").write_text("x")
    (staged.work / "link").symlink_to(outside)
    (closed / "deep").chmod(0)
    closed.chmod(0o500)
    remove(staged.folder)
    assert not staged.folder.exists()
    assert (outside / "keep").read_text() == "mine"
    remove(staged.folder)
