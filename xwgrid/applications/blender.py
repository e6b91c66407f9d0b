"""Application `blender`: one frame of an animation per task, one picture file per frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from msgspec import structs

from xwgrid import auditing
from xwgrid.applications.results import ResultFiles
from xwgrid.errors import BadInput, TooLarge, UnreadableResult
from xwgrid.model import BlenderWork, Digest, Frames, JobRequest, TaskNumber
from xwgrid.splitting import frame, task_count
from xwgrid.tolerances import Distance

if TYPE_CHECKING:
    # Not when it runs: the server's own process must never load a picture library, only its readers do.
    from xwgrid.applications.picture_rows import Rows

# 16384 x 8192, an 8K panorama twice over: decoded as 32-bit RGBA it takes the 2 GiB a reader process may use.
MAX_PIXELS = 1 << 27
# 8192 x 4096: two such frames, with their files, are compared in the memory a reader process may use.
MAX_PARTED_PIXELS: Final = 1 << 25
# 4096 x 2048, and 3840 x 2160: raw passes have a dozen channels of 32 bits.
MAX_RAW_PIXELS: Final = 1 << 23

SUFFIXES: Mapping[str, str] = {"PNG": ".png", "JPEG": ".jpg", "OPEN_EXR": ".exr"}
DEPTHS: Mapping[str, tuple[str, ...]] = {"PNG": ("8", "16"), "JPEG": ("8",), "OPEN_EXR": ("16", "32")}


class Blender:
    """See `xwgrid.applications.registry.Application`. A result is one picture."""

    name = "blender"
    runtime: Literal["blender"] = "blender"
    reads: Literal["pictures"] = "pictures"

    def check(self, request: JobRequest) -> None:
        """Refuse pictures that cannot be written or read back. Raises BadInput or TooLarge."""
        work = _work(request)
        depths = DEPTHS[work.format]
        if work.color_depth not in depths:
            raise BadInput(
                f"{work.format} pictures cannot have {work.color_depth} bits a channel: ask for {' or '.join(depths)}",
                format=work.format,
                color_depth=work.color_depth,
            )
        if work.engine == "WORKBENCH" and work.samples is not None:
            raise BadInput("WORKBENCH draws without samples: leave them out, or ask for another engine")
        if work.engine != "CYCLES" and work.denoise:
            raise BadInput(f"{work.engine} does not denoise: leave it out, or ask for the engine CYCLES")
        if work.raw_passes and not work.denoise:
            raise BadInput("raw passes are what a picture is denoised from: pin denoising on, or leave them out")
        for side, pixels in (("width", work.width), ("height", work.height)):
            if pixels < 1:
                raise BadInput(f"a picture with a {side} of {pixels} pixels is empty: ask for at least 1")
        if work.width * work.height > MAX_PIXELS:
            raise TooLarge(
                f"a picture of {work.width} x {work.height} pixels is larger than the grid reads "
                f"({MAX_PIXELS} pixels): lower the resolution",
                width=work.width,
                height=work.height,
                limit=MAX_PIXELS,
            )

    def result_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
        """Return the one name of a frame's picture, "frame_0007.png". Raises BadInput if there is no such task."""
        split = request.split
        if not isinstance(split, Frames) or not 0 <= number < task_count(split):
            raise BadInput(f"this job has no task {number}", number=number)
        work, shown = _work(request), frame(split, number)
        picture = picture_name(shown, work.format)
        return (picture, _raw_name(shown)) if work.raw_passes else (picture,)

    def raw_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
        """Return "frame_0007_raw.exr" where frames are denoised in a step of their own."""
        if not _work(request).raw_passes or not isinstance(request.split, Frames):
            return ()
        return (_raw_name(frame(request.split, number)),)

    def in_one(self, request: JobRequest) -> JobRequest:
        """Return a job without raw passes: its frames are denoised while they are rendered."""
        return structs.replace(request, work=structs.replace(_work(request), raw_passes=False))

    def parts(self, request: JobRequest) -> str | None:
        """Return why strips of a frame would not be what the frame has there; None when the job says nothing of it.

        The scene file may have reasons of its own: a compositor that blurs, say. The driver finds those.
        """
        work = _work(request)
        if work.engine != "CYCLES":
            return f"{work.engine} looks at neighbouring pixels"
        if work.raw_passes:
            most = MAX_RAW_PIXELS
        elif work.format == "JPEG":
            return "JPEG files lose what lies between neighbouring pixels: ask for PNG or OPEN_EXR"
        elif work.denoise is None:
            return "its scene may ask for denoising, which looks at neighbouring pixels: pin denoising off"
        elif work.denoise:
            return "denoising looks at neighbouring pixels, and it is no step of its own here: ask for raw passes"
        else:
            most = MAX_PARTED_PIXELS
        return f"its pictures have more than {most} pixels" if work.width * work.height > most else None

    def height(self, request: JobRequest) -> int:
        """Return how many rows of pixels a frame has."""
        return _work(request).height

    def audit_names(self, request: JobRequest, number: TaskNumber, strips: str) -> tuple[str, ...]:
        """Return one name for each strip, "frame_0007_rows_0012.png"; of denoising the picture's. Raises BadInput."""
        picture, *raw = self.result_names(request, number)
        if strips == auditing.DENOISED and raw:
            return (picture,)
        parsed = auditing.parse_strips(strips, self.height(request))
        names = auditing.audit_names(raw or [picture], parsed)
        if len(set(names)) < len(names):
            raise BadInput(f"two of the strips {strips[:100]} begin at the same row")
        return names

    def read_result(
        self, request: JobRequest, number: TaskNumber, files: Mapping[str, bytes], strips: str | None = None
    ) -> Digest:
        """Return the fingerprint of a frame's picture, or of the strips of an audit.

        Raises UnreadableResult unless there are exactly the expected files, in the format, size and depth pinned.
        """
        from xwgrid.applications import pictures  # noqa: PLC0415

        rows = tuple(self._rows(request, number, ResultFiles(files, strips)))
        if len(rows) == 1 and strips in {None, auditing.DENOISED}:
            return pictures.fingerprint(rows[0].picture)
        return pictures.fingerprint_of_strips((each.first, each.picture) for each in rows)

    def differing_share(
        self, request: JobRequest, number: TaskNumber, one: ResultFiles, other: ResultFiles
    ) -> float | None:
        """Return the share of the rows both have in which any pixel differs; None when they have none in common.

        Where raw passes differ it is theirs: denoising spreads an alteration.
        """
        from xwgrid.applications.picture_rows import differing_share  # noqa: PLC0415

        told = None
        for raw in (True, False):
            share = differing_share(*(tuple(self._rows(request, number, each, raw=raw)) for each in (one, other)))
            if share:
                return share
            told = share if told is None else told
        return told

    def distance(
        self, request: JobRequest, number: TaskNumber, one: Mapping[str, bytes], other: Mapping[str, bytes]
    ) -> Distance:
        """Return how far two pictures of a frame are apart."""
        from xwgrid.applications import picture_distance  # noqa: PLC0415

        first, second = (next(self._rows(request, number, ResultFiles(f), raw=False)).picture for f in (one, other))
        return picture_distance.distance(first, second)

    def _rows(
        self, request: JobRequest, number: TaskNumber, result: ResultFiles, *, raw: bool | None = None
    ) -> Iterator[Rows]:
        """Read the files of a result one after the other: all, those of raw passes, or those of the picture."""
        from xwgrid.applications import pictures  # noqa: PLC0415
        from xwgrid.applications.picture_rows import Rows  # noqa: PLC0415

        work = _work(request)
        pieces = self._pieces(request, number, result.strips)
        if set(result.files) != {piece.name for piece in pieces}:
            expected, found = ", ".join(p.name for p in pieces), ", ".join(sorted(result.files)) or "nothing"
            message = f"the result should be {expected} and is {found}"
            raise UnreadableResult(message, expected=expected, files=sorted(result.files))
        for name, strip, is_raw in pieces:
            if raw in {None, is_raw}:
                pinned = pictures.Pinned(
                    format="OPEN_EXR" if is_raw else work.format,
                    width=work.width,
                    height=strip.rows,
                    color_depth="32" if is_raw else work.color_depth,
                    passes=is_raw,
                )
                yield Rows(strip.first, pictures.read(result.files[name], pinned, name=name))

    def _pieces(self, request: JobRequest, number: TaskNumber, strips: str | None) -> tuple[_Piece, ...]:
        whole = auditing.Strip(0, self.height(request))
        raw = self.raw_names(request, number)
        if strips is None:
            return tuple(_Piece(name, whole, name in raw) for name in self.result_names(request, number))
        names = self.audit_names(request, number, strips)
        if strips == auditing.DENOISED:
            return tuple(_Piece(name, whole, is_raw=False) for name in names)
        parsed = auditing.parse_strips(strips)
        return tuple(_Piece(name, strip, bool(raw)) for name, strip in zip(names, parsed, strict=True))

    def value_fingerprint(self, value: str) -> Digest:
        """Refuse a value: the result is a picture."""
        raise UnreadableResult(f"a frame gives a picture, this result is the text {value[:80]!a}")


class _Piece(NamedTuple):
    """One file of a result, and which rows of the frame it holds: of its picture, or of its raw passes."""

    name: str
    strip: auditing.Strip
    is_raw: bool


def picture_name(number: int, file_format: str) -> str:
    """Return the name of a frame's picture."""
    return _stem(number) + SUFFIXES[file_format]


def _raw_name(number: int) -> str:
    """Return the name of the file of a frame's raw passes."""
    return f"{_stem(number)}_raw.exr"


def _stem(number: int) -> str:
    """Return what the names of a frame's files begin with: at least four digits, after the sign if there is one."""
    sign = "-" if number < 0 else ""
    return f"frame_{sign}{abs(number):04d}"


def _work(request: JobRequest) -> BlenderWork:
    if not isinstance(request.work, BlenderWork):
        raise BadInput(f"this job is not one of Blender: {type(request.work).__name__}")
    return request.work
