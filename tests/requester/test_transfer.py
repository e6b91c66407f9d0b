"""Blobs travel whole, or go on where they were cut off."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.requester.https_server import SmallServer
from xwgrid.errors import NotFound, OutOfSpace, Unavailable, WrongBytes
from xwgrid.model import ResultFile
from xwgrid.requester.client import GridClient
from xwgrid.requester.transfer import digest_of, download, download_blob, upload

DATA = bytes(range(256)) * 5_000


@pytest.fixture
def client(server: SmallServer) -> Iterator[GridClient]:
    """A client that does not wait between attempts."""
    with GridClient(server.credentials(), pause=lambda _seconds: None) as made:
        yield made


def result(server: SmallServer, data: bytes = DATA, name: str = "frame_0001.png") -> ResultFile:
    """Return a result file that the server holds."""
    return ResultFile(name=name, sha256=server.add(data), size=len(data))


def test_a_cut_download_goes_on(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A connection that breaks twice in mid file costs no byte twice, and the file is right in the end."""
    file = result(server)
    server.cut = [300_000, 400_000]
    received: list[int] = []
    assert download_blob(client, file, tmp_path / "out" / "a.png", received.append)
    assert (tmp_path / "out" / "a.png").read_bytes() == DATA
    assert sum(received) == len(DATA)
    assert server.asked == ["GET blobs", "GET blobs bytes=300000-", "GET blobs bytes=700000-"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]


def test_a_later_download_takes_up_what_is_there(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A download that was given up is finished by the next command, from where it stood."""
    file = result(server)
    server.cut = [100_000, 0, 0, 0, 0]
    with pytest.raises(Unavailable):
        download_blob(client, file, tmp_path / "a.png", lambda _size: None)
    assert not (tmp_path / "a.png").exists()
    server.asked.clear()
    assert download_blob(client, file, tmp_path / "a.png", lambda _size: None)
    assert server.asked == ["GET blobs bytes=100000-"]
    assert (tmp_path / "a.png").read_bytes() == DATA


def test_right_files_are_not_fetched_again(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """Of two files, one is there and right: only the other, of the same size but with other bytes, is fetched."""
    files = [(result(server), tmp_path / "a"), (result(server, b"b" * 100), tmp_path / "b")]
    (tmp_path / "a").write_bytes(DATA)
    (tmp_path / "b").write_bytes(b"x" * 100)
    assert download(client, files, 2, lambda _size: None) == 1
    assert (tmp_path / "b").read_bytes() == b"b" * 100
    assert server.asked == ["GET blobs"]


def test_wrong_bytes_never_get_the_files_name(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """Bytes that do not hash to what was promised are thrown away."""
    file = result(server)
    server.blobs[file.sha256] = DATA[::-1]
    with pytest.raises(WrongBytes, match="try the download again"):
        download_blob(client, file, tmp_path / "a", lambda _size: None)
    assert list(tmp_path.glob("a*")) == []


def test_a_missing_blob_is_said(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """What the server refuses with arrives as its own error."""
    gone = ResultFile(name="a", sha256="0" * 64, size=1)
    with pytest.raises(NotFound, match="no such blob"):
        download_blob(client, gone, tmp_path / "a", lambda _size: None)


def test_a_place_that_cannot_be_written_is_named(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """The sentence says which file could not be written."""
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutOfSpace, match=r"file/a cannot be written"):
        download_blob(client, result(server), tmp_path / "file" / "a", lambda _size: None)


def test_a_cut_upload_goes_on(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A connection that breaks in mid upload is taken up where the server's copy ends."""
    source = tmp_path / "texture"
    source.write_bytes(DATA)
    digest = digest_of(source)
    server.cut = [250_000]
    upload(client, {digest: source}, {digest: len(DATA)}, 2, lambda _size: None)
    assert server.blobs[digest] == DATA
    assert server.asked == ["HEAD blobs", "PUT blobs 0", "HEAD blobs", "PUT blobs 250000"]


def test_what_the_server_has_is_not_sent(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A blob that another upload completed meanwhile is left alone."""
    source = tmp_path / "texture"
    source.write_bytes(DATA)
    digest = server.add(DATA)
    upload(client, {digest: source}, {digest: len(DATA)}, 1, lambda _size: None)
    assert server.asked == ["HEAD blobs"]


def test_a_file_that_shrinks_meanwhile_is_noticed(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A file that was saved again while it was sent is not passed off as the one that was hashed."""
    source = tmp_path / "texture"
    source.write_bytes(DATA[:-1])
    digest = hashlib.sha256(DATA).hexdigest()
    with pytest.raises(WrongBytes, match="changed while it was being sent"):
        upload(client, {digest: source}, {digest: len(DATA)}, 1, lambda _size: None)
    assert digest not in server.blobs
