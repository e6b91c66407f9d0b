"""What the commands of all rooms have in common: how a refusal ends, and how a span of time is written."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

import click

from xwgrid import wire
from xwgrid.errors import BadInput, GridError
from xwgrid.model import Seconds

_UNITS: Final[dict[str, Seconds]] = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


class Refusal(click.ClickException):
    """A GridError on its way out: one sentence, or with --json an ErrorBody, and its exit status."""

    def __init__(self, error: GridError, program: str, *, as_json: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.program = program
        self.as_json = as_json

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click declares a variable, and only ever reads it
        return self.error.exit_status

    def show(self, file: Any = None) -> None:
        """Print it on standard error."""
        click.echo(wire.told(self.error, self.program, as_json=self.as_json), file=file or sys.stderr)


class Sentences(click.Group):
    """A group of commands, named as the program is, whose GridErrors end as a sentence on standard error."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        as_json = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except GridError as error:
            raise Refusal(error, str(self.name), as_json=as_json) from error
        except click.UsageError as error:
            if not as_json:
                raise
            raise Refusal(BadInput(error.format_message()), str(self.name), as_json=True) from error


def span(_context: click.Context, _parameter: click.Parameter, text: str | None) -> Seconds | None:
    """Read an option's span of time, such as 30m, 12h or 7d, as seconds. Raises BadParameter."""
    try:
        return None if text is None else parse_span(text)
    except BadInput as error:
        raise click.BadParameter(error.message) from error


def parse_span(text: str) -> Seconds:
    """Read a span of time, such as 30m, 12h or 7d, as seconds. Raises BadInput."""
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhd])", text.strip())
    if found is None or float(found[1]) == 0:
        raise BadInput(f"'{text[:100]}' is no span of time: write for example 30m, 12h or 7d")
    return float(found[1]) * _UNITS[found[2]]


def example(*lines: str) -> str:
    """Return the last lines of a command's --help."""
    return "\b\nExample:\n" + "\n".join(f"  {line}" for line in lines)
