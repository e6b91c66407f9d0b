"""The signed application versions a server hands out. Functions block; each that takes an Engine is one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from sqlalchemy import Connection, Engine, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from xwgrid_schema.tables import applications

from xwgrid import signing, wire
from xwgrid.errors import BadInput, Conflict, NotFound, WrongBytes
from xwgrid.model import ApplicationManifest, Instant, SignedManifest
from xwgrid.wire import ApplicationView
from xwgrid_server import blob_rights
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.database import reading


def check_files(manifest: ApplicationManifest, files: Mapping[str, bytes]) -> None:
    """Return if `files` (path → bytes) are exactly those the manifest names, the entry among them.

    Raises BadInput when one is missing or too many, WrongBytes when one has other bytes.
    """
    named = {file.path: file for file in manifest.files}
    what = f"{manifest.application} {manifest.version}"
    if manifest.entry not in named:
        raise BadInput(f"the entry '{manifest.entry}' of {what} is not among its files")
    if missing := sorted(named.keys() - files.keys()):
        raise BadInput(f"files of {what} are missing: {', '.join(missing)}", missing=missing)
    if extra := sorted(files.keys() - named.keys()):
        raise BadInput(f"files of {what} are not in its manifest: {', '.join(extra)}", extra=extra)
    for path, file in named.items():
        if hashlib.sha256(files[path]).hexdigest() != file.sha256 or len(files[path]) != file.size:
            raise WrongBytes(f"the file '{path}' of {what} is not the one its manifest names", path=path)


def publish(
    engine: Engine, blobs: BlobFiles, signed: SignedManifest, files: Mapping[str, bytes], now: Instant
) -> ApplicationView:
    """Store the files of a version, and make it the one that new jobs of its application take.

    Raises BadSignature when the signature does not fit, BadInput or WrongBytes when the files are not those of the
    manifest, Conflict when this version was published before: a version never changes, so that jobs which pinned it
    stay what they are.
    """
    with engine.begin() as connection:
        return insert_version(connection, blobs, signed, files, now)


def insert_version(
    connection: Connection, blobs: BlobFiles, signed: SignedManifest, files: Mapping[str, bytes], now: Instant
) -> ApplicationView:
    """As `publish`, within a transaction. The files stay if it fails; nobody is told of them then."""
    # Who may publish is decided by who may run the admin command; here it is only seen that the signature is whole.
    manifest = signing.verify(signed, {signed.key})
    check_files(manifest, files)
    blob_rights.record(connection, {blobs.add(data): len(data) for data in files.values()}, now)
    row = {
        "application": manifest.application,
        "version": manifest.version,
        "signed": wire.encode(signed).decode(),
        "published_at": now,
    }
    try:
        connection.execute(insert(applications).values(**row))
    except IntegrityError as error:
        raise Conflict(
            f"{manifest.application} {manifest.version} is published already, and a version never changes: raise it",
            application=manifest.application,
            version=manifest.version,
        ) from error
    return _view(signed, now)


def newest(engine: Engine, application: str) -> SignedManifest:
    """Return the version that new jobs take: the last one published and not revoked.

    Raises NotFound when there is none.
    """
    statement = (
        select(applications.c.signed)
        .where(applications.c.application == application, applications.c.revoked_at.is_(None))
        .order_by(applications.c.published_at.desc(), applications.c.id.desc())
        .limit(1)
    )
    with reading(engine) as connection:
        text = connection.execute(statement).scalar_one_or_none()
    if text is None:
        raise NotFound(
            f"the application '{application}' is not published on this server: the operator does so with "
            "`xwgrid-admin app publish`",
            application=application,
        )
    return wire.decode(text, SignedManifest)


def list_versions(engine: Engine) -> tuple[ApplicationView, ...]:
    """Return the versions that are not revoked, by application, the newest first."""
    statement = (
        select(applications)
        .where(applications.c.revoked_at.is_(None))
        .order_by(applications.c.application, applications.c.published_at.desc(), applications.c.id.desc())
    )
    with reading(engine) as connection:
        rows = connection.execute(statement).all()
    return tuple(_view(wire.decode(row.signed, SignedManifest), row.published_at) for row in rows)


def revoke(engine: Engine, application: str, version: str, now: Instant) -> None:
    """Let no new job take this version; jobs that pinned it go on. Raises NotFound."""
    mine = (applications.c.application == application) & (applications.c.version == version)
    end = func.coalesce(applications.c.revoked_at, now)
    with engine.begin() as connection:
        if not connection.execute(update(applications).where(mine).values(revoked_at=end)).rowcount:
            raise NotFound(f"{application} {version} is not published here: xwgrid-admin app list shows what is")


def trusted_keys(engine: Engine) -> tuple[str, ...]:
    """Return the public keys that signed what is published, base64: what a new volunteer is told to trust."""
    return tuple(sorted({view.signed.key for view in list_versions(engine)}))


def _view(signed: SignedManifest, published_at: Instant) -> ApplicationView:
    manifest = msgspec.json.decode(signed.manifest, type=ApplicationManifest)
    return ApplicationView(
        application=manifest.application,
        version=manifest.version,
        runtime=manifest.runtime,
        published_at=published_at,
        signed=signed,
    )
