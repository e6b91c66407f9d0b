"""The server's own certificate authority: whom it vouches for, and its keys on disk.

Keys are ECDSA P-256. A volunteer's identity stands in one place of its certificate, the URI `xwgrid://host/ID`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from msgspec import Struct

from xwgrid import tokens
from xwgrid.errors import BadInput, Conflict, Unauthenticated, Unavailable
from xwgrid.model import HostId, Instant

# The hash of the CA's key is in every token that was handed out: the CA outlives them all.
CA_LIFETIME = timedelta(days=20 * 365)
# Some clients refuse server certificates of more than 825 days. It is renewed when the server starts.
SERVER_LIFETIME = timedelta(days=800)
SERVER_RENEWED_BEFORE = timedelta(days=120)
# There is no renewal by protocol: what ends a certificate early is its row in the database.
HOST_LIFETIME = timedelta(days=5 * 365)
# A desktop whose clock is an hour slow can still join.
CLOCK_SKEW = timedelta(hours=1)

_KEY, _CERTIFICATE, _SERVER = "key.pem", "certificate.pem", "server.pem"
_HOST_URI = re.compile(r"xwgrid://host/([1-9][0-9]{0,17})")


class HostIdentity(Struct, frozen=True, kw_only=True):
    """Who a client certificate says is calling. Whether it is still welcome, the database knows."""

    host: HostId
    serial: str  # hexadecimal, as in `certificates.serial`


@dataclass(frozen=True, kw_only=True)
class ServerCredential:
    """The server's own certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Authority:
    """The CA: its certificate, and the key that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def pem(self) -> str:
        """The CA certificate as `GET /v1/ca` gives it."""
        return pem_text(self.certificate)

    @property
    def key_hash(self) -> str:
        """What tokens carry: the SHA-256 of the CA's public key."""
        return tokens.key_hash(self.certificate)

    def issue_host(self, request: x509.CertificateSigningRequest, host: HostId, now: Instant) -> x509.Certificate:
        """Return a client certificate for `host`. Of the request only the public key is taken, never a name.

        The request comes from `read_request`, so its key is of an allowed kind.
        """
        identity = x509.UniformResourceIdentifier(f"xwgrid://host/{host}")
        return self._issue(
            request.public_key(),
            "xwgrid volunteer",
            now,
            names=[identity],
            usage=ExtendedKeyUsageOID.CLIENT_AUTH,
            lifetime=HOST_LIFETIME,
        )

    def issue_server(self, names: Sequence[str], now: Instant) -> ServerCredential:
        """Return a new key and a server certificate good for `names`: host names and IP addresses, at least one."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._issue(
            key.public_key(),
            "xwgrid server",
            now,
            names=[_general_name(name) for name in names],
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
            lifetime=SERVER_LIFETIME,
        )
        return ServerCredential(certificate=certificate, key=key)

    def _issue(
        self,
        key: CertificatePublicKeyTypes,
        common_name: str,
        now: Instant,
        *,
        names: Sequence[x509.GeneralName],
        usage: x509.ObjectIdentifier,
        lifetime: timedelta,
    ) -> x509.Certificate:
        moment = _moment(now)
        return (
            _builder(common_name, self.certificate.subject, key, moment, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )


def new_authority(now: Instant) -> Authority:
    """Return a new CA that may sign end certificates only (path length 0)."""
    key = ec.generate_private_key(ec.SECP256R1())
    # A name of its own, so that the CAs of two grids in one trust store cannot be mistaken for each other.
    name = f"xwgrid CA {secrets.token_hex(4)}"
    certificate = (
        _builder(name, None, key.public_key(), _moment(now), CA_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate=certificate, key=key)


def save(authority: Authority, server: ServerCredential, folder: Path) -> None:
    """Write a new CA and the server's certificate as `folder`, mode 0700, all of it or nothing.

    Raises Conflict when the folder exists: a CA is never written over, every token and volunteer depends on it.
    """
    if folder.exists():
        raise Conflict(f"there is a certificate authority in {folder} already: it is not written over")
    fresh = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    fresh.mkdir(mode=0o700)
    try:
        write_private(fresh / _KEY, _key_pem(authority.key))
        write_private(fresh / _CERTIFICATE, authority.pem.encode(), mode=0o644)
        write_private(fresh / _SERVER, _credential_pem(server))
        fresh.rename(folder)
    except BaseException as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if folder.exists():
            raise Conflict(f"there is a certificate authority in {folder} already: it is not written over") from error
        raise
    _sync_folder(folder.parent)


def load(folder: Path) -> Authority:
    """Read the CA of this server.

    Raises Unavailable when there is none, or its files cannot be read.
    """
    try:
        key = _load_key((folder / _KEY).read_bytes())
        certificate = x509.load_pem_x509_certificate((folder / _CERTIFICATE).read_bytes())
    except FileNotFoundError as error:
        raise Unavailable(f"there is no certificate authority in {folder}: run `xwgrid-admin init` first") from error
    except (OSError, ValueError) as error:
        raise Unavailable(f"the certificate authority in {folder} cannot be read: {error}") from error
    if certificate.public_key() != key.public_key():
        raise Unavailable(f"{folder / _KEY} is not the key of {folder / _CERTIFICATE}: restore both from one backup")
    return Authority(certificate=certificate, key=key)


def load_server(authority: Authority, folder: Path, names: Sequence[str], now: Instant) -> ServerCredential:
    """Return the server's certificate for `names`, a new one when the names changed or its end is near.

    Raises Unavailable when a new one cannot be written.
    """
    file = folder / _SERVER
    try:
        data = file.read_bytes()
        present = ServerCredential(certificate=x509.load_pem_x509_certificate(data), key=_load_key(data))
        present.certificate.verify_directly_issued_by(authority.certificate)
        if _covers(present.certificate, names) and _moment(now) < _renewal(present.certificate):
            return present
    except (FileNotFoundError, ValueError, TypeError, InvalidSignature):
        pass  # whatever is wrong with it, a new one puts it right: nobody holds on to this certificate
    except OSError as error:
        raise Unavailable(f"the server's certificate {file} cannot be read: {error}") from error
    fresh = authority.issue_server(names, now)
    try:
        write_private(file, _credential_pem(fresh), replace=True)
    except OSError as error:
        raise Unavailable(f"a new server certificate cannot be written to {file}: {error}") from error
    return fresh


def read_request(pem: str) -> x509.CertificateSigningRequest:
    """Read a certificate signing request whose sender holds the key.

    Raises BadInput when it is none, is not signed by its own key, or has a key of another kind than P-256, P-384,
    Ed25519 or RSA of 2,048 to 8,192 bits.
    """
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        genuine, key = request.is_signature_valid, request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadInput("csr_pem is not a certificate signing request in PEM") from error
    if not genuine:
        raise BadInput("the certificate signing request is not signed by its own key")
    match key:
        case ec.EllipticCurvePublicKey(curve=ec.SECP256R1() | ec.SECP384R1()) | ed25519.Ed25519PublicKey():
            return request
        case rsa.RSAPublicKey(key_size=size) if 2_048 <= size <= 8_192:
            return request
    raise BadInput("the key of the certificate signing request must be P-256, P-384, Ed25519 or RSA of 2,048 bits")


def identity(certificate: x509.Certificate) -> HostIdentity:
    """Return the host that a client certificate names.

    Raises Unauthenticated unless it names exactly one.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    found = _HOST_URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if found is None:
        raise Unauthenticated("the client certificate names no host: enrol again with `xwgrid-volunteer enrol`")
    return HostIdentity(host=HostId(int(found[1])), serial=serial_text(certificate))


