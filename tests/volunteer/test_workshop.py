"""Leases that bring files of their own: these are fetched first, laid out for one task alone, and let go with it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from xwgrid_volunteer.benches import Stage
from xwgrid_volunteer.cache import BlobCache
from xwgrid_volunteer.checking import Inspector
from xwgrid_volunteer.grid_api import BlobSink
from xwgrid_volunteer.preparing import Prepared, Preparer
from xwgrid_volunteer.workshop import Workshop

from tests.volunteer.driving import PREAMBLE
from tests.volunteer.test_preparing import KEY, MANIFEST, REQUEST, TERMS, Shelf, document, file
from xwgrid import signing
from xwgrid.errors import NotFound
from xwgrid.model import Cause, Digest, InputFile, JobId, ReplicaId, TaskNumber
from xwgrid.reading import Reader
from xwgrid.wire import Failed, Finished, HandedBack, Lease, Outcome

# Its value is the digest of what it finds: every file of its inputs, by path and content, one line each.
SCRIPT = (
    PREAMBLE
    + """
import hashlib
for replica, folder, arguments in tasks():
    above, lines = os.environ["XWGRID_INPUTS"], []
    for place, folders, files in os.walk(above):
        for name in files:
            path = os.path.join(place, name)
            with open(path) as source:
                lines.append(os.path.relpath(path, above) + " " + source.read())
    say(event="finished", replica=replica, value=hashlib.sha256("\\n".join(sorted(lines)).encode()).hexdigest())
"""
).encode()
DOCUMENT = document(signing.sign(replace(MANIFEST, files=(file("driver.py", SCRIPT),)), KEY))
OTHER_DOCUMENT = document(
    signing.sign(replace(MANIFEST, files=(file("driver.py", SCRIPT),)), KEY), replace(REQUEST, name="other")
)
ONE, TWO, THREE = ReplicaId(1), ReplicaId(2), ReplicaId(3)


def found(**own: str) -> str:
    """Return the value of a task that finds the job's file and these of its own, by their folder, "task_1"."""
    lines = ["scene/a.txt input", *(f"{name.replace('task_', '.task-')}/raw.exr {text}" for name, text in own.items())]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def lease(replica: ReplicaId, *inputs: InputFile, spec: bytes = DOCUMENT) -> Lease:
    """Return a lease of the job, with files of its own."""
    return Lease(
        replica=replica,
        job=JobId(1),
        task=TaskNumber(0),
        spec=hashlib.sha256(spec).hexdigest(),
        arguments={},
        lease_seconds=90,
        inputs=inputs,
    )


RAW, OTHER_RAW = file("raw.exr", b"raw passes"), file("raw.exr", b"others")


class SlowShelf(Shelf):
    """A server that keeps whoever asks for some blobs waiting, until it is told to go on."""

    def __init__(self, *blobs: bytes, slow: InputFile | None = None) -> None:
        super().__init__(*blobs)
        self.slow = None if slow is None else slow.sha256
        self.waiting: list[Deferred[None]] = []
        self.hung_up = 0

    async def fetch_blob(self, digest: Digest, sink: BlobSink) -> None:
        """Bring a blob, some time."""
        if digest == self.slow:
            wait: Deferred[None] = Deferred()
            self.waiting.append(wait)
            try:
                await wait
            except CancelledError:
                self.hung_up += 1
                raise
        await super().fetch_blob(digest, sink)


class FaultyPreparer(Preparer):
    """One with a fault that nobody thought of."""

    async def prepare(self, spec: Digest) -> Prepared:
        """Fail."""
        raise ZeroDivisionError(f"division by zero at {spec[:4]}")


