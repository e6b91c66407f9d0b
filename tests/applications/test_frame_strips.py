"""Rows are cut out of picture files without a change to any pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import OpenImageIO
import pytest

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted, pinned, png_of
from xwgrid.applications.drivers import frame_strips
from xwgrid.applications.drivers.driver_lines import TaskError
from xwgrid.applications.drivers.frame_strips import Strip, assembled, cut, parse
from xwgrid.applications.pictures import read

CUTS = [(0, 1), (0, HEIGHT), (3, 2), (HEIGHT - 1, 1), (HEIGHT - 4, 4)]


def noise(channels: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(channels).random((HEIGHT, WIDTH, channels), dtype=np.float32)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("kind", "depth"), [("uint8", "8"), ("uint16", "16")])
def test_png(tmp_path: Path, kind: str, depth: str, channels: int) -> None:
    """Grey, RGB and RGBA pictures of both depths give their rows, whatever filters the writer chose."""
    for number, pixels in enumerate((gradient(channels), noise(channels))):
        for wished in range(9):
            data = _png(tmp_path / f"{number}-{wished}.png", kind, pixels, 1 << wished >> 1)
            whole = read(data, pinned("PNG", depth))
            for first, rows in CUTS:
                seen = read(cut(data, first, rows), pinned("PNG", depth, height=rows))
                assert seen.channels == whole.channels
                assert seen.pixels.tobytes() == whole.pixels[first : first + rows].tobytes()


def _png(path: Path, kind: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]], filters: int) -> bytes:
    """Write a PNG with libpng's `filters`: 8 none, 16 sub, 32 up, 64 average, 128 Paeth; less: its own choice."""
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, pixels.shape[2], kind)
    spec.attribute("png:filter", filters)
    out = OpenImageIO.ImageOutput.create(str(path))
    assert out is not None
    assert out.open(str(path), spec)
    assert out.write_image(pixels)
    out.close()
    return path.read_bytes()


def test_every_filter_of_png() -> None:
    """Each of the five filters is undone as the standard says: another decoder sees the same before and after."""
    rows = np.random.default_rng(5).integers(0, 256, (20, WIDTH * 4), dtype=np.uint8)
    kinds = [4, 2, 3, 1, 4, 3, 2, 0, 4, 4, 2, 2, 3, 3, 1, 0, 2, 3, 4, 4]
    raw = b"".join(bytes([kind]) + row.tobytes() for kind, row in zip(kinds, rows, strict=True))
    data = png_of(WIDTH, 20, raw, colour_type=6)
    whole = read(data, pinned(height=20))
    for first in range(20):
        seen = read(cut(data, first, 20 - first), pinned(height=20 - first))
        assert seen.pixels.tobytes() == whole.pixels[first:].tobytes(), first


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("kind", "depth"), [("half", "16"), ("float", "32")])
def test_exr(tmp_path: Path, kind: str, depth: str, channels: int) -> None:
    """OpenEXR pictures give their rows, to the last bit of what is no number."""
    pixels = noise(channels) * 1_000
    pixels[4, 5, 0], pixels[3, 3, 0], pixels[3, 4, 0] = np.inf, -0.0, np.nan
    data = painted(tmp_path, ".exr", kind, pixels, attributes={"compression": "none", "Software": "of mine"})
    whole = read(data, pinned("OPEN_EXR", depth))
    for first, rows in CUTS:
        part = cut(data, first, rows)
        assert b"of mine" not in part
        seen = read(part, pinned("OPEN_EXR", depth, height=rows))
        assert (seen.channels, seen.type) == (whole.channels, whole.type)
        assert seen.pixels.tobytes() == whole.pixels[first : first + rows].tobytes()


