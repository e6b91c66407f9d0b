"""What the choice and the answers need to know of jobs, read once."""

from __future__ import annotations

from typing import Final

from xwgrid.applications.registry import application_of
from xwgrid.errors import NotFound
from xwgrid.model import BlenderWork, JobId, TaskNumber
from xwgrid.ready_tasks import JobCard
from xwgrid.scheduling import ReadyIndex
from xwgrid_server.store import Store

# Cards of ended jobs are kept for late reports; beyond so many they are read again.
MOST_CARDS: Final = 4_096


class JobCards:
    """The cards of the open jobs, and of some others."""

    def __init__(self, store: Store, index: ReadyIndex) -> None:
        self._store = store
        self._index = index
        self._cards: dict[JobId, JobCard] = {}

    def __call__(self, job: JobId) -> JobCard:
        """Return a job's card. Raises NotFound."""
        card = self._cards.get(job)
        if card is None:
            row = self._store.job(job)
            if row is None:
                raise NotFound(f"there is no job {job}", job=job)
            work = row.request.work
            renderer = work.renderer if isinstance(work, BlenderWork) else None
            application = application_of(row.request)
            if len(self._cards) >= MOST_CARDS:
                self._cards = {open_job.job: open_job for open_job in self._index.jobs()}
            rows = work.height if isinstance(work, BlenderWork) else None
            in_steps = bool(application.raw_names(row.request, TaskNumber(0)))
            card = self._cards[job] = JobCard(
                job, row.owner, row.request, row.spec, application.runtime, renderer, rows, application.name, in_steps
            )
        return card
