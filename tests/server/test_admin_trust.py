"""What the operator sees of hosts' standing, and changes beside a running server. On SQLite and PostgreSQL."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from sqlalchemy import Engine, insert, select, update
from xwgrid_schema.tables import hosts, standings, tasks
from xwgrid_server import admin
from xwgrid_server.calls import Call
from xwgrid_server.coordinator import LOOK_EVERY
from xwgrid_server.job_store import SqlStore
from xwgrid_server.reputation import Reputation
from xwgrid_server.store import Changes, CreditChange

from tests.server.small_grid import SmallGrid, digest_job
from xwgrid.model import Credibility, HostId
from xwgrid.trust import Climate, Standing
from xwgrid.wire import WorkAnswer, WorkRequest


@pytest.fixture
def grid(engine: Engine) -> SmallGrid:
    """Four hosts of four owners; the clock is the world's, as the operator's command has no other."""
    return SmallGrid(engine, now=time.time())


class Operator:
    """Somebody at a terminal beside the server."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.file = folder / "server.toml"
        url = engine.url.render_as_string(hide_password=False)
        self.file.write_text(f'state = "{folder}"\ndatabase = "{url}"\n')

    def run(self, *arguments: str, answer: str | None = None) -> Result:
        """Run a command as it would be typed, with what is answered to its question."""
        return CliRunner().invoke(admin.main, [*arguments, "--settings", str(self.file)], input=answer)

    def says(self, *arguments: str, answer: str | None = None) -> str:
        """Run a command that must succeed; return what it printed."""
        ended = self.run(*arguments, answer=answer)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    def ask(self, *arguments: str) -> Any:
        """Run a command that must succeed, with --json."""
        return json.loads(self.says(*arguments, "--json"))


@pytest.fixture
def operator(engine: Engine, grid: SmallGrid, tmp_path: Path) -> Operator:
    """An operator of that grid."""
    return Operator(engine, tmp_path)


def put(grid: SmallGrid, host: int, standing: Standing) -> None:
    """Write how a host stands, as the server would."""
    reputation = Reputation(Climate(), 4, grid.now)
    reputation.know({HostId(host): standing})
    reputation.audited_again(HostId(host))  # touches it, so that it is written
    SqlStore(grid.engine).save(Changes(now=grid.now, standings=reputation.changes()))


def asks(grid: SmallGrid, host: int) -> WorkAnswer:
    """Have a host ask for work."""
    return grid.call(host, want=1)


# --- what is seen -----------------------------------------------------------------------------------------------


def test_hosts_are_listed_the_worst_first(grid: SmallGrid, operator: Operator) -> None:
    """Set aside, wrong lately, new, proven; the list fits a terminal, whatever the hosts are called."""
    put(grid, 1, Standing(proven=True, valid=100, tested=True))
    put(grid, 2, Standing(on_record=1, wrong=1))
    put(grid, 3, Standing(quarantined_until=grid.now + 7_200, wrong=2, quarantines=1))
    with grid.engine.begin() as connection:
        connection.execute(update(hosts).where(hosts.c.id == 3).values(name="\x1b[31m" + "evil" * 45))
    listed = operator.ask("trust", "list")
    assert [(one["host"], one["rank"]) for one in listed] == [
        (3, "set aside"),
        (2, "on probation"),
        (4, "new"),
        (1, "proven"),
    ]
    text = operator.says("trust", "list")
    assert max(map(len, text.splitlines())) <= 79
    assert "\x1b" not in text
    assert "2 h" in text.splitlines()[1]
    assert operator.says("trust", "list", "--limit", "1").endswith("and 3 more: --limit 4\n")


def test_a_host_is_shown_with_the_reason(grid: SmallGrid, operator: Operator) -> None:
    """Its own page has what its owner is told, its results, units by requester, and credit."""
    put(grid, 1, Standing(earned={1_000: 2.5}, valid=7, wrong=1, streak=3))  # type: ignore[dict-item]
    shown = operator.ask("trust", "show", "1")
    assert shown["standing"]["earned"] == {"requester": 2.5}
    assert shown["standing"]["told"].startswith("new: 2.5 of 10 units")
    text = operator.says("trust", "show", "1")
    assert "7 valid, 1 wrong; 3 valid since the last wrong one" in text
    assert "2.5 for requester of 10 units" in text
    assert "host 2 host2: new" in operator.says("trust", "show", "--user", "user2")
    assert operator.says("trust", "show", "--user", "requester") == "requester has no hosts\n"


