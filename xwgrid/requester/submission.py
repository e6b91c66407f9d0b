"""From a scene and a requester's wishes to a job on the server. Nothing is sent before everything was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from xwgrid import wire
from xwgrid.applications import registry
from xwgrid.errors import BadInput
from xwgrid.model import InputFile, JobRequest
from xwgrid.requester.client import GridClient
from xwgrid.requester.inspection import FileFacts, find_renderer, inspect
from xwgrid.requester.settings import Settings
from xwgrid.requester.tracing import check_is_blend, traced
from xwgrid.requester.transfer import input_file, upload
from xwgrid.requester.wishes import Wishes, check_wishes, frames_for, policy_for, replicas_for, work_for

# 10,000 names would hide the sentence that says what to do.
_LISTED = 20
_HASHING_THREADS = 2


class Prepared(Struct, frozen=True, kw_only=True):
    """A job ready to be sent: the request, and the local file and size of each digest."""

    request: JobRequest
    files: dict[str, Path]
    sizes: dict[str, int]


def submit(client: GridClient, scene: Path, wishes: Wishes, settings: Settings, console: Console) -> wire.JobView:
    """Trace, check, send what the server lacks, and hand in a job.

    Raises BadInput (exit status 2) for whatever is wrong with the scene or the wishes, before anything is sent.
    """
    with prepared(scene, wishes, settings, console) as job:
        return send(client, job, settings, console)


def send(client: GridClient, job: Prepared, settings: Settings, console: Console) -> wire.JobView:
    """Send what the server lacks of a prepared job, and hand it in. Raises GridError."""
    missing = client.missing(list(job.files))
    total = sum(job.sizes[digest] for digest in missing)
    with _moving(console, f"sending {len(missing)} of {len(job.files)} files", total) as moved:
        wanted = {digest: job.files[digest] for digest in missing}
        upload(client, wanted, job.sizes, settings.connections, moved)
    return client.submit(job.request)


@contextmanager
def prepared(scene: Path, wishes: Wishes, settings: Settings, console: Console) -> Iterator[Prepared]:
    """Yield a job that has been traced, checked and hashed; files rewritten for it live as long as this context.

    Raises BadInput or TooLarge.
    """
    check_wishes(wishes)
    check_is_blend(scene)
    scene = scene.resolve()
    facts = _look_inside(scene, settings, console)
    if facts is not None:
        check_scene(scene, facts, allow_missing=wishes.allow_missing)
        for warning in warnings(facts):
            _say(console, warning)
    with traced(scene, () if facts is None else facts.used) as tree:
        if facts is None and tree.missing and not wishes.allow_missing:
            raise BadInput(
                missing_sentence(scene, [str(path) for path in tree.missing])
                + " Whether they are used could not be found out without Blender on this machine."
            )
        # Refused, if at all, before gigabytes are read.
        work, frames = work_for(tree.scene_file, wishes, facts), frames_for(wishes, facts)
        replicas, quorum = replicas_for(wishes)
        inputs = hashed(tree.files, console)
        request = JobRequest(
            name=wishes.name or scene.stem[:200],
            work=work,
            split=frames,
            inputs=inputs,
            policy=policy_for(wishes),
            replicas=replicas,
            quorum=quorum,
            private=wishes.private,
            deadline=wishes.deadline,
            priority=wishes.priority,
        )
        registry.check(request)
        local = dict(tree.files)
        yield Prepared(
            request=request,
            files={file.sha256: local[file.path] for file in inputs},
            sizes={file.sha256: file.size for file in inputs},
        )


def check_scene(scene: Path, facts: FileFacts, *, allow_missing: bool) -> None:
    """Refuse a scene that cannot give a picture, or lacks files it uses. Raises BadInput."""
    own = facts.scene
    if not own.has_camera and not own.sequencer_strips:
        raise BadInput(
            f"the scene '{own.name}' of {scene} has no camera and no sequencer strips, so there is no picture to "
            "render: add a camera and make it the active one",
            scene=own.name,
        )
    if own.views > 1:
        raise BadInput(
            f"the scene '{own.name}' of {scene} renders {own.views} views (stereoscopy) and the grid one picture a "
            "frame: turn it off under Output Properties",
            scene=own.name,
        )
    if facts.missing and not allow_missing:
        listed = [f"{each.path or 'no path'} ({each.kind} '{each.name}')" for each in facts.missing]
        raise BadInput(missing_sentence(scene, listed), files=listed[:_LISTED])


def warnings(facts: FileFacts) -> list[str]:
    """Return what is rendered otherwise than the requester may think."""
    found = []
    if facts.unbaked:
        found.append(
            f"Not baked: {', '.join(facts.unbaked[:_LISTED])}. Volunteers render frames by themselves, without those "
            "before them: bake the simulation, or it will look different from frame to frame."
        )
    if facts.scripts_not_run:
        found.append(f"Scripts in the scene are not run on the grid: {facts.scripts_not_run}.")
    if facts.scene.border:
        found.append("The scene's render region is not used: the whole picture is rendered.")
    return found


def missing_sentence(scene: Path, missing: Sequence[str]) -> str:
    """Return the refusal that lists what is used and not there."""
    lines = [f"  {each}" for each in missing[:_LISTED]]
    if len(missing) > _LISTED:
        lines.append(f"  … and {len(missing) - _LISTED} more")
    noun = "file" if len(missing) == 1 else "files"
    return (
        f"{scene} uses {len(missing)} {noun} that cannot be found:\n" + "\n".join(lines) + "\n"
        "Put them in place (in Blender: File > External Data > Report Missing Files), "
        "or hand the scene in without them: --allow-missing."
    )


def hashed(files: Sequence[tuple[str, Path]], console: Console) -> tuple[InputFile, ...]:
    """Return the job's inputs with their digests, in the order given; the reading is done in threads.

    Raises BadInput for a file that cannot be read.
    """
    try:
        total = sum(path.stat().st_size for _name, path in files)
        with (
            _moving(console, f"reading {len(files)} files", total) as moved,
            ThreadPoolExecutor(max_workers=_HASHING_THREADS) as pool,
        ):
            futures = [pool.submit(input_file, path, name, moved) for name, path in files]
            return tuple(future.result() for future in futures)
    except OSError as error:
        raise BadInput(f"{error.filename} cannot be read: {error.strerror}", file=str(error.filename)) from error


def _look_inside(scene: Path, settings: Settings, console: Console) -> FileFacts | None:
    renderer = find_renderer(settings)
    if renderer is None:
        _say(
            console,
            f"There is no Blender for the grid on this machine (none in {settings.runtimes_folder()}, no blender "
            "command), so the scene cannot be looked into: going on with its references and the numbers you gave. "
            "To install one: xwgrid-volunteer runtime install blender",
        )
        return None
    return inspect(renderer, scene, settings.inspect_seconds)


@contextmanager
def _moving(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show bytes as they move, on terminals only; yields what is to be told how many."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda size: progress.advance(bar, size)


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