def serial_text(certificate: x509.Certificate) -> str:
    """Return a certificate's serial number as the database keeps it."""
    return f"{certificate.serial_number:x}"


def pem_text(certificate: x509.Certificate) -> str:
    """Return a certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def write_private(path: Path, data: bytes, *, mode: int = 0o600, replace: bool = False) -> None:
    """Write a whole file or none; it never has a wider `mode`, nor half its bytes, not even for a moment.

    Raises FileExistsError unless `replace`, OSError when it cannot be written.
    """
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            fresh.replace(path)
        else:
            path.hardlink_to(fresh)
    finally:
        fresh.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # A name is on the disk only when its folder is.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _builder(
    common_name: str, issuer: x509.Name | None, key: CertificatePublicKeyTypes, now: datetime, lifetime: timedelta
) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _moment(now: Instant) -> datetime:
    return datetime.fromtimestamp(int(now), UTC)


def _renewal(certificate: x509.Certificate) -> datetime:
    return certificate.not_valid_after_utc - SERVER_RENEWED_BEFORE


def _covers(certificate: x509.Certificate, names: Sequence[str]) -> bool:
    present = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(present) == {_general_name(name) for name in names}


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name.encode("idna").decode())


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _credential_pem(credential: ServerCredential) -> bytes:
    return _key_pem(credential.key) + pem_text(credential.certificate).encode()


def _load_key(data: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(data, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an ECDSA key")
    return key
