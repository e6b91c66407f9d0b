"""The command `xwgrid`."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from xwgrid import tokens, wire
from xwgrid.applications import registry
from xwgrid.command_line import Sentences, example
from xwgrid.model import JobId, JobState, TaskNumber
from xwgrid.requester import results, showing
from xwgrid.requester.client import ENDED, GridClient, first_contact
from xwgrid.requester.context import Context, print_json
from xwgrid.requester.demo import demo
from xwgrid.requester.live_download import watch_and_download
from xwgrid.requester.settings import load_settings, save_credentials
from xwgrid.requester.submission import submit
from xwgrid.requester.watching import state_line, watch
from xwgrid.requester.wishes import Wishes, check_wishes, parse_deadline

F = TypeVar("F", bound=Callable[..., Any])


def _json_option(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


_out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the frames, the film and the rest."
)


@click.group("xwgrid", cls=Sentences, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--settings", "settings_file", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (TOML)."
)
@click.version_option(package_name="xwgrid")
@click.pass_context
def main(context: click.Context, settings_file: Path | None) -> None:
    """Hand in jobs to a grid of volunteers' machines, watch them, fetch their results."""
    context.obj = Context(load_settings(settings_file, os.environ))


@main.command()
@click.option("--token-file", type=click.File("r"), help="Read the token from a file, or from standard input with '-'.")
@_json_option
@click.pass_obj
def login(context: Context, token_file: Any, as_json: bool) -> None:
    """Keep a requester token, after checking that the server is the one that made it."""
    text = token_file.read() if token_file is not None else click.prompt("Requester token", hide_input=True, err=True)
    credentials = first_contact(tokens.parse(text, kind="requester"))
    with GridClient(credentials) as client:
        user = client.whoami()
    folder = context.settings.credentials_folder()
    save_credentials(folder, credentials)
    if as_json:
        print_json({"server": credentials.token.url, "user": user.name, "role": user.role})
    else:
        click.echo(f"You are {user.name} ({user.role}) at {credentials.token.url}; the token is kept in {folder}.")


@main.command(
    "submit",
    epilog=example(
        "xwgrid submit scene.blend --frames 1-250 --out film",
        "xwgrid submit scene.blend --policy audit --epsilon 0.0001 --deadline 'in 12h'",
        "xwgrid submit scene.blend --policy fixed --replicas 3 --quorum 2",
    ),
)
@click.argument("scene", type=click.Path(path_type=Path))
@click.option("--frames", help="Such as 7, 1-250, 1-250x2; default: the scene's own range.")
@click.option("--samples", type=int, help="Samples a pixel; default: the scene's.")
@click.option("--resolution", help="Such as 50% or 1920x1080; default: the scene's.")
@click.option(
    "--policy",
    type=click.Choice(["fixed", "credibility", "audit"]),
    help="How frames are checked; default: as the server's operator says, mostly by audits.",
)
@click.option("--epsilon", type=float, help="Chance of a wrong frame that you put up with; default: 0.001.")
@click.option("--share", type=float, help="Least altered part of a frame that audits must find; default: 0.05.")
@click.option("--replicas", type=int, help="Of --policy fixed: times each frame is rendered at first; default: 2.")
@click.option("--quorum", type=int, help="Of --policy fixed: equal results needed to accept a frame; default: 2.")
@click.option("--deadline", help="When you need it: 'in 3h', or 2031-05-01T18:00. Jobs in time trouble go first.")
@click.option("--format", "file_format", type=click.Choice(["PNG", "JPEG", "OPEN_EXR"], case_sensitive=False))
@click.option("--engine", type=click.Choice(["CYCLES", "EEVEE", "WORKBENCH"], case_sensitive=False))
@click.option("--seed", type=int, default=0, show_default=True, help="Of the sampling noise.")
@click.option("--denoise/--no-denoise", default=None, help="Default: as the scene says.")
@click.option("--renderer", help="Blender version to render with, such as 4.5; default: the one that read the scene.")
@click.option("--name", help="Default: the scene's file name.")
@click.option("--private", is_flag=True, help="Render on your own machines only.")
@click.option("--priority", type=int, default=0, show_default=True, help="-100 to 100.")
@click.option("--allow-missing", is_flag=True, help="Hand in although files that are used are missing.")
@_out_option
@_json_option
@click.pass_obj
def submit_command(context: Context, /, scene: Path, out: Path | None, as_json: bool, **wishes: Any) -> None:
    """Hand in an animation; with --out, wait for it and download it."""
    for key in ("file_format", "engine"):
        wishes[key] = wishes[key] and wishes[key].upper()
    if wishes["deadline"] is not None:
        wishes["deadline"] = parse_deadline(wishes["deadline"], time.time())
    wished = Wishes(**wishes)
    check_wishes(wished)
    if out is not None:
        results.require_writable(out)
    with context.client() as client:
        job = submit(client, scene, wished, context.settings, context.err)
        if out is not None:
            context.say(f"job {job.id} is handed in")
            _finish(context, client, job.id, out, as_json)
        elif as_json:
            print_json(job)
        else:
            click.echo(f"Job {job.id} ({job.tasks} frames) is handed in. Follow it with: xwgrid watch {job.id}")


