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
from xwgrid_server.readers import ReaderPool

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted
from xwgrid.applications.registry import application_of
from xwgrid.errors import UnreadableResult
from xwgrid.model import BlenderWork, Digest, Frames, JobRequest, ResultFile, TaskNumber
from xwgrid.reading import Reader, ReadingLimits

FIRST = TaskNumber(0)
NAME = "frame_0001.png"
JOB = JobRequest(
    name="a job",
    work=BlenderWork(scene_file="a.blend", width=WIDTH, height=HEIGHT),
    split=Frames(first=1, last=2),
)


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

        def check(fingerprints: list[Digest]) -> None:
            assert fingerprints == [application.read_result(JOB, FIRST, {NAME: data}) for _, data in pictures]
            assert len(set(fingerprints)) == len(pictures)

        return gatherResults([self.pool.read(JOB, FIRST, (file,)) for file, _ in pictures]).addCallback(check)

    def refused(self, *files: ResultFile) -> Deferred[str]:
        """Return why a result is not read."""

        async def read() -> str:
            try:
                await self.pool.read(JOB, FIRST, files)
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
            assert await self.pool.read(JOB, FIRST, (file,)) == expected

        return ensureDeferred(run())