class WorkshopCase(TestCase):
    """A workshop with a real cache, real drivers in their sandbox, and a shelf in place of the server."""

    timeout = 60

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def open(self, shelf: Shelf, kind: type[Preparer] = Preparer) -> Workshop:
        """Open a workshop; at the end of the test it hands back what it has."""
        self.outcomes: list[tuple[ReplicaId, Outcome]] = []
        self.slow_ending: Deferred[None] | None = None
        self.cache = BlobCache(self.folder / "cache", 1 << 20)
        inspector = Inspector(Reader())
        self.workshop = Workshop(
            reactor,
            kind(reactor, shelf, self.cache, TERMS, lambda _low, _high: 0.0),
            inspector,
            slots=1,
            folder=self.folder / "jobs",
            ended=self._ended,
            changed=lambda: None,
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(inspector.close()))
        self.addCleanup(lambda: Deferred.fromCoroutine(self.workshop.hand_back(Cause.SHUTDOWN)))
        return self.workshop

    async def _ended(self, ended: Lease, outcome: Outcome, _files: Mapping[str, Path]) -> None:
        if self.slow_ending is not None:
            waiting, self.slow_ending = self.slow_ending, None
            await waiting
        self.outcomes.append((ended.replica, outcome))

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so."""
        while not is_so():
            await deferLater(reactor, 0.01)

    async def outcome(self, replica: ReplicaId) -> Outcome:
        """Wait for the outcome of a lease; there is one."""
        await self.until(lambda: replica in dict(self.outcomes))
        assert [each for each, _ in self.outcomes].count(replica) == 1
        return dict(self.outcomes)[replica]

    async def value(self, replica: ReplicaId) -> str | None:
        """Wait for the value of a lease's result."""
        outcome = await self.outcome(replica)
        assert isinstance(outcome, Finished), outcome
        return outcome.value

    def stages(self) -> dict[ReplicaId, Stage]:
        """Return how far the leases are that have no outcome."""
        return {work.lease.replica: work.stage for work in self.workshop.works}

    async def test_each_task_finds_its_own_files_alone(self) -> None:
        """One process does three tasks: each sees the job's files, and its own while it is at work; nothing is left of
        them afterwards, neither in the tree nor pinned in the cache.
        """
        workshop = self.open(Shelf(DOCUMENT, SCRIPT, b"input", b"raw passes", b"others"))
        workshop.take(lease(ONE, RAW))
        assert await self.value(ONE) == found(task_1="raw passes")
        workshop.take(lease(TWO, OTHER_RAW))
        assert await self.value(TWO) == found(task_2="others")
        workshop.take(lease(THREE))
        assert await self.value(THREE) == found()
        await self.until(lambda: not workshop.works)
        assert [folder.name.rpartition("-")[2] for folder in (self.folder / "jobs").iterdir()] == ["1"]
        assert set(self.cache._pins) == {lease(ONE).spec}

    async def test_a_lease_waits_for_its_files_and_keeps_nobody_waiting(self) -> None:
        """A task is not given before its files are here; others of its job go first, and nothing is fetched twice."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", b"raw passes", slow=RAW)
        workshop = self.open(shelf)
        workshop.take(lease(ONE, RAW))
        workshop.take(lease(ONE, RAW))
        workshop.take(lease(TWO))
        assert await self.value(TWO) == found()
        assert self.stages()[ONE] is Stage.FETCHING
        (waiting,) = shelf.waiting
        waiting.callback(None)
        assert await self.value(ONE) == found(task_1="raw passes")
        assert shelf.asked.count(RAW.sha256) == 1

    async def test_a_lease_waits_for_the_files_of_its_job_too(self) -> None:
        """Files of its own that come first are kept, and wait with it."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", b"raw passes", slow=MANIFEST.files[0])
        shelf.slow = hashlib.sha256(SCRIPT).hexdigest()
        self.open(shelf).take(lease(ONE, RAW))
        await self.until(lambda: self.cache.has(RAW.sha256) and shelf.waiting)
        assert self.stages() == {ONE: Stage.FETCHING}
        shelf.waiting[0].callback(None)
        assert await self.value(ONE) == found(task_1="raw passes")

    async def test_files_that_are_refused_fail_their_lease_alone(self) -> None:
        """The lease fails for its staging, by the name of the blob; the next one of the job is done."""
        workshop = self.open(Shelf(DOCUMENT, SCRIPT, b"input"))
        workshop.take(lease(ONE, RAW))
        workshop.take(lease(TWO))
        failed = await self.outcome(ONE)
        assert isinstance(failed, Failed)
        assert failed.cause is Cause.STAGING
        assert RAW.sha256 in failed.message
        assert await self.value(TWO) == found()
        assert set(self.cache._pins) == {lease(ONE).spec}

    async def test_files_that_cannot_be_laid_out_fail_their_lease_alone(self) -> None:
        """Two files of one name, or a name that leads out of its folder: the lease fails, the process stays, and who
        waited behind it is done.
        """
        workshop = self.open(Shelf(DOCUMENT, SCRIPT, b"input", b"raw passes", b"others"))
        for replica, inputs in ((ONE, (RAW, OTHER_RAW)), (TWO, (replace(RAW, path="../raw.exr"),))):
            workshop.take(lease(replica, *inputs))
        workshop.take(lease(THREE))
        for replica, sentence in ((ONE, "want the same place"), (TWO, "does not stay inside")):
            failed = await self.outcome(replica)
            assert isinstance(failed, Failed)
            assert failed.cause is Cause.STAGING
            assert failed.message.startswith("the files of the task could not be laid out: ")
            assert sentence in failed.message
        assert await self.value(THREE) == found()
        assert len(list((self.folder / "jobs").iterdir())) == 1

    async def test_who_waits_for_an_idle_bench_is_not_forgotten(self) -> None:
        """When the only task of a bench cannot be laid out, the bench goes to the lease of another job at once."""
        workshop = self.open(Shelf(DOCUMENT, OTHER_DOCUMENT, SCRIPT, b"input", b"raw passes", b"others"))
        workshop.take(lease(ONE, RAW, OTHER_RAW))
        workshop.take(lease(TWO, spec=OTHER_DOCUMENT))
        assert isinstance(await self.outcome(ONE), Failed)
        before = time.monotonic()
        assert await self.value(TWO) == found()
        assert time.monotonic() - before < 15.0, "an idle process keeps its scene for 30 s"

    async def test_a_lease_that_is_ended_fetches_no_more(self) -> None:
        """The download is hung up, nothing is kept for it, and there is no outcome."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", b"raw passes", slow=RAW)
        workshop = self.open(shelf)
        workshop.take(lease(ONE, RAW))
        await self.until(lambda: shelf.waiting and workshop.loaded)
        workshop.end(ONE)
        assert shelf.hung_up == 1
        assert workshop.works == ()
        assert self.cache._pins == {}
        assert self.outcomes == []

    async def test_two_leases_of_one_file(self) -> None:
        """A file that two leases wait for goes on coming when one of them is ended."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", b"raw passes", slow=RAW)
        workshop = self.open(shelf)
        workshop.take(lease(ONE, RAW))
        workshop.take(lease(TWO, RAW))
        await self.until(lambda: shelf.waiting and workshop.loaded)
        workshop.end(ONE)
        await self.until(lambda: len(shelf.waiting) == 2)
        shelf.waiting[1].callback(None)
        assert await self.value(TWO) == found(task_2="raw passes")

    async def test_a_lease_is_handed_back_while_its_files_come(self) -> None:
        """It has one outcome, the download is hung up, and nothing is kept for it."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", b"raw passes", slow=RAW)
        workshop = self.open(shelf)
        workshop.take(lease(ONE, RAW))
        await self.until(lambda: shelf.waiting and workshop.loaded)
        await workshop.hand_back(Cause.OWNER)
        assert self.outcomes == [(ONE, HandedBack(cause=Cause.OWNER))]
        assert shelf.hung_up == 1
        assert self.cache._pins == {}

    async def test_files_that_are_refused_while_all_is_handed_back(self) -> None:
        """A lease whose turn to be handed back has not come yet does not fail as well."""
        shelf = SlowShelf(DOCUMENT, SCRIPT, b"input", slow=RAW)
        workshop = self.open(shelf)
        for each in (lease(TWO), lease(ONE, RAW)):
            workshop.take(each)
        workshop.suspend()
        await self.until(lambda: shelf.waiting and workshop.loaded)
        self.slow_ending = Deferred()
        first = self.slow_ending
        handing_back = Deferred.fromCoroutine(workshop.hand_back(Cause.OWNER))
        shelf.waiting[0].errback(NotFound("no such blob"))
        await deferLater(reactor, 0.0)
        assert self.outcomes == []
        first.callback(None)
        await handing_back
        assert self.outcomes == [(replica, HandedBack(cause=Cause.OWNER)) for replica in (TWO, ONE)]

    async def test_a_job_that_cannot_be_run_lets_go_of_its_leases_files(self) -> None:
        """Where the job itself is refused every lease fails with the reason, and their own files come no more."""
        data = document(signing.sign(MANIFEST, KEY), replace(REQUEST, inputs=(file("a", b"missing"),)))
        shelf = SlowShelf(data, b"print('driver')", b"raw passes", slow=RAW)
        workshop = self.open(shelf)
        for each in (lease(ONE, RAW, spec=data), lease(TWO, spec=data)):
            workshop.take(each)
        for replica in (ONE, TWO):
            failed = await self.outcome(replica)
            assert isinstance(failed, Failed)
            assert hashlib.sha256(b"missing").hexdigest() in failed.message
        await self.until(lambda: not workshop.works)
        assert shelf.hung_up == len(shelf.waiting)
        assert self.cache._pins == {}

    async def test_a_fault_of_the_program_keeps_no_lease(self) -> None:
        """What nobody thought of, while files are fetched, fails the leases that wait for them."""
        self.open(Shelf(), FaultyPreparer).take(lease(ONE))
        failed = await self.outcome(ONE)
        assert isinstance(failed, Failed)
        assert failed.message.startswith("a fault of the volunteer's program: ZeroDivisionError: division by zero")
