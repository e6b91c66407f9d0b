"""Strangers' results are read in a process of their own: bombs, lies and murder change no verdict but their own."""

from __future__ import annotations

import os
import signal
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import OpenImageIO
import psutil
import pytest

from xwgrid.applications.registry import application_of
from xwgrid.errors import UnreadableResult
from xwgrid.model import BlenderWork, DigestWork, Frames, InputFile, JobRequest, Limits, TaskNumber
from xwgrid.reading import Read, Reader, ReadingLimits

FIRST = TaskNumber(0)
NAME = "frame_0001"


def job(**changes: object) -> JobRequest:
    """Return a job of small pictures."""
    work = {"scene_file": "a.blend", "width": 64, "height": 48, **changes}
    return JobRequest(name="a job", work=BlenderWork(**work), split=Frames(first=1, last=2))  # type: ignore[arg-type]


def picture(path: Path, *, width: int = 64, height: int = 48, shade: int = 128) -> Path:
    """Write a picture."""
    kind = "float" if path.suffix == ".exr" else "uint8"
    out = OpenImageIO.ImageOutput.create(str(path))
    assert out is not None
    out.open(str(path), OpenImageIO.ImageSpec(width, height, 3, kind))
    pixels = np.full((height, width, 3), shade, dtype=np.uint8)
    out.write_image(pixels if kind == "uint8" else (pixels / 255).astype(np.float32))
    out.close()
    return path


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and carries next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """One reader for all tests: none may leave it unable to serve the next."""
    reader = Reader(ReadingLimits(memory_bytes=1 << 30, seconds=20.0))
    yield reader
    reader.close()


def refusal(reader: Reader, path: Path, request: JobRequest | None = None) -> str:
    """Return why a file is refused as the result of a job of PNG pictures."""
    with pytest.raises(UnreadableResult) as caught:
        reader.read(request or job(), FIRST, {f"{NAME}.png": path})
    return caught.value.message


def test_sandboxed(reader: Reader) -> None:
    """The reader runs in the sandbox where there is one, and has nothing to say about it."""
    assert reader.note is None


def test_reads(reader: Reader, tmp_path: Path) -> None:
    """The fingerprint is the application's own, and another picture has another."""
    one, two = picture(tmp_path / "1.png"), picture(tmp_path / "2.png", shade=129)
    digest = reader.read(job(), FIRST, {f"{NAME}.png": one}).fingerprint
    assert digest == application_of(job()).read_result(job(), FIRST, {f"{NAME}.png": one.read_bytes()})
    assert reader.read(job(), FIRST, {f"{NAME}.png": two}).fingerprint != digest


def test_reads_exr(reader: Reader, tmp_path: Path) -> None:
    """Float pictures are read as well, without threads of the library's own."""
    request = job(format="OPEN_EXR", color_depth="32", width=640, height=480)
    path = picture(tmp_path / "1.exr", width=640, height=480)
    assert len(reader.read(request, FIRST, {f"{NAME}.exr": path}).fingerprint) == 64


def test_png_bomb(reader: Reader, tmp_path: Path) -> None:
    """A picture that claims 60000 x 60000 pixels is refused by its header, in the memory of a small one."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(60_000, 60_000))
    assert NAME in refusal(reader, bomb)


def test_other_size(reader: Reader, tmp_path: Path) -> None:
    """A good picture of another size than the job asks for is refused, with both sizes."""
    assert "65 x 48" in refusal(reader, picture(tmp_path / "1.png", width=65))


def test_bomb_the_job_asked_for(tmp_path: Path) -> None:
    """A picture of the size asked for that needs more memory than a reading may take fails alone."""
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_header(16_384, 8_192))
    small = Reader(ReadingLimits(memory_bytes=700 << 20, seconds=20.0))
    try:
        refusal(small, bomb, job(width=16_384, height=8_192))
        assert small.read(job(), FIRST, {f"{NAME}.png": picture(tmp_path / "1.png")})
    finally:
        small.close()


def test_exr_bomb(reader: Reader, tmp_path: Path) -> None:
    """An EXR with a giant window is refused by its header."""
    path = picture(tmp_path / "1.exr")
    data = bytearray(path.read_bytes())
    for window in (b"dataWindow\0box2i\0", b"displayWindow\0box2i\0"):
        at = data.index(window) + len(window) + 4
        data[at : at + 16] = struct.pack("<iiii", 0, 0, 2_000_000_000, 2_000_000_000)
    path.write_bytes(data)
    request = job(format="OPEN_EXR", color_depth="32")
    with pytest.raises(UnreadableResult):
        reader.read(request, FIRST, {f"{NAME}.exr": path})


def test_truncated(reader: Reader, tmp_path: Path) -> None:
    """A truncated picture is refused."""
    path = picture(tmp_path / "1.png", shade=7)
    path.write_bytes(path.read_bytes()[:-40])
    refusal(reader, path)


def test_no_picture(reader: Reader, tmp_path: Path) -> None:
    """What is no picture is refused."""
    path = tmp_path / "1.png"
    path.write_text("not a picture")
    assert "not a PNG" in refusal(reader, path)


def test_wrong_name(reader: Reader, tmp_path: Path) -> None:
    """Another file than the expected one is refused."""
    with pytest.raises(UnreadableResult, match=NAME):
        reader.read(job(), FIRST, {"other.png": picture(tmp_path / "1.png")})


def test_not_a_file(reader: Reader, tmp_path: Path) -> None:
    """Links, folders, pipes and nothing are refused before they are opened for reading; nobody waits for a pipe."""
    (tmp_path / "link").symlink_to(picture(tmp_path / "1.png"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "folder", "pipe", "nothing"):
        refusal(reader, tmp_path / name)


def test_larger_than_the_job_allows(reader: Reader, tmp_path: Path) -> None:
    """A result beyond the job's limit is not even copied."""
    request = JobRequest(
        name="a job",
        work=BlenderWork(scene_file="a.blend", width=64, height=48),
        split=Frames(first=1, last=1),
        limits=Limits(result_bytes=10),
    )
    assert "larger than its job allows" in refusal(reader, picture(tmp_path / "1.png"), request)


