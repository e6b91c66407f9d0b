"""All frames of a job on one picture, each with its number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from xwgrid.requester.pictures import read_rgb8

# More are not told apart on one sheet: of a long animation every n-th is shown.
MAX_THUMBNAILS = 240
_THUMBNAIL_WIDTH = 240
_MARGIN = 8
_LABEL_HEIGHT = 20
_PAPER = (24, 24, 26)
_INK = (220, 220, 220)


def write_contact_sheet(frames: Sequence[tuple[str, Path]], target: Path) -> None:
    """Write a PNG with the pictures of `frames`, (label, path) each, in their order.

    Raises GridError when a picture cannot be read, OSError when the sheet cannot be written.
    """
    shown = chosen(len(frames))
    first = read_rgb8(frames[0][1])
    width = min(_THUMBNAIL_WIDTH, max(first.shape[1], 48))
    height = max(1, round(width * first.shape[0] / first.shape[1]))
    columns = columns_for(len(shown), width, height)
    rows = math.ceil(len(shown) / columns)
    cell_width, cell_height = width + _MARGIN, height + _LABEL_HEIGHT + _MARGIN
    sheet = Image.new("RGB", (columns * cell_width + _MARGIN, rows * cell_height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for place, number in enumerate(shown):
        label, path = frames[number]
        row, column = divmod(place, columns)
        left, top = _MARGIN + column * cell_width, _MARGIN + row * cell_height
        thumbnail = Image.fromarray(read_rgb8(path)).resize((width, height), Image.Resampling.LANCZOS)
        sheet.paste(thumbnail, (left, top))
        draw.text((left, top + height + 2), label, fill=_INK, font=font)
    partial = target.with_name(target.name + ".part")
    sheet.save(partial, format="PNG")
    partial.replace(target)


def chosen(count: int) -> list[int]:
    """Return which of `count` frames are shown: all, or evenly spaced ones with the first and the last."""
    if count <= MAX_THUMBNAILS:
        return list(range(count))
    return [round(place * (count - 1) / (MAX_THUMBNAILS - 1)) for place in range(MAX_THUMBNAILS)]


def columns_for(count: int, width: int, height: int) -> int:
    """Return how many columns make a sheet of `count` pictures about 4:3."""
    return max(1, min(count, round(math.sqrt(count * 4 / 3 * height / width))))