@main.command()
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True)
@_json_option
@click.pass_obj
def jobs(context: Context, limit: int, as_json: bool) -> None:
    """List your jobs, newest first."""
    with context.client() as client:
        found = client.jobs(limit)
    if as_json:
        print_json(found)
    else:
        context.out.print(showing.jobs_table(found.jobs))


@main.command()
@click.argument("job", type=int)
@click.option("--task", "number", type=int, help="One task, with whole log tails.")
@click.option("--all", "everything", is_flag=True, help="All tasks, not only those with something to tell.")
@_json_option
@click.pass_obj
def show(context: Context, job: int, number: int | None, everything: bool, as_json: bool) -> None:
    """Show a job: where it stands and why, what was rejected or failed, and the logs."""
    with context.client() as client:
        view = client.job(JobId(job))
        if number is not None:
            tasks = [client.task(JobId(job), TaskNumber(number))]
        else:
            tasks = list(client.tasks(JobId(job), eventful=not everything))
    if as_json:
        print_json({"job": view, "tasks": tasks})
    else:
        showing.print_job(context.out, view, tasks, whole_logs=number is not None)


@main.command("watch")
@click.argument("job", type=int, nargs=-1, required=True)
@_json_option
@click.pass_obj
def watch_command(context: Context, job: tuple[int, ...], as_json: bool) -> None:
    """Follow jobs until they end. ^C leaves them running."""
    numbers = [JobId(number) for number in job]
    with context.client() as client, _left_running(context, numbers):
        for number in numbers:
            client.job(number)  # a wrong number is refused before anything is drawn
        console = Console(quiet=True) if as_json else context.out
        views = watch(client, numbers, console, lambda event: print_json(event.job) if as_json else None)
    if any(view.state is not JobState.FINISHED for view in views.values()):
        sys.exit(1)


@main.command("download")
@click.argument("job", type=int)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the frames, the film and the rest.",
)
@_json_option
@click.pass_obj
def download_command(context: Context, job: int, out: Path, as_json: bool) -> None:
    """Fetch what is agreed by now; files that are there and right are not fetched again."""
    results.require_writable(out)
    with context.client() as client:
        view = client.job(JobId(job))
        summary = results.fetch(client, view, out, context.settings.connections, context.say)
    _print_summary(summary, out, as_json)
    if view.state not in ENDED:
        context.say(f"job {job} is not finished yet: repeat this command later for the rest")


@main.command()
@click.argument("job", type=int)
@_json_option
@click.pass_obj
def cancel(context: Context, job: int, as_json: bool) -> None:
    """End a job; what is agreed already can still be downloaded."""
    with context.client() as client:
        _print_standing(client.cancel(JobId(job)), as_json)


@main.command()
@click.argument("job", type=int)
@_json_option
@click.pass_obj
def retry(context: Context, job: int, as_json: bool) -> None:
    """Open a job's failed tasks again."""
    with context.client() as client:
        _print_standing(client.retry(JobId(job)), as_json)


@main.command()
@_json_option
def apps(as_json: bool) -> None:
    """List the applications this version can hand in jobs for."""
    found = [registry.application(name) for name in registry.names()]
    if as_json:
        print_json([{"application": each.name, "runtime": each.runtime, "reads": each.reads} for each in found])
    else:
        for each in found:
            click.echo(f"{each.name:10} runs on: {each.runtime:10} results: {each.reads}")


main.add_command(demo)


def _finish(context: Context, client: GridClient, job: JobId, out: Path, as_json: bool) -> None:
    """Wait for a job and download it; ends the command with 1 unless every frame is there."""
    with _left_running(context, [job], out):
        console = context.err if as_json else context.out
        summary = watch_and_download(
            client, job, out, connections=context.settings.connections, console=console, said=context.say
        )
    _print_summary(summary, out, as_json)
    if summary.job.state is not JobState.FINISHED:
        sys.exit(1)


class _left_running:  # noqa: N801  # read as a verb where it is used
    """On ^C, say that the jobs go on and how to come back to them; exit status 1."""

    def __init__(self, context: Context, numbers: list[JobId], out: Path | None = None) -> None:
        self._context = context
        self._numbers = numbers
        self._out = out

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            listed = " ".join(str(number) for number in self._numbers)
            fetching = "" if self._out is None else f", fetch it with: xwgrid download {listed} --out {self._out}"
            self._context.say(f"The grid goes on with it. Come back with: xwgrid watch {listed}{fetching}")
            sys.exit(1)


def _print_standing(job: wire.JobView, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        click.echo(state_line(job))


def _print_summary(summary: results.Summary, out: Path, as_json: bool) -> None:
    if as_json:
        print_json({"folder": str(out), "summary": summary})
        return
    click.echo(state_line(summary.job))
    click.echo(f"{len(summary.frames)} files in {out / results.FRAMES}")
    for made in (summary.contact_sheet, summary.film, results.SUMMARY):
        if made is not None:
            click.echo(str(out / made))


if __name__ == "__main__":
    main()
