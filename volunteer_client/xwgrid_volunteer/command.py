"""The command `xwgrid-volunteer`: join a grid, work for it, ask how it goes, pause, resume."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import random
import re
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import msgspec
from rich.console import Console
from rich.live import Live

from xwgrid import tokens
from xwgrid.command_line import Sentences, span
from xwgrid.errors import BadInput
from xwgrid.model import Seconds
from xwgrid_volunteer import control, runtime_command, settings, status_text
from xwgrid_volunteer.control import Ask, AskPause, AskResume, AskStatus, Status
from xwgrid_volunteer.enrolment import enrol as join
from xwgrid_volunteer.enrolment import load_identity
from xwgrid_volunteer.settings import VolunteerSettings

P = ParamSpec("P")
R = TypeVar("R")

_WATCH_SECONDS = 1.0


@dataclass(frozen=True)
class Place:
    """Where one command works: which settings file was named."""

    file: Path | None

    @functools.cached_property
    def settings(self) -> VolunteerSettings:
        """The volunteer's settings. Raises BadSettings."""
        return settings.load(self.file)

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.settings.state_folder


def with_settings(command: Callable[Concatenate[Place, P], R]) -> Callable[P, R]:
    """Give a command --settings, and what it stands for as its first argument."""

    @click.option(
        "--settings",
        "settings_file",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"TOML file; without it {settings.default_file()}, if that exists.",
    )
    @functools.wraps(command)
    def asked(*arguments: P.args, **options: P.kwargs) -> R:
        file: Any = options.pop("settings_file")  # added by the option above
        return command(Place(file), *arguments, **options)

    return asked


as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON document.")


@click.group("xwgrid-volunteer", cls=Sentences)
@click.version_option(package_name="xwgrid", prog_name="xwgrid-volunteer")
def main() -> None:
    """Give this machine's idle time to a grid."""


main.add_command(runtime_command.runtime)


@main.command()
@click.option("--token-file", type=click.File("r"), help="File with the enrolment token; - is standard input.")
@click.option("--server", help="Address of the server, if another than the one in the token: https://host:port")
@click.option("--name", default=socket.gethostname, show_default="the host name", help="How the grid calls this host.")
@click.option("--again", is_flag=True, help="Give up the identity this volunteer has, and take a new one.")
@as_json_option
@with_settings
def enrol(place: Place, *, token_file: Any, server: str | None, name: str, again: bool, as_json: bool) -> None:
    """Join a grid with a token from its operator.

    The token is asked for, or read from a file; it never is an argument, which other users of the machine could read.
    """
    text = token_file.read(10_000) if token_file is not None else click.prompt("Enrolment token", hide_input=True)
    token = tokens.parse(text, kind="enrol")
    if not name.strip() or len(name) > 200:
        raise BadInput("a host's name has 1 to 200 characters: give another with --name")
    if server is not None and not re.fullmatch(r"https://[^\s/]+", server.rstrip("/")):
        raise BadInput(f"'{server}' is no server's address: write https://host:port", server=server)
    from xwgrid_volunteer.daemon import lock  # noqa: PLC0415  # brings Twisted, which most commands do without

    held = lock(place.state)  # a daemon that runs would go on under the old identity
    identity = join(
        token,
        server=None if server is None else server.rstrip("/"),
        name=name.strip(),
        state=place.state,
        now=time.time(),
        again=again,
        proxy=place.settings.proxy,
    )
    del held
    if as_json:
        click.echo(msgspec.json.encode(identity.enrolment).decode())
    else:
        click.echo(
            f"This is host {identity.enrolment.host}, '{identity.enrolment.name}', of "
            f"{identity.enrolment.volunteer_url}. Start it with: xwgrid-volunteer run"
        )


@main.command()
@click.option("--verbose", is_flag=True, help="Log more.")
@with_settings
def run(place: Place, *, verbose: bool) -> None:
    """Work for the grid until stopped (Ctrl-C, SIGTERM): then unfinished work is handed back."""
    from xwgrid_volunteer.running import run_daemon  # noqa: PLC0415  # installs the reactor

    identity = load_identity(place.state)
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    version = importlib.metadata.version("xwgrid")
    if not run_daemon(place.settings, identity, client_version=version, uniform=random.SystemRandom().uniform):
        sys.exit(1)


@main.command()
@click.option("--watch", is_flag=True, help="Keep showing it until Ctrl-C.")
@as_json_option
@with_settings
def status(place: Place, *, watch: bool, as_json: bool) -> None:
    """Say what this volunteer does, and if nothing, why."""
    if not watch:
        _show(control.ask(place.state, AskStatus()), as_json=as_json)
        return
    try:
        _watch(place.state, as_json=as_json)
    except KeyboardInterrupt:
        return


def _watch(state: Path, *, as_json: bool) -> None:
    if as_json:
        while True:
            _show(control.ask(state, AskStatus()), as_json=True)
            time.sleep(_WATCH_SECONDS)
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            live.update("\n".join(status_text.lines(control.ask(state, AskStatus()), time.time())), refresh=True)
            time.sleep(_WATCH_SECONDS)


@main.command()
@click.option("--for", "seconds", callback=span, help="Such as 30m, 1h, 2d; without it until `resume`.")
@as_json_option
@with_settings
def pause(place: Place, *, seconds: Seconds | None, as_json: bool) -> None:
    """Stop working at once. A pause longer than the grace time hands unfinished work back."""
    _tell(place.state, AskPause(seconds), as_json=as_json)


@main.command()
@as_json_option
@with_settings
def resume(place: Place, *, as_json: bool) -> None:
    """End a pause."""
    _tell(place.state, AskResume(), as_json=as_json)


def _tell(state: Path, ask: Ask, *, as_json: bool) -> None:
    _show(control.ask(state, ask), as_json=as_json)


def _show(found: Status, *, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        click.echo("\n".join(status_text.lines(found, time.time())))


@main.command("settings")
@as_json_option
@with_settings
def show_settings(place: Place, *, as_json: bool) -> None:
    """Show the settings in effect, the environment's overrides included."""
    found = msgspec.to_builtins(place.settings)
    if found["proxy"]:
        found["proxy"] = re.sub(r"//[^@/]*@", "//…@", found["proxy"])  # a password is nobody's business
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
        return
    click.echo(f"# {place.file or settings.default_file()}")
    for key, value in found.items():
        click.echo(f"{key} = {msgspec.json.encode(value).decode()}" if value is not None else f"# {key} is not set")
