"""Who may read what, asked of real databases."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from sqlalchemy import Engine, select, update
from xwgrid_schema.tables import replicas, users
from xwgrid_server import blob_rights
from xwgrid_server.database import reading

from tests.server.painted_frames import PaintedGrid, only, picture_job, strips_of
from tests.server.small_grid import SmallGrid, digest_job
from xwgrid.auditing import DENOISED
from xwgrid.model import Cause, HostId, ReplicaId, ResultFile, UserId
from xwgrid.wire import HandedBack, Lease

NOW = 1_000_000.0
ONE, TWO = UserId(1), UserId(2)


@pytest.fixture
def grid(engine: Engine) -> SmallGrid:
    """Four users with a host each."""
    return SmallGrid(engine)


def name(text: str) -> str:
    """Return the name of a blob."""
    return hashlib.sha256(text.encode()).hexdigest()


def sent(engine: Engine, user: UserId, *texts: str) -> None:
    """Note that a user sent these blobs."""
    with engine.begin() as connection:
        blob_rights.grant(connection, user, {name(text): len(text) for text in texts}, NOW)


def readable(engine: Engine, user: UserId, text: str) -> bool:
    """Ask whether a user may read a blob."""
    with reading(engine) as connection:
        return blob_rights.user_may_read(connection, user, name(text))


def test_a_blob_is_for_whom_it_was_sent_by(engine: Engine, grid: SmallGrid) -> None:
    """Each user must send it for themselves; sending it again changes nothing."""
    for _ in range(2):
        sent(engine, ONE, "scene")
    assert readable(engine, ONE, "scene")
    assert not readable(engine, TWO, "scene")
    asked = [name("other"), name("scene"), name("other")]
    with reading(engine) as connection:
        assert blob_rights.still_missing(connection, ONE, asked) == (name("other"),)
        assert blob_rights.still_missing(connection, TWO, asked) == (name("other"), name("scene"))
    sent(engine, TWO, "scene")
    assert readable(engine, TWO, "scene")


def test_very_many_names_are_asked_about(engine: Engine, grid: SmallGrid) -> None:
    """A message's 100,000 names are more than a statement takes parameters."""
    sent(engine, ONE, "text 7", "text 39999")
    asked = [name(f"text {number}") for number in range(40_000)]
    with reading(engine) as connection:
        missing = blob_rights.still_missing(connection, ONE, asked)
        assert blob_rights.sizes(connection, asked) == {name("text 7"): 6, name("text 39999"): 10}
    assert list(missing) == [each for each in asked if each not in {name("text 7"), name("text 39999")}]


def leased(grid: SmallGrid, host: int) -> Lease:
    """Hand in a job of user 1 and give its first lease to a host."""
    grid.submit(digest_job(1), owner=ONE)
    (lease,) = grid.call(host, want=1).leases
    return lease


def test_a_result_belongs_to_the_owner_of_its_job(engine: Engine, grid: SmallGrid) -> None:
    """Neither the volunteer's owner nor anybody else may read it; an operator may."""
    lease = leased(grid, 2)
    with engine.begin() as connection:
        live = blob_rights.live_lease(connection, HostId(2), lease.replica)
        assert live is not None
        blob_rights.attach(connection, live, name("picture"), 7, NOW)
    assert readable(engine, ONE, "picture")
    assert not readable(engine, TWO, "picture")
    with reading(engine) as connection:
        names = [name("picture"), name("nothing")]
        assert blob_rights.unreadable(connection, ONE, names) == {name("nothing")}
        assert blob_rights.unreadable(connection, TWO, names) == set(names)
    with engine.begin() as connection:
        connection.execute(update(users).where(users.c.id == 3).values(role="operator"))
    assert readable(engine, UserId(3), "picture")
    with reading(engine) as connection:
        again = blob_rights.live_lease(connection, HostId(2), lease.replica)
        assert again is not None
        assert again.sent == {name("picture"): 7}


