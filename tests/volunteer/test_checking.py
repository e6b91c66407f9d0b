"""What a driver made is looked at before it is uploaded: real pictures, the real reader."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.trial.unittest import TestCase
from xwgrid_volunteer.checking import Inspector
from xwgrid_volunteer.preparing import Prepared
from xwgrid_volunteer.runner import TaskFinished
from xwgrid_volunteer.runtimes import python_runtime

from tests.applications.painting import HEIGHT, WIDTH, gradient, painted
from xwgrid.applications.registry import application_of
from xwgrid.model import (
    ApplicationManifest,
    BlenderWork,
    Cause,
    Frames,
    InputFile,
    JobId,
    JobRequest,
    Limits,
    ReplicaId,
    TaskNumber,
)
from xwgrid.reading import Reader, ReadingLimits
from xwgrid.wire import Failed, Finished, Lease

JOB = JobRequest(
    name="a job",
    work=BlenderWork(scene_file="a.blend", width=WIDTH, height=HEIGHT),
    split=Frames(first=1, last=2),
    inputs=(InputFile(path="a.blend", sha256="0" * 64, size=1),),
)
PREPARED = Prepared(
    spec="0" * 64,
    document=b"",
    request=JOB,
    manifest=ApplicationManifest(application="blender", version="1", runtime="blender", entry="a", files=()),
    application=application_of(JOB),
    runtime=python_runtime(),
    limits=Limits(),
    tool=None,
)
ALL = {"frame_0002_rows_0001.png": (1, 2), "frame_0002_rows_0008.png": (8, 1)}


def lease(**more: int | str) -> Lease:
    return Lease(
        replica=ReplicaId(7),
        job=JobId(1),
        task=TaskNumber(1),
        spec="0" * 64,
        arguments={"frame": 2, **more},
        lease_seconds=90.0,
    )


class TestInspector(TestCase):
    """A frame's second task, and audits of it."""

    timeout = 60

    def setUp(self) -> None:
        """Make a folder that a driver left, and a reader."""
        self.folder = Path(tempfile.mkdtemp(prefix="xwgrid-checking-"))
        self.inspector = Inspector(Reader(ReadingLimits(memory_bytes=1 << 30)))
        self.addCleanup(self.inspector.close)
        self.addCleanup(self.inspector.throw_away, self.folder)

    def made(self, files: dict[str, tuple[int, int]]) -> TaskFinished:
        """Write pictures of these rows, by name; return what the driver says of them."""
        for name, (first, rows) in files.items():
            (self.folder / name).write_bytes(painted(self.folder, ".png", "uint8", gradient()[first : first + rows]))
        return TaskFinished(
            replica=ReplicaId(7),
            folder=self.folder,
            files=tuple(files),
            value=None,
            seconds=1.0,
            log_tail="",
            result_class="python exact",
        )

    async def looked_at(self, files: dict[str, tuple[int, int]], **arguments: Any) -> Finished | Failed:
        """Return the report on these files."""
        outcome, kept = await self.inspector.inspect(PREPARED, lease(**arguments), self.made(files))
        assert list(kept) == ([file.name for file in outcome.files] if isinstance(outcome, Finished) else [])
        return outcome

    def test_frames_and_audits(self) -> Deferred[None]:
        """A frame is one picture; an audit is one for each of its strips, all of which are uploaded."""

        async def run() -> None:
            frame = await self.looked_at({"frame_0002.png": (0, HEIGHT)})
            audit = await self.looked_at(ALL, strips="1+2,8+1")
            assert isinstance(frame, Finished)
            assert isinstance(audit, Finished)
            assert [file.name for file in audit.files] == list(ALL)
            assert frame.fingerprint != audit.fingerprint
            files = {name: (self.folder / name).read_bytes() for name in ALL}
            expected = application_of(JOB).read_result(JOB, TaskNumber(1), files, "1+2,8+1")
            assert audit.fingerprint == expected

        return ensureDeferred(run())

    def test_audits_that_are_none(self) -> Deferred[None]:
        """A strip missing, one of other rows, a whole frame in place of strips, and strips in place of a frame are bad
        results; strips that no picture has are refused.
        """

        async def run() -> None:
            first, second = ALL
            cases = [
                (await self.looked_at({first: (1, 2)}, strips="1+2,8+1"), Cause.BAD_RESULT, "was asked for"),
                (await self.looked_at(ALL, strips="1+2,8+1,3+1"), Cause.BAD_RESULT, "was asked for"),
                (await self.looked_at(ALL), Cause.BAD_RESULT, "was asked for"),
                (await self.looked_at({"frame_0002.png": (0, HEIGHT)}, strips="1+2"), Cause.BAD_RESULT, "asked for"),
                (await self.looked_at({**ALL, second: (7, 2)}, strips="1+2,8+1"), Cause.BAD_RESULT, "16 x 2 pixels"),
                (await self.looked_at(ALL, strips="8+9"), Cause.REFUSED, "does not lie in a picture"),
                (await self.looked_at(ALL, strips=3), Cause.REFUSED, "is not a strip"),
            ]
            for outcome, cause, sentence in cases:
                assert isinstance(outcome, Failed)
                assert outcome.cause is cause
                assert sentence in outcome.message

        return ensureDeferred(run())
