"""What the commands of `xwgrid` have in common: settings, consoles, the client, and how a refusal ends."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec
from rich.console import Console

from xwgrid import wire
from xwgrid.errors import BadInput, GridError
from xwgrid.requester.client import GridClient
from xwgrid.requester.settings import Settings, load_credentials


class Said(click.ClickException):
    """A GridError on its way out: one sentence, or with --json an ErrorBody, and its exit status."""

    def __init__(self, error: GridError, *, as_json: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.as_json = as_json

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click declares a variable, and only ever reads it
        return self.error.exit_status

    def show(self, file: Any = None) -> None:
        """Print it on standard error."""
        click.echo(wire.told(self.error, "xwgrid", as_json=self.as_json), file=file or sys.stderr)


class Sentences(click.Group):
    """Commands whose GridErrors end as a sentence on standard error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except GridError as error:
            raise Said(error, as_json=as_json) from error
        except click.UsageError as error:
            if not as_json:
                raise
            raise Said(BadInput(error.format_message()), as_json=True) from error


class Context:
    """What every command needs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.out = Console(highlight=False)
        self.err = Console(stderr=True, highlight=False)

    def client(self) -> GridClient:
        """Return a client with the credentials of `xwgrid login`. Raises Unauthenticated."""
        return GridClient(load_credentials(self.settings.credentials_folder()))

    def say(self, text: str) -> None:
        """Tell a person how it goes, on standard error."""
        self.err.print(text, soft_wrap=True, markup=False)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    click.echo(msgspec.json.encode(value).decode())
