"""Blobs over the API port of a real server: sent, resumed, refused, read back."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.grid import Grid
from tests.server.callers import BLOB_LIMIT, Requester, digest, noise, pieces, refusal
from xwgrid import wire

SIZE = 3_000_000


@pytest.fixture
def user(web_grid: Grid) -> Iterator[Requester]:
    """A requester of this test's own."""
    with Requester(web_grid) as requester:
        yield requester


@pytest.fixture
def other(web_grid: Grid) -> Iterator[Requester]:
    """Somebody else."""
    with Requester(web_grid) as requester:
        yield requester


def kept(grid: Grid, name: str) -> list[Path]:
    """Return the files whose names have the blob's name in them."""
    folders = (grid.settings.blobs_folder, grid.settings.staging_folder)
    return [path for folder in folders for path in folder.rglob("*") if name in path.name]


def missing(user: Requester, *names: str) -> tuple[str, ...]:
    """Return what the user must still send."""
    answer = user.http.post("/v1/blobs/missing", content=wire.encode(wire.DigestList(digests=names)))
    return wire.decode(answer.content, wire.DigestList).digests


@pytest.mark.parametrize("size", [0, 1, 70_000, SIZE])
def test_what_was_sent_can_be_read(user: Requester, size: int) -> None:
    """A blob of any size comes back as it was sent, and need not be sent again."""
    data = noise(size)
    path = f"/v1/blobs/{digest(data)}"
    assert user.put(path, data, Upload_Length=size).status_code == 201
    answer = user.http.get(path)
    assert answer.content == data
    assert answer.headers["Content-Type"] == "application/octet-stream"
    head = user.http.head(path)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(size))
    assert missing(user, digest(data)) == ()
    assert user.put(path, data).status_code == 201


def test_a_body_without_a_length_is_taken(user: Requester) -> None:
    """A sender that does not know how much will come sends piece by piece."""
    data = noise(SIZE)
    assert user.put(f"/v1/blobs/{digest(data)}", pieces(data)).status_code == 201
    assert user.http.get(f"/v1/blobs/{digest(data)}").content == data


def test_a_cut_upload_goes_on_where_it_was(user: Requester) -> None:
    """What came before the connection broke is kept; the rest completes the blob."""
    data = noise(SIZE)
    path = f"/v1/blobs/{digest(data)}"
    user.cut(user.head("PUT", path, Content_Length=SIZE, Upload_Length=SIZE) + data[:2_000_000])
    offset = user.offset_when(path, 2_000_000)
    assert offset == 2_000_000
    assert missing(user, digest(data)) == (digest(data),)
    answer = user.put(path, data[offset:], Upload_Offset=offset, Upload_Length=SIZE)
    assert answer.status_code == 201
    assert user.http.get(path).content == data


def test_a_sender_who_comes_back_takes_over(user: Requester) -> None:
    """A connection whose end the server has not seen yet does not keep its sender from going on by another one."""
    data = noise(SIZE)
    path = f"/v1/blobs/{digest(data)}"
    with user.connect() as silent:
        silent.sendall(user.head("PUT", path, Content_Length=SIZE, Upload_Length=SIZE) + data[:1_500_000])
        offset = user.offset_when(path, 1 << 20)
        assert user.finish(path, data, offset).status_code == 201
    assert user.http.get(path).content == data


def test_an_upload_in_parts_is_told_how_far_it_is(user: Requester) -> None:
    """A body shorter than what was promised is kept, and the answer says at which byte to go on."""
    data = noise(SIZE)
    path = f"/v1/blobs/{digest(data)}"
    answer = user.put(path, data[:100], Upload_Length=SIZE)
    assert refusal(answer) == (409, "conflict")
    assert answer.headers["Upload-Offset"] == "100"
    again = user.put(path, data, Upload_Length=SIZE)
    assert (again.status_code, again.headers["Upload-Offset"]) == (409, "100")
    assert user.put(path, data[100:], Upload_Offset=100, Upload_Length=SIZE).status_code == 201


def test_wrong_bytes_are_not_kept(user: Requester, web_grid: Grid) -> None:
    """Bytes that do not hash to their name are refused and thrown away."""
    name = digest(noise(SIZE))
    answer = user.put(f"/v1/blobs/{name}", noise(SIZE))
    assert refusal(answer) == (422, "wrong_bytes")
    assert "send them again" in answer.text
    assert kept(web_grid, name) == []


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_blob_over_the_limit_is_cut_off(user: Requester, web_grid: Grid, declared: bool) -> None:
    """More than the operator allows is refused, whether it says so at first or not; nothing of it is kept."""
    data = noise(BLOB_LIMIT + 1)
    path = f"/v1/blobs/{digest(data)}"
    answer = user.put(path, data if declared else pieces(data))
    assert refusal(answer) == (413, "too_large")
    assert str(BLOB_LIMIT) in answer.text
    assert kept(web_grid, digest(data)) == []


def test_a_blob_that_says_it_is_too_large_is_refused_unread(user: Requester) -> None:
    """The answer comes before the bytes."""
    with user.connect() as connection:
        connection.sendall(user.head("PUT", f"/v1/blobs/{'1' * 64}", Content_Length=1 << 40))
        assert connection.makefile("rb").readline().startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "undeclared"])
