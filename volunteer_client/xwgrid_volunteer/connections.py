"""Connections to the server: mutual TLS against the grid's own CA, straight or through a proxy."""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet import ssl as twisted_ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS

from xwgrid.model import Seconds
from xwgrid_volunteer.enrolment import Identity
from xwgrid_volunteer.proxy import Proxy, TunnelEndpoint

# Twisted's TLS functions have no types.
ssl: Any = twisted_ssl


class Route:
    """Tells the agent how to reach the server: straight, or through the proxy's tunnel."""

    def __init__(self, reactor: Any, tls: Any, proxy: Proxy | None, seconds: Seconds) -> None:
        self._reactor = reactor
        self._tls = tls
        self._proxy = proxy
        self._seconds = seconds

    def endpointForURI(self, uri: Any) -> Any:
        """Return the endpoint; Twisted asks by this name."""
        host, port = uri.host.decode("ascii").strip("[]"), uri.port
        if self._proxy is None:
            way: Any = HostnameEndpoint(self._reactor, host, port, timeout=self._seconds)
        else:
            to_proxy = HostnameEndpoint(self._reactor, self._proxy.host, self._proxy.port, timeout=self._seconds)
            way = TunnelEndpoint(to_proxy, self._proxy, host, port)
        return wrapClientTLS(self._tls, way)


class Line:
    """The pool's connections for one request, so that the one it got can be cut."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None
        self.persistent = pool.persistent

    def getConnection(self, key: object, endpoint: object) -> Any:  # noqa: N802  # Twisted's name
        """Return the pool's connection, and remember it."""
        return self._pool.getConnection(key, endpoint).addCallback(self._note)

    async def abort(self) -> None:
        """Cut the connection, whatever is under way on it."""
        if self._connection is not None:
            # Twisted's `abort` alone would wait for the rest of the body.
            self._connection.transport.abortConnection()
            await self._connection.abort()

    def _note(self, connection: Any) -> Any:
        self._connection = connection
        return connection


def client_tls(identity: Identity, host: str) -> Any:
    """Return what greets the server `host`: our certificate, no other CA than the grid's, the name checked."""
    own = {
        "certificate": x509.load_pem_x509_certificate(identity.certificate_pem),
        "privateKey": load_pem_private_key(identity.key_pem, None),
    }
    return ssl.optionsForClientTLS(
        host,
        trustRoot=ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(identity.ca_pem)]),
        # Without this HTTP/2 is spoken as soon as the h2 package is installed.
        acceptableProtocols=[b"http/1.1"],
        extraCertificateOptions=own,
    )
