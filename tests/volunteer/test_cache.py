"""The blob cache."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from xwgrid_volunteer.cache import BlobCache

from xwgrid.errors import NotFound, OutOfSpace, TooLarge, WrongBytes

LIMIT = 1 << 30


class Ticks:
    """A clock that moves on with every look."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def digest_of(data: bytes) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(data).hexdigest()


def enter(cache: BlobCache, data: bytes) -> str:
    """Bring a blob in and return its name."""
    digest = digest_of(data)
    incoming = cache.incoming(digest, len(data), limit=LIMIT)
    incoming.write(data)
    cache.enter(incoming)
    return digest


def test_a_blob_comes_back_as_it_went_in(tmp_path: Path) -> None:
    """Also for the next process that opens the folder."""
    digest = enter(BlobCache(tmp_path, 1_000), b"hello")
    again = BlobCache(tmp_path, 1_000)
    assert again.path(digest).read_bytes() == b"hello"
    assert again.bytes_used == 5


def test_wrong_bytes_never_enter(tmp_path: Path) -> None:
    """Neither under the right size nor under another, and nothing is left of them."""
    cache = BlobCache(tmp_path, 1_000)
    digest = digest_of(b"right")
    incoming = cache.incoming(digest, 5, limit=LIMIT)
    incoming.write(b"wrong")
    with pytest.raises(WrongBytes):
        cache.enter(incoming)
    incoming = cache.incoming(digest, 5, limit=LIMIT)
    assert incoming.offset == 0
    with pytest.raises(WrongBytes):
        incoming.write(b"too many")
    assert not cache.has(digest)
    with pytest.raises(NotFound):
        cache.path(digest)


def test_a_download_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """The bytes that arrived are not fetched again, and are part of the check."""
    digest = digest_of(b"first half, second half")
    incoming = BlobCache(tmp_path, 1_000).incoming(digest, 23, limit=LIMIT)
    incoming.write(b"first half, ")
    incoming.close()
    cache = BlobCache(tmp_path, 1_000)
    incoming = cache.incoming(digest, 23, limit=LIMIT)
    assert incoming.offset == 12
    incoming.write(b"second half")
    assert cache.enter(incoming).read_bytes() == b"first half, second half"


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    """Room is made by use, not by age; the order survives a restart."""
    cache = BlobCache(tmp_path, 100, Ticks())
    one, two, three = (enter(cache, bytes([n]) * 30) for n in range(3))
    cache.path(one)
    cache = BlobCache(tmp_path, 100, Ticks())
    four = enter(cache, b"4" * 30)
    assert [cache.has(digest) for digest in (one, two, three, four)] == [True, False, True, True]


def test_what_a_job_uses_stays(tmp_path: Path) -> None:
    """Pinned blobs are never removed; when nothing else can go, the newcomer is refused. Released, they may go."""
    cache = BlobCache(tmp_path, 100, Ticks())
    digests = [enter(cache, bytes([n]) * 30) for n in range(3)]
    cache.pin("job", digests)
    with pytest.raises(OutOfSpace, match="cache_bytes"):
        enter(cache, b"4" * 30)
    assert all(cache.has(digest) for digest in digests)
    cache.release("job")
    enter(cache, b"4" * 30)
    assert sum(cache.has(digest) for digest in digests) == 2


def test_a_blob_over_the_limit_is_refused_before_a_byte_comes(tmp_path: Path) -> None:
    """A specification cannot be a terabyte."""
    with pytest.raises(TooLarge):
        BlobCache(tmp_path, 1_000).incoming("a" * 64, 600, limit=500)


_WRITER = """
import hashlib, sys
from pathlib import Path
from xwgrid_volunteer.cache import BlobCache
cache = BlobCache(Path(sys.argv[1]), 1 << 30)
number = 0
while True:
    data = number.to_bytes(4) * 50_000
    incoming = cache.incoming(hashlib.sha256(data).hexdigest(), len(data), limit=1 << 30)
    for start in range(0, len(data), 20_000):
        incoming.write(data[start:start + 20_000])
    cache.enter(incoming)
    number += 1
    print(number, flush=True)
"""


def test_kill_9_leaves_only_whole_blobs(tmp_path: Path) -> None:
    """A writer killed at any moment leaves blobs that are what their names say, and everything it had finished."""
    for kept in (1, 3, 7):
        folder = tmp_path / str(kept)
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(folder)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            while int(writer.stdout.readline()) < kept:
                pass
            os.kill(writer.pid, signal.SIGKILL)
        cache = BlobCache(folder, 1 << 30)
        for number in range(kept):
            data = number.to_bytes(4) * 50_000
            assert cache.path(digest_of(data)).read_bytes() == data
        for file in folder.glob("??/*"):
            assert digest_of(file.read_bytes()) == file.name
