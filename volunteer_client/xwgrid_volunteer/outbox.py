"""Outcomes that the server has not confirmed yet, on the disk: results with their files, failures, leases handed back.

An entry is a folder named by its replica with `record.json` and the result's files. It appears whole or not at all,
survives kill -9, and goes only when the server says that it has dealt with it.
"""

from __future__ import annotations

import errno
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from xwgrid import wire
from xwgrid.errors import GridError, OutOfSpace
from xwgrid.model import Instant, JobId, ReplicaId, ResultFile
from xwgrid.wire import Finished, Report
from xwgrid_volunteer import durable

_log = logging.getLogger(__name__)
_RECORD = "record.json"
_FRESH = ".new-"


class Entry(Struct, frozen=True, kw_only=True):
    """One outcome that waits to be confirmed: `record.json`."""

    grid: str  # `Identity.grid`: another server must not get it
    job: JobId
    report: Report
    ended_at: Instant

    @property
    def files(self) -> tuple[ResultFile, ...]:
        """Return what must be uploaded before the report."""
        outcome = self.report.outcome
        return outcome.files if isinstance(outcome, Finished) else ()


class Outbox:
    """The outbox in one folder. One process at a time; the daemon's lock sees to that."""

    def __init__(self, folder: Path, grid: str) -> None:
        self._folder = folder
        self._grid = grid
        self._entries: dict[ReplicaId, Entry] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for place in sorted(folder.iterdir()):
            entry = self._read(place)
            if entry is None:
                shutil.rmtree(place, ignore_errors=True)
            else:
                self._entries[entry.report.replica] = entry

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return what waits, oldest first."""
        return tuple(self._entries.values())

    def get(self, replica: ReplicaId) -> Entry | None:
        """Return the entry of a replica, None when there is none."""
        return self._entries.get(replica)

    def put(self, job: JobId, report: Report, now: Instant, files: Mapping[str, Path] | None = None) -> Entry:
        """Keep an outcome; `files` of a result, by name, are moved in. A second outcome replaces the first.

        On return it is on the disk. Raises OutOfSpace when the disk is full: nothing was kept.
        """
        entry = Entry(grid=self._grid, job=job, report=report, ended_at=now)
        fresh = self._folder / f"{_FRESH}{report.replica}"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            fresh.mkdir()
            for name, source in (files or {}).items():
                shutil.move(source, fresh / name)
                durable.sync(fresh / name)
            durable.write(fresh / _RECORD, wire.encode(entry))
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"the disk is full: the result of lease {report.replica} was not kept") from error
            raise
        self.forget(report.replica)
        fresh.replace(self._place(report.replica))
        durable.sync(self._folder)
        self._entries[report.replica] = entry
        return entry

    def remember(self, job: JobId, report: Report, now: Instant) -> Entry:
        """Keep an outcome without files in memory only: better than nothing when the disk is full."""
        entry = Entry(grid=self._grid, job=job, report=report, ended_at=now)
        self._entries[report.replica] = entry
        return entry

    def file(self, replica: ReplicaId, name: str) -> Path:
        """Return where a result's file lies."""
        return self._place(replica) / name

    def forget(self, replica: ReplicaId) -> None:
        """Remove an entry: the server has dealt with it. One that is not here is no error."""
        self._entries.pop(replica, None)
        place = self._place(replica)
        if place.exists():
            # The record goes first, so that an interrupted removal leaves no entry without its files.
            (place / _RECORD).unlink(missing_ok=True)
            shutil.rmtree(place, ignore_errors=True)

    def _place(self, replica: ReplicaId) -> Path:
        return self._folder / str(replica)

    def _read(self, place: Path) -> Entry | None:
        if place.name.startswith(_FRESH) or not (place / _RECORD).exists():
            return None
        try:
            entry = wire.decode((place / _RECORD).read_bytes(), Entry)
        except (GridError, OSError) as error:
            _log.warning("the outbox entry %s cannot be read and is thrown away: %s", place.name, error)
            return None
        if entry.grid != self._grid:
            _log.warning("the outbox entry %s is for another grid and is thrown away", place.name)
            return None
        for file in entry.files:
            there = place / file.name
            if not there.is_file() or there.stat().st_size != file.size:
                _log.warning("the outbox entry %s has lost its file %s and is thrown away", place.name, file.name)
                return None
        return entry
