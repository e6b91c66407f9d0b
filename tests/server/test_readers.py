"""The pool of readers over real reader processes: results in, fingerprints out."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
from twisted.internet import reactor
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.trial.unittest import TestCase
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.calls import Other, Reading, ReadOrder
from xwgrid_server.readers import ReaderPool

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted
from xwgrid.applications.registry import application_of
from xwgrid.errors import UnreadableResult
from xwgrid.model import BlenderWork, Frames, JobId, JobRequest, ReplicaId, ResultFile, TaskNumber
from xwgrid.reading import Reader, ReadingLimits

FIRST = TaskNumber(0)
NAME = "frame_0001.png"
JOB = JobRequest(
    name="a job",
    work=BlenderWork(scene_file="a.blend", width=WIDTH, height=HEIGHT),
    split=Frames(first=1, last=2),
)


def order(*files: ResultFile, replica: int = 0, strips: str | None = None, others: tuple[Other, ...] = ()) -> ReadOrder:
    return ReadOrder(ReplicaId(replica), JOB, JobId(1), FIRST, files, strips, others)


class TestReaderPool(TestCase):
    """Two processes, and results enough to make some of them wait."""

    timeout = 60

    def setUp(self) -> None:
        """Make folders, and start the pool."""
        self.folder = Path(tempfile.mkdtemp(prefix="xwgrid-readers-"))
        self.addCleanup(shutil.rmtree, self.folder)
        self.files = BlobFiles(self.folder / "blobs", self.folder / "staging")
        self.files.prepare()
        limits = ReadingLimits(memory_bytes=1 << 30, seconds=30.0)
        self.pool = ReaderPool(reactor, self.files, lambda: Reader(limits), 2)
        self.pool.start()
        self.addCleanup(self.pool.stop)

    def picture(self, shade: float) -> tuple[ResultFile, bytes]:
        """Store a picture; return it as a file of a result, and its bytes."""
        data = painted(self.folder, ".png", "uint8", (gradient() * shade).astype(np.float32))
        return ResultFile(name=NAME, sha256=self.files.add(data), size=len(data)), data

    def test_reads_many_at_once(self) -> Deferred[None]:
        """Each result gets the fingerprint of its own picture, however many are waiting."""
        pictures = [self.picture(shade / 8) for shade in range(1, 9)]
        application = application_of(JOB)

        def check(readings: list[Reading]) -> None:
            fingerprints = [reading.fingerprint for reading in readings]
            assert fingerprints == [application.read_result(JOB, FIRST, {NAME: data}) for _, data in pictures]
            assert len(set(fingerprints)) == len(pictures)
            assert [reading.replica for reading in readings] == list(range(len(pictures)))
            assert not any(reading.differences for reading in readings)

        orders = [order(file, replica=number) for number, (file, _) in enumerate(pictures)]
        return gatherResults([self.pool.read(each) for each in orders]).addCallback(check)

    def strip(self, first: int, rows: int, pixels: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> ResultFile:
        """Store a strip of a picture; return it as a file of an audit's result."""
        data = painted(self.folder, ".png", "uint8", pixels[first : first + rows])
        return ResultFile(name=f"frame_0001_rows_{first:04d}.png", sha256=self.files.add(data), size=len(data))

    def test_compares_with_what_is_there(self) -> Deferred[None]:
        """An audit is laid beside the frames of its task: those it fits, those it does not; what is not there, or is
        rubbish, is left out and changes nothing.
        """

        async def run() -> None:
            honest, altered = gradient(), gradient()
            altered[5] = 0.0
            strips = (self.strip(1, 2, honest), self.strip(4, 2, honest))
            frame, _ = self.picture(1.0)
            data = painted(self.folder, ".png", "uint8", altered)
            lie = ResultFile(name=NAME, sha256=self.files.add(data), size=len(data))
            rubbish = ResultFile(name=NAME, sha256=self.files.add(b"rubbish"), size=7)
            absent = ResultFile(name=NAME, sha256="0" * 64, size=1)
            longer = ResultFile(name=NAME, sha256=frame.sha256, size=frame.size + 1)
            beside = [frame, lie, rubbish, absent, longer, frame]
            others = tuple(Other(ReplicaId(number), (file,)) for number, file in enumerate(beside, start=10))
            others += (Other(ReplicaId(20), (self.strip(5, 2, altered),), "5+2"),)
            others += (Other(ReplicaId(21), (self.strip(0, 1, altered),), "0+1"),)
            alone = await self.pool.read(order(*strips, strips="1+2,4+2"))
            seen = await self.pool.read(order(*strips, strips="1+2,4+2", others=others))
            assert seen.fingerprint == alone.fingerprint
            assert seen.differences == {10: 0.0, 11: 0.25, 15: 0.0, 20: 1.0}

        return ensureDeferred(run())

    def refused(self, *files: ResultFile) -> Deferred[str]:
        """Return why a result is not read."""

        async def read() -> str:
            try:
                await self.pool.read(order(*files))
            except UnreadableResult as error:
                return error.message
            raise AssertionError("it was read")

        return ensureDeferred(read())

    def test_refuses_what_is_not_there(self) -> Deferred[None]:
        """A file that never came, or is of another size than was told, makes no result."""

        async def run() -> None:
            file, _ = self.picture(1.0)
            absent = ResultFile(name=NAME, sha256="0" * 64, size=1)
            longer = ResultFile(name=NAME, sha256=file.sha256, size=file.size + 1)
            assert "was not sent" in await self.refused(absent)
            assert f"has {file.size} bytes" in await self.refused(longer)
            assert "one name" in await self.refused(file, file)

        return ensureDeferred(run())

    def test_refuses_what_is_no_picture(self) -> Deferred[None]:
        """Rubbish is the volunteer's fault, and the next result is read by the same process."""

        async def run() -> None:
            rubbish = ResultFile(name=NAME, sha256=self.files.add(b"rubbish"), size=7)
            assert NAME.partition(".")[0] in await self.refused(rubbish)
            file, data = self.picture(1.0)
            expected = application_of(JOB).read_result(JOB, FIRST, {NAME: data})
            assert (await self.pool.read(order(file))).fingerprint == expected

        return ensureDeferred(run())
