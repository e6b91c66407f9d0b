"""A job while it runs: what its events come to, drawn live on a terminal or told in lines elsewhere."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TypeAlias

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from xwgrid import wire
from xwgrid.errors import GridError
from xwgrid.model import JobId, JobState, TaskNumber, TaskState
from xwgrid.policy_terms import described
from xwgrid.requester.client import ENDED, GridClient

# A line a second is enough for a log file, however fast frames are done.
_SECONDS_BETWEEN_LINES = 1.0
# Short, so that ^C is heard at once.
_WAIT_SECONDS = 0.2
_GROUNDS_TOLD = 5


class Trouble(Struct, frozen=True):
    """A job's events stopped: for now when `fatal` is False."""

    job: JobId
    error: GridError
    fatal: bool


News: TypeAlias = wire.Event | Trouble | None  # None: nothing new within the waiting time


def news(client: GridClient, jobs: Collection[JobId]) -> Iterator[News]:
    """Yield the events of several jobs as they come, until all have ended or cannot be followed any more."""
    arrived: queue.SimpleQueue[wire.Event | Trouble] = queue.SimpleQueue()

    def follow(job: JobId) -> None:
        try:
            for event in client.events(job, lambda error: arrived.put(Trouble(job, error, fatal=False))):
                arrived.put(event)
        except GridError as error:
            arrived.put(Trouble(job, error, fatal=True))
        except RuntimeError as error:  # the client was closed while we were waiting
            arrived.put(Trouble(job, GridError(str(error)), fatal=True))

    for job in jobs:
        threading.Thread(target=follow, args=(job,), daemon=True, name=f"events of job {job}").start()
    open_jobs = set(jobs)
    while open_jobs:
        try:
            item = arrived.get(timeout=_WAIT_SECONDS)
        except queue.Empty:
            yield None
            continue
        if isinstance(item, Trouble):
            if item.fatal:
                open_jobs.discard(item.job)
        elif item.job.state in ENDED:
            open_jobs.discard(item.job.id)
        yield item


def watch(
    client: GridClient,
    jobs: Sequence[JobId],
    console: Console,
    heard: Callable[[wire.Event], None] = lambda _event: None,
    idle: Callable[[], None] = lambda: None,
) -> dict[JobId, wire.JobView]:
    """Show jobs until all have ended, and return how they stand.

    `heard` gets each event; `idle` is called a few times a second in between, and may raise to end the watching.
    Raises the GridError of a job that cannot be followed.
    """
    display = _LiveDisplay(console) if console.is_terminal else _LineDisplay(console)
    last: dict[JobId, wire.JobView] = {}
    doubted: set[tuple[JobId, TaskNumber]] = set()
    accepted: dict[tuple[JobId, TaskNumber], str] = {}
    away = False
    with display:
        for item in news(client, jobs):
            if isinstance(item, wire.Event):
                away = False
                if item.job.id not in last and item.job.state not in ENDED:
                    display.say(f"job {item.job.id} {item.job.name} is checked by {checks(item.job)}")
                last[item.job.id] = item.job
                for sentence in changed_verdicts(item, doubted):
                    display.say(sentence)
                display.show(item.job)
                accepted |= {(task.job, task.number): task.accepted for task in item.tasks}
                if item.job.state in ENDED:
                    for sentence in on_what_grounds(text for key, text in accepted.items() if key[0] == item.job.id):
                        display.say(sentence)
                heard(item)
            elif isinstance(item, Trouble):
                if item.fatal:
                    raise item.error
                if not away:
                    display.say(f"the server does not answer, waiting for it to come back: {item.error.message}")
                away = True
            else:
                idle()
    return last


def checks(job: wire.JobView) -> str:
    """Return how a job's results are checked, and why not as it was asked."""
    note = f" ({job.policy_note})" if job.policy_note else ""
    return described(job.policy, job.quorum) + note


def changed_verdicts(event: wire.Event, doubted: set[tuple[JobId, TaskNumber]]) -> list[str]:
    """Return a sentence for each task whose verdict is taken back, and for what came of it.

    `doubted` holds, from event to event, the tasks that are being looked at again.
    """
    said = []
    for task in event.tasks:
        key = (task.job, task.number)
        if task.state is TaskState.OPEN and task.accepted_before is not None and key not in doubted:
            doubted.add(key)
            said.append(f"{task.label} is not accepted any more: {task.reason}")
        elif task.state is not TaskState.OPEN and task.accepted_before is not None and key in doubted:
            doubted.discard(key)
            said.append(f"{task.label}: {task.state.value}, {task.accepted or task.reason}")
    return said


def on_what_grounds(accepted: Iterable[str]) -> list[str]:
    """Return a sentence for each of the commonest grounds on which tasks were accepted, with how many were."""
    counted = Counter(text for text in accepted if text).most_common(_GROUNDS_TOLD)
    return [f"  {count} accepted: {text}" for text, count in counted]


def state_line(job: wire.JobView) -> str:
    """Return where a job stands, in one line."""
    noun = "frames" if job.application == "blender" else "tasks"
    parts = [f"{job.agreed} of {job.tasks} {noun} done"]
    if job.state in ENDED:
        parts.append(job.state.value)
    elif job.running or job.state is JobState.OPEN:
        parts.append(f"{job.running} being rendered" if noun == "frames" else f"{job.running} running")
    parts.extend(f"{number} {word}" for number, word in ((job.outvoted, "rejected"), (job.lost, "lost")) if number)
    if job.failed:
        parts.append(f"{job.failed} failed")
    if job.seconds_left is not None and job.state not in ENDED:
        parts.append(f"{clock(job.seconds_left)} left")
    if job.reason:
        parts.append(job.reason)
    return f"job {job.id} {job.name}: " + ", ".join(parts)


def clock(seconds: float) -> str:
    """Return a span as people read it: 0:07, 12:30, 3:05:00."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


class _LineDisplay:
    """For logs and pipes: a line when something changed, at most one a second and job, and always the last."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._said: dict[JobId, tuple[float, str]] = {}

    def __enter__(self) -> _LineDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, job: wire.JobView) -> None:
        line = state_line(job)
        at, before = self._said.get(job.id, (float("-inf"), ""))
        if line != before and (job.state in ENDED or self._now() - at >= _SECONDS_BETWEEN_LINES):
            self._said[job.id] = (self._now(), line)
            self.say(line)

    def say(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False, highlight=False)


class _Standing(ProgressColumn):
    """The numbers behind the bar: being rendered, rejected, time left."""

    def render(self, task: Task) -> Text:
        job: wire.JobView | None = task.fields.get("job")
        return Text("" if job is None else state_line(job).split(": ", 1)[1])


class _LiveDisplay:
    """For terminals: one bar for each job."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            _Standing(),
            console=console,
            refresh_per_second=4,
        )
        self._bars: dict[JobId, TaskID] = {}

    def __enter__(self) -> _LiveDisplay:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, job: wire.JobView) -> None:
        if job.id not in self._bars:
            self._bars[job.id] = self._progress.add_task(f"{job.id} {job.name}", total=job.tasks, job=job)
        self._progress.update(self._bars[job.id], completed=job.agreed + job.failed, job=job)

    def say(self, text: str) -> None:
        self._progress.console.print(text, soft_wrap=True, markup=False, highlight=False)
