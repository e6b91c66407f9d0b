"""A job on its way in: checked, its inputs found, its application version pinned. Blocking."""

from __future__ import annotations

from msgspec import Struct
from sqlalchemy import Connection, Engine

from xwgrid import signing, wire
from xwgrid.applications import registry
from xwgrid.errors import BadInput, TooLarge, Unavailable
from xwgrid.model import Audit, Digest, InputFile, Instant, JobRequest, JobSpec, UserId
from xwgrid.policy_terms import check_deadline, settled
from xwgrid.splitting import task_count
from xwgrid_server import application_versions
from xwgrid_server.blob_files import BlobFiles
from xwgrid_server.blob_rights import grant, sizes, unreadable
from xwgrid_server.database import reading
from xwgrid_server.settings import Trust


class Prepared(Struct, frozen=True, kw_only=True):
    """What the dispatcher needs."""

    request: JobRequest  # as it was settled
    spec: Digest  # the blob that holds the JobSpec
    blobs: frozenset[Digest]  # what a host with a lease of the job may read


def prepare(
    engine: Engine, files: BlobFiles, owner: UserId, request: JobRequest, *, max_tasks: int, trust: Trust, now: Instant
) -> Prepared:
    """Check a job, settle how it is checked, and store its specification.

    Raises BadInput or TooLarge for a job that cannot be done or whose inputs have not been sent; Forbidden for a policy
    that is not allowed here; NotFound when its application is not published; Unavailable when files of the published
    version are not on this server.
    """
    registry.check(request)
    if request.deadline is not None:
        check_deadline(request.deadline, now)
    application = registry.application_of(request)
    request = settled(request, trust.default, trust.allowed, application.parts(request))
    if not isinstance(request.policy, Audit):
        request = application.in_one(request)
    if (count := task_count(request.split)) > max_tasks:
        raise TooLarge(f"the job has {count} tasks, this server takes {max_tasks}: split it", limit=max_tasks)
    signed = application_versions.newest(engine, application.name)
    program = signing.verify(signed, {signed.key}).files
    with reading(engine) as connection:
        _check_inputs(connection, owner, request.inputs)
        here = sizes(connection, [file.sha256 for file in program])
    if absent := [file.path for file in program if file.sha256 not in here]:
        raise Unavailable(f"files of the application are not on this server ({absent[0]}): tell the operator")
    document = wire.encode(JobSpec(request=request, application=signed))
    spec = files.add(document)
    with engine.begin() as connection:
        grant(connection, owner, {spec: len(document)}, now)
    named = (file.sha256 for file in (*request.inputs, *program))
    return Prepared(request=request, spec=spec, blobs=frozenset({spec, *named}))


def _check_inputs(connection: Connection, owner: UserId, inputs: tuple[InputFile, ...]) -> None:
    digests = list(dict.fromkeys(file.sha256 for file in inputs))
    if lacking := unreadable(connection, owner, digests):
        paths = [file.path for file in inputs if file.sha256 in lacking]
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        raise BadInput(
            f"{len(paths)} of the job's files have not been sent: {', '.join(paths[:5])}{more}. "
            "PUT them to /v1/blobs/SHA256 first",
            missing=paths[:100],
        )
    here = sizes(connection, digests)
    for file in inputs:
        if here.get(file.sha256) != file.size:
            raise BadInput(
                f"the input '{file.path}' is said to have {file.size} bytes and has {here.get(file.sha256)}",
                path=file.path,
            )
