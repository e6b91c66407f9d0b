"""Bad input, as a user meets it: real commands, a real server, a sentence, exit status 2, and nothing half-done.

What is only one part's business is tested with that part; docs/bad-input.md lists it all.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import func, select, text, update
from xwgrid_schema.tables import blobs, hosts, jobs, tokens, users
from xwgrid_server import database

from tests.grid import BIN, Grid
from tests.people import Ended, Person
from tests.rendering import tiny_scene
from tests.requester.https_server import SmallServer
from tests.server.callers import Requester
from xwgrid import wire
from xwgrid.model import (
    JobId,
    JobState,
)
from xwgrid.requester.settings import save_credentials

MILLION = 1_000_000
# Of one command on a busy machine; each of them would take minutes if it cost something for every frame.
QUICK_SECONDS = 15.0


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grid]:
    """A running server without volunteers."""
    with Grid(tmp_path_factory.mktemp("grid")) as running:
        yield running


@pytest.fixture(scope="module")
def ada(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """A requester."""
    return Person(grid, tmp_path_factory.mktemp("people"), "ada")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene of 64 by 36 pixels."""
    return tiny_scene(tmp_path_factory.mktemp("scene"))


def traces(grid: Grid) -> tuple[Any, ...]:
    """Return all that a refused call might have left on a server."""
    with grid.engine.connect() as connection:
        rows = [connection.execute(select(func.count()).select_from(each)).scalar() for each in (jobs, blobs, hosts)]
    files = [path for path in grid.settings.blobs_folder.rglob("*") if path.is_file()]
    return rows, sorted(files), sorted(grid.settings.staging_folder.iterdir())


# --- scenes and wishes ----------------------------------------------------------------------------------------------


