"""Pictures from strangers are read as what their job pinned, or refused with a sentence."""

from __future__ import annotations

import contextlib
import resource
import zlib
from pathlib import Path

import numpy as np
import OpenImageIO
import pytest

from tests.applications.painting import HEIGHT, WIDTH, chunk, gradient, painted, pinned, png_of
from xwgrid.applications.pictures import Picture, compare, eight_bit, fingerprint, read
from xwgrid.errors import BadInput, UnreadableResult


@pytest.mark.parametrize(
    ("wanted", "suffix", "kind", "expected"),
    [
        (("PNG", "8"), ".png", "uint8", "uint8"),
        (("PNG", "16"), ".png", "uint16", "uint16"),
        (("JPEG", "8"), ".jpg", "uint8", "uint8"),
        (("OPEN_EXR", "16"), ".exr", "half", "float16"),
        (("OPEN_EXR", "32"), ".exr", "float", "float32"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_formats_that_jobs_may_pin(
    tmp_path: Path, wanted: tuple[str, str], suffix: str, *, kind: str, expected: str, channels: int
) -> None:
    """Grey, RGB and RGBA of each format are read with their own type and size."""
    if (wanted[0], channels) == ("JPEG", 4):
        return  # there is no JPEG with opacity
    data = painted(tmp_path, suffix, kind, gradient(channels))
    picture = read(data, pinned(*wanted))
    assert (picture.width, picture.height, len(picture.channels)) == (WIDTH, HEIGHT, channels)
    assert picture.type == expected
    assert picture.pixels.shape == (HEIGHT, WIDTH, channels)


def test_pixels_are_what_was_painted(tmp_path: Path) -> None:
    """Decoding changes no pixel, and opacity is not multiplied into the colours."""
    pixels = np.rint(gradient(4) * 255) / 255
    picture = read(painted(tmp_path, ".png", "uint8", pixels.astype(np.float32)), pinned())
    # What OpenImageIO writes was divided by opacity, so compare with what another decoder sees.
    from PIL import Image  # noqa: PLC0415

    with Image.open(tmp_path / "painted.png") as file:
        assert np.array_equal(picture.pixels, np.asarray(file))


def test_fingerprint_ignores_what_a_file_says_about_itself(tmp_path: Path) -> None:
    """Two files with other dates and render times, but the same pixels, are one result."""
    one = painted(tmp_path, ".png", "uint8", attributes={"DateTime": "2026:01:01 10:00:00", "RenderTime": "00:01"})
    two = painted(tmp_path, ".png", "uint8", attributes={"DateTime": "2026:02:02 11:11:11", "RenderTime": "00:02"})
    assert one != two
    assert fingerprint(read(one, pinned())) == fingerprint(read(two, pinned()))


def test_fingerprint_sees_one_step_of_one_channel(tmp_path: Path) -> None:
    """The smallest change of the picture is another result."""
    pixels = gradient()
    one = fingerprint(read(painted(tmp_path, ".exr", "float", pixels), pinned("OPEN_EXR", "32")))
    pixels[3, 3, 1] = np.nextafter(pixels[3, 3, 1], np.float32(2))
    two = fingerprint(read(painted(tmp_path, ".exr", "float", pixels), pinned("OPEN_EXR", "32")))
    assert one != two


def test_fingerprint_sees_shape_names_and_type() -> None:
    """The same bytes under another size, other names or another type are another picture."""
    pixels = np.zeros((2, 6, 3), np.uint8)
    base = Picture(width=6, height=2, channels=("R", "G", "B"), type="uint8", pixels=pixels)
    others = [
        Picture(width=2, height=6, channels=("R", "G", "B"), type="uint8", pixels=pixels.reshape(6, 2, 3)),
        Picture(width=6, height=2, channels=("B", "G", "R"), type="uint8", pixels=pixels),
        Picture(width=3, height=2, channels=("R", "G", "B"), type="uint16", pixels=np.zeros((2, 3, 3), np.uint16)),
    ]
    assert len({fingerprint(each) for each in (base, *others)}) == 4


def test_fingerprint_is_the_same_on_every_machine() -> None:
    """Pixels in the other byte order, and views that are not in one piece, have the same fingerprint."""
    pixels = (gradient() * 60_000).astype("<u2")
    stored = Picture(width=WIDTH, height=HEIGHT, channels=("R", "G", "B"), type="uint16", pixels=pixels)
    turned = Picture(width=WIDTH, height=HEIGHT, channels=("R", "G", "B"), type="uint16", pixels=pixels.astype(">u2"))
    pieces = np.repeat(pixels, 2, axis=1)[:, ::2]
    strided = Picture(width=WIDTH, height=HEIGHT, channels=("R", "G", "B"), type="uint16", pixels=pieces)
    assert fingerprint(stored) == fingerprint(turned) == fingerprint(strided)
    # Volunteers of other versions compare themselves with this.
    assert fingerprint(stored) == "d46b30ea65b1ae5b058aa53a875d8ce0070544d8aada5bd53b8e27f4ec9a7486"


def test_wrong_format(tmp_path: Path) -> None:
    """A picture of another format, under whatever name, is refused."""
    jpeg = painted(tmp_path, ".jpg", "uint8")
    with pytest.raises(UnreadableResult, match=r"frame_0001\.png is not a PNG file"):
        read(jpeg, pinned(), name="frame_0001.png")
    with pytest.raises(UnreadableResult, match="is empty"):
        read(b"", pinned())
    with pytest.raises(UnreadableResult, match="is not a PNG file"):
        read(b"<html>", pinned())


def test_wrong_size_depth_and_channels(tmp_path: Path) -> None:
    """Pixels and bits must be those the job pinned, and channels those of a picture."""
    png = painted(tmp_path, ".png", "uint8")
    with pytest.raises(UnreadableResult, match="has 16 x 9 pixels, the job asks for 32 x 9"):
        read(png, pinned(width=32))
    with pytest.raises(UnreadableResult, match="channels of type uint8, the job asks for 16 bits"):
        read(png, pinned("PNG", "16"))
    with pytest.raises(UnreadableResult, match="channels of type half, the job asks for 32 bits"):
        read(painted(tmp_path, ".exr", "half"), pinned("OPEN_EXR", "32"))
    many = painted(tmp_path, ".exr", "half", gradient(40))
    with pytest.raises(UnreadableResult, match="has 40 channels"):
        read(many, pinned("OPEN_EXR", "16"))


def test_crop_of_a_larger_picture(tmp_path: Path) -> None:
    """An EXR that says it is only a window of the frame is refused."""
    data = painted(tmp_path, ".exr", "half", window=(4, 4, 64, 36))
    with pytest.raises(UnreadableResult, match="a part cut out of a larger picture"):
        read(data, pinned("OPEN_EXR", "16"))


def test_file_with_several_pictures(tmp_path: Path) -> None:
    """What is voted on is one picture: a second one in the same file is refused."""
    spec = OpenImageIO.ImageSpec(WIDTH, HEIGHT, 3, "half")
    path = str(tmp_path / "two.exr")
    out = OpenImageIO.ImageOutput.create(path)
    assert out is not None
    assert out.open(path, (spec, spec))
    assert out.write_image(gradient())
    assert out.open(path, spec, "AppendSubimage")
    assert out.write_image(gradient())
    out.close()
    with pytest.raises(UnreadableResult, match="more than one picture"):
        read(Path(path).read_bytes(), pinned("OPEN_EXR", "16"))


@pytest.mark.parametrize(
    ("file_format", "suffix", "kind", "depth"),
    [("PNG", ".png", "uint8", "8"), ("JPEG", ".jpg", "uint8", "8"), ("OPEN_EXR", ".exr", "half", "16")],
)
def test_truncated_file(tmp_path: Path, file_format: str, suffix: str, kind: str, depth: str) -> None:
    """A file that ends early is refused wherever it ends."""
    data = painted(tmp_path, suffix, kind, np.tile(gradient(), (8, 8, 1)))
    for end in range(4, len(data) - 16, max(len(data) // 40, 1)):
        with pytest.raises(UnreadableResult):
            read(data[:end], pinned(file_format, depth, WIDTH * 8, HEIGHT * 8))


def test_damaged_file(tmp_path: Path) -> None:
    """A flipped bit anywhere in a PNG is refused or changes nothing that is voted on."""
    data = painted(tmp_path, ".png", "uint8")
    honest = fingerprint(read(data, pinned()))
    for place in range(8, len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        try:
            seen = fingerprint(read(bytes(damaged), pinned()))
        except UnreadableResult:
            continue
        assert seen == honest, place


def test_header_bomb() -> None:
    """A small file that announces a huge picture is refused by its header, whatever its job pins about it."""
    with pytest.raises(UnreadableResult, match="has 4000 x 4000 pixels, the job asks for 16 x 9"):
        read(png_of(4_000, 4_000, b""), pinned())
    for side in (20_000, 2_000_000_000):
        with pytest.raises(UnreadableResult, match="does not open"):
            read(png_of(side, side, b""), pinned())


def test_bomb_behind_an_honest_header() -> None:
    """Rows that unpack to far more than the picture are never unpacked."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = (b"\0" + bytes(WIDTH * 3)) * HEIGHT
    bomb = png_of(WIDTH, HEIGHT, rows + bytes(200 << 20))
    assert len(bomb) < 1 << 20
    try:
        picture = read(bomb, pinned())
    except UnreadableResult:
        pass
    else:
        assert not picture.pixels.any()
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20), 9))
    with contextlib.suppress(UnreadableResult):
        read(png_of(WIDTH, HEIGHT, rows, more=text), pinned())
    # The bombs themselves were made here, 200 MiB each; reading them must not take the same again.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 700 << 10


def test_too_few_rows() -> None:
    """A picture that has not all its rows is refused."""
    with pytest.raises(UnreadableResult):
        read(png_of(WIDTH, HEIGHT, (b"\0" + bytes(WIDTH * 3)) * (HEIGHT - 2)), pinned())


def test_no_path_in_messages() -> None:
    """A message is about the file by its own name, not about where it was opened."""
    with pytest.raises(UnreadableResult) as refused:
        read(b"\x89PNG\r\n\x1a\nrubbish", pinned(), name="frame_0001.png")
    assert "frame_0001.png" in refused.value.message
    assert "/proc" not in refused.value.message


def test_comparison_measures_steps_and_share(tmp_path: Path) -> None:
    """Largest step and share of channels are those between the 8-bit pictures."""
    pixels = np.full((HEIGHT, WIDTH, 3), 100 / 255, np.float32)
    one = read(painted(tmp_path, ".png", "uint8", pixels), pinned())
    pixels[0, 0, 0] = 103 / 255
    pixels[5, 5, 2] = 99 / 255
    two = read(painted(tmp_path, ".png", "uint8", pixels), pinned())
    difference = compare(one, two)
    assert difference.max_step == 3
    assert difference.share == pytest.approx(2 / (WIDTH * HEIGHT * 3))
    assert compare(one, one).max_step == 0
    assert compare(one, one).share == 0


def test_comparison_shows_floats_as_a_screen_does(tmp_path: Path) -> None:
    """Scene-linear floats are clipped and sRGB-encoded, opacity is not; what is no number is black."""
    pixels = np.zeros((1, 5, 4), np.float32)
    pixels[0, :, 0] = (0.0, 0.2158605, 1.0, 7.5, np.nan)
    pixels[0, :, 3] = 0.5
    picture = Picture(width=5, height=1, channels=("R", "G", "B", "A"), type="float32", pixels=pixels)
    assert eight_bit(picture)[0, :, 0].tolist() == [0, 128, 255, 255, 0]
    assert set(eight_bit(picture)[0, :, 3].tolist()) == {128}
    deep = Picture(
        width=3, height=1, channels=("Y",), type="uint16", pixels=np.array([[[0], [257 * 7], [65_535]]], np.uint16)
    )
    assert eight_bit(deep).ravel().tolist() == [0, 7, 255]


def test_comparison_of_other_shapes(tmp_path: Path) -> None:
    """Pictures of other sizes or channels are not compared at all."""
    one = read(painted(tmp_path, ".png", "uint8"), pinned())
    two = read(painted(tmp_path, ".png", "uint8", gradient(4)), pinned())
    with pytest.raises(BadInput, match="16 x 9 RGB against 16 x 9 RGBA"):
        compare(one, two)