def test_the_grid_is_shown_as_a_whole(grid: SmallGrid, operator: Operator) -> None:
    """How many hosts stand how, and how much their results are doubted."""
    put(grid, 1, Standing(vouched=True))
    shown = operator.ask("trust", "show")
    assert (shown["hosts"]["new"], shown["hosts"]["vouched for"]) == (3, 1)
    assert 0 < shown["lie_rate"] <= shown["wrong_rate"] < 0.01
    assert "3 new, 1 vouched for" in operator.says("trust", "show")


def test_credit_is_told_by_user_host_and_application(grid: SmallGrid, operator: Operator) -> None:
    """The sum of a user's hosts, each by itself, and on the page of a host."""
    with grid.engine.begin() as connection:
        connection.execute(insert(hosts).values(id=9, owner_id=1, name="attic", enrolled_at=grid.now))
    change = [("blender", 1, 3_600.0), ("digest", 1, 36.0), ("blender", 9, 7_200.0)]
    rows = [CreditChange(host=HostId(host), application=name, seconds=worth, results=2) for name, host, worth in change]
    SqlStore(grid.engine).save(Changes(now=grid.now, credits=rows))
    table = [line.split() for line in operator.says("user", "credit").splitlines()]
    assert ["user1", "2", "blender", "4", "3.00"] in table
    assert ["user1", "1", "digest", "2", "0.01"] in table
    assert "9 attic" in operator.says("user", "credit", "user1", "--hosts")
    assert operator.says("user", "credit", "user2") == "nobody's work was validated yet\n"
    assert len(operator.ask("user", "credit", "user1")) == 3
    assert "blender 2.00 h (2 results)" in operator.says("host", "show", "9")
    assert operator.ask("host", "show", "9")["credit"][0]["seconds"] == 7_200.0


# --- what is changed beside a running server ---------------------------------------------------------------------


def test_a_host_that_is_set_aside_gets_no_more_work(grid: SmallGrid, operator: Operator) -> None:
    """From its next call on, with the operator's reason; when it is forgotten, it gets some again."""
    grid.submit(digest_job(9, replicas=1, quorum=1))
    grid.do(1, grid.take(1))
    operator.says("trust", "quarantine", "1", "--for", "3d", "--reason", "its memory is bad", "--yes")
    answer = asks(grid, 1)
    assert answer.leases == ()
    assert answer.reason == "this host is set aside for 72.0 more hours: its memory is bad"
    assert answer.standing == "set aside for 72.0 more hours: its memory is bad"
    operator.says("trust", "reset", "1", "--yes")
    grid.do(1, grid.take(1))
    operator.says("trust", "quarantine", "1", "--yes")
    assert "24.0 more hours: the operator set it aside" in (asks(grid, 1).reason or "")


def test_the_operators_word_is_not_written_over(grid: SmallGrid, operator: Operator) -> None:
    """What the server decided before the operator's change, and writes after it, does not undo the change."""
    put(grid, 1, Standing(valid=5))
    store = SqlStore(grid.engine)
    read_before = store.standings([HostId(1)])
    operator.says("trust", "quarantine", "1", "--yes")
    reputation = Reputation(Climate(), 4, grid.now)
    reputation.know(read_before)
    reputation.audited_again(HostId(1))
    store.save(Changes(now=grid.now, standings=reputation.changes()))
    assert store.standings([HostId(1)])[HostId(1)].quarantined_until is not None
    # And of a host that had no row.
    unread = Reputation(Climate(), 4, grid.now)
    unread.audited_again(HostId(2))
    operator.says("trust", "vouch", "2")
    store.save(Changes(now=grid.now, standings=unread.changes()))
    assert store.standings([HostId(2)])[HostId(2)].vouched


