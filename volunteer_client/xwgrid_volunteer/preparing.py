"""From the name of a specification to everything its driver needs, on this disk, verified before anything is run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from msgspec.structs import replace
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from xwgrid import signing, wire
from xwgrid.applications.registry import Application, application_of
from xwgrid.errors import BadInput, BadSignature, Forbidden, GridError, NotFound, Unavailable, WrongBytes
from xwgrid.model import ApplicationManifest, Cause, Digest, InputFile, JobRequest, JobSpec, Limits, Seconds
from xwgrid.sandboxing import Bubblewrap
from xwgrid_volunteer import staging
from xwgrid_volunteer.cache import BlobCache
from xwgrid_volunteer.grid_api import BlobSink
from xwgrid_volunteer.runner import JobPlan
from xwgrid_volunteer.runtimes import Runtime

_log = logging.getLogger(__name__)

_DOWNLOADS_AT_ONCE = 4
_AGAIN_FIRST: Seconds = 1.0
_AGAIN_MOST: Seconds = 60.0


class NotPrepared(GridError):
    """A job cannot be run here; `cause` says whose matter it is."""

    code = "not_prepared"

    def __init__(self, message: str, cause: Cause) -> None:
        super().__init__(message, cause=cause.value)
        self.cause = cause


class Terms(Struct, frozen=True, kw_only=True):
    """Under which conditions this volunteer runs what others send."""

    application_keys: frozenset[str]
    trusted_without_sandbox: frozenset[str]
    memory_bytes: int | None
    cache_bytes: int
    tool: Bubblewrap | None
    runtimes: Mapping[str, Runtime]


class Prepared(Struct, frozen=True, kw_only=True):
    """A job whose files are all in the cache, pinned there, and which may run here."""

    spec: Digest
    document: bytes
    request: JobRequest
    manifest: ApplicationManifest
    application: Application
    runtime: Runtime
    limits: Limits
    tool: Bubblewrap | None


class BlobSource(Protocol):
    """The one call this needs of `grid_api.GridApi`."""

    async def fetch_blob(self, digest: Digest, sink: BlobSink) -> None:
        """Bring the rest of a blob into `sink`."""


def admit(document: bytes, spec: Digest, terms: Terms) -> Prepared:
    """Decide whether a job may run here. Pure. Raises NotPrepared, with the reason."""
    try:
        found = wire.decode(document, JobSpec)
        application = application_of(found.request)
        manifest = signing.verify(found.application, terms.application_keys)
    except (BadSignature, BadInput) as error:
        raise NotPrepared(error.message, Cause.REFUSED) from error
    if manifest.application != application.name:
        raise NotPrepared(
            f"the job is for '{application.name}' and brings a program for '{manifest.application}'", Cause.REFUSED
        )
    if manifest.entry not in {file.path for file in manifest.files}:
        raise NotPrepared(f"'{manifest.entry}' is not among the application's files", Cause.REFUSED)
    runtime = terms.runtimes.get(manifest.runtime)
    if runtime is None:
        raise NotPrepared(
            f"there is no '{manifest.runtime}' on this host: xwgrid-volunteer runtime install {manifest.runtime}",
            Cause.REFUSED,
        )
    if terms.tool is None and manifest.application not in terms.trusted_without_sandbox:
        raise NotPrepared(
            f"there is no sandbox on this host, and its owner does not trust '{manifest.application}' without one",
            Cause.REFUSED,
        )
    total = sum(file.size for file in (*found.request.inputs, *manifest.files))
    if total > terms.cache_bytes:
        raise NotPrepared(f"the job's files are {total} bytes, the cache has {terms.cache_bytes}", Cause.STAGING)
    limits = found.request.limits
    if terms.memory_bytes is not None:
        limits = replace(limits, memory_bytes=min(limits.memory_bytes, terms.memory_bytes))
    return Prepared(
        spec=spec,
        document=document,
        request=found.request,
        manifest=manifest,
        application=application,
        runtime=runtime,
        limits=limits,
        tool=terms.tool,
    )


class Preparer:
    """Fetches what jobs need into the cache. Each blob and each job once, however many leases wait for it."""

    def __init__(
        self,
        reactor: Any,
        source: BlobSource,
        cache: BlobCache,
        terms: Terms,
        uniform: Callable[[float, float], float],
    ) -> None:
        self._reactor = reactor
        self._source = source
        self._cache = cache
        self._terms = terms
        self._uniform = uniform
        self._downloads = DeferredSemaphore(_DOWNLOADS_AT_ONCE)
        self._coming: dict[Digest, list[Deferred[None]]] = {}

    async def prepare(self, spec: Digest) -> Prepared:
        """Verify a job, then fetch its files and pin them under the name of `spec`; `release` gives them free.

        While the server is away it waits; cancel it when nobody wants the job any more. Raises NotPrepared.
        """
        self._cache.pin(spec, {spec})
        try:
            await self._bring(spec, None, wire.MAX_JOB_BYTES)
            document = await deferToThread(self._cache.path(spec).read_bytes)
            prepared = admit(document, spec, self._terms)
            files = (*prepared.manifest.files, *prepared.request.inputs)
            self._cache.pin(spec, {spec, *(file.sha256 for file in files)})
            await self._bring_all(files)
        except NotPrepared:
            raise
        except GridError as error:
            raise NotPrepared(error.message, Cause.STAGING) from error
        except OSError as error:
            raise NotPrepared(f"the files of the job could not be kept: {error}", Cause.STAGING) from error
        return prepared

    async def fetch(self, holder: str, files: Collection[InputFile]) -> None:
        """Fetch files that one task needs beside its job's, and pin them under the name `holder`.

        Waits while the server is away, as `prepare`. Raises NotPrepared.
        """
        self._cache.pin(holder, {file.sha256 for file in files})
        try:
            await self._bring_all(files)
        except GridError as error:
            raise NotPrepared(error.message, Cause.STAGING) from error
        except OSError as error:
            raise NotPrepared(f"the files of the task could not be kept: {error}", Cause.STAGING) from error

    def fetched(self, files: Collection[InputFile]) -> tuple[tuple[str, Path], ...]:
        """Return where files lie that were fetched, by name. Raises NotFound."""
        return tuple((file.path, self._cache.path(file.sha256)) for file in files)

    def release(self, holder: str) -> None:
        """Let the cache forget what was pinned under a name when it needs the room."""
        self._cache.release(holder)

    async def plan(self, prepared: Prepared, folder: Path) -> JobPlan:
        """Lay a prepared job out in `folder` for one driver process. Raises NotPrepared."""
        try:
            staged = await deferToThread(
                staging.stage,
                folder,
                inputs=prepared.request.inputs,
                application=prepared.manifest.files,
                spec=prepared.document,
                blob=self._cache.path,
            )
        except (GridError, OSError) as error:
            raise NotPrepared(f"the files of the job could not be laid out: {error}", Cause.STAGING) from error
        return JobPlan(
            runtime=prepared.runtime,
            staged=staged,
            entry=prepared.manifest.entry,
            limits=prepared.limits,
            tool=prepared.tool,
        )

    async def _bring_all(self, files: Collection[InputFile]) -> None:
        sizes = {file.sha256: file.size for file in files if not self._cache.has(file.sha256)}
        waits = [Deferred.fromCoroutine(self._bring(digest, size, size)) for digest, size in sizes.items()]
        try:
            for wait in waits:
                await wait
        finally:
            for wait in waits:
                # What is left after a failure: nobody waits for it any more.
                wait.addErrback(lambda _failure: None)
                wait.cancel()

    async def _bring(self, digest: Digest, size: int | None, limit: int) -> None:
        if self._cache.has(digest):
            return
        if digest in self._coming:
            wait: Deferred[None] = Deferred()
            self._coming[digest].append(wait)
            await wait
            await self._bring(digest, size, limit)  # the one who fetched it may have given up
            return
        self._coming[digest] = []
        try:
            await self._downloads.acquire()
            try:
                await self._download(digest, size, limit)
            finally:
                self._downloads.release()
        finally:
            for waiting in self._coming.pop(digest):
                waiting.callback(None)

    async def _download(self, digest: Digest, size: int | None, limit: int) -> None:
        tries, wrong = 0, 0
        while True:
            incoming = self._cache.incoming(digest, size, limit=limit)
            try:
                await self._source.fetch_blob(digest, incoming)
                self._cache.enter(incoming)
            except Unavailable as error:
                tries += 1
                delay = self._uniform(0.0, min(_AGAIN_MOST, _AGAIN_FIRST * 2.0 ** min(tries, 10)))
                _log.info("blob %s: %s; again in %.1f s", digest[:12], error.message, delay)
                await deferLater(self._reactor, delay)
            except WrongBytes:
                wrong += 1
                if wrong > 1:
                    raise
            except (NotFound, Forbidden) as error:
                raise NotFound(f"the server does not give the job's blob {digest}: {error.message}") from error
            else:
                return
            finally:
                incoming.close()
