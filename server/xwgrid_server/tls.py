"""TLS of both ports: who must show a certificate, and whose."""

from __future__ import annotations

from OpenSSL import crypto
from twisted.internet.interfaces import ITransport
from twisted.internet.ssl import CertificateOptions, TLSVersion

from xwgrid.errors import Unauthenticated
from xwgrid_server import authority as authorities
from xwgrid_server.authority import Authority, HostIdentity, ServerCredential

# HTTP/2 turns itself on when h2 is installed, and then a request has no transport to ask for a certificate.
# Twisted adds what the site itself offers, so the site must offer nothing else either.
PROTOCOLS = (b"http/1.1",)


def api_context(authority: Authority, credential: ServerCredential) -> CertificateOptions:
    """Return the API port's TLS: the server shows its certificate and the CA's, and asks for none."""
    return CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(credential.key),
        certificate=crypto.X509.from_cryptography(credential.certificate),
        extraCertChain=[crypto.X509.from_cryptography(authority.certificate)],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableProtocols=PROTOCOLS,
    )


def volunteer_context(authority: Authority, credential: ServerCredential) -> CertificateOptions:
    """Return the volunteers' port's TLS: as the API's, and whoever has no client certificate of our CA is refused."""
    ca = crypto.X509.from_cryptography(authority.certificate)
    return CertificateOptions(
        privateKey=crypto.PKey.from_cryptography_key(credential.key),
        certificate=crypto.X509.from_cryptography(credential.certificate),
        extraCertChain=[ca],
        verify=True,
        requireCertificate=True,
        caCerts=[ca],
        raiseMinimumTo=TLSVersion.TLSv1_2,
        acceptableProtocols=PROTOCOLS,
    )


def peer_identity(transport: ITransport | None) -> HostIdentity:
    """Return the host at the other end of a volunteer's connection.

    Raises Unauthenticated when the transport is not TLS, or its certificate names no host.
    """
    ask = getattr(transport, "getPeerCertificate", None)
    certificate = ask() if ask is not None else None
    if certificate is None:
        raise Unauthenticated("this port is for volunteers: it needs a client certificate of this server's CA")
    return authorities.identity(certificate.to_cryptography())
