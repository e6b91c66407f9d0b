"""Results are laid beside others of their task, in the same sandbox: a bad neighbour condemns nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted, png_of
from tests.reading.test_reader import inner
from xwgrid.applications.registry import application_of
from xwgrid.errors import UnreadableResult
from xwgrid.model import BlenderWork, Count, DigestWork, Frames, JobRequest, Limits, TaskNumber
from xwgrid.reading import Reader, ReadingLimits, Stored
from xwgrid.tolerances import Distance, Tolerance

FIRST = TaskNumber(0)
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def job(limits: Limits | None = None, **changes: Any) -> JobRequest:
    work = {"scene_file": "a.blend", "width": WIDTH, "height": HEIGHT, "denoise": False, **changes}
    return JobRequest(name="a job", work=BlenderWork(**work), split=Frames(first=1, last=2), limits=limits or Limits())


EXR: dict[str, Any] = {"format": "OPEN_EXR", "color_depth": "32"}


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """One reader for all tests: none may leave it unable to serve the next."""
    reader = Reader(ReadingLimits(memory_bytes=1 << 30, seconds=20.0))
    yield reader
    reader.close()


class Folder:
    """Writes results, each into a folder of its own."""

    def __init__(self, above: Path) -> None:
        self._above = above
        self._count = 0

    def result(self, files: Mapping[str, bytes], strips: str | None = None) -> Stored:
        self._count += 1
        folder = self._above / str(self._count)
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return Stored({name: folder / name for name in files}, strips)

    def frame(self, pixels: Pixels, suffix: str = ".png", kind: str = "uint8") -> Stored:
        return self.result({f"frame_0001{suffix}": painted(self._above, suffix, kind, pixels)})

    def audit(self, pixels: Pixels, strips: str, suffix: str = ".png", kind: str = "uint8") -> Stored:
        files = {}
        for strip in strips.split(","):
            first, rows = map(int, strip.split("+"))
            name = f"frame_0001_rows_{first:04d}{suffix}"
            files[name] = painted(self._above, suffix, kind, pixels[first : first + rows])
        return self.result(files, strips)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def lie(*rows: int, channels: int = 3) -> Pixels:
    """Return the honest pixels with one channel of one pixel altered in each of these rows."""
    pixels = gradient(channels)
    for row in rows:
        pixels[row, row % WIDTH, 1] = 1.0 - pixels[row, row % WIDTH, 1]
    return pixels


def test_frames(reader: Reader, folder: Folder) -> None:
    """Of two frames that differ, the share of rows is told in which any pixel does; equal ones differ in none."""
    one = folder.frame(gradient())
    others = [folder.frame(gradient()), folder.frame(lie(4)), folder.frame(lie(0, 3, 8))]
    seen = reader.read(job(), FIRST, one.files, None, others)
    assert seen.fingerprint == reader.read(job(), FIRST, one.files).fingerprint
    assert seen.shares == (0.0, 1 / HEIGHT, 3 / HEIGHT)
    assert reader.read(job(), FIRST, one.files).shares == ()


def test_audits(reader: Reader, folder: Folder) -> None:
    """An audit is compared in its own rows alone, with frames and with other audits, and both ways alike."""
    honest = folder.audit(gradient(), "0+2,4+1,7+2")
    others = [
        folder.frame(gradient()),
        folder.frame(lie(2, 3, 5, 6)),
        folder.frame(lie(4)),
        folder.frame(lie(1, 8)),
        folder.audit(gradient(), "1+3"),
        folder.audit(lie(1, 2), "1+3"),
        folder.audit(lie(4, 5), "4+2,8+1"),
        folder.audit(lie(2), "2+2"),
    ]
    seen = reader.read(job(), FIRST, *honest[:2], others)
    assert seen.shares == (0.0, 0.0, 1 / 5, 2 / 5, 0.0, 1.0, 1 / 2, None)
    for other, share in zip(others, seen.shares, strict=True):
        assert reader.read(job(), FIRST, *other[:2], [honest]).shares == (share,)


def test_fingerprints_of_audits(reader: Reader, folder: Folder) -> None:
    """Equal strips have equal fingerprints; other pixels, other rows and another order of strips have others."""
    audits = [
        folder.audit(gradient(), "0+2,4+1"),
        folder.audit(gradient(), "4+1,0+2"),
        folder.audit(gradient(), "0+2"),
        folder.audit(lie(4), "0+2,4+1"),
        folder.audit(np.roll(gradient(), 1, axis=0), "1+2,5+1"),
    ]
    seen = [reader.read(job(), FIRST, *each[:2]).fingerprint for each in audits]
    assert len(set(seen)) == len(seen)
    again = folder.audit(gradient(), "0+2,4+1")
    assert reader.read(job(), FIRST, *again[:2]).fingerprint == seen[0]
    outside = {name: path.read_bytes() for name, path in again.files.items()}
    assert application_of(job()).read_result(job(), FIRST, outside, again.strips) == seen[0]


def test_floats_are_compared_as_they_are_stored(reader: Reader, folder: Folder) -> None:
    """What is no number equals itself, and minus zero differs from zero, as for the fingerprint."""
    strange = gradient()
    strange[2, 2, 2], strange[3, 3, 0] = np.nan, 0.0
    negative = strange.copy()
    negative[3, 3, 0] = -0.0
    one, same, other = (folder.frame(each, ".exr", "float") for each in (strange, strange, negative))
    audit = folder.audit(strange, "2+1", ".exr", "float")
    assert reader.read(job(**EXR), FIRST, one.files, None, [same, other, audit]).shares == (0.0, 1 / HEIGHT, 0.0)


def test_other_channels_differ(reader: Reader, folder: Folder) -> None:
    """A picture with opacity differs from one without in every row."""
    one, other = folder.frame(gradient(3)), folder.frame(gradient(4))
    assert reader.read(job(), FIRST, one.files, None, [other]).shares == (1.0,)


def test_hostile_others(reader: Reader, folder: Folder, tmp_path: Path) -> None:
    """Others that are rubbish, bombs, of another size, links, pipes, too large, too many or misnamed are left out; the
    result keeps its fingerprint, and honest others are compared all the same.
    """
    one, good = folder.frame(gradient()), folder.frame(lie(4))
    bomb = png_of(WIDTH, HEIGHT, bytes(64 << 20), more=b"")
    (tmp_path / "link").symlink_to(one.files["frame_0001.png"])
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate((1 << 30) + 1)
    name = "frame_0001.png"
    hostile = [
        folder.result({name: b"rubbish"}),
        folder.result({name: b""}),
        folder.result({name: png_of(60_000, 60_000, b"")}),
        folder.result({name: bomb[: len(bomb) // 2]}),
        folder.result({name: painted(tmp_path, ".png", "uint16")}),
        folder.result({name: painted(tmp_path, ".png", "uint8", gradient()[:5])}),
        folder.result({"other.png": one.files[name].read_bytes()}),
        folder.result({}),
        folder.result({name: one.files[name].read_bytes()}, "0+9"),
        folder.result({name: one.files[name].read_bytes()}, "nonsense"),
        Stored({name: tmp_path / "link"}),
        Stored({name: tmp_path / "pipe"}),
        Stored({name: tmp_path / "nothing"}),
        Stored({name: tmp_path}),
        Stored({name: large}),
        Stored({f"{number}.png": one.files[name] for number in range(300)}),
    ]
    alone = reader.read(job(), FIRST, one.files)
    seen = reader.read(job(), FIRST, one.files, None, [*hostile, good])
    assert seen.fingerprint == alone.fingerprint
    assert seen.shares == (*(None for _ in hostile), 1 / HEIGHT)


def test_an_other_that_takes_too_much(reader: Reader, folder: Folder) -> None:
    """An other whose reading needs more memory than there is is left out; the next one is compared."""
    width, height = 8_192, 4_096
    request = job(width=width, height=height, color_depth="16")
    strip = folder.audit(np.zeros((9, width, 3), np.float32), "7+2", kind="uint16")
    other = folder.audit(np.zeros((9, width, 3), np.float32), "8+1", kind="uint16")
    large = folder.result({"frame_0001.png": png_of(width, height, bytes((1 + width * 6) * height), bits=16)})
    # Enough for the libraries and a strip, not for a frame of 192 MiB.
    small = Reader(ReadingLimits(memory_bytes=320 << 20, seconds=20.0))
    try:
        assert small.read(request, FIRST, *strip[:2], [large, other]).shares == (None, 0.0)
    finally:
        small.close()
    assert reader.read(request, FIRST, *strip[:2], [large, other]).shares == (0.0, 0.0)


def test_the_result_itself_is_still_refused(reader: Reader, folder: Folder) -> None:
    """A result that cannot be read is refused, whatever it was to be compared with."""
    with pytest.raises(UnreadableResult, match="not a PNG"):
        reader.read(job(), FIRST, folder.result({"frame_0001.png": b"x"}).files, None, [folder.frame(gradient())])


@pytest.mark.parametrize(
    ("strips", "sentence"),
    [
        ("0+1", "should be frame_0001_rows_0000.png and is frame_0001_rows_0001.png"),
        ("1+1", "1 x 2|16 x 2"),
        ("1+2,1+1", "begin at the same row"),
        ("8+2", "does not lie in a picture 9 rows high"),
        ("", "is not a strip"),
    ],
)
def test_audits_that_are_not_what_was_asked_for(reader: Reader, folder: Folder, strips: str, sentence: str) -> None:
    """An audit with other rows, or of strips that cannot be, is refused."""
    audit = folder.audit(gradient(), "1+2")
    with pytest.raises(UnreadableResult, match=sentence):
        reader.read(job(), FIRST, audit.files, strips)


def test_killed_between_comparisons(reader: Reader, folder: Folder) -> None:
    """A reader process that was killed is replaced, and every comparison is made."""
    one, other = folder.frame(gradient()), folder.frame(lie(1))
    before = reader.read(job(), FIRST, one.files, None, [other])
    inner(reader).kill()
    assert reader.read(job(), FIRST, one.files, None, [other]) == before


def test_distance(reader: Reader, folder: Folder) -> None:
    """How far two frames are apart is told from the same sandbox; what cannot be read or compared is refused."""
    one, other = folder.frame(gradient()), folder.frame(lie(4))
    assert reader.distance(job(), FIRST, one.files, one.files) == Distance(share=0.0, largest=0.0, block=0.0)
    assert reader.distance(job(), FIRST, one.files, other.files).share == pytest.approx(1 / (WIDTH * HEIGHT * 3))
    with pytest.raises(UnreadableResult, match="cannot be compared"):
        reader.distance(job(), FIRST, one.files, folder.frame(gradient(4)).files)
    with pytest.raises(UnreadableResult, match="not a PNG"):
        reader.distance(job(), FIRST, one.files, folder.result({"frame_0001.png": b"x"}).files)


def test_others_of_another_class(reader: Reader, folder: Folder) -> None:
    """A frame of another class differs in nothing while it is within the tolerance of the two classes; beyond it, and
    for strips, the share of rows is told as for any other.
    """
    pixels = gradient()
    pixels[4, 5, 1] += 2 / 255
    one, near, far = folder.frame(gradient()), folder.frame(pixels), folder.frame(lie(4))
    tolerance = Tolerance(
        application="blender", class_a="a", class_b="b", share=0.01, largest=2.0, block=0.1, measured_at=0.0,
        samples=8, margin=2.0,
    )  # fmt: skip
    tight = replace(tolerance, largest=1.0)
    others = [near, *(near._replace(tolerance=each) for each in (tolerance, tight)), far._replace(tolerance=tolerance)]
    others.append(folder.frame(gradient(4))._replace(tolerance=tolerance))
    others.append(folder.result({"frame_0001.png": b"rubbish"})._replace(tolerance=tolerance))
    seen = reader.read(job(), FIRST, one.files, None, others)
    assert seen.shares == (1 / HEIGHT, 0.0, 1 / HEIGHT, 1 / HEIGHT, 1.0, None)
    strip = folder.audit(gradient(), "4+1")
    assert reader.read(job(), FIRST, strip.files, strip.strips, [near._replace(tolerance=tolerance)]).shares == (1.0,)
    assert reader.read(job(), FIRST, one.files, None, [strip._replace(tolerance=tolerance)]).shares == (0.0,)


def test_values_have_no_rows(reader: Reader, folder: Folder) -> None:
    """A job whose results are values has nothing to compare."""
    request = JobRequest(name="chains", work=DigestWork(), split=Count(count=1))
    with pytest.raises(UnreadableResult, match="a value and no files"):
        reader.read(request, FIRST, folder.frame(gradient()).files, None, [folder.frame(gradient())])
    with pytest.raises(UnreadableResult, match="a value and no files"):
        reader.distance(request, FIRST, folder.frame(gradient()).files, folder.frame(gradient()).files)
