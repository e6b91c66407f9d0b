"""Looks at a result before it is uploaded: the right files, decodable, and their fingerprint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from twisted.internet.threads import deferToThread

from xwgrid.errors import GridError, UnreadableResult
from xwgrid.model import Cause, ResultFile
from xwgrid.reading import Reader
from xwgrid.wire import Failed, Finished, Lease
from xwgrid_volunteer import staging
from xwgrid_volunteer.preparing import Prepared
from xwgrid_volunteer.runner import TaskFinished

# As much as `wire.Finished.value` may have.
_MAX_VALUE = 1_024


class Inspector:
    """Reads results in the sandboxed reader, off the reactor's thread, and removes folders once they are read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._users: Counter[Path] = Counter()
        self._doomed: set[Path] = set()

    async def inspect(
        self, prepared: Prepared, lease: Lease, event: TaskFinished
    ) -> tuple[Finished | Failed, Mapping[str, Path]]:
        """Return what to report, and the files that belong to it."""
        try:
            return await deferToThread(self._inspect, prepared, lease, event)
        except (UnreadableResult, OSError) as error:
            cause, message = Cause.BAD_RESULT, str(error)
        except GridError as error:
            cause, message = Cause.REFUSED, f"the result could not be checked on this host: {error.message}"
        failed = Failed(cause=cause, message=message[:2_000], seconds=event.seconds, log_tail=event.log_tail)
        return failed, {}

    def _inspect(self, prepared: Prepared, lease: Lease, event: TaskFinished) -> tuple[Finished, Mapping[str, Path]]:
        request, application, number = prepared.request, prepared.application, lease.task
        strips = lease.arguments.get("strips")
        if strips is None:
            names = application.result_names(request, number)
        else:
            strips = str(strips)
            names = application.audit_names(request, number, strips)
        if set(names) != set(event.files) or (event.value is not None) != (application.reads == "value"):
            said = ", ".join(event.files) or ("a value" if event.value is not None else "nothing")
            raise UnreadableResult(f"the program made {said}, and {', '.join(names) or 'a value'} was asked for")
        files = {name: event.folder / name for name in names}
        if event.value is not None:
            if len(event.value) > _MAX_VALUE:
                raise UnreadableResult(f"the program's value has {len(event.value)} characters: {_MAX_VALUE} may be")
            fingerprint = application.value_fingerprint(event.value)
        else:
            fingerprint = self._reader.read(request, number, files, strips).fingerprint
        finished = Finished(
            fingerprint=fingerprint,
            files=tuple(_named(name, path) for name, path in files.items()),
            value=event.value,
            seconds=event.seconds,
            result_class=event.result_class,
            log_tail=event.log_tail,
        )
        return finished, files

    @asynccontextmanager
    async def using(self, folder: Path) -> AsyncIterator[None]:
        """Keep a job's folder while a result in it is looked at."""
        self._users[folder] += 1
        try:
            yield
        finally:
            self._users[folder] -= 1
            if folder in self._doomed:
                await self.remove_when_done(folder)

    async def remove_when_done(self, folder: Path) -> None:
        """Remove a job's folder, later if a result in it is still looked at."""
        if self._users[folder] > 0:
            self._doomed.add(folder)
            return
        self._doomed.discard(folder)
        del self._users[folder]
        await self.throw_away(folder)

    async def throw_away(self, folder: Path) -> None:
        """Remove a result's folder."""
        await deferToThread(staging.remove, folder)

    async def close(self) -> None:
        """End the reader process."""
        await deferToThread(self._reader.close)


def _named(name: str, path: Path) -> ResultFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return ResultFile(name=name, sha256=digest.hexdigest(), size=file.tell())
