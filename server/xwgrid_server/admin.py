"""`xwgrid-admin`: what the operator of a server does beside it. The database is read directly."""

from __future__ import annotations

import click

from xwgrid import __version__
from xwgrid.command_line import Sentences, example
from xwgrid_server import database
from xwgrid_server.admin_accounts import host, token, user
from xwgrid_server.admin_apps import app
from xwgrid_server.admin_desk import Desk, desk_command
from xwgrid_server.admin_init import init
from xwgrid_server.admin_jobs import job, replica, task
from xwgrid_server.admin_trust import trust


@click.group("xwgrid-admin", cls=Sentences, epilog=example("xwgrid-admin init --host-name grid.example.org"))
@click.version_option(__version__, prog_name="xwgrid-admin")
def main() -> None:
    """Set up a server, let people and machines in, see what goes on."""


@click.group()
def db() -> None:
    """The database's schema."""


@db.command("upgrade", epilog=example("xwgrid-admin db upgrade"))
@desk_command
def db_upgrade(desk: Desk) -> None:
    """Bring the database to the schema of this program. Stop the server and make a backup before."""
    database.upgrade(desk.settings.database_url)
    desk.answer({"upgraded": True}, "the database has the schema of this program")


@db.command("check", epilog=example("xwgrid-admin db check"))
@desk_command
def db_check(desk: Desk) -> None:
    """Tell whether the database has the schema of this program; end with 1 if not."""
    with desk.database():
        pass
    desk.answer({"good": True}, "the database has the schema of this program")


for command in (init, db, user, token, host, app, job, task, replica, trust):
    main.add_command(command)