def test_rows_are_put_together(tmp_path: Path) -> None:
    """Pieces come to lie where they belong in a picture that is black everywhere else; all that was there stays."""
    for channels, kind, depth in ((4, "float", "32"), (3, "half", "16"), (1, "float", "32")):
        pixels = noise(channels)
        whole = painted(tmp_path, ".exr", kind, pixels, attributes={"compression": "none"})
        pieces = [(first, cut(whole, first, rows)) for first, rows in ((7, 2), (0, 1), (3, 2))]
        seen = read(assembled(HEIGHT, pieces), pinned("OPEN_EXR", depth)).pixels
        expected = read(whole, pinned("OPEN_EXR", depth)).pixels
        for row in range(HEIGHT):
            if row in {7, 8, 0, 3, 4}:
                assert seen[row].tobytes() == expected[row].tobytes()
            else:
                assert not seen[row].any()
    with pytest.raises(TaskError, match="cannot be put together"):
        assembled(HEIGHT, [(0, b"rubbish")])


def test_what_cannot_be_cut(tmp_path: Path) -> None:
    """Rows beyond the end, compressed OpenEXR, a picture cut short, interlacing and rubbish are refused."""
    png = painted(tmp_path, ".png", "uint8")
    exr = painted(tmp_path, ".exr", "half", attributes={"compression": "none"})
    packed = painted(tmp_path, ".exr", "half", attributes={"compression": "zip"})
    strange = png_of(WIDTH, 1, b"\7" + bytes(3 * WIDTH))
    for data, first in (
        (png, HEIGHT),
        (exr, HEIGHT),
        (packed, 0),
        (png[:60], 0),
        (exr[:-5], HEIGHT - 1),
        (exr[:200], 0),
        (png[:28] + b"\1" + png[29:], 0),
        (strange, 0),
        (b"", 0),
        (b"rubbish", 0),
        (png[:8], 0),
    ):
        with pytest.raises(TaskError, match="cannot be cut"):
            cut(data, first, 1)


def test_a_bomb_is_unpacked_no_further_than_its_rows() -> None:
    """Rows that nobody asked for are not unpacked."""
    rows = (b"\0" + bytes(WIDTH * 3)) * HEIGHT
    bomb = png_of(WIDTH, HEIGHT, rows + bytes(64 << 20))
    assert len(cut(bomb, 2, 2)) < 200


def test_what_is_rendered_for_strips() -> None:
    """Each strip is rendered with its margin, as far as the picture goes; those that nearly touch, in one go."""
    strips = parse("500+2,0+2,700+2,1078+2", 1_080)
    assert frame_strips.windows(strips, 1_080, 0) == [(strip, [strip]) for strip in sorted(strips)]
    assert frame_strips.windows(strips, 1_080, 12) == [
        (Strip(0, 14), [Strip(0, 2)]),
        (Strip(488, 26), [Strip(500, 2)]),
        (Strip(688, 26), [Strip(700, 2)]),
        (Strip(1_066, 14), [Strip(1_078, 2)]),
    ]
    near = parse("100+2,118+2,137+2,105+1", 1_080)
    assert frame_strips.windows(near, 1_080, 0) == [
        (Strip(100, 20), [Strip(100, 2), Strip(105, 1), Strip(118, 2)]),
        (Strip(137, 2), [Strip(137, 2)]),
    ]
    assert frame_strips.windows(near, 1_080, 1) == [(Strip(99, 41), sorted(near))]
    assert frame_strips.windows(parse("3+5,4+1", 9), 9, 0) == [(Strip(3, 5), [Strip(3, 5), Strip(4, 1)])]


def test_strips_are_read() -> None:
    """What a lease writes is read; nonsense is told with a sentence."""
    assert parse("0+1,34+2", 36) == (Strip(0, 1), Strip(34, 2))
    assert frame_strips.name("frame_0007.png", Strip(12, 2)) == "frame_0007_rows_0012.png"
    with pytest.raises(TaskError, match="the strip 35\\+2 does not lie in a picture 36 rows high"):
        parse("35+2", 36)
    with pytest.raises(TaskError, match="'x' is not a strip"):
        parse("1+1,x", 36)
    with pytest.raises(TaskError, match="two strips of the task begin at the same row"):
        parse("1+1,1+2", 36)
