"""Results are fetched while others are still being rendered; a verdict that changes changes what lies there."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from rich.console import Console

from tests.requester.https_server import SmallServer
from tests.requester.test_watching import job
from xwgrid import wire
from xwgrid.model import (
    BlenderWork,
    Frames,
    JobId,
    JobRequest,
    JobSpec,
    JobState,
    ReplicaId,
    ResultFile,
    SignedManifest,
    TaskNumber,
    TaskState,
)
from xwgrid.requester.client import GridClient
from xwgrid.requester.live_download import watch_and_download
from xwgrid.requester.results import Summary
from xwgrid.wire import Event, JobView, TaskView

SPEC = wire.encode(
    JobSpec(
        request=JobRequest(
            name="walk", work=BlenderWork(scene_file="a.blend", width=2, height=2), split=Frames(first=1, last=1)
        ),
        application=SignedManifest(manifest="{}", signature="", key=""),
    )
)


@pytest.fixture
def client(server: SmallServer) -> Iterator[GridClient]:
    """A client that does not wait between attempts."""
    with GridClient(server.credentials(), pause=lambda _seconds: None) as made:
        yield made


def agreed(server: SmallServer, data: bytes) -> TaskView:
    """Return frame 1 with an accepted picture, which the server holds."""
    file = ResultFile(name="frame_0001.png", sha256=server.add(data), size=len(data))
    return TaskView(
        job=JobId(7), number=TaskNumber(0), label="frame 1", state=TaskState.AGREED, files=(file,), accepted="2 equal"
    )


def withdrawn(state: TaskState = TaskState.OPEN) -> TaskView:
    """Return frame 1 after its verdict was taken back."""
    view = TaskView(job=JobId(7), number=TaskNumber(0), label="frame 1", state=state, reason="audited again")
    return replace(view, accepted_before=ReplicaId(1))


def run(server: SmallServer, client: GridClient, folder: Path, *tasks: TaskView) -> tuple[Summary, list[str]]:
    """Follow a job whose one task goes through `tasks`; return the summary and what was said."""
    spec = server.add(SPEC)

    def view(state: JobState) -> JobView:
        return replace(job(1, state), spec=spec)

    events = [Event(job=view(JobState.OPEN), tasks=(task,)) for task in tasks]
    ended = JobState.FINISHED if tasks[-1].state is TaskState.AGREED else JobState.INCOMPLETE
    server.events = [[*events, Event(job=view(ended))]]
    server.tasks = [tasks[-1]]
    said: list[str] = []
    console = Console(file=io.StringIO())
    return watch_and_download(client, JobId(7), folder, connections=3, console=console, said=said.append), said


def test_a_picture_that_is_replaced_is_fetched_anew(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """Agreed, open again, agreed on another picture: the new one lies there, fetched while the job went on."""
    old, new = agreed(server, b"an old picture"), agreed(server, b"the right picture")
    for steps in ((old, withdrawn(), new), (old, new)):
        folder = tmp_path / str(len(steps))
        summary, said = run(server, client, folder, *steps)
        assert (folder / "frames" / "frame_0001.png").read_bytes() == b"the right picture"
        assert "1 files are in" in said[0]
        assert "0 of them fetched just now" in said[0]
        assert [path.name for path in (folder / "frames").iterdir()] == ["frame_0001.png"]
        assert summary.tasks[0].accepted == "2 equal"


def test_a_picture_that_is_not_accepted_any_more_is_taken_away(
    server: SmallServer, client: GridClient, tmp_path: Path
) -> None:
    """When nothing is accepted in its place, what was fetched does not stay and pass for a result."""
    summary, _said = run(server, client, tmp_path, agreed(server, b"a lie"), withdrawn(), withdrawn(TaskState.FAILED))
    assert list((tmp_path / "frames").iterdir()) == []
    assert summary.frames == ()


def test_a_picture_of_an_earlier_day_is_named(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """What was not fetched just now is nobody's to take away: it is said that it is not accepted."""
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "frame_0001.png").write_bytes(b"of yesterday")
    summary, said = run(server, client, tmp_path, withdrawn(), withdrawn(TaskState.FAILED))
    assert (tmp_path / "frames" / "frame_0001.png").read_bytes() == b"of yesterday"
    assert any("frame_0001.png" in sentence and "not accepted" in sentence for sentence in said)
    assert summary.frames == ()


def test_the_same_word_twice_fetches_once(server: SmallServer, client: GridClient, tmp_path: Path) -> None:
    """A task that is told of again and again is fetched a single time."""
    task = agreed(server, b"a picture")
    run(server, client, tmp_path, *[task] * 5)
    assert server.asked.count("GET blobs") == 2  # the picture, and the specification
