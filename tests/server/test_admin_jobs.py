"""What the operator sees of jobs, tasks and replicas, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, insert
from xwgrid_schema.tables import users
from xwgrid_server import admin

from tests.server.small_grid import SmallGrid, digest_job
from xwgrid.model import Cause
from xwgrid.wire import Failed


@pytest.fixture
def grid(engine: Engine) -> SmallGrid:
    """A job of three tasks: one agreed on, one failed on one host, one untouched; and an operator who looks."""
    grid = SmallGrid(engine)
    with engine.begin() as connection:
        connection.execute(insert(users).values(id=100, name="operator", role="operator", created_at=grid.now))
    grid.submit(digest_job(3))
    first = grid.take(1), grid.take(2)
    for host, lease in enumerate(first, start=1):
        grid.do(host, lease)
    grid.call(3, reports=[(grid.take(3), Failed(cause=Cause.CRASHED, message="signal 11"))])
    return grid


@pytest.fixture
def run(engine: Engine, tmp_path: Path) -> Callable[..., str]:
    """Runs an admin command on the database, and returns what it printed."""
    file = tmp_path / "server.toml"
    url = engine.url.render_as_string(hide_password=False)
    file.write_text(f'state = "{tmp_path}"\ndatabase = "{url}"\n')

    def run(*arguments: str) -> str:
        ended = CliRunner().invoke(admin.main, [*arguments, "--settings", str(file)])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    return run


def test_jobs_of_everybody_are_shown(grid: SmallGrid, run: Callable[..., str]) -> None:
    """An operator sees the job of another user, with its counts, in a list and alone."""
    (listed,) = json.loads(run("job", "list", "--json"))["jobs"]
    assert (listed["owner"], listed["tasks"], listed["agreed"], listed["replicas"]) == ("requester", 3, 1, 3)
    assert json.loads(run("job", "show", str(listed["id"]), "--json")) == listed
    assert "1/3" in run("job", "list")
    assert "1 agreed" in run("job", "show", str(listed["id"]))


def test_tasks_are_shown_by_state_and_page(grid: SmallGrid, run: Callable[..., str]) -> None:
    """Tasks can be asked for by state, and page by page."""
    job = str(json.loads(run("job", "list", "--json"))["jobs"][0]["id"])
    agreed = json.loads(run("task", "list", job, "--state", "agreed", "--json"))["tasks"]
    assert [(task["number"], task["state"]) for task in agreed] == [(0, "agreed")]
    page = json.loads(run("task", "list", job, "--limit", "2", "--json"))
    assert [task["number"] for task in page["tasks"]] == [0, 1]
    assert f"more: --after {page['next_after']}" in run("task", "list", job, "--limit", "2")
    rest = json.loads(run("task", "list", job, "--after", str(page["next_after"]), "--json"))
    assert [task["number"] for task in rest["tasks"]] == [2]


def test_replicas_tell_why_they_ended(grid: SmallGrid, run: Callable[..., str]) -> None:
    """Attempts can be asked for by job, task, host and state; a failed one tells its cause and message."""
    everything = json.loads(run("replica", "list", "--json"))
    assert len(everything) == 3
    (failed,) = json.loads(run("replica", "list", "--state", "failed", "--json"))
    assert (failed["host"], failed["cause"], failed["message"]) == (3, "crashed", "signal 11")
    assert "signal 11" in run("replica", "list", "--host", "3")
    agreed = json.loads(run("replica", "list", "--job", str(failed["job"]), "--task", "0", "--json"))
    assert {one["state"] for one in agreed} == {"agreed"}
    assert len({one["fingerprint"] for one in agreed}) == 1


def test_hosts_are_listed_with_what_they_are(grid: SmallGrid, run: Callable[..., str]) -> None:
    """The list of hosts tells owner, leases and machine."""
    grid.take(4)
    listed = {host["id"]: host for host in json.loads(run("host", "list", "--json"))}
    assert (listed[4]["owner"], listed[4]["leases"], listed[4]["facts"]["cores"]) == ("user4", 1, 2)
    assert listed[1]["leases"] == 0
    assert "Linux x86_64" in run("host", "list")
