"""What the grid knows of its applications."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted, pinned
from xwgrid.applications import digest, pictures, registry
from xwgrid.errors import BadInput, TooLarge, UnreadableResult
from xwgrid.model import BlenderWork, Count, DigestWork, Frames, InputFile, JobRequest, TaskNumber

FIRST = TaskNumber(0)


def frames(**changes: object) -> JobRequest:
    work = replace(BlenderWork(scene_file="a.blend", width=WIDTH, height=HEIGHT), **changes)
    scene = InputFile(path="a.blend", sha256="0" * 64, size=1)
    return JobRequest(name="film", work=work, split=Frames(first=-7, last=12_345), inputs=(scene,))


CHAINS = JobRequest(name="chains", work=DigestWork(seed="s", rounds=3), split=Count(count=2))


def test_applications_by_name() -> None:
    """Both applications are known, by their names and by their jobs; another name is refused with what there is."""
    assert registry.names() == ("blender", "digest")
    assert registry.application_of(frames()) is registry.application("blender")
    assert registry.application_of(CHAINS) is registry.application("digest")
    assert (registry.application("blender").runtime, registry.application("blender").reads) == ("blender", "pictures")
    assert (registry.application("digest").runtime, registry.application("digest").reads) == ("python", "value")
    with pytest.raises(BadInput, match="there is no application 'natron': there are blender, digest"):
        registry.application("natron")


@pytest.mark.parametrize(
    ("number", "file_format", "name"),
    [
        (0, "PNG", "frame_-0007.png"),
        (7, "PNG", "frame_0000.png"),
        (14, "JPEG", "frame_0007.jpg"),
        (14, "OPEN_EXR", "frame_0007.exr"),
        (12_352, "PNG", "frame_12345.png"),
    ],
)
def test_names_of_pictures(number: int, file_format: str, name: str) -> None:
    """A frame's picture carries its number, four digits at least, and the suffix of its format."""
    request = frames(format=file_format)
    assert registry.application("blender").result_names(request, TaskNumber(number)) == (name,)


def test_no_such_frame() -> None:
    """A task outside the job has no picture."""
    with pytest.raises(BadInput, match="no task 12353"):
        registry.application("blender").result_names(frames(), TaskNumber(12_353))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "OPEN_EXR"}, "OPEN_EXR pictures cannot have 8 bits a channel: ask for 16 or 32"),
        ({"format": "JPEG", "color_depth": "16"}, "JPEG pictures cannot have 16 bits a channel: ask for 8"),
        ({"color_depth": "32"}, "PNG pictures cannot have 32 bits a channel: ask for 8 or 16"),
        ({"width": 0}, "a width of 0 pixels is empty"),
        ({"engine": "WORKBENCH", "samples": 4}, "WORKBENCH draws without samples"),
        ({"engine": "EEVEE", "denoise": True}, "EEVEE does not denoise"),
        ({"samples": 0}, "0 samples make no picture"),
        ({"raw_passes": True}, "raw passes are what a picture is denoised from: pin denoising on"),
        ({"raw_passes": True, "denoise": False}, "raw passes are what a picture is denoised from"),
    ],
)
def test_pictures_that_cannot_be(changes: dict[str, object], sentence: str) -> None:
    """A format that has no such depth, or an engine without such a setting, is refused before anything is stored."""
    with pytest.raises(BadInput, match=sentence):
        registry.check(frames(**changes))


def test_pictures_that_nobody_can_read_back() -> None:
    """A picture larger than a reader's memory is refused when it is asked for, not when it arrives."""
    with pytest.raises(TooLarge, match="larger than the grid reads"):
        registry.check(frames(width=65_536, height=65_536))
    registry.check(frames(width=16_384, height=8_192))


def test_reading_a_picture(tmp_path: Path) -> None:
    """The fingerprint of a result is that of its picture."""
    data = painted(tmp_path, ".png", "uint8")
    seen = registry.application("blender").read_result(frames(), FIRST, {"frame_-0007.png": data})
    assert seen == pictures.fingerprint(pictures.read(data, pinned()))


