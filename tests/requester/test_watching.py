"""A job is followed through broken connections, and told in lines where there is no terminal."""

from __future__ import annotations

import io

from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console

from tests.requester.https_server import SmallServer
from xwgrid.model import JobId, JobState
from xwgrid.requester.client import GridClient
from xwgrid.requester.command import main
from xwgrid.requester.showing import jobs_table
from xwgrid.requester.watching import clock, state_line, watch
from xwgrid.wire import Event, JobView


def job(
    agreed: int, state: JobState = JobState.OPEN, *, outvoted: int = 0, seconds_left: float | None = None
) -> JobView:
    """Return a job of four frames."""
    return JobView(
        id=JobId(7),
        name="walk",
        owner="ada",
        application="blender",
        state=state,
        tasks=4,
        agreed=agreed,
        failed=0,
        running=2,
        replicas=5,
        outvoted=outvoted,
        lost=0,
        created_at=1_800_000_000.0,
        finished_at=None,
        quorum=2,
        spec="0" * 64,
        seconds_left=seconds_left,
    )


def test_a_job_is_followed_over_a_broken_stream(server: SmallServer) -> None:
    """When the stream breaks, the client comes back, and the last event is the finished job."""
    server.events = [[Event(job=job(0)), Event(job=job(1))], [], [Event(job=job(4, JobState.FINISHED))]]
    waited: list[float] = []
    with GridClient(server.credentials(), pause=waited.append) as client:
        seen = [event.job.agreed for event in client.events(JobId(7))]
    assert seen == [0, 1, 4]
    assert waited == [0.25, 0.5]


def test_without_a_terminal_there_are_lines(server: SmallServer) -> None:
    """In a log file the first and the last state are lines of their own, without control characters."""
    server.events = [[Event(job=job(0, seconds_left=75)), Event(job=job(4, JobState.FINISHED, outvoted=1))]]
    told = io.StringIO()
    heard: list[int] = []
    with GridClient(server.credentials()) as client:
        views = watch(client, [JobId(7)], Console(file=told), lambda event: heard.append(event.job.agreed))
    assert told.getvalue().splitlines() == [
        "job 7 walk: 0 of 4 frames done, 2 being rendered, 1:15 left",
        "job 7 walk: 4 of 4 frames done, finished, 1 rejected",
    ]
    assert views[JobId(7)].state is JobState.FINISHED
    assert heard == [0, 4]


def test_a_server_that_goes_away_is_waited_for(server: SmallServer) -> None:
    """However often the stream breaks off in one outage, it is told once, and the watching goes on."""
    server.events = [[Event(job=job(0))], [Event(job=job(4, JobState.FINISHED))]]
    told = io.StringIO()
    with GridClient(server.credentials(), pause=lambda _seconds: server.unavailable()) as client:
        watch(client, [JobId(7)], Console(file=told))
    lines = told.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "job 7 walk",
        "the server does not answer, waiting for it to come back",
        "job 7 walk",
    ]


def test_on_a_terminal_there_is_a_bar(server: SmallServer) -> None:
    """On a terminal the bar's last picture tells the same."""
    server.events = [[Event(job=job(0)), Event(job=job(4, JobState.FINISHED))]]
    told = io.StringIO()
    with GridClient(server.credentials()) as client:
        watch(client, [JobId(7)], Console(file=told, force_terminal=True, width=120))
    assert "4 of 4 frames done, finished" in told.getvalue()


def test_names_are_not_markup() -> None:
    """A job called [red] is called so."""
    told = io.StringIO()
    view = job(1)
    Console(file=told, width=200).print(jobs_table([replace(view, name="[red]x[/red]")]))
    assert "[red]x[/red]" in told.getvalue()


def test_spans_are_written_as_people_read_them() -> None:
    """Seconds, minutes and hours."""
    assert [clock(7), clock(750), clock(11_100)] == ["0:07", "12:30", "3:05:00"]


def test_a_failed_job_tells_its_reason() -> None:
    """An incomplete job says why in its line."""
    view = replace(job(1, JobState.INCOMPLETE), failed=3, reason="no camera")
    assert state_line(view) == "job 7 walk: 1 of 4 frames done, incomplete, 3 failed, no camera"


def test_help_names_every_command() -> None:
    """`xwgrid --help` lists what there is."""
    said = CliRunner().invoke(main, ["--help"]).output
    for name in ("apps", "cancel", "demo", "download", "jobs", "login", "retry", "show", "submit", "watch"):
        assert f"\n  {name} " in said
