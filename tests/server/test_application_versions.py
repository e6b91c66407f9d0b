"""Signed application versions on the server, on SQLite and PostgreSQL."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine, select
from xwgrid_schema.tables import blobs
from xwgrid_server import application_versions
from xwgrid_server.blob_files import BlobFiles

from tests.server.certificates import NOW
from xwgrid import signing
from xwgrid.applications import manifests
from xwgrid.errors import BadInput, BadSignature, Conflict, NotFound, WrongBytes
from xwgrid.model import ApplicationManifest, InputFile, SignedManifest

FILES: Mapping[str, bytes] = {"driver.py": b"print()\n", "part.py": b"x = 1\n"}
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def files(tmp_path: Path) -> BlobFiles:
    """The blobs of a server."""
    made = BlobFiles(tmp_path / "blobs", tmp_path / "staging")
    made.prepare()
    return made


def manifest(version: str, entry: str = "driver.py") -> ApplicationManifest:
    """A version of an application."""
    listed = tuple(
        InputFile(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data)) for path, data in FILES.items()
    )
    return ApplicationManifest(application="digest", version=version, runtime="python", entry=entry, files=listed)


def signed(version: str, key: Ed25519PrivateKey = KEY) -> SignedManifest:
    """A signed version."""
    return signing.sign(manifest(version), key)


def test_new_jobs_take_the_newest_version_that_is_not_revoked(engine: Engine, files: BlobFiles) -> None:
    """Publishing changes what new jobs get, and revoking changes it back."""
    with pytest.raises(NotFound, match="app publish"):
        application_versions.newest(engine, "digest")
    for number, version in enumerate(("1", "2")):
        application_versions.publish(engine, files, signed(version), FILES, NOW + number)
    assert application_versions.newest(engine, "digest") == signed("2")
    application_versions.revoke(engine, "digest", "2", NOW + 2)
    assert application_versions.newest(engine, "digest") == signed("1")
    assert [view.version for view in application_versions.list_versions(engine)] == ["1"]
    with pytest.raises(NotFound, match="digest 3"):
        application_versions.revoke(engine, "digest", "3", NOW + 3)


def test_published_files_are_blobs(engine: Engine, files: BlobFiles) -> None:
    """Volunteers fetch the files of a version by their hashes, so the server has them, complete and noted."""
    application_versions.publish(engine, files, signed("1"), FILES, NOW)
    digests = {hashlib.sha256(data).hexdigest() for data in FILES.values()}
    with engine.connect() as connection:
        assert set(connection.execute(select(blobs.c.digest)).scalars()) == digests
    assert all(files.size(digest) is not None for digest in digests)


def test_a_version_never_changes(engine: Engine, files: BlobFiles) -> None:
    """The same version with other contents is refused, even by the same publisher."""
    application_versions.publish(engine, files, signed("1"), FILES, NOW)
    with pytest.raises(Conflict, match="never changes"):
        application_versions.publish(engine, files, signed("1"), FILES, NOW)


def test_a_version_that_was_altered_is_not_published(engine: Engine, files: BlobFiles) -> None:
    """A manifest that its signature does not fit never reaches a volunteer."""
    good = signed("1")
    bad = msgspec.structs.replace(good, manifest=good.manifest.replace('"1"', '"2"'))
    with pytest.raises(BadSignature):
        application_versions.publish(engine, files, bad, FILES, NOW)
    assert application_versions.list_versions(engine) == ()


@pytest.mark.parametrize(
    ("given", "refusal", "sentence"),
    [
        ({"driver.py": b"print()\n"}, BadInput, "part.py"),
        ({**FILES, "more.py": b""}, BadInput, "more.py"),
        ({**FILES, "part.py": b"x = 2\n"}, WrongBytes, "part.py"),
    ],
)
def test_a_version_comes_with_exactly_its_files(
    engine: Engine, files: BlobFiles, given: Mapping[str, bytes], refusal: type[Exception], sentence: str
) -> None:
    """A missing, additional or different file is named, and nothing is published."""
    with pytest.raises(refusal, match=sentence):
        application_versions.publish(engine, files, signed("1"), given, NOW)
    assert application_versions.list_versions(engine) == ()


def test_an_entry_must_be_one_of_the_files() -> None:
    """A version that could not be started is refused before it is signed for good."""
    with pytest.raises(BadInput, match=r"missing\.py"):
        application_versions.check_files(manifest("1", entry="missing.py"), FILES)


def test_new_volunteers_trust_the_keys_of_what_is_published(engine: Engine, files: BlobFiles) -> None:
    """A key whose last version was revoked is told to nobody any more."""
    other = Ed25519PrivateKey.generate()
    application_versions.publish(engine, files, signed("1"), FILES, NOW)
    application_versions.publish(engine, files, signed("2", other), FILES, NOW)
    keys = {signing.public_text(key.public_key()) for key in (KEY, other)}
    assert set(application_versions.trusted_keys(engine)) == keys
    application_versions.revoke(engine, "digest", "2", NOW)
    assert application_versions.trusted_keys(engine) == (signing.public_text(KEY.public_key()),)


def test_what_this_package_carries_can_be_published(engine: Engine, files: BlobFiles) -> None:
    """Every built-in application has all its files and an entry."""
    for built_in, its_files in manifests.built_in():
        application_versions.publish(engine, files, signing.sign(built_in, KEY), its_files, NOW)
    assert {view.application for view in application_versions.list_versions(engine)} == {"blender", "digest"}
