"""What may run on a volunteer's machine, and how its files come together."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase
from xwgrid_volunteer.cache import BlobCache
from xwgrid_volunteer.grid_api import BlobSink
from xwgrid_volunteer.preparing import NotPrepared, Preparer, Terms, admit
from xwgrid_volunteer.runtimes import python_runtime
from xwgrid_volunteer.sandbox import detect

from tests.volunteer.grid_work import fails
from xwgrid import signing, wire
from xwgrid.errors import NotFound, Unavailable
from xwgrid.model import (
    ApplicationManifest,
    Cause,
    Count,
    DigestWork,
    InputFile,
    JobRequest,
    JobSpec,
    Limits,
    SignedManifest,
)

KEY = Ed25519PrivateKey.generate()
DRIVER = b"print('driver')"


def file(path: str, data: bytes) -> InputFile:
    """Return a file by its bytes."""
    return InputFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))


MANIFEST = ApplicationManifest(
    application="digest", version="1", runtime="python", entry="driver.py", files=(file("driver.py", DRIVER),)
)
REQUEST = JobRequest(name="test", work=DigestWork(), split=Count(count=1), inputs=(file("scene/a.txt", b"input"),))
TERMS = Terms(
    application_keys=frozenset({signing.public_text(KEY.public_key())}),
    trusted_without_sandbox=frozenset(),
    memory_bytes=None,
    cache_bytes=1 << 30,
    tool=detect().tool,
    runtimes={"python": python_runtime()},
)


def document(signed: SignedManifest | None = None, request: JobRequest = REQUEST) -> bytes:
    """Return a job's specification document."""
    return wire.encode(JobSpec(request=request, application=signed or signing.sign(MANIFEST, KEY)))


def refusal(data: bytes, terms: Terms = TERMS) -> NotPrepared:
    """Return why a job may not run."""
    with pytest.raises(NotPrepared) as caught:
        admit(data, "a" * 64, terms)
    return caught.value


def test_a_signed_application_may_run() -> None:
    """With the runtime it asks for, in the sandbox, and no more memory than the owner gives."""
    prepared = admit(document(), "a" * 64, replace(TERMS, memory_bytes=1 << 29))
    assert (prepared.runtime.name, prepared.manifest) == ("python", MANIFEST)
    assert prepared.limits == replace(Limits(), memory_bytes=1 << 29)


def test_an_unknown_signer_is_refused() -> None:
    """A key that was not told at enrolment, or is trusted no more, runs nothing here."""
    stranger = signing.sign(MANIFEST, Ed25519PrivateKey.generate())
    assert "does not trust" in refusal(document(stranger)).message
    assert "does not trust" in refusal(document(), replace(TERMS, application_keys=frozenset())).message


def test_a_tampered_application_is_refused() -> None:
    """One letter changed in what was signed, or a signature of something else, is enough."""
    signed = signing.sign(MANIFEST, KEY)
    tampered = replace(signed, manifest=signed.manifest.replace("driver.py", "drivel.py"))
    other = signing.sign(replace(MANIFEST, version="2"), KEY)
    for bad in (tampered, replace(signed, signature=other.signature), replace(signed, signature="!")):
        found = refusal(document(bad))
        assert found.cause is Cause.REFUSED
        assert "does not fit" in found.message


def test_a_program_for_another_application_is_refused() -> None:
    """Trust in one application is no trust in another that comes under its name."""
    other = signing.sign(replace(MANIFEST, application="blender", runtime="python"), KEY)
    assert "brings a program for 'blender'" in refusal(document(other)).message


def test_an_entry_that_is_not_signed_for_is_refused() -> None:
    """The script that is started is one of the application's own files."""
    other = signing.sign(replace(MANIFEST, entry="../inputs/evil.py"), KEY)
    assert "is not among" in refusal(document(other)).message


def test_without_a_sandbox_only_trusted_applications_run() -> None:
    """The owner names them; everything else is refused with that reason."""
    bare = replace(TERMS, tool=None)
    assert "no sandbox" in refusal(document(), bare).message
    assert admit(document(), "a" * 64, replace(bare, trusted_without_sandbox=frozenset({"digest"}))).tool is None


def test_a_missing_runtime_is_named() -> None:
    """With the command that installs it."""
    assert "runtime install python" in refusal(document(), replace(TERMS, runtimes={})).message


def test_a_job_larger_than_the_cache_is_refused_at_once() -> None:
    """Before anything is fetched."""
    found = refusal(document(), replace(TERMS, cache_bytes=10))
    assert found.cause is Cause.STAGING


def test_what_is_no_specification_is_refused() -> None:
    """Whatever the server sent."""
    assert refusal(b"{}").cause is Cause.REFUSED


