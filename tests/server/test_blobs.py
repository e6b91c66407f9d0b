"""Blobs on a real disk: whole and right, or not there at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from xwgrid_server.blob_files import BlobFiles, WrongOffset, replica_upload, user_upload

from xwgrid.errors import OutOfSpace, TooLarge, WrongBytes
from xwgrid.model import ReplicaId, UserId

DATA = os.urandom(300_000)
NAME = hashlib.sha256(DATA).hexdigest()
UPLOAD = user_upload(UserId(1), NAME)


@pytest.fixture
def files(tmp_path: Path) -> BlobFiles:
    """Empty folders."""
    made = BlobFiles(tmp_path / "blobs", tmp_path / "staging")
    made.prepare()
    return made


def everything_below(folder: Path) -> list[Path]:
    """Return all files."""
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_blob_lies_under_its_name(files: BlobFiles, tmp_path: Path) -> None:
    """Bytes that were added are found under blobs/ab/abcdef…, readable by the server's user alone."""
    assert files.add(DATA) == NAME
    path = tmp_path / "blobs" / NAME[:2] / NAME
    assert files.path(NAME) == path
    assert path.read_bytes() == DATA
    assert path.stat().st_mode & 0o077 == 0
    assert files.size(NAME) == len(DATA)
    assert everything_below(tmp_path) == [path]


def test_an_upload_goes_on_where_it_was_cut(files: BlobFiles, tmp_path: Path) -> None:
    """What came before the cut is kept, hashed again, and need not be sent twice."""
    with files.stage(UPLOAD, offset=0, limit=len(DATA), total=len(DATA)) as upload:
        upload.write(DATA[:100_000])
    assert files.size(NAME) is None
    assert files.staged(UPLOAD) == 100_000
    with files.stage(UPLOAD, offset=100_000, limit=len(DATA), total=len(DATA)) as upload:
        upload.write(DATA[100_000:])
        assert upload.complete(NAME) == len(DATA)
    assert files.path(NAME).read_bytes() == DATA
    assert everything_below(tmp_path / "staging") == []


def test_an_upload_goes_on_at_no_other_byte(files: BlobFiles) -> None:
    """Whoever goes on elsewhere is told where to go on."""
    with files.stage(UPLOAD, offset=0, limit=len(DATA)) as upload:
        upload.write(DATA[:10])
    for offset in (0, 9, 11):
        with pytest.raises(WrongOffset) as refused:
            files.stage(UPLOAD, offset=offset, limit=len(DATA))
        assert refused.value.offset == 10


def test_wrong_bytes_are_thrown_away(files: BlobFiles, tmp_path: Path) -> None:
    """Bytes of another name become no blob, and the next try begins at the beginning."""
    with files.stage(UPLOAD, offset=0, limit=len(DATA)) as upload:
        upload.write(DATA[:-1])
        with pytest.raises(WrongBytes, match="send them again"):
            upload.complete(NAME)
    assert everything_below(tmp_path) == []


def test_more_than_the_limit_is_thrown_away(files: BlobFiles, tmp_path: Path) -> None:
    """The bytes themselves are counted, whatever was said before."""
    with files.stage(UPLOAD, offset=0, limit=100) as upload, pytest.raises(TooLarge, match="100 bytes"):
        upload.write(DATA[:101])
    with pytest.raises(TooLarge):
        files.stage(UPLOAD, offset=0, limit=100, total=101)
    assert everything_below(tmp_path) == []


def test_senders_do_not_meet(files: BlobFiles) -> None:
    """Two users, or two replicas, who send the same bytes do so each under a name of their own."""
    one, other = user_upload(UserId(1), NAME), user_upload(UserId(11), NAME)
    with files.stage(one, offset=0, limit=100) as upload:
        upload.write(b"x")
    assert files.staged(other) == 0
    names = {one, other, replica_upload(ReplicaId(1), NAME), replica_upload(ReplicaId(11), NAME)}
    assert len(names) == 4


def test_the_bytes_of_a_group_are_counted_together(files: BlobFiles) -> None:
    """The uploads of replica 1 are not those of replica 11, nor those named as being counted elsewhere."""
    for replica, size in ((1, 10), (1, 5), (11, 7)):
        with files.stage(replica_upload(ReplicaId(replica), f"{size}" * 64), offset=0, limit=100) as upload:
            upload.write(b"x" * size)
    assert files.staged_together("replica-1-", without=()) == 15
    assert files.staged_together("replica-1-", without=[replica_upload(ReplicaId(1), "5" * 64)]) == 10


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", NAME.upper(), NAME[:-1], NAME + "\n", f"{NAME}/x"])
def test_only_digests_are_names(files: BlobFiles, name: str) -> None:
    """What is not a SHA-256 never becomes a path."""
    with pytest.raises(ValueError, match="not the name of a blob"):
        files.path(name)
    if name:
        with pytest.raises(ValueError, match="not the name of an upload"):
            files.staged(f"user-1-{name}/..")


def test_forgotten_uploads_are_swept(files: BlobFiles, tmp_path: Path) -> None:
    """Uploads that nobody went on with are thrown away; younger ones stay."""
    for name, age in (("user-1-old", 1_000.0), ("user-1-new", 3_000.0)):
        with files.stage(name, offset=0, limit=10) as upload:
            upload.write(b"x")
        os.utime(tmp_path / "staging" / name, (age, age))
    assert files.sweep(before=2_000.0) == 1
    assert [path.name for path in everything_below(tmp_path)] == ["user-1-new"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk; the limit on file sizes is tested in any case")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_nothing(small_disk: Path) -> None:
    """An upload that outgrows the disk is refused and thrown away; what lay there before still does."""
    files = BlobFiles(small_disk / "blobs", small_disk / "staging")
    files.prepare()
    files.add(DATA)
    with files.stage("user-1-x", offset=0, limit=1 << 30) as upload, pytest.raises(OutOfSpace, match="disk is full"):
        upload.write(bytes(2 << 20))
    assert everything_below(small_disk) == [files.path(NAME)]
    assert files.path(NAME).read_bytes() == DATA


def test_what_cannot_fit_is_refused_at_once(small_disk: Path) -> None:
    """An upload that says it is larger than the room on the disk is refused before its first byte."""
    files = BlobFiles(small_disk / "blobs", small_disk / "staging")
    files.prepare()
    with pytest.raises(OutOfSpace):
        files.stage("user-1-x", offset=0, limit=1 << 30, total=2 << 20)
    assert everything_below(small_disk) == []


def test_a_file_that_may_not_grow_keeps_nothing(tmp_path: Path) -> None:
    """The limit of the operating system on the size of a file is met like a full disk."""
    program = f"""
        import resource
        from pathlib import Path
        from xwgrid.errors import OutOfSpace
        from xwgrid_server.blob_files import BlobFiles

        files = BlobFiles(Path({str(tmp_path)!r}, "blobs"), Path({str(tmp_path)!r}, "staging"))
        files.prepare()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            files.add(bytes(300_000))
        except OutOfSpace:
            print("refused")
    """
    ended = subprocess.run([sys.executable, "-c", dedent(program)], check=True, capture_output=True, text=True)
    assert ended.stdout == "refused\n"
    assert everything_below(tmp_path) == []
