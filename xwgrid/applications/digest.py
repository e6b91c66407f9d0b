"""Application `digest`: a chain of SHA-256 per task, the smallest honest bag of tasks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Literal

from xwgrid.applications.results import ResultFiles
from xwgrid.errors import BadInput, UnreadableResult
from xwgrid.model import Digest, DigestWork, JobRequest, TaskNumber
from xwgrid.tolerances import Distance

_VALUE = re.compile(r"[0-9a-f]{64}")
_CONTEXT = b"xwgrid digest value 1\n"


class DigestChain:
    """See `xwgrid.applications.registry.Application`. A result is a value: 64 lower-case hexadecimal digits."""

    name = "digest"
    runtime: Literal["python"] = "python"
    reads: Literal["value"] = "value"

    def check(self, request: JobRequest) -> None:
        """Accept every digest job."""

    def result_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:  # noqa: ARG002
        """Return no names: the result is a value."""
        return ()

    def raw_names(self, request: JobRequest, number: TaskNumber) -> tuple[str, ...]:  # noqa: ARG002
        """Return no names: the result is a value."""
        return ()

    def in_one(self, request: JobRequest) -> JobRequest:
        """Return the job as it is."""
        return request

    def parts(self, request: JobRequest) -> str | None:  # noqa: ARG002
        """Return why there are no parts."""
        return "its results are values"

    def height(self, request: JobRequest) -> int:  # noqa: ARG002
        """Refuse: values have no rows."""
        raise BadInput("a digest task gives a value, which has no rows")

    def audit_names(self, request: JobRequest, number: TaskNumber, strips: str) -> tuple[str, ...]:  # noqa: ARG002
        """Refuse: values have no strips."""
        raise BadInput("a digest task gives a value, of which no part can be asked for")

    def read_result(
        self,
        request: JobRequest,  # noqa: ARG002
        number: TaskNumber,  # noqa: ARG002
        files: Mapping[str, bytes],
        strips: str | None = None,  # noqa: ARG002
    ) -> Digest:
        """Refuse files: the result is a value."""
        raise _no_files(files)

    def differing_share(
        self,
        request: JobRequest,  # noqa: ARG002
        number: TaskNumber,  # noqa: ARG002
        one: ResultFiles,
        other: ResultFiles,  # noqa: ARG002
    ) -> float | None:
        """Refuse files: the result is a value."""
        raise _no_files(one.files)

    def distance(
        self,
        request: JobRequest,  # noqa: ARG002
        number: TaskNumber,  # noqa: ARG002
        one: Mapping[str, bytes],
        other: Mapping[str, bytes],  # noqa: ARG002
    ) -> Distance:
        """Refuse files: the result is a value."""
        raise _no_files(one)

    def value_fingerprint(self, value: str) -> Digest:
        """Return the fingerprint of a chain's end. Raises UnreadableResult when it is not 64 hexadecimal digits."""
        if not _VALUE.fullmatch(value):
            raise UnreadableResult(
                f"a digest task gives 64 lower-case hexadecimal digits, not {value[:80]!a}",
                value=ascii(value[:80]),
            )
        return hashlib.sha256(_CONTEXT + value.encode()).hexdigest()


def _no_files(files: Mapping[str, bytes]) -> UnreadableResult:
    return UnreadableResult(
        f"a digest task gives a value and no files, this one sent {len(files)} files", files=sorted(files)
    )


def expected_value(work: DigestWork, number: TaskNumber) -> str:
    """Return what task `number` gives: SHA-256 of "SEED/NUMBER", each further round over the 32 bytes before."""
    digest = hashlib.sha256(f"{work.seed}/{number}".encode()).digest()
    for _ in range(work.rounds - 1):
        digest = hashlib.sha256(digest).digest()
    return digest.hex()