def test_reading_what_was_not_asked_for(tmp_path: Path) -> None:
    """A result with another name, a file too many, none at all, or no file but a value is refused."""
    blender = registry.application("blender")
    data = painted(tmp_path, ".png", "uint8")
    for files, found in (
        ({}, "nothing"),
        ({"frame_0001.png": data}, "frame_0001.png"),
        ({"frame_-0007.png": data, "x": b""}, "frame_-0007.png, x"),
    ):
        with pytest.raises(UnreadableResult, match=f"should be frame_-0007.png and is {found}"):
            blender.read_result(frames(), FIRST, files)
    with pytest.raises(UnreadableResult, match=r"frame_-0007\.png has channels of type uint16"):
        blender.read_result(frames(), FIRST, {"frame_-0007.png": painted(tmp_path, ".png", "uint16", gradient())})
    with pytest.raises(UnreadableResult, match="a frame gives a picture"):
        blender.value_fingerprint("x")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"denoise": False}, None),
        ({"denoise": False, "format": "OPEN_EXR", "color_depth": "32", "width": 8_192, "height": 4_096}, None),
        ({}, "its scene may ask for denoising"),
        ({"denoise": True}, "denoising looks at neighbouring pixels, and it is no step of its own here"),
        ({"denoise": True, "format": "JPEG"}, "JPEG files lose what lies between neighbouring pixels"),
        ({"denoise": True, "raw_passes": True}, None),
        ({"denoise": True, "raw_passes": True, "format": "JPEG"}, None),
        ({"denoise": True, "raw_passes": True, "width": 4_096, "height": 2_048}, None),
        ({"denoise": True, "raw_passes": True, "width": 4_096, "height": 2_049}, "have more than 8388608 pixels"),
        ({"denoise": True, "raw_passes": True, "engine": "EEVEE"}, "EEVEE looks at neighbouring pixels"),
        ({"denoise": False, "format": "JPEG"}, "JPEG files lose what lies between neighbouring pixels"),
        ({"engine": "EEVEE"}, "EEVEE looks at neighbouring pixels"),
        ({"engine": "WORKBENCH"}, "WORKBENCH looks at neighbouring pixels"),
        ({"denoise": False, "width": 8_193, "height": 4_096}, "have more than 33554432 pixels"),
    ],
)
def test_frames_in_parts(changes: dict[str, object], sentence: str | None) -> None:
    """A frame has parts unless its job says that pixels hang on others, or two frames fit into no reader's memory. Of
    raw passes there are parts whatever is made of them, but they take more memory.
    """
    reason = registry.application("blender").parts(frames(**changes))
    assert reason is None if sentence is None else sentence in str(reason)
    assert registry.application("blender").height(frames(**changes)) == changes.get("height", HEIGHT)


def test_names_of_audits() -> None:
    """An audit has one file a strip, named by frame and first row; strips that cannot be are refused."""
    blender = registry.application("blender")
    number = TaskNumber(14)
    assert blender.audit_names(frames(), number, "0+1,4+2") == (
        "frame_0007_rows_0000.png",
        "frame_0007_rows_0004.png",
    )
    assert blender.audit_names(frames(height=40_000), FIRST, "12345+1") == ("frame_-0007_rows_12345.png",)
    for strips, sentence in (
        ("8+2", "does not lie in a picture 9 rows high"),
        ("4+1,4+2", "begin at the same row"),
        ("", "is not a strip"),
        ("4", "is not a strip"),
    ):
        with pytest.raises(BadInput, match=sentence):
            blender.audit_names(frames(), number, strips)
    with pytest.raises(BadInput, match="no task"):
        blender.audit_names(frames(), TaskNumber(20_000), "0+1")


def test_reading_an_audit(tmp_path: Path) -> None:
    """The fingerprint of an audit is that of its strips and of where they lie; each has its own rows and no more."""
    blender = registry.application("blender")
    pixels = gradient()
    files = {
        f"frame_-0007_rows_{first:04d}.png": painted(tmp_path, ".png", "uint8", pixels[first : first + 2])
        for first in (1, 6)
    }
    strips = [(first, pictures.read(files[f"frame_-0007_rows_{first:04d}.png"], pinned(height=2))) for first in (1, 6)]
    assert blender.read_result(frames(), FIRST, files, "1+2,6+2") == pictures.fingerprint_of_strips(strips)
    moved = [(2, strips[0][1]), strips[1]]
    assert pictures.fingerprint_of_strips(moved) != pictures.fingerprint_of_strips(strips)
    assert pictures.fingerprint_of_strips(strips[::-1]) != pictures.fingerprint_of_strips(strips)
    with pytest.raises(UnreadableResult, match="has 16 x 2 pixels, the job asks for 16 x 3"):
        blender.read_result(frames(), FIRST, files, "1+2,6+3")
    with pytest.raises(UnreadableResult, match=r"should be frame_-0007_rows_0001\.png and is"):
        blender.read_result(frames(), FIRST, files, "1+2")


IN_STEPS: dict[str, object] = {"denoise": True, "raw_passes": True}


