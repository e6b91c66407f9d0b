"""Jobs fall into tasks; what can never be rendered is refused with a sentence."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from xwgrid.errors import BadInput, TooLarge
from xwgrid.model import MAX_TASKS, BlenderWork, Count, DigestWork, Frames, InputFile, JobRequest, TaskNumber
from xwgrid.splitting import (
    arguments,
    check_path,
    check_request,
    label,
    parse_frames,
    task_count,
    written,
)

BOUND = 1_048_574
numbers = st.integers(min_value=-BOUND, max_value=BOUND)
steps = st.integers(min_value=-1_000, max_value=1_000).filter(bool)


def blend(path: str = "a.blend") -> InputFile:
    return InputFile(path=path, sha256="0" * 64, size=1)


def job(**changes: object) -> JobRequest:
    request = JobRequest(
        name="job",
        work=BlenderWork(scene_file="a.blend", width=64, height=36),
        split=Frames(first=1, last=10),
        inputs=(blend(),),
    )
    return replace(request, **changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", Frames(first=7, last=7)),
        ("0", Frames(first=0, last=0)),
        ("1-250", Frames(first=1, last=250)),
        (" 1 - 250 ", Frames(first=1, last=250)),
        ("1-250x2", Frames(first=1, last=250, step=2)),
        ("10-1x-1", Frames(first=10, last=1, step=-1)),
        ("-5--1", Frames(first=-5, last=-1)),
        ("-5", Frames(first=-5, last=-5)),
        ("-5-5x5", Frames(first=-5, last=5, step=5)),
    ],
)
def test_ranges_people_write(text: str, expected: Frames) -> None:
    """One frame, a range, a range with a step, backwards, and frames before zero are understood."""
    assert parse_frames(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("10-1", "frame range '10-1' runs backwards: write 1-10, or 10-1x-1 to render in reverse"),
        ("10-1x2", "frame range '10-1x2' runs backwards: write 1-10x2, or 10-1x-2 to render in reverse"),
        ("1-10x-1", "frame range '1-10x-1' is empty: a step of -1 leads away from 10; write 1-10"),
        ("1-10x0", "frame range '1-10x0' has a step of 0 and would never end: write 1-10"),
        ("", "the frame range is empty: write a frame such as 7"),
        ("  ", "the frame range is empty"),
        ("1,3", "frame range '1,3' is a list: a job renders one range"),
        ("1..10", "'1..10' is not a frame range"),
        ("1-", "'1-' is not a frame range"),
        ("x2", "'x2' is not a frame range"),
        ("one", "'one' is not a frame range"),
        ("1-10x1.5", "'1-10x1.5' is not a frame range"),
        ("٣", "'٣' is not a frame range"),
        ("9" * 5_000, "is not a frame range"),
        ("1-1048575", "frame 1048575 is out of bounds"),
    ],
)
def test_ranges_that_make_no_sense(text: str, sentence: str) -> None:
    """What cannot be rendered is refused, and the sentence says what to write instead."""
    with pytest.raises(BadInput) as refused:
        parse_frames(text)
    assert sentence in refused.value.message
    assert refused.value.exit_status == 2


def test_a_million_frames_are_quick() -> None:
    """The largest job costs no time to check, and one frame more is refused."""
    began = time.process_time()
    frames = parse_frames(f"1-{MAX_TASKS}")
    request = job(split=frames)
    check_request(request)
    assert task_count(frames) == MAX_TASKS
    assert label(request, TaskNumber(MAX_TASKS - 1)) == f"frame {MAX_TASKS}"
    assert time.process_time() - began < 0.1
    with pytest.raises(TooLarge, match="more than one job may have"):
        parse_frames(f"1-{MAX_TASKS + 1}")


@given(first=numbers, last=numbers, step=steps)
def test_counting_agrees_with_listing(first: int, last: int, step: int) -> None:
    """For any range, the count is that of the frames between its ends, and each task has its own frame."""
    frames = Frames(first=first, last=last, step=step)
    listed = range(first, last + (1 if step > 0 else -1), step)
    count = task_count(frames)
    assert count == len(listed)
    request = job(split=frames)
    for number in {0, count // 2, count - 1}:
        if 0 <= number < count:
            assert arguments(request, TaskNumber(number)) == {"frame": listed[number]}
            assert label(request, TaskNumber(number)) == f"frame {listed[number]}"
    with pytest.raises(BadInput, match="there is no task"):
        arguments(request, TaskNumber(count))


@given(first=numbers, last=numbers, step=steps)
def test_what_is_written_is_read_back(first: int, last: int, step: int) -> None:
    """A range written out by us is read as itself, or refused as it would be in a job."""
    frames = Frames(first=first, last=last, step=step)
    try:
        check_request(job(split=frames))
    except (BadInput, TooLarge) as refused:
        with pytest.raises(type(refused)):
            parse_frames(written(frames))
    else:
        assert parse_frames(written(frames)) == frames


@given(st.text(max_size=30))
def test_any_text_is_a_range_or_a_sentence(text: str) -> None:
    """No text makes the reader fail in another way than by its own errors."""
    try:
        assert task_count(parse_frames(text)) >= 1
    except (BadInput, TooLarge) as refused:
        assert refused.message  # noqa: PT017


def test_counted_tasks() -> None:
    """A bag of tasks is numbered from 0."""
    request = job(work=DigestWork(), split=Count(count=3), inputs=())
    check_request(request)
    assert task_count(request.split) == 3
    assert arguments(request, TaskNumber(2)) == {"number": 2}
    assert label(request, TaskNumber(2)) == "task 2"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"split": Frames(first=10, last=1)}, "frame range '10-1' runs backwards"),
        ({"split": Frames(first=1, last=10, step=0)}, "has a step of 0"),
        ({"split": Count(count=5)}, "a Blender job is split by frames"),
        ({"work": DigestWork()}, "a digest job is split by count"),
        ({"work": DigestWork(), "split": Count(count=0)}, "a job of 0 tasks is empty"),
        ({"replicas": 2, "quorum": 3}, "2 replicas can never give the 3 equal results asked for"),
        ({"quorum": 0}, "a quorum of 0 decides nothing"),
        ({"inputs": ()}, "the scene file 'a.blend' is not among the job's 0 input files"),
        ({"inputs": (blend("b.blend"),)}, "the scene file 'a.blend' is not among the job's 1 input files"),
        ({"inputs": (blend(), blend())}, "the input path 'a.blend' is there twice"),
        ({"inputs": (blend(), blend("A.Blend"))}, "differing in more than case"),
        ({"inputs": (blend(), blend("a.blend/x.png"))}, "'a.blend' is a file, and a folder of 'a.blend/x.png' too"),
        ({"inputs": (blend(), blend("../x.png"))}, "it leaves the job's folder through '..'"),
        (
            {"work": BlenderWork(scene_file="a.blend", width=64, height=36, samples=0)},
            "0 samples make no picture: ask for at least 1",
        ),
    ],
)
def test_jobs_that_can_never_be_done(changes: dict[str, object], sentence: str) -> None:
    """A job that contradicts itself is refused before anything is stored, and the sentence says what to change."""
    with pytest.raises(BadInput) as refused:
        check_request(job(**changes))
    assert sentence in refused.value.message
    assert refused.value.exit_status == 2


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "//server/share",
        "../up",
        "a/../../up",
        "a/..",
        "C:/windows",
        "c:x",
        "a\\b",
        "a\0b",
        "a\nb",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "\ud800",
        "x" * 256,
        "ä" * 128,
    ],
)
def test_paths_that_leave_the_job(path: str) -> None:
    """No path of a job is absolute, climbs, or means another file on another system."""
    with pytest.raises(BadInput, match="cannot be used"):
        check_path(path)


@pytest.mark.parametrize("path", ["a.blend", "textures/wood.png", "a..b/c...", "Ünï/日本.png", "with space/x", "-x"])
def test_paths_that_stay(path: str) -> None:
    """Ordinary names are accepted, in any script."""
    check_path(path)


@given(st.text(alphabet="ab./\\:\0", max_size=12))
def test_accepted_paths_stay_below(path: str) -> None:
    """Whatever is accepted never climbs above its own folder, read as a path of any system."""
    try:
        check_path(path)
    except BadInput:
        return
    assert not path.startswith("/")
    assert "\\" not in path
    assert path[1:2] != ":"
    assert all(part not in {"", ".", ".."} for part in path.split("/"))