def test_a_disk_without_room_is_told(user: Requester, web_grid: Grid, declared: bool) -> None:
    """A server that cannot write on says so with 507, keeps nothing of the upload, and goes on with smaller ones."""
    data = noise(7 << 20)
    path = f"/v1/blobs/{digest(data)}"
    server = web_grid.server.process_id
    before = resource.prlimit(server, resource.RLIMIT_FSIZE)
    resource.prlimit(server, resource.RLIMIT_FSIZE, (6 << 20, before[1]))
    try:
        answer = user.put(path, data if declared else pieces(data))
        assert refusal(answer) == (507, "out_of_space")
        assert kept(web_grid, digest(data)) == []
        user.send(noise(1 << 20))
    finally:
        resource.prlimit(server, resource.RLIMIT_FSIZE, before)
    assert user.put(path, data).status_code == 201


@pytest.mark.parametrize(
    ("offset", "length"), [("x", "10"), ("-1", "10"), ("0", "1e3"), ("0", "1"), ("5", "10"), ("9" * 30, "10")]
)
def test_lengths_that_make_no_sense_are_refused(user: Requester, offset: str, length: str) -> None:
    """Ten bytes from an offset that is no number, or beyond the end that was told."""
    answer = user.put(f"/v1/blobs/{digest(b'0123456789')}", b"0123456789", Upload_Offset=offset, Upload_Length=length)
    assert refusal(answer) == (400, "bad_input")


def test_what_is_no_name_is_not_found(user: Requester, web_grid: Grid) -> None:
    """A path that leads elsewhere writes nowhere."""
    for name in ("..%2f..%2fescaped", "A" * 64, "0" * 63):
        assert refusal(user.put(f"/v1/blobs/{name}", b"x")) == (404, "not_found")
    assert not list(web_grid.settings.folder.rglob("*escaped*"))


def test_someone_elses_blob_is_not_there(user: Requester, other: Requester) -> None:
    """It cannot be read, nor is it known: whoever wants it must send it, all of it."""
    data = noise(SIZE)
    name = user.send(data).sha256
    path = f"/v1/blobs/{name}"
    assert refusal(other.http.get(path)) == (404, "not_found")
    assert other.offset(path) == 0
    assert missing(other, name) == (name,)
    assert other.put(path, data).status_code == 201
    assert other.http.get(path).content == data


def test_someone_elses_upload_is_not_there(user: Requester, other: Requester) -> None:
    """Nobody learns of, or adds to, what somebody else is sending."""
    data = noise(SIZE)
    path = f"/v1/blobs/{digest(data)}"
    user.put(path, data[:100], Upload_Length=SIZE)
    assert other.offset(path) == 0
    assert other.put(path, b"garbage", Upload_Length=SIZE).status_code == 409
    assert user.offset(path) == 100
    assert user.put(path, data[100:], Upload_Offset=100, Upload_Length=SIZE).status_code == 201


def test_a_stranger_sends_nothing(user: Requester, web_grid: Grid) -> None:
    """Without a token the bytes are refused before they come."""
    name = digest(noise(10))
    with user.connect() as connection:
        connection.sendall(user.head("PUT", f"/v1/blobs/{name}", Content_Length=SIZE, Authorization="Bearer nobody"))
        assert connection.makefile("rb").readline() == b"HTTP/1.1 401 Unauthorized\r\n"
    assert kept(web_grid, name) == []


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [("bytes=0-", 0, 999), ("bytes=400-", 400, 999), ("bytes=400-499", 400, 499), ("bytes=999-5000", 999, 999)],
)
def test_a_part_can_be_read(user: Requester, asked: str, first: int, last: int) -> None:
    """A download goes on where it was cut."""
    data = noise(1_000)
    path = f"/v1/blobs/{user.send(data).sha256}"
    answer = user.http.get(path, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.headers["Content-Range"] == f"bytes {first}-{last}/1000"
    assert answer.content == data[first : last + 1]


def test_a_part_beyond_the_end_is_refused(user: Requester) -> None:
    """416, with the size."""
    path = f"/v1/blobs/{user.send(noise(1_000)).sha256}"
    answer = user.http.get(path, headers={"Range": "bytes=1000-"})
    assert refusal(answer) == (416, "bad_input")
    assert answer.headers["Content-Range"] == "bytes */1000"


@pytest.mark.parametrize("asked", ["bytes=5-4", "bytes=-5", "bytes=0-1,3-4", "lines=1-2", "bytes=x-"])
def test_a_range_that_is_none_gives_everything(user: Requester, asked: str) -> None:
    """What is not understood is left out of account."""
    data = noise(1_000)
    answer = user.http.get(f"/v1/blobs/{user.send(data).sha256}", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


def test_a_reader_who_goes_away_is_forgotten(user: Requester) -> None:
    """A download that is given up half way harms nobody."""
    path = f"/v1/blobs/{user.send(noise(BLOB_LIMIT)).sha256}"
    with user.connect() as connection:
        connection.sendall(user.head("GET", path))
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200 OK")
    assert user.http.get("/healthz").status_code == 200
