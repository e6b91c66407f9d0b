"""What the commands of `xwgrid` have in common: settings, consoles, the client, and how a refusal ends."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console

from xwgrid.requester.client import GridClient
from xwgrid.requester.settings import Settings, load_credentials


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
