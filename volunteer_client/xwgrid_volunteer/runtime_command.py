"""`xwgrid-volunteer runtime`: install what drivers run on, and say what is there."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from xwgrid.model import Program
from xwgrid_volunteer import settings
from xwgrid_volunteer.host_probe import ask_runtime
from xwgrid_volunteer.runtime_install import BLENDER_VERSION, install_blender
from xwgrid_volunteer.runtimes import find_runtimes

_settings = click.option(
    "--settings", "settings_file", type=click.Path(dir_okay=False, path_type=Path), help="The volunteer's TOML file."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group()
def runtime() -> None:
    """Install what tasks run on, and list it."""


@runtime.command()
@click.argument("name", type=click.Choice(["blender"]))
@click.option("--version", "version", default=BLENDER_VERSION, show_default=True, help="Version to install.")
@click.option("--into", type=click.Path(file_okay=False, path_type=Path), help="Folder of the runtimes.")
@_settings
@_json
def install(name: str, *, version: str, into: Path | None, settings_file: Path | None, as_json: bool) -> None:
    """Install a runtime (Blender, as a Python module)."""
    folder = into or Path(settings.load(settings_file).runtimes_folder)
    place = install_blender(folder, version, lambda sentence: click.echo(sentence, err=True))
    if as_json:
        click.echo(msgspec.json.encode({"runtime": name, "version": version, "folder": str(place)}).decode())
    else:
        click.echo(str(place))


@runtime.command("list")
@_settings
@_json
def list_runtimes(*, settings_file: Path | None, as_json: bool) -> None:
    """List the runtimes of this machine, each started once and asked what it is."""
    owner = settings.load(settings_file)
    rows = []
    for name, found in sorted(find_runtimes(Path(owner.runtimes_folder), owner.runtimes).items()):
        answer = ask_runtime(found)
        program = answer if isinstance(answer, Program) else None
        rows.append(
            {
                "runtime": name,
                "origin": found.origin,
                "version": program.version if program else None,
                "result_class": program.result_class if program else None,
                "problem": None if program else answer,
            }
        )
    if as_json:
        click.echo(msgspec.json.encode({"runtimes": rows}).decode())
        return
    for row in rows:
        said = f"{row['version']}, results of class '{row['result_class']}'" if row["version"] else row["problem"]
        click.echo(f"{row['runtime']}: {said} ({row['origin']})")
