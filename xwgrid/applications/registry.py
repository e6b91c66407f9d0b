"""The applications by name, and what everyone else may ask of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from xwgrid.applications.blender import Blender
from xwgrid.applications.digest import DigestChain
from xwgrid.applications.results import ResultFiles
from xwgrid.errors import BadInput
from xwgrid.model import Digest, JobRequest, TaskNumber
from xwgrid.splitting import check_request
from xwgrid.tolerances import Distance


class Application(Protocol):
    """What can be run, and how its results are named and read. Everything is pure and takes bytes, never paths."""

    @property
    def name(self) -> str:
        """As in `JobRequest.work.application`."""

    @property
    def runtime(self) -> Literal["blender", "python"]:
        """What a host must have to run its driver."""

    @property
    def reads(self) -> Literal["pictures", "value"]:
        """Whether a result is files to be decoded in a sandbox, or a value in the report."""

    def check(self, request: JobRequest) -> None:
        """Refuse what only this application knows to be impossible. Raises BadInput or TooLarge."""

    def result_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
        """Return the names of the files a result of task `number` consists of, none for a value.

        Raises BadInput if the job has no such task.
        """

    def raw_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
        """Return those of `result_names` that the others are made of: kept to be audited, and not delivered."""

    def in_one(self, request: JobRequest) -> JobRequest:
        """Return a job whose results come without what only audits look at."""

    def parts(self, request: JobRequest) -> str | None:
        """Return, in a sentence, why a task of this job cannot be done in parts; None when it can.

        What lies in the job's files is not looked into: a driver may still refuse.
        """

    def height(self, request: JobRequest) -> int:
        """Return how many rows of pixels a result has. Raises BadInput where results have none."""

    def audit_names(self, request: JobRequest, number: TaskNumber, strips: str) -> tuple[str, ...]:
        """Return the names of the files an audit of task `number` consists of: one for each of `strips`, in order.

        Raw passes are audited where a result has some; with "denoised" it is the rest of the result that is made of
        them again. Raises BadInput for strips that are none, lie outside the picture, or begin at the same row.
        """

    def read_result(
        self, request: JobRequest, number: TaskNumber, files: Mapping[str, bytes], strips: str | None = None
    ) -> Digest:
        """Return the fingerprint of a result's files, by name: equal for results that are the same picture.

        With `strips` it is an audit, and its fingerprint is one of its strips. The bytes come from strangers: call it
        in a sandboxed process. Raises UnreadableResult.
        """

    def differing_share(
        self, request: JobRequest, number: TaskNumber, one: ResultFiles, other: ResultFiles
    ) -> float | None:
        """Return the share (0 to 1) of the rows both results have in which any pixel differs; None if they have none.

        In a sandboxed process, as `read_result`. Raises UnreadableResult.
        """

    def distance(
        self, request: JobRequest, number: TaskNumber, one: Mapping[str, bytes], other: Mapping[str, bytes]
    ) -> Distance:
        """Return how far two results are apart.

        In a sandboxed process, as `read_result`. Raises UnreadableResult, and BadInput for results that cannot be
        compared.
        """

    def value_fingerprint(self, value: str) -> Digest:
        """Return the fingerprint of a result's value. Raises UnreadableResult."""


_APPLICATIONS: dict[str, Application] = {each.name: each for each in (Blender(), DigestChain())}


def names() -> tuple[str, ...]:
    """Return the names of all applications, in order."""
    return tuple(sorted(_APPLICATIONS))


def application(name: str) -> Application:
    """Return an application. Raises BadInput for a name that is none."""
    try:
        return _APPLICATIONS[name]
    except KeyError:
        known = ", ".join(names())
        raise BadInput(f"there is no application '{name[:100]}': there are {known}", application=name[:100]) from None


def application_of(request: JobRequest) -> Application:
    """Return the application of a job."""
    return application(type(request.work).__struct_config__.tag)  # type: ignore[arg-type]  # ours are all text


def delivered_names(request: JobRequest, number: TaskNumber) -> tuple[str, ...]:
    """Return the names of the files of a result that its requester gets. Raises BadInput if there is no such task."""
    application = application_of(request)
    raw = application.raw_names(request, number)
    return tuple(name for name in application.result_names(request, number) if name not in raw)


def check(request: JobRequest) -> None:
    """Refuse a job that can never be done as asked: what `check_request` refuses, and what its application does.

    Raises BadInput or TooLarge.
    """
    check_request(request)
    application_of(request).check(request)
