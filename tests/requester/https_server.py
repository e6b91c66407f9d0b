"""A small HTTPS server that speaks the blob and event calls of docs/protocol.md, and can be told to fail."""

from __future__ import annotations

import hashlib
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from xwgrid_server import authority

from xwgrid import wire
from xwgrid.errors import NotFound, Unauthenticated, Unavailable
from xwgrid.requester.settings import Credentials
from xwgrid.tokens import Token


class SmallServer:
    """Blobs by digest in `blobs`; `with SmallServer(folder) as server:` runs it on loopback.

    `cut` holds, for each coming body sent or received, after how many bytes the connection is cut. `events` holds the
    bodies of coming event streams; each ends by a closed connection. `tasks` are those of any job. `asked` lists the
    calls.
    """

    def __init__(self, folder: Path) -> None:
        self.ca = authority.new_authority(time.time())
        self.blobs: dict[str, bytes] = {}
        self.partial: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.events: list[list[wire.Event]] = []
        self.tasks: list[wire.TaskView] = []
        self.asked: list[str] = []
        self._refusals = 3
        self._refusing = False
        self.user = wire.UserView(name="ada", role="requester")
        credential = self.ca.issue_server(["127.0.0.1"], time.time())
        file = folder / "server.pem"
        key = credential.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(credential.certificate.public_bytes(Encoding.PEM) + key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        handler = type("Handler", (_Handler,), {"owner": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.socket = context.wrap_socket(self._http.socket, server_side=True, do_handshake_on_connect=False)
        self._http.daemon_threads = False
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def token(self, ca: authority.Authority | None = None) -> Token:
        """Return a requester token of this server, or one that names another CA."""
        url = f"https://127.0.0.1:{self._http.server_address[1]}"
        return Token(kind="requester", url=url, ca_key=(ca or self.ca).key_hash, secret=b"s" * 32)

    def credentials(self) -> Credentials:
        """Return what logging in here gives."""
        return Credentials(token=self.token(), ca_pem=self.ca.pem)

    def unavailable(self) -> None:
        """Refuse the next streams, three altogether, as a server does that is being started."""
        self._refusing = True

    def refuses(self) -> bool:
        """Tell whether this stream is to be refused."""
        if self._refusing and self._refusals:
            self._refusals -= 1
            return True
        return False

    def add(self, data: bytes) -> str:
        """Hold a blob and return its name."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest


class _Handler(BaseHTTPRequestHandler):
    owner: SmallServer
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def handle(self) -> None:
        """Serve a connection; one that the other side drops is no fault."""
        try:
            super().handle()
        except (OSError, ssl.SSLError):
            self.close_connection = True

    def do_HEAD(self) -> None:
        """Say how much of a blob is here."""
        digest = self._begin()
        whole = digest in self.owner.blobs
        size = len(self.owner.blobs.get(digest, b""))
        have = len(self.owner.partial.get(digest, b""))
        self._answer(200 if whole else 404, size=size if whole else 0, headers={} if whole else {"Upload-Offset": have})

    def do_GET(self) -> None:
        """Give the CA, the user, a blob, or events."""
        name = self._begin()
        if self.path == "/v1/ca":
            self._answer(200, self.owner.ca.pem.encode())
        elif self.headers["Authorization"] != f"Bearer {self.owner.token().text()}":
            error = Unauthenticated("this token is not known here, or has expired: ask the operator for a new one")
            self._answer(401, wire.error_body(error))
        elif self.path == "/v1/whoami":
            self._answer(200, wire.encode(self.owner.user))
        elif self.path.endswith("/events") and self.owner.refuses():
            self._answer(503, wire.error_body(Unavailable("the server is starting: try again in a moment")))
        elif self.path.endswith("/events"):
            self._events()
        elif "/tasks" in self.path:
            self._answer(200, wire.encode(wire.TaskPage(tasks=tuple(self.owner.tasks), next_after=None)))
        elif name in self.owner.blobs:
            self._blob(self.owner.blobs[name])
        else:
            self._answer(404, wire.error_body(NotFound("there is no such blob")))

    def do_PUT(self) -> None:
        """Take a blob from where it was cut off."""
        digest = self._begin()
        have = self.owner.partial.get(digest, b"")
        if int(self.headers["Upload-Offset"]) != len(have):
            self._answer(409, headers={"Upload-Offset": len(have)})
            self.close_connection = True
            return
        length = int(self.headers["Content-Length"])
        limit = self.owner.cut.pop(0) if self.owner.cut else length
        have += self.rfile.read(min(limit, length))
        self.owner.partial[digest] = have
        if limit < length:
            self._hang_up()
            return
        right = hashlib.sha256(have).hexdigest() == digest
        if right:
            self.owner.blobs[digest] = self.owner.partial.pop(digest)
        self._answer(201 if right else 422)

    def _begin(self) -> str:
        asked = self.headers.get("Range") or self.headers.get("Upload-Offset") or ""
        self.owner.asked.append(f"{self.command} {self.path.split('/')[2]} {asked}".strip())
        return self.path.rsplit("/", 1)[-1]

    def _blob(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        body = data[start:]
        limit = self.owner.cut.pop(0) if self.owner.cut else len(body)
        self._answer(206 if wanted else 200, size=len(body))
        self.wfile.write(body[:limit])
        if limit < len(body):
            self._hang_up()

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for event in self.owner.events.pop(0):
            self.wfile.write(b": still here\n\nevent: job\ndata: " + wire.encode(event) + b"\n\n")
        self.close_connection = True

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True

    def _answer(
        self, status: int, body: bytes = b"", *, size: int | None = None, headers: dict[str, int] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)