def test_a_lease_is_its_hosts_while_it_lives(engine: Engine, grid: SmallGrid) -> None:
    """Another host has no such lease, and when it has ended nobody has."""
    lease = leased(grid, 2)
    with reading(engine) as connection:
        assert blob_rights.live_lease(connection, HostId(3), lease.replica) is None
        assert blob_rights.live_lease(connection, HostId(2), ReplicaId(lease.replica + 1)) is None
        assert blob_rights.host_may_read(connection, HostId(2), lease.spec)
        assert not blob_rights.host_may_read(connection, HostId(3), lease.spec)
    with engine.begin() as connection:
        connection.execute(update(replicas).where(replicas.c.id == lease.replica).values(state="lost"))
    with reading(engine) as connection:
        assert blob_rights.live_lease(connection, HostId(2), lease.replica) is None
        assert not blob_rights.host_may_read(connection, HostId(2), lease.spec)


# --- raw passes -------------------------------------------------------------------------------------------------


def files(engine: Engine, lease: Lease) -> dict[str, str]:
    """Return the blobs of a result by what they are: its "picture", and its "raw" passes."""
    with reading(engine) as connection:
        text = connection.execute(select(replicas.c.files).where(replicas.c.id == lease.replica)).scalar_one()
    decoded = msgspec.json.decode(text, type=tuple[ResultFile, ...])
    return {"raw" if file.name.endswith("_raw.exr") else "picture": file.sha256 for file in decoded}


def readable_for_host(engine: Engine, host: int, blobs: dict[str, str]) -> set[str]:
    """Return which of these blobs a host may read."""
    with reading(engine) as connection:
        return {what for what, digest in blobs.items() if blob_rights.host_may_read(connection, HostId(host), digest)}


def test_raw_passes_are_for_whoever_denoises_them(engine: Engine) -> None:
    """A host with a live audit of the denoising may read the raw passes it was given, and not the picture to come out
    of them; one that audits strips, the author and everybody else may read neither.
    """
    grid = PaintedGrid(engine, owners=6)
    grid.stand(*range(1, 7), proven=True, tested=True)
    grid.submit(picture_job(2, in_steps=True))
    author, other = grid.take(1), grid.take(4)
    grid.paint(1, author)
    grid.paint(4, other)
    leases = {host: only(grid.call(host, want=1).leases) for host in (2, 3, 5, 6)}
    held = {(lease.task, "denoised" if strips_of([lease]) == [DENOISED] else "strips") for lease in leases.values()}
    assert held == {(task, what) for task in (author.task, other.task) for what in ("denoised", "strips")}
    results = {lease.task: files(engine, lease) for lease in (author, other)}
    for host, lease in leases.items():
        for task, blobs in results.items():
            may = {"raw"} if task == lease.task and strips_of([lease]) == [DENOISED] else set()
            assert readable_for_host(engine, host, blobs) == may
    for host in (1, 4):
        for blobs in results.values():
            assert readable_for_host(engine, host, blobs) == set()


@pytest.mark.parametrize("ends", ["reported", "handed back", "lost"])
def test_raw_passes_are_closed_again_with_the_lease(engine: Engine, ends: str) -> None:
    """When the audit is reported, handed back or lost, its host may read nothing any more; a restart ends no right."""
    grid = PaintedGrid(engine, owners=3)
    grid.stand(1, 2, 3, proven=True, tested=True)
    grid.submit(picture_job(1, in_steps=True))
    author = grid.take(1)
    grid.paint(1, author)
    blobs = files(engine, author)
    leases = {host: only(grid.call(host, want=1).leases) for host in (2, 3)}
    host, lease = only((h, each) for h, each in leases.items() if strips_of([each]) == [DENOISED])
    grid.restart()
    assert readable_for_host(engine, host, blobs) == {"raw"}
    if ends == "reported":
        grid.paint(host, lease)
    elif ends == "handed back":
        grid.call(host, reports=[(lease, HandedBack(cause=Cause.OWNER))])
    else:
        grid.now += 1_000.0
        grid.coordinator.expire(grid.now)
    assert readable_for_host(engine, host, blobs) == set()


def test_the_requester_reads_raw_passes_like_any_part_of_a_result(engine: Engine) -> None:
    """They are not delivered, and no secret either: the owner of the job may read them, other users may not."""
    grid = PaintedGrid(engine, owners=3)
    grid.submit(picture_job(1, in_steps=True), owner=ONE)
    lease = grid.take(2)
    grid.paint(2, lease)
    with reading(engine) as connection:
        for digest in files(engine, lease).values():
            assert blob_rights.user_may_read(connection, ONE, digest)
            assert not blob_rights.user_may_read(connection, TWO, digest)