def test_what_a_host_that_is_set_aside_had_accepted_is_looked_at_again(grid: SmallGrid, operator: Operator) -> None:
    """Within a minute, though the host never calls again, and the server was not started anew."""
    job = grid.submit(replace(digest_job(2), policy=Credibility(epsilon=0.5)))
    lease = grid.take(1)
    grid.do(1, lease)
    operator.says("trust", "quarantine", "1", "--yes")
    grid.now += LOOK_EVERY + 100
    grid.coordinator.expire(grid.now)
    with grid.engine.connect() as connection:
        query = select(tasks.c.accepted_before).where(tasks.c.job_id == job, tasks.c.number == lease.task)
        assert connection.execute(query).scalar_one() == lease.replica
        assert not connection.execute(select(standings.c.audit_again).where(standings.c.host_id == 1)).scalar_one()


def test_an_operator_vouches_for_a_host(grid: SmallGrid, operator: Operator) -> None:
    """It is trusted from its next call on, and no longer when that is withdrawn."""
    assert "the operator vouches for it" in operator.says("trust", "vouch", "1")
    said = grid.coordinator.serve([Call(HostId(1), WorkRequest(call=1, want=1))], [], grid.now).answers[0]
    assert isinstance(said, WorkAnswer)
    assert said.standing == "trusted: the operator vouches for it"
    assert operator.ask("trust", "vouch", "1", "--no")["vouched"] is False


def test_the_operator_is_asked_before_something_is_lost(grid: SmallGrid, operator: Operator) -> None:
    """No answer, or no: nothing is changed, and it is said so; yes does it."""
    put(grid, 1, Standing(proven=True, valid=9))
    for command in ("reset", "quarantine"):
        refused = operator.run("trust", command, "1", answer="n\n")
        assert (refused.exit_code, refused.stdout) == (1, "")
        silent = operator.run("trust", command, "1", answer="")
        assert (silent.exit_code, silent.stdout) == (2, "")
        assert "say --yes" in silent.stderr
        assert operator.ask("trust", "show", "1")["standing"]["rank"] == "proven"
    assert "begins anew" in operator.says("trust", "reset", "1", answer="y\n")
    assert operator.ask("trust", "show", "1")["standing"]["valid"] == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("trust", "show", "99"), "there is no host 99"),
        (("trust", "show", "1", "--user", "user1"), "leave HOST out, or --user"),
        (("trust", "show", "--user", "nobody"), "no user 'nobody'"),
        (("trust", "show", "x"), "'x' is not a valid integer"),
        (("trust", "show", "0"), "not in the range"),
        (("trust", "show", "9" * 40), "not in the range"),
        (("trust", "list", "--limit", "0"), "not in the range"),
        (("trust", "reset", "99", "--yes"), "there is no host 99"),
        (("trust", "vouch", "99"), "there is no host 99"),
        (("trust", "quarantine", "99", "--yes"), "there is no host 99"),
        (("trust", "quarantine", "1", "--for", "soon", "--yes"), "30m, 12h or 7d"),
        (("trust", "quarantine", "1", "--for", "0d", "--yes"), "no span of time"),
        (("trust", "quarantine", "1", "--for", "nan", "--yes"), "no span of time"),
        (("trust", "quarantine", "1", "--for", "999999999d", "--yes"), "ten years at most"),
        (("trust", "quarantine", "1", "--reason", "x" * 201, "--yes"), "at most 200 printable characters"),
        (("trust", "quarantine", "1", "--reason", "\x1b[2Jgone", "--yes"), "printable"),
        (("user", "credit", "nobody"), "no user 'nobody'"),
        (("host", "show", "99"), "there is no host 99"),
    ],
)
def test_what_cannot_be_is_refused(
    grid: SmallGrid, operator: Operator, arguments: tuple[str, ...], sentence: str
) -> None:
    """Exit status 2, a sentence, and no standing is written."""
    ended = operator.run(*arguments)
    assert (ended.exit_code, ended.stdout) == (2, ""), ended.output
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    with grid.engine.connect() as connection:
        assert connection.execute(select(standings)).all() == []
