"""A small HTTP proxy that knows CONNECT, for tests; it can also cut connections in the middle, as bad networks do."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType


class ConnectProxy:
    """Listens on loopback in threads of its own. `with ConnectProxy() as proxy: proxy.url`."""

    def __init__(self, *, refusal: str | None = None, authorization: str | None = None) -> None:
        self.targets: list[str] = []
        # Bytes let through from the server before the next connections are cut, one entry each.
        self.cuts: list[int] = []
        # The same for what the client sends.
        self.upward_cuts: list[int] = []
        self._refusal = refusal
        self._authorization = authorization
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> ConnectProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._sockets):
            _close(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            self._sockets.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = client.recv(4_096)
            if not part:
                return
            head += part
        lines = head.decode("latin-1").split("\r\n")
        target = lines[0].split(" ")[1]
        self.targets.append(target)
        given = [line.partition(": ")[2] for line in lines if line.lower().startswith("proxy-authorization:")]
        if self._refusal is not None or (self._authorization is not None and given != [self._authorization]):
            client.sendall(f"HTTP/1.1 {self._refusal or '407 Who are you'}\r\n\r\n".encode())
            _close(client)
            return
        host, _, port = target.rpartition(":")
        server = socket.create_connection((host.strip("[]"), int(port)))
        self._sockets.append(server)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        down = self.cuts.pop(0) if self.cuts else None
        up = self.upward_cuts.pop(0) if self.upward_cuts else None
        threading.Thread(target=_pipe, args=(server, client, down), daemon=True).start()
        _pipe(client, server, up)


def _pipe(source: socket.socket, sink: socket.socket, limit: int | None) -> None:
    passed = 0
    try:
        while part := source.recv(16_384):
            passed += len(part)
            if limit is not None and passed > limit:
                break
            sink.sendall(part)
    except OSError:
        pass  # the other direction was cut or closed
    _close(source)
    _close(sink)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        each.close()