def test_names_of_raw_passes() -> None:
    """A job that asks for raw passes gets them with every picture, as OpenEXR; its requester gets the picture alone."""
    blender = registry.application("blender")
    for file_format, picture in (
        ("PNG", "frame_-0007.png"),
        ("JPEG", "frame_-0007.jpg"),
        ("OPEN_EXR", "frame_-0007.exr"),
    ):
        request = frames(**IN_STEPS, format=file_format)
        assert blender.result_names(request, FIRST) == (picture, "frame_-0007_raw.exr")
        assert blender.raw_names(request, FIRST) == ("frame_-0007_raw.exr",)
        assert registry.delivered_names(request, FIRST) == (picture,)
    assert blender.raw_names(frames(**IN_STEPS), TaskNumber(12_352)) == ("frame_12345_raw.exr",)
    registry.check(frames(**IN_STEPS))
    with pytest.raises(BadInput, match="no task 12353"):
        registry.delivered_names(frames(**IN_STEPS), TaskNumber(12_353))


def test_without_raw_passes_all_is_delivered() -> None:
    """Denoised in one or not denoised at all, a frame is its picture, and a chain has no files of any kind."""
    for denoise in (None, False, True):
        request = frames(denoise=denoise)
        assert registry.application("blender").raw_names(request, FIRST) == ()
        assert registry.delivered_names(request, FIRST) == ("frame_-0007.png",)
    assert registry.application("digest").raw_names(CHAINS, FIRST) == ()
    assert registry.delivered_names(CHAINS, FIRST) == ()


def test_names_of_audits_of_raw_passes() -> None:
    """Strips are of the raw passes, whatever the picture's format; denoising once more gives a picture."""
    blender = registry.application("blender")
    for file_format, suffix in (("PNG", ".png"), ("JPEG", ".jpg"), ("OPEN_EXR", ".exr")):
        request = frames(**IN_STEPS, format=file_format)
        assert blender.audit_names(request, FIRST, "0+1,4+2") == (
            "frame_-0007_raw_rows_0000.exr",
            "frame_-0007_raw_rows_0004.exr",
        )
        assert blender.audit_names(request, FIRST, "denoised") == (f"frame_-0007{suffix}",)
    for strips in ("8+2", "4+1,4+2", "denoised,0+1", "Denoised", "denoised "):
        with pytest.raises(BadInput):
            blender.audit_names(frames(**IN_STEPS), FIRST, strips)
    with pytest.raises(BadInput, match="no task"):
        blender.audit_names(frames(**IN_STEPS), TaskNumber(20_000), "denoised")


def test_denoising_of_what_has_no_raw_passes() -> None:
    """Where a frame comes without raw passes, or a task has no files, nothing can be denoised once more."""
    for request in (frames(), frames(denoise=True), CHAINS):
        with pytest.raises(BadInput):
            registry.application_of(request).audit_names(request, FIRST, "denoised")


def test_values_have_no_parts() -> None:
    """A job whose results are values cannot be audited, and says so."""
    chains = registry.application("digest")
    assert chains.parts(CHAINS) == "its results are values"
    with pytest.raises(BadInput, match="no rows"):
        chains.height(CHAINS)
    with pytest.raises(BadInput, match="no part"):
        chains.audit_names(CHAINS, FIRST, "0+1")


def test_values_of_chains() -> None:
    """Equal values have equal fingerprints, others have others, and what is no digest is refused."""
    chains = registry.application("digest")
    registry.check(CHAINS)
    assert chains.result_names(CHAINS, FIRST) == ()
    one = digest.expected_value(DigestWork(seed="s", rounds=3), FIRST)
    two = digest.expected_value(DigestWork(seed="s", rounds=3), TaskNumber(1))
    assert chains.value_fingerprint(one) == chains.value_fingerprint(one) != chains.value_fingerprint(two)
    for value in ("", one.upper(), one + "\n", one[:-1], "é" * 64):
        with pytest.raises(UnreadableResult, match="64 lower-case hexadecimal digits"):
            chains.value_fingerprint(value)
    with pytest.raises(UnreadableResult, match="a digest task gives a value and no files"):
        chains.read_result(CHAINS, FIRST, {"a": b""})


def test_chain_of_known_length() -> None:
    """The chain is the one its description says: hash the text, then hash the 32 bytes, again and again."""
    # sha256sum of "xwgrid/0", and of its 32 bytes
    assert digest.expected_value(DigestWork(), FIRST) == (
        "e1d0c75889e37ab9d5e4599251935b4a09a5af543a73a84e4fa2ee9073b646c0"
    )
    assert digest.expected_value(DigestWork(rounds=2), FIRST) == (
        "3f1d9b0d70af4f327a9f1c1cef16f19ce4854d1b677de143545279344832c391"
    )
