"""Strips of a frame: which ones a task asks for, and cutting them out of the picture a renderer wrote.

A cut loses nothing: rows are taken as they are stored, no pixel is converted. The standard library alone, Python 3.10
or newer.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from xwgrid.applications.drivers.driver_lines import TaskError

# As many files as a report may name.
_MOST_STRIPS = 1_000
# To begin another render costs about as much as this part of a picture (docs/applications.md).
_WORTH_A_RENDER = 64
_STRIP = re.compile(r"([0-9]{1,6})\+([0-9]{1,6})")

_PNG = b"\x89PNG\r\n\x1a\n"
# What must be known to tell a pixel from a row of bytes; all else in a file is talk about it.
_PNG_KEPT = (b"PLTE", b"tRNS")
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}

_EXR_MAGIC = 20_000_630
# Version 2, names of any length; no tiles, no deep data, no second part.
_EXR_VERSIONS = (2, 2 | 0x400)
_UNCOMPRESSED, _ZIP_A_ROW = b"\0", b"\2"
_EXR_KEPT = (
    b"channels",
    b"chromaticities",
    b"compression",
    b"dataWindow",
    b"displayWindow",
    b"lineOrder",
    b"pixelAspectRatio",
    b"screenWindowCenter",
    b"screenWindowWidth",
)


class Strip(NamedTuple):
    """Rows `first` … `first + rows - 1` of a picture, counted from its top, across its whole width."""

    first: int
    rows: int


def parse(text: Any, height: int) -> tuple[Strip, ...]:
    """Read strips of a picture `height` rows high, written "12+2,90+2". Raises TaskError for what are none."""
    parts = text.split(",", _MOST_STRIPS) if isinstance(text, str) else []
    strips = []
    for part in parts:
        match = _STRIP.fullmatch(part)
        if match is None:
            raise TaskError(f"{part[:40]!r} is not a strip: write its first row and how many, such as 12+2")
        strip = Strip(int(match[1]), int(match[2]))
        if strip.rows < 1 or strip.first + strip.rows > height:
            raise TaskError(f"the strip {part} does not lie in a picture {height} rows high")
        strips.append(strip)
    if not strips or len(strips) > _MOST_STRIPS:
        raise TaskError(f"a task asks for 1 to {_MOST_STRIPS} strips of a frame, written 12+2,90+2")
    if len({strip.first for strip in strips}) < len(strips):
        raise TaskError("two strips of the task begin at the same row")
    return tuple(strips)


def windows(strips: Sequence[Strip], height: int, margin: int) -> list[tuple[Strip, list[Strip]]]:
    """Return what to render, from the top: rows, each time with the strips that lie in them.

    Strips come with `margin` rows above and below, if the picture has them. Where little more would lie between two of
    them, it is rendered as well.
    """
    found: list[tuple[Strip, list[Strip]]] = []
    for strip in sorted(strips):
        first = max(0, strip.first - margin)
        end = min(height, strip.first + strip.rows + margin)
        if found and first <= found[-1][0].first + found[-1][0].rows + height // _WORTH_A_RENDER:
            above, inside = found[-1]
            end = max(end, above.first + above.rows)
            found[-1] = (Strip(above.first, end - above.first), [*inside, strip])
        else:
            found.append((Strip(first, end - first), [strip]))
    return found


def name(frame_name: str, strip: Strip) -> str:
    """Return what the picture of a strip is called: "frame_0007_rows_0012.png"."""
    stem, dot, suffix = frame_name.rpartition(".")
    return f"{stem}_rows_{strip.first:04d}{dot}{suffix}"


def cut(picture: bytes, first: int, rows: int) -> bytes:
    """Return a picture file of rows `first` … `first + rows - 1`, counted from the top, of a PNG or OpenEXR file.

    The OpenEXR file must be one of rows without compression. Raises TaskError for anything else.
    """
    try:
        cut_out = _cut_png(picture, first, rows) if picture.startswith(_PNG) else _cut_exr(picture, first, rows)
    except (IndexError, KeyError, ValueError, struct.error, zlib.error) as error:
        raise TaskError(f"the picture that was rendered cannot be cut: {type(error).__name__}: {error}") from error
    return cut_out


# --- PNG: ISO/IEC 15948 -----------------------------------------------------------------------------------------------


def _cut_png(picture: bytes, first: int, rows: int) -> bytes:
    chunks = list(_chunks(picture))
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    if interlaced or first + rows > height:
        raise ValueError(f"{height} rows, interlaced {interlaced}")
    pixel = _PNG_SAMPLES[colour] * bits
    stride = 1 + (width * pixel + 7) // 8
    packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
    raw = zlib.decompressobj().decompress(packed, (first + rows) * stride)
    if len(raw) < (first + rows) * stride:
        raise ValueError("it ends early")
    lines = [raw[at : at + stride] for at in range(0, (first + rows) * stride, stride)]
    # A row may be written as its difference from the one above it: begin where one is not.
    begin = next(row for row in range(first, -1, -1) if row == 0 or lines[row][0] < 2)
    above = bytes(stride - 1)
    plain = []
    for line in lines[begin:]:
        above = _unfiltered(line[0], line[1:], above, max(1, pixel // 8))
        plain.append(b"\0" + above)
    header = struct.pack(">II", width, rows) + chunks[0][1][8:]
    body = zlib.compress(b"".join(plain[first - begin :]))
    kept = [(kind, data) for kind, data in chunks if kind in _PNG_KEPT]
    written = [_chunk(*each) for each in ((b"IHDR", header), *kept, (b"IDAT", body), (b"IEND", b""))]
    return _PNG + b"".join(written)


def _unfiltered(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    """Return a row of a PNG file as it was before it was filtered; `step` is the bytes of a pixel."""
    row = bytearray(line)
    if kind == 0:
        return line
    if kind == 2:
        return bytes([(one + up) & 255 for one, up in zip(row, above, strict=True)])
    for at, one in enumerate(row):
        left = row[at - step] if at >= step else 0
        if kind == 1:
            row[at] = (one + left) & 255
        elif kind == 3:
            row[at] = (one + (left + above[at]) // 2) & 255
        elif kind == 4:
            row[at] = (one + _paeth(left, above[at], above[at - step] if at >= step else 0)) & 255
        else:
            raise ValueError(f"filter {kind}")
    return bytes(row)


def _paeth(left: int, up: int, corner: int) -> int:
    guess = left + up - corner
    to_left, to_up, to_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    if to_left <= to_up and to_left <= to_corner:
        return left
    return up if to_up <= to_corner else corner


def _chunks(picture: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_PNG)
    while at < len(picture):
        size, kind = struct.unpack_from(">I4s", picture, at)
        yield kind, picture[at + 8 : at + 8 + size]
        at += 12 + size


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


# --- OpenEXR: https://openexr.com/en/latest/OpenEXRFileLayout.html ----------------------------------------------------


class _Scanlines(NamedTuple):
    """An OpenEXR file of rows."""

    version: int
    attributes: dict[bytes, tuple[bytes, bytes]]  # the header: type and value by name
    width: int
    rows: list[bytes]


def assembled(height: int, pieces: Sequence[tuple[int, bytes]]) -> bytes:
    """Return an OpenEXR file of `height` rows: those of the pieces, each given with its first row, all others black.

    Pieces are OpenEXR files of rows without compression, all alike. Raises TaskError for anything else.
    """
    there: dict[int, bytes] = {}
    try:
        for first, piece in pieces:
            read = _read_exr(piece)
            there |= dict(enumerate(read.rows, first))
        # As compressed, each byte is its difference from the one before, plus 128. A row that compression does not make
        # any smaller is kept as it is.
        black = zlib.compress(b"\0".ljust(len(read.rows[0]), b"\x80"))
        whole = _written_exr(read._replace(rows=[there.get(row, black) for row in range(height)]), _ZIP_A_ROW)
    except (IndexError, KeyError, ValueError, struct.error) as error:
        raise TaskError(f"what was rendered cannot be put together: {type(error).__name__}: {error}") from error
    return whole


def _cut_exr(picture: bytes, first: int, rows: int) -> bytes:
    read = _read_exr(picture)
    if first + rows > len(read.rows):
        raise ValueError(f"{len(read.rows)} rows")
    return _written_exr(read._replace(rows=read.rows[first : first + rows]), _UNCOMPRESSED)


def _read_exr(picture: bytes) -> _Scanlines:
    magic, version = struct.unpack_from("<II", picture)
    if magic != _EXR_MAGIC or version not in _EXR_VERSIONS:
        raise ValueError(f"version {version}")
    attributes, at = _attributes(picture)
    if attributes[b"compression"][1] != _UNCOMPRESSED:
        raise ValueError(f"compression {attributes[b'compression'][1]!r}")
    left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"][1])
    rows = []
    # The table says for each row where it lies, whatever their order in the file is.
    for row, place in enumerate(struct.unpack_from(f"<{bottom - top + 1}Q", picture, at), top):
        number, size = struct.unpack_from("<ii", picture, place)
        if number != row or place + 8 + size > len(picture):
            raise ValueError(f"row {number} of {size} bytes where {row} should be")
        rows.append(picture[place + 8 : place + 8 + size])
    return _Scanlines(version, attributes, right - left + 1, rows)


def _written_exr(picture: _Scanlines, compression: bytes) -> bytes:
    window = struct.pack("<4i", 0, 0, picture.width - 1, len(picture.rows) - 1)
    replaced = {b"compression": compression, b"dataWindow": window, b"displayWindow": window}
    head = struct.pack("<II", _EXR_MAGIC, picture.version)
    for called, (kind, value) in picture.attributes.items():
        if called in _EXR_KEPT:
            written = replaced.get(called, value)
            head += called + b"\0" + kind + b"\0" + struct.pack("<i", len(written)) + written
    head += b"\0"
    places, place = [], len(head) + 8 * len(picture.rows)
    for row in picture.rows:
        places.append(place)
        place += 8 + len(row)
    table = struct.pack(f"<{len(places)}Q", *places)
    return head + table + b"".join(struct.pack("<ii", row, len(data)) + data for row, data in enumerate(picture.rows))


def _attributes(picture: bytes) -> tuple[dict[bytes, tuple[bytes, bytes]], int]:
    """Return the header of an OpenEXR file, and where it ends."""
    found = {}
    at = 8
    while picture[at]:
        end = picture.index(b"\0", at)
        called, at = picture[at:end], end + 1
        end = picture.index(b"\0", at)
        kind, at = picture[at:end], end + 1
        (size,) = struct.unpack_from("<i", picture, at)
        found[called] = (kind, picture[at + 4 : at + 4 + size])
        at += 4 + size
    return found, at + 1
