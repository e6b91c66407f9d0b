"""Keys and signing requests as volunteers make them."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

NOW = 1_800_000_000.0  # January 2027

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a volunteer's key."""
    return ec.generate_private_key(ec.SECP256R1())


def signing_request(
    key: PrivateKey | None = None, *, names: Sequence[str] = (), common_name: str = "a volunteer"
) -> str:
    """Return a signing request in PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    )
    if names:
        alternatives = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    request = builder.sign(key or new_key(), hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: PrivateKey) -> bytes:
    """Return a private key in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
