"""The way out: which proxy leads to an address, and a tunnel through it by CONNECT."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from msgspec import Struct
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from xwgrid.errors import BadSettings, Unavailable

# A proxy that answers CONNECT with more than this before its empty line is not one.
_MAX_HEAD_BYTES = 16_384


class Proxy(Struct, frozen=True, kw_only=True):
    """An HTTP proxy that knows CONNECT."""

    host: str
    port: int
    user: str | None = None
    password: str | None = None

    def __repr__(self) -> str:
        return f"Proxy({self.host}:{self.port}{', with a password' if self.password else ''})"

    def url(self) -> str:
        """Return the proxy's address, the password included."""
        name = "" if self.user is None else f"{quote(self.user, '')}:{quote(self.password or '', '')}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}{host}:{self.port}"


def proxy_for(url: str, setting: str | None, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy through which `url` (https) is reached, None for the straight way.

    `setting` "" means none, None means that HTTPS_PROXY (or ALL_PROXY) and NO_PROXY decide. Raises BadSettings for an
    address that is no proxy's.
    """
    parts = urlsplit(url)
    if setting is not None:
        return _parse(setting, "the setting 'proxy'") if setting else None
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        if address := environment.get(name):
            no_proxy = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
            if _excepted(parts.hostname or "", parts.port or 443, no_proxy):
                return None
            return _parse(address, name)
    return None


def _parse(address: str, source: str) -> Proxy:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = parts.port or 3128
    except ValueError as error:
        raise BadSettings(f"{source}: '{address}' has no port number: {error}") from error
    if parts.scheme != "http" or not parts.hostname:
        raise BadSettings(f"{source}: '{address}' is no HTTP proxy: write http://host:port", source=source)
    user = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    return Proxy(host=parts.hostname, port=port, user=user, password=password)


def _excepted(host: str, port: int, no_proxy: str) -> bool:
    return any(_covers(entry.strip().lower(), host.lower(), port) for entry in no_proxy.split(",") if entry.strip())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, _, only_port = entry.rpartition(":")
    if name and only_port.isdigit() and ":" not in name:
        if int(only_port) != port:
            return False
        entry = name
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        suffix = entry.removeprefix("*").lstrip(".")
        return host == suffix or host.endswith(f".{suffix}")


class TunnelEndpoint:
    """A stream client endpoint that reaches `host`:`port` through a proxy, itself reached by `to_proxy`."""

    def __init__(self, to_proxy: Any, proxy: Proxy, host: str, port: int) -> None:
        self._to_proxy = to_proxy
        self._proxy = proxy
        self._target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def connect(self, factory: Any) -> Deferred[Any]:
        """Connect; fails with Unavailable when the proxy refuses."""
        return Deferred.fromCoroutine(self._connect(factory))

    async def _connect(self, factory: Any) -> Any:
        opening = _Tunnel(self._request(), factory, f"the proxy {self._proxy.host}:{self._proxy.port}", self._target)
        await self._to_proxy.connect(Factory.forProtocol(lambda: opening))
        return await opening.opened

    def _request(self) -> bytes:
        lines = [f"CONNECT {self._target} HTTP/1.1", f"Host: {self._target}"]
        if self._proxy.user is not None:
            secret = base64.b64encode(f"{self._proxy.user}:{self._proxy.password or ''}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {secret}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class _Tunnel(Protocol):
    """Speaks to the proxy until it says 200, then is nothing but a pipe to the protocol within."""

    transport: Any

    def __init__(self, request: bytes, factory: Any, name: str, target: str) -> None:
        self._request = request
        self._factory = factory
        self._name = name
        self._target = target
        self._head = b""
        self._inner: Any | None = None
        self.opened: Deferred[Any] = Deferred(self._cancelled)

    def connectionMade(self) -> None:
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, found, rest = self._head.partition(b"\r\n\r\n")
        if not found:
            if len(self._head) > _MAX_HEAD_BYTES:
                self._refuse(f"{self._name} does not answer like an HTTP proxy")
            return
        status_line = head.split(b"\r\n", 1)[0].decode("latin-1")
        if status_line.split(" ")[1:2] != ["200"]:
            self._refuse(f"{self._name} does not let us through to {self._target}: it says '{status_line[:200]}'")
            return
        self._open(rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        else:
            self._refuse(f"{self._name} hung up before there was a connection to {self._target}")

    def _open(self, rest: bytes) -> None:
        inner = self._factory.buildProtocol(self.transport.getPeer())
        if inner is None:
            self._refuse("the connection was given up")
            return
        self._inner = inner
        inner.makeConnection(self.transport)
        if rest:
            inner.dataReceived(rest)
        if not self.opened.called:
            self.opened.callback(inner)

    def _refuse(self, message: str) -> None:
        if not self.opened.called:
            self.opened.errback(Unavailable(message))
        self.transport.loseConnection()

    def _cancelled(self, opened: Deferred[Any]) -> None:
        opened.errback(CancelledError())
        if self.transport is not None:
            self.transport.abortConnection()