class Shelf:
    """A server that has some blobs; it can be away, and deliver other bytes than asked for."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {hashlib.sha256(data).hexdigest(): data for data in blobs}
        self.asked: list[str] = []
        self.away = 0

    async def fetch_blob(self, digest: str, sink: BlobSink) -> None:
        """Bring a blob."""
        self.asked.append(digest)
        if self.away > 0:
            self.away -= 1
            raise Unavailable("away")
        if digest not in self.blobs:
            raise NotFound("no such blob")
        sink.write(self.blobs[digest][sink.offset :])


class PreparerCase(TestCase):
    """Jobs on their way into a cache."""

    timeout = 20

    @pytest.fixture(autouse=True)
    def _places(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def preparer(self, shelf: Shelf, cache: BlobCache | None = None) -> Preparer:
        """Return one that does not wait long."""
        cache = cache or BlobCache(self.folder / "cache", 1 << 30)
        return Preparer(reactor, shelf, cache, TERMS, lambda _low, _high: 0.0)

    async def test_files_are_laid_out_for_the_driver(self) -> None:
        """Inputs in their tree, the application beside them, and the specification."""
        data = document()
        shelf = Shelf(data, DRIVER, b"input")
        preparer = self.preparer(shelf)
        prepared = await preparer.prepare(hashlib.sha256(data).hexdigest())
        plan = await preparer.plan(prepared, self.folder / "job")
        assert (plan.staged.inputs / "scene" / "a.txt").read_bytes() == b"input"
        assert (plan.staged.application / "driver.py").read_bytes() == DRIVER
        assert plan.staged.spec.read_bytes() == data

    async def test_a_refused_job_fetches_nothing(self) -> None:
        """Of an application with a wrong signature not one file is brought here."""
        data = document(signing.sign(MANIFEST, Ed25519PrivateKey.generate()))
        shelf = Shelf(data, DRIVER, b"input")
        error = await fails(self.preparer(shelf).prepare(hashlib.sha256(data).hexdigest()), NotPrepared)
        assert error.cause is Cause.REFUSED
        assert shelf.asked == [hashlib.sha256(data).hexdigest()]

    async def test_other_bytes_than_signed_for_are_refused(self) -> None:
        """A server that delivers another driver than the signed one gets a failure, and the driver is not kept."""
        data = document()
        shelf = Shelf(data, b"input")
        shelf.blobs[MANIFEST.files[0].sha256] = b"print('drivel')"
        cache = BlobCache(self.folder / "cache", 1 << 30)
        error = await fails(self.preparer(shelf, cache).prepare(hashlib.sha256(data).hexdigest()), NotPrepared)
        assert error.cause is Cause.STAGING
        assert "other bytes" in error.message
        assert not cache.has(MANIFEST.files[0].sha256)

    async def test_a_server_that_is_away_is_waited_for(self) -> None:
        """The lease does not fail for it."""
        data = document()
        shelf = Shelf(data, DRIVER, b"input")
        shelf.away = 5
        await self.preparer(shelf).prepare(hashlib.sha256(data).hexdigest())

    async def test_a_missing_blob_fails_the_staging(self) -> None:
        """And says which."""
        data = document()
        preparing = self.preparer(Shelf(data, DRIVER)).prepare(hashlib.sha256(data).hexdigest())
        assert REQUEST.inputs[0].sha256 in (await fails(preparing, NotPrepared)).message

    async def test_a_blob_that_two_jobs_need_comes_once(self) -> None:
        """Jobs of one application that begin together share its files."""
        one, two = document(), document(request=replace(REQUEST, name="other"))
        shelf = Shelf(one, two, DRIVER, b"input")
        preparer = self.preparer(shelf)
        both = [Deferred.fromCoroutine(preparer.prepare(hashlib.sha256(data).hexdigest())) for data in (one, two)]
        for each in both:
            await each
        assert sorted(shelf.asked) == sorted(set(shelf.asked))

    async def test_files_of_one_task_are_fetched_and_kept(self) -> None:
        """Beside its job's, also from a server that is away for a while; they stay until they are let go."""
        shelf = Shelf(b"raw passes", b"more")
        shelf.away = 3
        cache = BlobCache(self.folder / "cache", 12)
        preparer = self.preparer(shelf, cache)
        raw = file("frame_0001_raw.exr", b"raw passes")
        await preparer.fetch("replica 1", (raw,))
        assert [(name, path.read_bytes()) for name, path in preparer.fetched((raw,))] == [(raw.path, b"raw passes")]
        error = await fails(preparer.fetch("replica 2", (file("b", b"more"),)), NotPrepared)
        assert error.cause is Cause.STAGING
        assert "do not fit into the cache" in error.message
        preparer.release("replica 1")
        await preparer.fetch("replica 2", (file("b", b"more"),))
        with pytest.raises(NotFound):
            preparer.fetched((raw,))
