"""A grid to which anything may happen: volunteers honest or not, policies of all kinds, a server that is killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import Row, event, insert
from xwgrid_schema.tables import hosts, standings, users
from xwgrid_server import standings as operator
from xwgrid_server.calls import Call, Effects, Reading, ReadOrder
from xwgrid_server.database import open_engine

from tests.server.grid_books import Books
from tests.server.painted_frames import HEIGHT, RIGHT, Painter, Picture, picture_job
from tests.server.small_grid import REQUESTER, SPEC, digest_job, facts
from tests.server.unlucky_grid import UnluckyGrid, Volunteer, outcome_of
from xwgrid.errors import Conflict, UnreadableResult
from xwgrid.model import Audit, Credibility, HostId, JobId, JobRequest, ReplicaId, UserId
from xwgrid.trust import QUARANTINE
from xwgrid.wire import Lease, Outcome, WorkAnswer, WorkRequest

OWNERS = 5
# Hosts 1 … 5 are of the owners 1 … 5; owner 1 has a second one of the same class, owner 2 one of another.
CLASS_OF = {1: "any", 2: "any", 3: "any", 4: "odd", 5: "any", 6: "any", 7: "odd"}
OWNER_OF = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 1, 7: 2}
NEW_OWNERS = range(101, 108)
MOST_JOBS = 5
# What may become of a frame: liars who spoil it in one way pass each other's audits; another lie is a small one; and
# where frames are denoised in a step of its own, a hand may come after it.
PICTURES = {"lie": Picture(0, HEIGHT, 1), "other lie": Picture(20, 10, 2), "late lie": Picture(touched=3)}

_VOLUNTEER = st.sampled_from(sorted(CLASS_OF))
_OUTCOMES = st.sampled_from(["right", "right", "right", "lie", "other lie", "late lie", "fail", "hand back"])
# What each host makes of its work for a while.
_CHARACTERS = st.one_of(
    _OUTCOMES.map(lambda how: [how] * len(CLASS_OF)),
    st.lists(st.sampled_from(["right", "right", "lie"]), min_size=len(CLASS_OF), max_size=len(CLASS_OF)),
    st.lists(_OUTCOMES, min_size=len(CLASS_OF), max_size=len(CLASS_OF)),
)
_POLICIES = st.sampled_from([None, None, Credibility(), Credibility(epsilon=0.2), Audit(), Audit(), Audit(epsilon=0.3)])
# Tasks, quorum, replicas beyond it, whether it is private, whose it is, what it is of, and how it is checked.
_JOB = st.tuples(
    st.integers(1, 6),
    st.integers(1, 2),
    st.integers(0, 2),
    st.booleans(),
    st.sampled_from([1, 2, REQUESTER, REQUESTER]),
    st.sampled_from(["digests", "film", "denoised film"]),
    _POLICIES,
)
_FAILS = st.sampled_from(["before save", "after save", "tasks", "job"])
# Host, leases wanted, whether the answer is lost, whether it is a held call looked at again.
_CALL = st.tuples(_VOLUNTEER, st.integers(0, 3), st.booleans(), st.booleans())

JobWish = tuple[int, int, int, bool, int, str, Any]


class AnyGrid(RuleBasedStateMachine):
    """Volunteers of several owners, and a server; the machine is the network, the readers and the clock."""

    def __init__(self, migrated: Path, folder: Path) -> None:
        super().__init__()
        database = folder / "grid.sqlite"
        for old in folder.glob("grid.sqlite*"):
            old.unlink()
        shutil.copy(migrated, database)
        self.engine = open_engine(f"sqlite:///{database}")
        event.listen(self.engine, "connect", _without_syncing)
        self.grid = UnluckyGrid(self.engine, owners=OWNERS)
        self.painter = Painter(self.engine)
        self.books = Books(self.engine)
        self.requests: dict[JobId, JobRequest] = {}
        self.to_read: dict[ReplicaId, ReadOrder] = {}
        self.volunteers = {host: Volunteer(host) for host in CLASS_OF}
        with self.engine.begin() as connection:
            for host in (6, 7):
                connection.execute(insert(hosts).values(_host(host, OWNER_OF[host], self.grid.now)))
        for host, result_class in CLASS_OF.items():
            self._introduce(host, result_class)

    # --- requesters ---------------------------------------------------------------------------------------------

    @initialize(
        wishes=st.lists(_JOB, min_size=1, max_size=3),
        trusted=st.sets(_VOLUNTEER),
        draw_from=st.sampled_from([1, 2, 1_000]),
        characters=_CHARACTERS,
        rounds=st.integers(0, 10),
    )
    def begin(
        self, wishes: list[JobWish], trusted: set[int], draw_from: int, characters: list[str], rounds: int
    ) -> None:
        """Begin with open jobs that some work was done for, and hosts that proved themselves in others."""
        with self.engine.begin() as connection:
            for host in trusted:
                connection.execute(insert(standings).values(host_id=host, proven=True, tested=True))
        self.grid.draw_from = draw_from
        self.restart()
        for wish in wishes:
            self.submit(wish)
        self.enter(10)
        self.keep_at_it(characters, rounds, 1)

    @rule(wish=_JOB)
    @precondition(lambda self: len(self.books.jobs()) < MOST_JOBS)
    def submit(self, wish: JobWish) -> None:
        """Hand a job in; its tasks are entered later."""
        count, quorum, more, private, owner, of, policy = wish
        private = private and owner != REQUESTER
        if of == "digests":
            request = digest_job(count, replicas=quorum + more, quorum=quorum, private=private)
        else:
            in_steps = of == "denoised film"
            request = picture_job(count, replicas=quorum + more, quorum=quorum, private=private, in_steps=in_steps)
        request = msgspec.structs.replace(request, policy=policy)
        job = self.grid.coordinator.begin_job(UserId(owner), request, SPEC, frozenset(), self.grid.now)
        self.requests[job] = request

    @rule(slab=st.integers(1, 8))
    def enter(self, slab: int) -> None:
        """Enter some tasks of the jobs that are not open yet."""
        for job in self.grid.coordinator.entering():
            self.grid.coordinator.enter(job, slab)

    @rule(data=st.data(), what=st.sampled_from(["cancel", "retry", "retry", "retry"]))
    @precondition(lambda self: self.books.jobs())
    def steer(self, data: st.DataObject, what: str) -> None:
        """Cancel a job, or retry one."""
        row = data.draw(st.sampled_from(self.books.jobs()))
        try:
            if what == "cancel":
                self.grid.coordinator.cancel_job(UserId(row.owner_id), JobId(row.id), self.grid.now)
            else:
                self.grid.coordinator.retry_job(UserId(row.owner_id), JobId(row.id))
                self.books.retried.add(row.id)
        except Conflict:
            assert row.state in {"finished", "cancelled"} or what == "retry"

    # --- volunteers ---------------------------------------------------------------------------------------------

    @rule(host=_VOLUNTEER, outcomes=st.lists(_OUTCOMES, min_size=1, max_size=4))
    def work(self, host: int, outcomes: list[str]) -> None:
        """End some leases, in one way or another; the next call tells."""
        volunteer = self.volunteers[host]
        running = [lease for replica, lease in volunteer.held.items() if replica not in volunteer.outbox]
        for lease, how in zip(running, outcomes, strict=False):
            volunteer.outbox[lease.replica] = (lease, self._outcome(how, lease))

    @rule(
        turns=st.lists(st.tuples(_VOLUNTEER, _OUTCOMES), min_size=1, max_size=8),
        want=st.integers(0, 3),
        seconds=st.sampled_from([0.0, 1.0, 30.0]),
    )
    def take_turns(self, turns: list[tuple[int, str]], want: int, seconds: float) -> None:
        """Hosts end what they have, report it, and take more, one after the other; what they send is read."""
        for host, how in turns:
            self.grid.now += seconds
            self.work(host, [how] * 8)
            self._serve([(host, want, False, False)])
            self._read_all()
            self._draw()

    @rule(characters=_CHARACTERS, rounds=st.integers(1, 6), want=st.integers(1, 3))
    def keep_at_it(self, characters: list[str], rounds: int, want: int) -> None:
        """All hosts work for some rounds, each in its own way: honest ones, friends who lie, those that fail."""
        for left in reversed(range(rounds)):
            self.grid.now += 20
            for host, how in zip(CLASS_OF, characters, strict=True):
                self.work(host, [how] * 8)
            self._serve([(host, want if left else 0, False, False) for host in CLASS_OF])
            self._read_all()
            self._draw()

    @rule(calls=st.lists(_CALL, min_size=1, max_size=4))
    def call(self, calls: list[tuple[int, int, bool, bool]]) -> None:
        """Some hosts call, and are answered in one batch; answers get lost on the way."""
        self._serve(calls)

    @rule(host=_VOLUNTEER, want=st.integers(0, 2))
    def call_once_more(self, host: int, want: int) -> None:
        """A host calls twice at once, on two connections; its answers arrive in the wrong order."""
        volunteer = self.volunteers[host]
        requests = [volunteer.request(want), volunteer.request(want)]
        served = self.grid.coordinator.serve([Call(HostId(host), each) for each in requests], [], self.grid.now)
        self._follow(served.effects)
        for answer in reversed(served.answers):
            assert isinstance(answer, WorkAnswer)
            volunteer.hear(answer)

    @rule(host=_VOLUNTEER)
    def forget(self, host: int) -> None:
        """A volunteer's disk is wiped: it comes back without its leases and results."""
        self.volunteers[host].held.clear()
        self.volunteers[host].outbox.clear()

    @rule(host=_VOLUNTEER, what=st.sampled_from(["set aside", "set aside", "vouch", "reset"]), later=st.booleans())
    def operate(self, host: int, what: str, later: bool) -> None:
        """The operator changes how a host stands, beside the running server, which learns of it in time."""
        if what == "set aside":
            operator.set_aside(self.engine, HostId(host), 3_600.0, "", self.grid.now)
        elif what == "vouch":
            operator.vouch(self.engine, HostId(host), good=True)
        else:
            operator.reset(self.engine, HostId(host))
        if not later:
            self.pass_time(100.0)

    # --- readers ------------------------------------------------------------------------------------------------

    @rule(data=st.data(), unreadable=st.booleans(), with_calls=st.lists(_CALL, max_size=2))
    @precondition(lambda self: self.to_read)
    def read(self, data: st.DataObject, unreadable: bool, with_calls: list[tuple[int, int, bool, bool]]) -> None:
        """Some results are read, in any order, in one batch with calls; one of them may be no picture."""
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.to_read)), min_size=1, max_size=3, unique=True))
        readings = [self.painter.read(self.to_read[replica]) for replica in chosen]
        if unreadable:
            readings[0] = Reading(chosen[0], UnreadableResult("it is no picture"))
        self._serve(with_calls, readings)

    # --- time and trouble ---------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1.0, 40.0, 100.0, 1_000.0, QUARANTINE]))
    def pass_time(self, seconds: float) -> None:
        """Let time pass; leases that ran out are ended."""
        self.grid.now += seconds
        self._follow(self.grid.coordinator.expire(self.grid.now))

    @rule()
    def draw(self) -> None:
        """Draw who checks what is due."""
        self._draw()

    @rule()
    def restart(self) -> None:
        """Kill the server and start it again."""
        self.grid.restart()
        self._look_for_unread()

    @rule(calls=st.lists(_CALL, min_size=1, max_size=4), fails=_FAILS, twice=st.booleans(), reads=st.booleans())
    def fail(self, calls: list[tuple[int, int, bool, bool]], fails: str, twice: bool, reads: bool) -> None:
        """The database fails in a batch, in expiry, or in the reading of jobs that comes after."""
        self.grid.store.fails = fails
        try:
            self._serve(calls, [self.painter.read(order) for order in self.to_read.values()] if reads else [])
            if twice:
                self._draw()
                self._follow(self.grid.coordinator.expire(self.grid.now))
        except OSError:
            self._look_for_unread()
        self.grid.store.fails = ""

    @rule(data=st.data(), expire_first=st.booleans(), fails=_FAILS)
    @precondition(lambda self: self.books.jobs())
    def fail_elsewhere(self, data: st.DataObject, expire_first: bool, fails: str) -> None:
        """The database fails while a job is cancelled, retried or opened, or while leases run out."""
        self.grid.store.fails = fails
        self.grid.now += 1_000
        try:
            if expire_first:
                self._follow(self.grid.coordinator.expire(self.grid.now))
            for job in self.grid.coordinator.entering():
                self.grid.coordinator.enter(job)
            self._follow(self.grid.coordinator.expire(self.grid.now))
            row = data.draw(st.sampled_from(self.books.jobs()))
            self.grid.coordinator.retry_job(UserId(row.owner_id), JobId(row.id))
        except (OSError, Conflict):
            self._look_for_unread()
        self.books.retried.update(row.id for row in self.books.jobs())
        self.grid.store.fails = ""

    # --- what is always so --------------------------------------------------------------------------------------

    @invariant()
    def tasks_are_what_their_attempts_say(self) -> None:
        """One canonical result, no voter twice, and what is wanted is what the policy asks for."""
        self.books.check_tasks()

    @invariant()
    def counts_are_what_the_rows_say(self) -> None:
        """A job's counts and its state follow from its tasks and replicas."""
        self.books.check_counts()

    @invariant()
    def credit_is_for_what_was_validated(self) -> None:
        """No credit without a verdict, and the sums agree."""
        self.books.check_credit()

    @invariant()
    def the_index_is_what_the_database_says(self) -> None:
        """Unless a step was broken off, which is made good by the next one."""
        if not self.grid.coordinator._unsure:
            self.books.check_index(self.grid.coordinator)

    # --- the end ------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Honest hosts that keep calling, some of them new, finish every job that is not ended."""
        try:
            for job in self.grid.coordinator.entering():
                while self.grid.coordinator.enter(job).left:
                    pass
            self._bring_new_hosts()
            for _ in range(80):
                if not self._unfinished():
                    break
                self.grid.now += 40
                self._follow(self.grid.coordinator.expire(self.grid.now))
                self._draw()
                for host, volunteer in self.volunteers.items():
                    self.work(host, ["right"] * len(volunteer.held))
                self._serve([(host, 5, False, False) for host in self.volunteers])
                self._read_all()
            self.books.check_tasks()
            self.books.check_counts()
            self.books.check_credit()
            self.books.check_index(self.grid.coordinator)
            assert self._unfinished() == []
        finally:
            self.engine.dispose()

    def _unfinished(self) -> list[Row[Any]]:
        return [row for row in self.books.jobs() if row.finished_at is None]

    def _bring_new_hosts(self) -> None:
        # For the private jobs of owners 1 and 2 as well; each owner with a host of each class. Where liars were the
        # majority, a known answer may be a lie that sets honest hosts aside: so the operator vouches for most.
        owners = [*NEW_OWNERS, 1, 1, 1, 1, 2, 2, 2, 2]
        classes = [(owner, result_class) for owner in owners for result_class in ("any", "odd")]
        with self.engine.begin() as connection:
            for new in NEW_OWNERS:
                connection.execute(insert(users).values(id=new, name=f"user{new}", created_at=self.grid.now))
            for number, (owner, _) in enumerate(classes, start=200):
                connection.execute(insert(hosts).values(_host(number, owner, self.grid.now)))
                if owner != NEW_OWNERS[0]:
                    connection.execute(insert(standings).values(host_id=number, vouched=True))
        for number, (_, result_class) in enumerate(classes, start=200):
            self.volunteers[number] = Volunteer(number)
            self._introduce(number, result_class)

    # --- the network --------------------------------------------------------------------------------------------

    def _introduce(self, host: int, result_class: str) -> None:
        said = WorkRequest(call=0, facts=facts(f"python {result_class}", f"blender {result_class}"))
        served = self.grid.coordinator.serve([Call(HostId(host), said)], [], self.grid.now)
        self._follow(served.effects)

    def _outcome(self, how: str, lease: Lease) -> Outcome:
        request = self.requests[lease.job]
        if how in {"fail", "hand back"} or request.work.__struct_config__.tag == "digest":
            return outcome_of(how, lease)
        return self.painter.send(lease, request, PICTURES.get(how, RIGHT), 30.0)

    def _serve(self, calls: Sequence[tuple[int, int, bool, bool]], readings: Sequence[Reading] = ()) -> None:
        made = [
            Call(HostId(host), self.volunteers[host].request(want), news=not again) for host, want, _, again in calls
        ]
        served = self.grid.coordinator.serve(made, readings, self.grid.now)
        for reading in readings:
            self.to_read.pop(reading.replica, None)
        self._follow(served.effects)
        for (host, _, lost, _), answer in zip(calls, served.answers, strict=True):
            assert isinstance(answer, WorkAnswer)
            if not lost:
                self.volunteers[host].hear(answer)

    def _follow(self, effects: Effects) -> None:
        self.to_read.update((order.replica, order) for order in effects.to_read)

    def _read_all(self) -> None:
        for replica in sorted(self.to_read):
            self._serve([], [self.painter.read(self.to_read[replica])])

    def _look_for_unread(self) -> None:
        self.to_read = {order.replica: order for order in self.grid.coordinator.unread()}

    def _draw(self) -> None:
        """Draw what is due within the next minute."""
        until = self.grid.now + 60
        due = self.grid.coordinator.next_draw()
        draws = 0
        while due is not None and due <= until:
            self.grid.now = max(due, self.grid.now)
            self._follow(self.grid.coordinator.draw(self.grid.now))
            due = self.grid.coordinator.next_draw()
            draws += 1
            assert draws < 1_000, "drawing does not come to rest"


def _host(number: int, owner: int, now: float) -> dict[str, Any]:
    seen = {"enrolled_at": now, "last_seen_at": now}
    return {"id": number, "owner_id": owner, "name": f"host{number}", **seen}


def _without_syncing(connection: Any, _entry: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF").close()
