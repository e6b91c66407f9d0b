"""The trees a driver sees are built from the cache and nowhere else, and go away whatever was done to them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from xwgrid_volunteer.staging import Staged, add, remove, safe_path, stage, take_away

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


# --- files of one task alone ------------------------------------------------------------------------------------


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    """A job with one file, laid out; a second blob is in the cache."""
    scene = blob_of(b"scene", tmp_path / "cache")
    blob_of(b"raw passes", tmp_path / "cache")
    return stage(tmp_path / "job", inputs=[scene], application=(), spec=b"{}", blob=cache(tmp_path))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The cached file of the second blob."""
    return tmp_path / "cache" / hashlib.sha256(b"raw passes").hexdigest()


def seen(staged: Staged) -> set[str]:
    """Return every file of the inputs."""
    return {str(path.relative_to(staged.inputs)) for path in staged.inputs.rglob("*") if path.is_file()}


def test_files_of_one_task(staged: Staged, raw: Path) -> None:
    """They lie beside the job's, under the task's name, linked and not copied, until they are taken away."""
    add(staged, "12", [("raw.exr", raw), ("more/other.exr", raw)])
    add(staged, "13", [("raw.exr", raw)])
    assert seen(staged) == {"a", ".task-12/raw.exr", ".task-12/more/other.exr", ".task-13/raw.exr"}
    placed = staged.inputs / ".task-12" / "raw.exr"
    assert placed.read_bytes() == b"raw passes"
    assert placed.stat().st_ino == raw.stat().st_ino
    take_away(staged, "12")
    assert seen(staged) == {"a", ".task-13/raw.exr"}
    take_away(staged, "12")
    take_away(staged, "14")
    assert raw.read_bytes() == b"raw passes"


def test_files_of_one_task_can_be_read_inside(staged: Staged, raw: Path) -> None:
    """Whoever runs in the sandbox may read them and alter nothing, however private the daemon's files are."""
    before = os.umask(0o077)
    try:
        add(staged, "12", [("deep/raw.exr", raw)])
    finally:
        os.umask(before)
    folder = staged.inputs / ".task-12"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "deep", folder / "deep" / "raw.exr")]
    assert modes == [0o755, 0o755, 0o444]


@pytest.mark.parametrize("name", ["../raw.exr", "/raw.exr", "a/../../raw.exr", "", ".", "a\\b", "a\0b"])
def test_unsafe_names_of_a_tasks_files(staged: Staged, raw: Path, name: str) -> None:
    """A name that would leave the task's folder is refused, and nothing is left, not of the good files either."""
    with pytest.raises(BadInput, match="does not stay inside"):
        add(staged, "12", [("raw.exr", raw), (name, raw)])
    assert seen(staged) == {"a"}
    assert not (staged.inputs / ".task-12").exists()


def test_a_tasks_files_that_cannot_be_laid_out(staged: Staged, raw: Path, tmp_path: Path) -> None:
    """Two that want one place, and one that left the cache meanwhile, are refused; nothing is left."""
    with pytest.raises(BadInput, match="same place"):
        add(staged, "12", [("raw.exr", raw), ("raw.exr", raw)])
    with pytest.raises(BadInput, match="same place"):
        add(staged, "12", [("raw.exr", raw), ("raw.exr/a", raw)])
    with pytest.raises(NotFound, match="gone"):
        add(staged, "12", [("raw.exr", raw), ("other.exr", tmp_path / "gone")])
    assert seen(staged) == {"a"}
    assert not (staged.inputs / ".task-12").exists()


def test_a_place_that_a_job_took(tmp_path: Path, raw: Path) -> None:
    """A job's own file under the name of a task's folder is refused to the task, and stays."""
    scene = blob_of(b"scene", tmp_path / "cache")
    blob_of(b"raw passes", tmp_path / "cache")
    file = InputFile(path=".task-12/raw.exr", sha256=scene.sha256, size=5)
    staged = stage(tmp_path / "job", inputs=[file], application=(), spec=b"{}", blob=cache(tmp_path))
    with pytest.raises(BadInput, match="same place"):
        add(staged, "12", [("raw.exr", raw)])
    assert (staged.inputs / ".task-12" / "raw.exr").read_bytes() == b"scene"
