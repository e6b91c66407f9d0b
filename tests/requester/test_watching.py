"""A job is followed through broken connections, and told in lines where there is no terminal."""

from __future__ import annotations

import io

from click.testing import CliRunner
from msgspec.structs import replace
from rich.console import Console

from tests.requester.https_server import SmallServer
from xwgrid.model import Audit, JobId, JobState, ReplicaId, ReplicaState, TaskNumber, TaskState
from xwgrid.requester.client import GridClient
from xwgrid.requester.command import main
from xwgrid.requester.showing import jobs_table, print_job
from xwgrid.requester.watching import checks, clock, state_line, watch
from xwgrid.wire import Event, JobView, ReplicaView, TaskView


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
        "job 7 walk is checked by fixed replication, 2 equal results",
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
        "job 7 walk is checked by fixed replication, 2 equal results",
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


def test_a_verdict_that_is_taken_back_is_said(server: SmallServer) -> None:
    """Why a frame is not accepted any more, and what came of it, are lines of their own; each is said once."""
    again = TaskView(job=JobId(7), number=TaskNumber(0), label="frame 1", state=TaskState.OPEN)
    again = replace(again, accepted_before=ReplicaId(1), reason="audited again: its host was caught")
    agreed = replace(again, state=TaskState.AGREED, reason="", accepted="2 equal results; the picture changed")
    audited = replace(job(1), policy=Audit(), policy_note="")
    end = replace(job(4, JobState.FINISHED), policy=Audit())
    server.events = [[Event(job=audited, tasks=(again,)), Event(job=audited, tasks=(again,))]]
    server.events += [[Event(job=end, tasks=(agreed,))]]
    told = io.StringIO()
    with GridClient(server.credentials(), pause=lambda _seconds: None) as client:
        watch(client, [JobId(7)], Console(file=told, width=200))
    lines = told.getvalue().splitlines()
    assert lines[0] == "job 7 walk is checked by audits, epsilon 0.001, share 0.05"
    assert lines.count("frame 1 is not accepted any more: audited again: its host was caught") == 1
    assert lines.count("frame 1: agreed, 2 equal results; the picture changed") == 1


def test_a_job_is_shown_with_its_checks() -> None:
    """How results are checked, by when they are needed, why one was accepted, and what each audit found."""
    full = ReplicaView(
        replica=ReplicaId(1), number=0, host="desk", state=ReplicaState.AGREED, leased_at=0.0, ended_at=1.0
    )
    fits = replace(full, replica=ReplicaId(2), audits=full.replica, strips="12+2,90+2", differed=0.0)
    odd = replace(fits, replica=ReplicaId(3), state=ReplicaState.OUTVOTED, differed=0.25)
    test = replace(full, replica=ReplicaId(4), test=True)
    again = replace(fits, replica=ReplicaId(5), strips="denoised")
    after = replace(again, replica=ReplicaId(6), state=ReplicaState.OUTVOTED, differed=0.01)
    at_it = replace(again, replica=ReplicaId(7), state=ReplicaState.LEASED, differed=None, done=0.5)
    task = TaskView(
        job=JobId(7), number=TaskNumber(0), label="frame 1", state=TaskState.AGREED, accepted="2 strips fit"
    )
    view = replace(job(4, JobState.FINISHED), policy=Audit(), deadline=1_900_000_000.0)
    told = io.StringIO()
    tasks = [replace(task, replicas=(full, fits, odd, test, again, after, at_it))]
    print_job(Console(file=told, width=200), view, tasks, whole_logs=False)
    lines = told.getvalue().splitlines()
    assert lines[2] == "  checked by audits, epsilon 0.001, share 0.05"
    assert lines[3].startswith("  needed by 2030-03-")
    assert lines[5] == "  accepted: 2 strips fit"
    assert lines[6:] == [
        "  replica 1 on desk: agreed",
        "  replica 2 on desk: agreed, audit of replica 1 by 2 strips that fit",
        "  replica 3 on desk: outvoted, audit of replica 1 by 2 strips, of which 25.0% differ",
        "  replica 4 on desk: agreed, a test of its host",
        "  replica 5 on desk: agreed, audit of replica 1 by denoising its raw passes, and it fits",
        "  replica 6 on desk: outvoted, audit of replica 1 by denoising its raw passes, and it differs",
        "  replica 7 on desk: leased, audit of replica 1 by denoising its raw passes, 50% done",
    ]


def test_in_the_end_the_grounds_are_counted(server: SmallServer) -> None:
    """What was accepted while it was watched, by the grounds for it, the commonest first, and no word of the others."""
    agreed = TaskView(job=JobId(7), number=TaskNumber(0), label="frame 1", state=TaskState.AGREED)
    tasks = [
        replace(agreed, number=TaskNumber(number), accepted=text)
        for number, text in enumerate(["2 equal results", "5 strips fit", "5 strips fit", ""])
    ]
    server.events = [[Event(job=job(1), tasks=tuple(tasks)), Event(job=job(4, JobState.FINISHED))]]
    told = io.StringIO()
    with GridClient(server.credentials()) as client:
        watch(client, [JobId(7)], Console(file=told, width=200))
    assert told.getvalue().splitlines()[-2:] == [
        "  2 accepted: 5 strips fit",
        "  1 accepted: 2 equal results",
    ]


def test_a_policy_that_was_not_asked_for_is_explained() -> None:
    """The server's note stands beside what it did."""
    view = replace(job(1), policy_note="replicated instead of audited: JPEG keeps no exact pixels")
    assert checks(view) == (
        "fixed replication, 2 equal results (replicated instead of audited: JPEG keeps no exact pixels)"
    )


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
