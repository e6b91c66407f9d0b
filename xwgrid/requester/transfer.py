"""Blobs on their way to the server and back; both directions go on where they were cut off."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from xwgrid.errors import Conflict, GridError, OutOfSpace, Unavailable, WrongBytes
from xwgrid.model import InputFile, ResultFile
from xwgrid.requester.client import GridClient, refuse

CHUNK_BYTES = 1 << 20
# A dropped connection is taken up again at once; a server that stays away is for the user to judge.
_ATTEMPTS = 5
_PAUSE_SECONDS = 0.5


def upload(
    client: GridClient,
    files: Mapping[str, Path],
    sizes: Mapping[str, int],
    connections: int,
    sent: Callable[[int], None],
) -> None:
    """Send blobs, `connections` at a time: `files` and `sizes` by digest. `sent` hears of the bytes as they leave.

    Raises the first GridError met; what is complete by then stays with the server.
    """
    with ThreadPoolExecutor(max_workers=connections) as pool:
        futures = [
            pool.submit(upload_blob, client, digest, path, sizes[digest], sent) for digest, path in files.items()
        ]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def upload_blob(client: GridClient, digest: str, path: Path, size: int, sent: Callable[[int], None]) -> None:
    """Send one blob from where the server has it.

    Raises WrongBytes when the file changed since it was hashed, and whatever the server refuses with.
    """
    for attempt in range(_ATTEMPTS):
        try:
            offset = _offset_of(client, digest)
            if offset is None:
                return
            with path.open("rb") as file:
                file.seek(offset)
                headers = {
                    "Upload-Offset": str(offset),
                    "Upload-Length": str(size),
                    "Content-Length": str(size - offset),
                }
                with client.open(
                    "PUT", f"/v1/blobs/{digest}", headers=headers, content=_chunks(file.read, size - offset, path, sent)
                ) as response:
                    refuse(response)
                    return
        except (Unavailable, Conflict):  # cut off, or another upload of the same bytes moved the offset
            if attempt == _ATTEMPTS - 1:
                raise
            client.pause(_PAUSE_SECONDS)
        except OSError as error:
            raise GridError(f"{path} cannot be read: {error.strerror}", file=str(path)) from error


def download(
    client: GridClient,
    files: Sequence[tuple[ResultFile, Path]],
    connections: int,
    received: Callable[[int], None],
) -> int:
    """Fetch result files to their places, skipping those already right; return how many were fetched.

    Raises the first GridError met; a partial file is taken up again by the next call.
    """
    with ThreadPoolExecutor(max_workers=connections) as pool:
        futures = [pool.submit(download_blob, client, file, path, received) for file, path in files]
        try:
            return sum(future.result() for future in futures)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def download_blob(client: GridClient, file: ResultFile, path: Path, received: Callable[[int], None]) -> bool:
    """Fetch one result file to `path`, by way of a file beside it; False when it was there and right already.

    Raises WrongBytes when the bytes are not those named, OutOfSpace, or whatever the server refuses with.
    """
    try:
        if path.is_file() and path.stat().st_size == file.size and digest_of(path) == file.sha256:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # Named by the bytes it is to have: another result may be accepted before this one is here.
        partial = path.with_name(f"{path.name}.{file.sha256[:8]}.part")
        for attempt in range(_ATTEMPTS):
            try:
                _fetch(client, file, partial, received)
                break
            except Unavailable:
                if attempt == _ATTEMPTS - 1:
                    raise
                client.pause(_PAUSE_SECONDS)
        if digest_of(partial) != file.sha256:
            partial.unlink()
            raise WrongBytes(f"{file.name} did not arrive as it was sent: try the download again", file=file.name)
        partial.replace(path)
    except OSError as error:
        raise OutOfSpace(
            f"{path} cannot be written ({error.strerror}): make room or choose another folder, then try again; "
            "what has arrived is kept",
            file=str(path),
        ) from error
    return True


def digest_of(path: Path, seen: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file's bytes; `seen` hears of the bytes as they are read. Raises OSError."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            state.update(chunk)
            if seen is not None:
                seen(len(chunk))
    return state.hexdigest()


def input_file(path: Path, name: str, seen: Callable[[int], None] | None = None) -> InputFile:
    """Return the description of a local file as a job's input `name`. Raises OSError."""
    size = path.stat().st_size
    return InputFile(path=name, sha256=digest_of(path, seen), size=size)


def _offset_of(client: GridClient, digest: str) -> int | None:
    """Return how many bytes the server has of a blob; None when it is complete."""
    with client.open("HEAD", f"/v1/blobs/{digest}") as response:
        if response.is_success:
            return None
        if response.status_code == httpx.codes.NOT_FOUND:
            return int(response.headers.get("Upload-Offset", "0"))
        refuse(response)
        return None


def _chunks(read: Callable[[int], bytes], size: int, path: Path, sent: Callable[[int], None]) -> Iterator[bytes]:
    left = size
    while left:
        chunk = read(min(CHUNK_BYTES, left))
        if not chunk:
            raise WrongBytes(f"{path} changed while it was being sent: submit again", file=str(path))
        left -= len(chunk)
        yield chunk
        sent(len(chunk))


def _fetch(client: GridClient, file: ResultFile, partial: Path, received: Callable[[int], None]) -> None:
    """Bring `partial` up to the file's size."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > file.size:
        partial.unlink()
        have = 0
    if have == file.size and have:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with client.open("GET", f"/v1/blobs/{file.sha256}", headers=headers) as response:
        refuse(response)
        goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
        with partial.open("ab" if goes_on else "wb") as target:
            # As they come: in chunks of a given size, what came before a cut would be lost.
            for chunk in response.iter_raw():
                target.write(chunk)
                received(len(chunk))
            target.flush()
            os.fsync(target.fileno())