def test_a_scene_that_is_none_leaves_nothing(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """Not a .blend, one cut in half, one of a newer Blender: nothing is sent, and no output folder is made."""
    whole = scene.read_bytes()
    wrong = {
        "text": (b"not a scene", "is not a .blend file"),
        "cut": (whole[: len(whole) // 2], "is truncated or damaged"),
        "newer": (whole.replace(b"BLENDER-v405", b"BLENDER-v909", 1), "was saved by Blender 9.9, which is newer"),
    }
    before = traces(grid)
    for name, (data, sentence) in wrong.items():
        file = tmp_path / f"{name}.blend"
        file.write_bytes(data)
        ada.run("submit", str(file), "--out", str(tmp_path / "out")).refused(sentence, f"{name}.blend")
    assert traces(grid) == before
    assert not (tmp_path / "out").exists()


def test_wishes_are_refused_by_the_server_too(grid: Grid, tmp_path: Path) -> None:
    """A program that skips our command's checks meets them again: backwards, step 0, no samples, and no job is made."""
    with Requester(grid) as caller:
        sent = caller.send(b"a scene")
        work = {"application": "blender", "scene_file": sent.path, "width": 64, "height": 36}
        good: dict[str, Any] = {"name": "x", "work": work, "split": {"by": "frames", "first": 1, "last": 2}}
        good["inputs"] = [{"path": sent.path, "sha256": sent.sha256, "size": sent.size}]
        before = traces(grid)
        for changes, sentence in (
            ({"split": {"by": "frames", "first": 10, "last": 1}}, "runs backwards: write 1-10"),
            ({"split": {"by": "frames", "first": 1, "last": 10, "step": 0}}, "step of 0"),
            ({"split": {"by": "frames", "first": 1, "last": 10, "step": -1}}, "is empty"),
            ({"work": {**work, "samples": 0}}, "samples"),
            ({"work": {**work, "scene_file": "other.blend"}}, "add it under exactly this path"),
        ):
            answer = caller.http.post("/v1/jobs", json={**good, **changes})
            assert answer.status_code == 400, answer.text
            assert sentence in answer.json()["message"]
        assert traces(grid) == before


def test_policies_that_make_no_sense_leave_nothing(grid: Grid, ada: Person, scene: Path) -> None:
    """An epsilon that is none, wishes that exclude each other, a policy the server does not give: no job, no blob."""
    before = traces(grid)
    for options, sentence in (
        (("--policy", "audit", "--epsilon", "0"), "epsilon 0.0 is no chance to put up with"),
        (("--policy", "audit", "--epsilon", "0.51"), "must be above 0 and at most 0.5"),
        (("--policy", "credibility", "--epsilon", "nan"), "epsilon nan"),
        (("--policy", "boinc"), "'boinc' is not one of"),
        (("--policy", "audit", "--quorum", "3"), "--quorum does not go with --policy audit"),
        (("--replicas", "2", "--quorum", "3"), "raise --replicas to 3"),
        (("--deadline", "yesterday"), "'yesterday' is no deadline"),
        (("--deadline", "in 0s"), "no span of time"),
    ):
        ada.run("submit", str(scene), *options).refused(sentence)
    assert traces(grid) == before


def test_an_audit_that_cannot_be_is_told(grid: Grid, ada: Person, scene: Path) -> None:
    """A job that cannot be rendered in parts is replicated; its view, `show` and `watch` say why."""
    job = ada.ask("submit", str(scene), "--frames", "1", "--format", "jpeg", "--policy", "audit")
    assert job["policy"]["by"] == "fixed"
    assert job["policy_note"].startswith("replicated instead of audited: JPEG")
    shown = ada.run("show", str(job["id"])).out
    assert f"checked by fixed replication, 2 equal results ({job['policy_note']})" in shown
    ada.ask("cancel", str(job["id"]))


def test_an_output_folder_that_cannot_be_written(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """A file where the folder should be is told before the job is handed in."""
    (tmp_path / "file").write_text("x")
    before = traces(grid)
    ada.run("submit", str(scene), "--out", str(tmp_path / "file" / "out")).refused("cannot be written", "--out")
    assert traces(grid) == before


def test_refusals_are_json_for_programs(ada: Person, scene: Path, tmp_path: Path) -> None:
    """With --json every command refuses with an ErrorBody on standard error, and the same exit status."""
    volunteer = tmp_path / "volunteer.toml"
    volunteer.write_text(f"state = {json.dumps(str(tmp_path / 'state'))}\n")
    commands = (
        ("xwgrid", "--settings", str(ada.settings), "show", "999999", "--json"),
        ("xwgrid", "--settings", str(ada.settings), "submit", str(scene), "--frames", "10-1", "--json"),
        ("xwgrid", "--settings", str(ada.settings), "submit", str(scene), "--epsilon", "0", "--json"),
        ("xwgrid-admin", "trust", "reset", "99", "--yes", "--settings", str(ada.grid.settings_file), "--json"),
        ("xwgrid-admin", "host", "ban", "nobody", "--reason", "x", "--settings", str(ada.grid.settings_file), "--json"),
        ("xwgrid-volunteer", "enrol", "--json", "--token-file", "-", "--settings", str(volunteer)),
    )
    for program, *arguments in commands:
        ended = Ended([str(BIN / program), *arguments], "no token", ada.grid.environment)
        ended.refused()
        body = wire.decode(ended.said, wire.ErrorBody)
        assert body.code in {"not_found", "bad_input"}
        assert body.message


def larger(scene: bytes, size: int) -> bytes:
    """Return a scene as it is, with a block of `size` bytes more in it that nothing refers to."""
    at = scene.rindex(b"DNA1")
    return scene[:at] + struct.pack("<4siQii", b"DATA", size, 0xABCDEF, 0, 1) + bytes(size) + scene[at:]


def test_a_disk_that_fills_up_while_a_scene_arrives(grid: Grid, ada: Person, scene: Path, tmp_path: Path) -> None:
    """The server's sentence reaches the requester; no job, no blob and no half upload is left; later it works."""
    big = tmp_path / "big.blend"
    big.write_bytes(larger(scene.read_bytes(), 8 << 20))
    before = traces(grid)
    server = grid.server.process_id
    limits = resource.prlimit(server, resource.RLIMIT_FSIZE)
    # Less than the scene, more than any file the database has yet.
    resource.prlimit(server, resource.RLIMIT_FSIZE, (7 << 20, limits[1]))
    try:
        ada.run("submit", str(big), "--frames", "1").refused("the server's disk is full", "try again")
    finally:
        resource.prlimit(server, resource.RLIMIT_FSIZE, limits)
    assert traces(grid) == before
    job = ada.ask("submit", str(big), "--frames", "1")["id"]
    ada.ask("cancel", str(job))


def test_a_million_frames_are_quick(ada: Person, scene: Path) -> None:
    """Handed in, listed, shown, watched and cancelled: each takes seconds."""
    ended = ada.run("submit", str(scene), "--frames", f"1-{MILLION}", "--samples", "1", "--json")
    assert ended.status == 0, ended.said
    took = {"submit": ended.seconds}
    job = JobId(json.loads(ended.out)["id"])
    began = time.monotonic()
    with ada.grid.client(ada.name) as client:
        for event in client.events(job):
            if event.job.state is not JobState.ENTERING:
                break
    took["open"] = time.monotonic() - began
    for command in ("jobs", "show", "cancel", "watch"):
        named = () if command == "jobs" else (str(job),)
        ended = ada.run(command, *named)
        assert ended.status == (1 if command == "watch" else 0), ended.said  # a cancelled job did not finish
        assert f"of {MILLION} frames" in ended.out or command == "jobs"
        took[command] = ended.seconds
    ended = ada.run("show", str(job), "--task", str(MILLION - 1))
    assert f"frame {MILLION} (task {MILLION - 1}): cancelled" in ended.out
    assert max(took.values()) < QUICK_SECONDS, took


# --- the server's database ------------------------------------------------------------------------------------------


def test_a_server_whose_database_is_newer_does_not_start(tmp_path: Path) -> None:
    """The server and the admin command end with 2, say what to do, and leave the database as it is."""
    file = tmp_path / "server.toml"
    settings = ["--settings", str(file)]
    environment = dict(os.environ)
    made = Ended(
        [str(BIN / "xwgrid-admin"), "init", *settings, "--state", str(tmp_path / "state"), "--api", "127.0.0.1:0"],
        None, environment,
    )  # fmt: skip
    assert made.status == 0, made.said
    path = tmp_path / "state" / "xwgrid.sqlite"
    engine = database.open_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for program, *arguments in (("xwgrid-server", "run"), ("xwgrid-admin", "user", "list")):
        ended = Ended([str(BIN / program), *arguments, *settings], None, environment)
        ended.refused("revision 9999", "newer xwgrid", "Install that version, or restore the backup")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"
        assert connection.execute(select(func.count()).select_from(users)).scalar() == 1
    engine.dispose()
    assert not (tmp_path / "state" / "listening.json").exists()


# --- who it is ------------------------------------------------------------------------------------------------------


def test_tokens_that_are_wrong_or_expired(grid: Grid, ada: Person, tmp_path: Path) -> None:
    """Another secret, half a token, an expired one: `login` keeps nothing; a token that expires later stops working."""
    stranger = Person(grid, tmp_path, "stranger")
    good = grid.token("requester", "stranger")
    shutil.rmtree(stranger.credentials)
    swapped = replace(grid.credentials("stranger").token, secret=b"x" * 32).text()
    for wrong, sentence in (("hello", "xwgrid-admin token requester"), (good[:60], "damaged"), (swapped, "token")):
        stranger.run("login", "--token-file", "-", given=wrong).refused(sentence)
    assert not stranger.credentials.exists()
    assert stranger.run("login", "--token-file", "-", given=good).status == 0
    with grid.engine.begin() as connection:
        owner = select(users.c.id).where(users.c.name == "stranger").scalar_subquery()
        connection.execute(update(tokens).where(tokens.c.user_id == owner).values(expires_at=time.time() - 1))
    stranger.run("jobs").refused("expired")
    shutil.rmtree(stranger.credentials)
    stranger.run("login", "--token-file", "-", given=good).refused("expired")
    assert not stranger.credentials.exists()


def test_a_server_of_another_ca_is_told_nothing(grid: Grid, tmp_path: Path) -> None:
    """Whoever answers at the server's address with another CA's certificate gets no token, no scene, and no login."""
    person = Person(grid, tmp_path, "wary")
    with SmallServer(tmp_path) as other:
        true = grid.credentials("wary")
        moved = replace(true.token, url=other.token().url)
        save_credentials(person.credentials, replace(true, token=moved))
        person.run("jobs").refused("is not the one you logged in to", "nothing was sent")
        shutil.rmtree(person.credentials)
        person.run("login", "--token-file", "-", given=moved.text()).refused()
        assert [call for call in other.asked if call != "GET ca"] == []
    assert not person.credentials.exists()


def test_an_enrolment_token_used_twice(grid: Grid, ada: Person, tmp_path: Path) -> None:
    """The second machine is refused with what to do, is no host, and keeps no identity."""
    given = grid.token("enrol", "ada")
    ended = []
    for name in ("first", "second"):
        file = tmp_path / f"{name}.toml"
        file.write_text(f"state = {json.dumps(str(tmp_path / name))}\n")
        command = [str(BIN / "xwgrid-volunteer"), "enrol", "--settings", str(file), "--token-file", "-", "--name", name]
        ended.append(Ended(command, given, grid.environment))
    assert ended[0].status == 0, ended[0].said
    ended[1].refused("was used already", "ask for another")
    with grid.engine.connect() as connection:
        named = connection.execute(select(hosts.c.name).where(hosts.c.name.in_(["first", "second"]))).scalars()
        assert list(named) == ["first"]
    # An empty file that keeps two commands from each other's way stays.
    assert {path.name for path in (tmp_path / "second").rglob("*") if path.is_file()} <= {"lock"}