def test_many_inputs(reader: Reader, tmp_path: Path) -> None:
    """A job of very many input files is read like any other."""
    inputs = tuple(InputFile(path=f"textures/{n}.png", sha256="0" * 64, size=n) for n in range(20_000))
    request = JobRequest(
        name="a job",
        work=BlenderWork(scene_file="a.blend", width=64, height=48),
        split=Frames(first=1, last=1),
        inputs=inputs,
    )
    assert reader.read(request, FIRST, {f"{NAME}.png": picture(tmp_path / "1.png")})


def test_value_job(reader: Reader, tmp_path: Path) -> None:
    """Files for a job whose results are values are refused."""
    request = JobRequest(name="a job", work=DigestWork(), split=Frames(first=1, last=1))
    assert "no files" in refusal(reader, picture(tmp_path / "1.png"), request)


def inner(reader: Reader) -> psutil.Process:
    """Return the process that forks for every result."""
    assert reader.pid is not None
    return psutil.Process(reader.pid).children(recursive=True)[-1]


def test_killed_between_readings(reader: Reader, tmp_path: Path) -> None:
    """A reader process that was killed is replaced, and nobody notices."""
    path = picture(tmp_path / "1.png")
    before = reader.read(job(), FIRST, {f"{NAME}.png": path})
    inner(reader).kill()
    assert reader.read(job(), FIRST, {f"{NAME}.png": path}) == before


def test_killed_while_reading(reader: Reader, tmp_path: Path) -> None:
    """A reader process that is killed in mid reading is replaced, and the result is read after all."""
    path = picture(tmp_path / "1.png")
    before = reader.read(job(), FIRST, {f"{NAME}.png": path})
    process = inner(reader)
    # Stopped, it has surely not answered when it is killed.
    process.suspend()
    answers: list[Read] = []
    thread = threading.Thread(target=lambda: answers.append(reader.read(job(), FIRST, {f"{NAME}.png": path})))
    thread.start()
    process.send_signal(signal.SIGKILL)
    thread.join(timeout=60)
    assert answers == [before]


def test_too_long(tmp_path: Path) -> None:
    """A reading that takes longer than it may is ended and refused; the next one is none the worse."""
    request = job(format="PNG", width=8_192, height=4_096)
    path = picture(tmp_path / "1.png", width=8_192, height=4_096)
    hasty = Reader(ReadingLimits(memory_bytes=2 << 30, seconds=0.02))
    try:
        assert "more than 0.02 s" in refusal(hasty, path, request)
    finally:
        hasty.close()


def test_threads(reader: Reader, tmp_path: Path) -> None:
    """Several threads may share a reader; each gets the answer to its own result."""
    paths = [picture(tmp_path / f"{shade}.png", shade=shade) for shade in range(4)]
    expected = [reader.read(job(), FIRST, {f"{NAME}.png": path}) for path in paths]
    answers: list[Read | None] = [None] * 4

    def read(index: int) -> None:
        answers[index] = reader.read(job(), FIRST, {f"{NAME}.png": paths[index]})

    threads = [threading.Thread(target=read, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == expected


def test_close(tmp_path: Path) -> None:
    """A closed reader leaves no process behind, and starts anew when asked again."""
    own = Reader()
    path = picture(tmp_path / "1.png")
    own.read(job(), FIRST, {f"{NAME}.png": path})
    assert own.pid is not None
    processes = psutil.Process(own.pid).children(recursive=True)
    own.close()
    assert psutil.wait_procs(processes, timeout=30)[1] == []
    assert own.read(job(), FIRST, {f"{NAME}.png": path})
    own.close()


def test_without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no bubblewrap results are read all the same, and the reader says that it is without."""
    monkeypatch.setenv("PATH", str(tmp_path))
    bare = Reader()
    try:
        assert bare.note is not None
        assert "without a sandbox" in bare.note
        assert bare.read(job(), FIRST, {f"{NAME}.png": picture(tmp_path / "1.png")})
        bomb = tmp_path / "bomb.png"
        bomb.write_bytes(png_header(60_000, 60_000))
        refusal(bare, bomb)
    finally:
        bare.close()
