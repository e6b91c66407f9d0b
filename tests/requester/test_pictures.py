"""Contact sheet and film show the frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import OpenImageIO
import pytest
from PIL import Image

from xwgrid.errors import GridError
from xwgrid.requester.contact_sheet import MAX_THUMBNAILS, chosen, columns_for, write_contact_sheet
from xwgrid.requester.film import write_film
from xwgrid.requester.pictures import read_rgb8, tone_mapped


def picture(path: Path, brightness: int, size: tuple[int, int] = (64, 36)) -> Path:
    """Save a grey picture."""
    Image.new("RGB", size, (brightness, brightness, brightness)).save(path)
    return path


def light(path: Path, value: float, size: tuple[int, int] = (33, 17)) -> Path:
    """Save an EXR of one scene-linear value, with alpha."""
    width, height = size
    buffer = OpenImageIO.ImageBuf(OpenImageIO.ImageSpec(width, height, 4, OpenImageIO.HALF))
    OpenImageIO.ImageBufAlgo.fill(buffer, (value, value, value, 1.0))
    assert buffer.write(str(path))
    return path


def test_a_film_has_the_frames_in_order(tmp_path: Path) -> None:
    """Three frames at 25 a second: the film decodes to three frames of that brightness, size and speed."""
    frames = [picture(tmp_path / f"{value}.png", value) for value in (20, 120, 220)]
    write_film(frames, tmp_path / "video.mp4", 25.0)
    with av.open(str(tmp_path / "video.mp4")) as film:
        stream = film.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == (
            "h264",
            "yuv420p",
            Fraction(25),
        )
    assert [each.shape for each in decoded] == [(36, 64, 3)] * 3
    assert [abs(int(each.mean()) - value) <= 4 for each, value in zip(decoded, (20, 120, 220), strict=True)] == [
        True
    ] * 3
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_film_of_odd_size_is_made_even(tmp_path: Path) -> None:
    """33 x 17 pixels become 34 x 18, as H.264 needs; EXR frames are tone mapped."""
    frames = [light(tmp_path / f"{number}.exr", value) for number, value in enumerate((0.05, 0.5))]
    write_film(frames, tmp_path / "video.mp4", 24_000 / 1_001)
    with av.open(str(tmp_path / "video.mp4")) as film:
        stream = film.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]
        assert (stream.width, stream.height) == (34, 18)
        assert stream.average_rate is not None
        assert float(stream.average_rate) == pytest.approx(23.976, abs=1e-3)
    # 0.5 of linear light is sRGB 188.
    assert abs(int(decoded[1].mean()) - 188) <= 4


def test_a_film_of_a_broken_frame_is_refused(tmp_path: Path) -> None:
    """The sentence names the picture, and no half film is left."""
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(GridError, match=r"broken\.png cannot be read"):
        write_film([tmp_path / "broken.png"], tmp_path / "video.mp4", 24.0)
    assert not (tmp_path / "video.mp4").exists()


def test_a_contact_sheet_shows_every_frame(tmp_path: Path) -> None:
    """Six frames stand in rows, each with its own brightness."""
    values = (10, 60, 110, 160, 210, 250)
    frames = [(str(value), picture(tmp_path / f"{value}.png", value)) for value in values]
    write_contact_sheet(frames, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet)
    columns = columns_for(6, 64, 36)
    shown = []
    for place in range(6):
        row, column = divmod(place, columns)
        shown.append(int(pixels[8 + row * (36 + 28) + 18, 8 + column * (64 + 8) + 32, 0]))
    assert shown == list(values)


def test_a_long_animation_gives_a_sheet_that_can_be_seen() -> None:
    """Of a million frames, a few hundred evenly spaced ones are shown, the first and the last among them."""
    shown = chosen(1_000_000)
    assert len(shown) == MAX_THUMBNAILS
    assert (shown[0], shown[-1]) == (0, 999_999)
    assert chosen(3) == [0, 1, 2]


def test_highlights_keep_their_form() -> None:
    """Tone mapping is plain sRGB in the lower range, never falls, and does not clip soon."""
    scale = np.linspace(0.0, 8.0, 200, dtype=np.float32)
    shown = tone_mapped(scale).astype(int)
    assert (np.diff(shown) >= 0).all()
    assert shown[0] == 0
    assert tone_mapped(np.array([0.5], dtype=np.float32))[0] == 188
    assert tone_mapped(np.array([2.0], dtype=np.float32))[0] < 255
    assert tone_mapped(np.array([np.nan, -1.0, np.inf], dtype=np.float32)).tolist() == [0, 0, 255]


def test_grey_sixteen_bit_and_transparent_pictures_are_read(tmp_path: Path) -> None:
    """All that Blender writes as PNG comes out as three channels of eight bits."""
    Image.new("L", (8, 4), 100).save(tmp_path / "grey.png")
    Image.new("I;16", (8, 4), 0x8080).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 4), (200, 100, 50, 0)).save(tmp_path / "clear.png")
    for name, value in (("grey", 100), ("deep", 128), ("clear", 0)):
        pixels = read_rgb8(tmp_path / f"{name}.png")
        assert (pixels.shape, int(pixels[0, 0, 0])) == ((4, 8, 3), value)
