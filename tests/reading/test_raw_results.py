"""A picture is read together with the raw passes it was made of: both count, and each is checked in its own way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.applications.painting import HEIGHT, PASSES, WIDTH, gradient, painted
from tests.reading.test_comparing import Folder, Pixels, lie
from tests.reading.test_comparing import job as any_job
from xwgrid.applications.registry import application_of
from xwgrid.auditing import DENOISED
from xwgrid.errors import UnreadableResult
from xwgrid.model import JobRequest, TaskNumber
from xwgrid.reading import Reader, ReadingLimits, Stored
from xwgrid.tolerances import Distance

FIRST = TaskNumber(0)
PICTURE, RAW = "frame_0001.png", "frame_0001_raw.exr"


def job(**changes: Any) -> JobRequest:
    return any_job(**{"denoise": True, "raw_passes": True, **changes})


JOB = job()


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    """One reader for all tests: none may leave it unable to serve the next."""
    reader = Reader(ReadingLimits(memory_bytes=1 << 30, seconds=20.0))
    yield reader
    reader.close()


class Results(Folder):
    """Writes results of jobs that are denoised in a step of its own."""

    def passes(self, pixels: Pixels, channels: Sequence[str] = PASSES, kind: str = "float") -> bytes:
        return painted(self._above, ".exr", kind, pixels, channels=channels)

    def picture(self, pixels: Pixels) -> bytes:
        return painted(self._above, ".png", "uint8", pixels)

    def whole(self, raw: Pixels, picture: Pixels) -> Stored:
        return self.result({PICTURE: self.picture(picture), RAW: self.passes(raw)})

    def denoised(self, picture: Pixels) -> Stored:
        return self.result({PICTURE: self.picture(picture)}, DENOISED)

    def strips(self, raw: Pixels, strips: str, channels: Sequence[str] = PASSES) -> Stored:
        files = {}
        for strip in strips.split(","):
            first, rows = map(int, strip.split("+"))
            files[f"frame_0001_raw_rows_{first:04d}.exr"] = self.passes(raw[first : first + rows], channels)
        return self.result(files, strips)


@pytest.fixture
def folder(tmp_path: Path) -> Results:
    return Results(tmp_path)


def passes() -> Pixels:
    return gradient(len(PASSES))


def other_passes(*rows: int) -> Pixels:
    """Return raw passes with one channel of one pixel altered in each of these rows."""
    return lie(*rows, channels=len(PASSES))


def read(reader: Reader, result: Stored, *others: Stored) -> tuple[float | None, ...]:
    """Return the shares of rows in which a result and others differ, the same both ways."""
    shares = reader.read(JOB, FIRST, *result[:2], others).shares
    for other, share in zip(others, shares, strict=True):
        assert reader.read(JOB, FIRST, *other[:2], [result]).shares == (share,)
    return shares


def test_both_files_make_the_fingerprint(reader: Reader, folder: Results) -> None:
    """Another picture, other raw passes or other names of their channels are another result; the same two files are the
    same one, here as in the sandbox.
    """
    renamed = [f"Layer.{name}" for name in PASSES]
    results = [
        folder.whole(passes(), gradient()),
        folder.whole(other_passes(4), gradient()),
        folder.whole(passes(), lie(4)),
        folder.result({PICTURE: folder.picture(gradient()), RAW: folder.passes(passes(), renamed)}),
    ]
    seen = [reader.read(JOB, FIRST, each.files).fingerprint for each in results]
    assert len(set(seen)) == len(results)
    again = folder.whole(passes(), gradient())
    assert reader.read(JOB, FIRST, again.files).fingerprint == seen[0]
    outside = {name: path.read_bytes() for name, path in again.files.items()}
    assert application_of(JOB).read_result(JOB, FIRST, outside) == seen[0]
    plain = any_job()
    assert reader.read(plain, FIRST, {PICTURE: again.files[PICTURE]}).fingerprint not in seen


def test_a_share_is_told_of_the_raw_passes_first(reader: Reader, folder: Results) -> None:
    """Where raw passes differ it is in so many rows of them, however far denoising spread it; where they are equal, in
    so many rows of the picture.
    """
    one = folder.whole(passes(), gradient())
    others = [
        folder.whole(passes(), gradient()),
        folder.whole(passes(), lie(2, 3, 4)),
        folder.whole(other_passes(3), lie(0, 1, 2, 3, 4, 5, 6)),
        folder.whole(other_passes(3, 4), gradient()),
    ]
    assert read(reader, one, *others) == (0.0, 3 / HEIGHT, 1 / HEIGHT, 2 / HEIGHT)


def test_denoising_is_compared_with_the_picture(reader: Reader, folder: Results) -> None:
    """A picture that was made once more fits its author's, or differs in so many rows; it has nothing in common with
    raw passes, and its fingerprint is the picture's own.
    """
    honest = folder.denoised(gradient())
    others = [
        folder.whole(passes(), gradient()),
        folder.whole(passes(), lie(1, 8)),
        folder.whole(other_passes(4), gradient()),
        folder.strips(passes(), "0+2"),
    ]
    assert read(reader, honest, *others) == (0.0, 2 / HEIGHT, 0.0, None)
    plain = reader.read(any_job(), FIRST, honest.files)
    assert reader.read(JOB, FIRST, *honest[:2]).fingerprint == plain.fingerprint


def test_strips_are_compared_with_the_raw_passes(reader: Reader, folder: Results) -> None:
    """Strips fit raw passes whatever picture was made of these, and differ where the raw passes do; other names of the
    channels differ everywhere.
    """
    honest = folder.strips(passes(), "0+2,4+1,7+2")
    others = [
        folder.whole(passes(), gradient()),
        folder.whole(passes(), lie(0, 4, 7)),
        folder.whole(other_passes(4), gradient()),
        folder.whole(other_passes(2, 3, 5, 6), gradient()),
    ]
    assert read(reader, honest, *others) == (0.0, 0.0, 1 / 5, 0.0)
    renamed = folder.strips(passes(), "0+2,4+1", [f"Layer.{name}" for name in PASSES])
    assert read(reader, renamed, others[0]) == (1.0,)


def test_classes_are_compared_by_their_pictures(reader: Reader, folder: Results) -> None:
    """How far two hosts of different classes are apart is a matter of what their requesters would see."""
    one, other = folder.whole(passes(), gradient()), folder.whole(other_passes(*range(HEIGHT)), gradient())
    assert reader.distance(JOB, FIRST, one.files, other.files) == Distance(share=0.0, largest=0.0, block=0.0)
    odd = folder.whole(passes(), lie(4))
    assert reader.distance(JOB, FIRST, one.files, odd.files).share == pytest.approx(1 / (WIDTH * HEIGHT * 3))


def refused(reader: Reader, result: Stored, request: JobRequest = JOB) -> str:
    """Return why a result is refused, and see that nothing else is compared with it."""
    with pytest.raises(UnreadableResult) as caught:
        reader.read(request, FIRST, *result[:2])
    return caught.value.message


def test_raw_passes_that_are_none(reader: Reader, folder: Results) -> None:
    """Too many channels, another size, integers or halves, rubbish or half a file, a part cut out of a larger picture:
    each is refused with its reason, beside a good picture, and as an other it is left out.
    """
    good, names = folder.picture(gradient()), [f"Layer.{number:02d}" for number in range(33)]
    whole = folder.passes(passes())
    window = painted(folder._above, ".exr", "float", passes(), channels=PASSES, window=(0, 0, WIDTH, HEIGHT + 1))
    for raw, sentence in (
        (folder.passes(gradient(33), names), "has 33 channels: 32 may be"),
        (folder.passes(passes()[:5]), "has 16 x 5 pixels, the job asks for 16 x 9"),
        (folder.passes(passes()[:, :7]), "has 7 x 9 pixels"),
        (folder.passes(passes(), kind="half"), "has channels of type half, the job asks for 32 bits"),
        (window, "is a part cut out of a larger picture"),
        (whole[: len(whole) // 2], RAW),
        (good, "is not a OPEN_EXR file"),
        (b"", "is empty"),
    ):
        result = folder.result({PICTURE: good, RAW: raw})
        said = refused(reader, result)
        assert sentence in said
        assert RAW in said
        assert reader.read(JOB, FIRST, folder.whole(passes(), gradient()).files, None, [result]).shares == (None,)
    assert reader.read(JOB, FIRST, folder.result({PICTURE: good, RAW: folder.passes(gradient(32), names[:32])}).files)


def test_pictures_beside_raw_passes_are_pictures(reader: Reader, folder: Results) -> None:
    """Only raw passes may have channels of any name: a picture beside them, and one of a job without, may not."""
    strange, raw = folder.passes(passes()), folder.passes(passes())
    floats: dict[str, Any] = {"format": "OPEN_EXR", "color_depth": "32"}
    said = refused(reader, folder.result({"frame_0001.exr": strange, RAW: raw}), job(**floats))
    assert said.startswith("frame_0001.exr has 11 channels (ViewLayer.Combined.R")
    alone = folder.result({"frame_0001.exr": strange})
    assert "not grey, RGB or RGBA" in refused(reader, alone, any_job(**floats))
    assert "not grey, RGB or RGBA" in refused(reader, alone._replace(strips=DENOISED), job(**floats))
    assert "not grey, RGB or RGBA" in refused(
        reader, folder.result({"frame_0001_rows_0000.exr": folder.passes(passes()[:1])}, "0+1"), any_job(**floats)
    )


def test_results_with_a_file_too_few_or_too_many(reader: Reader, folder: Results) -> None:
    """The picture alone, raw passes alone, an audit that brings what it was given, strips of the picture, and raw
    passes that nobody asked for are refused with what should be there.
    """
    picture, raw = folder.picture(gradient()), folder.passes(passes())
    both = {PICTURE: picture, RAW: raw}
    for files, strips, sentence in (
        ({PICTURE: picture}, None, f"should be {PICTURE}, {RAW} and is {PICTURE}"),
        ({RAW: raw}, None, f"should be {PICTURE}, {RAW} and is {RAW}"),
        (both, DENOISED, f"should be {PICTURE} and is {PICTURE}, {RAW}"),
        ({RAW: raw}, DENOISED, f"should be {PICTURE} and is {RAW}"),
        ({"frame_0001_rows_0000.png": folder.picture(gradient()[:1])}, "0+1", "should be frame_0001_raw_rows_0000.exr"),
    ):
        assert sentence in refused(reader, folder.result(files, strips))
    assert f"should be {PICTURE} and is {PICTURE}, {RAW}" in refused(reader, folder.result(both), any_job())
    denoised = folder.result({PICTURE: picture}, DENOISED)
    assert "'denoised' is not a strip" in refused(reader, denoised, any_job())


def test_strips_of_raw_passes_that_are_none(reader: Reader, folder: Results) -> None:
    """A strip with other rows than asked for, or without numbers in it, is refused as a frame would be."""
    short = folder.strips(passes(), "1+2")
    assert "has 16 x 2 pixels, the job asks for 16 x 3" in refused(reader, short._replace(strips="1+3"))
    name = "frame_0001_raw_rows_0001.exr"
    assert "is not a OPEN_EXR file" in refused(reader, folder.result({name: folder.picture(gradient()[1:3])}, "1+2"))
    strange = passes()
    strange[1, 1, 1] = np.nan
    twice = folder.strips(strange, "1+2"), folder.strips(strange, "1+2")
    assert read(reader, twice[0], folder.whole(strange, gradient()), folder.whole(passes(), gradient())) == (0.0, 0.5)
    assert len({reader.read(JOB, FIRST, *each[:2]).fingerprint for each in twice}) == 1
