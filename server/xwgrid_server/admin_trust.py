"""`xwgrid-admin trust`: how far hosts and their results are trusted."""

from __future__ import annotations

import click

from xwgrid_server.admin_calibrate import calibrate, tolerances


@click.group()
def trust() -> None:
    """How far hosts and their results are trusted."""


for command in (calibrate, tolerances):
    trust.add_command(command)
