"""Tokens that carry, beside their secret, where the server is and the hash of its CA's key.

So the first contact is authenticated: whoever holds the token can tell the real server from another before the
secret leaves the machine.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import Meta, Struct

from xwgrid.errors import BadInput, Unauthenticated
from xwgrid.model import Digest

PREFIX = "xwgrid-"
_SECRET_BYTES = 32


class Token(Struct, frozen=True, kw_only=True):
    """What a token says."""

    kind: Literal["enrol", "requester"]
    url: Annotated[str, Meta(pattern=r"^https://[^\s/]+$", max_length=300)]  # of the API port
    ca_key: Digest  # SHA-256 of the CA certificate's SubjectPublicKeyInfo, DER
    secret: Annotated[bytes, Meta(min_length=_SECRET_BYTES, max_length=_SECRET_BYTES)]

    def __repr__(self) -> str:
        return f"Token(kind={self.kind!r}, url={self.url!r}, secret=…)"

    def text(self) -> str:
        """Return the token as it is written down: `xwgrid-enrol-…` or `xwgrid-requester-…`."""
        body = base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()
        return f"{PREFIX}{self.kind}-{body}"


def parse(text: str, *, kind: Literal["enrol", "requester"]) -> Token:
    """Read a token of `kind`.

    Raises BadInput when it is none, or of the other kind.
    """
    text = text.strip()
    start = f"{PREFIX}{kind}-"
    if not text.startswith(start):
        made_by = "enrol" if kind == "enrol" else "requester"
        raise BadInput(
            f"this is not a token of the kind '{kind}': it should begin with '{start}'. "
            f"The operator makes one with: xwgrid-admin token {made_by}",
            kind=kind,
        )
    body = text[len(start) :]
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=Token)
    except (ValueError, msgspec.MsgspecError) as error:
        raise BadInput(f"this token is damaged: copy all of it, one line ({error})", kind=kind) from error


def stored_digest(text: str) -> str:
    """Return what the server keeps of a token: the SHA-256 of its text. 256 bits of secret need no salt."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def key_hash(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of the certificate's SubjectPublicKeyInfo (DER), in hexadecimal."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def check_ca(ca_pem: str, token: Token) -> x509.Certificate:
    """Return the CA certificate if it is the one the token names.

    Raises Unauthenticated otherwise: then the server at that address is not the one the token was made by.
    """
    try:
        certificate = x509.load_pem_x509_certificate(ca_pem.encode())
    except ValueError as error:
        raise Unauthenticated(f"{token.url} did not send a certificate: is this an xwgrid server?") from error
    if key_hash(certificate) != token.ca_key:
        raise Unauthenticated(
            f"the server at {token.url} is not the one this token was made by (its CA has another key). "
            "Nothing was sent to it; ask the operator whether the server moved, or whether somebody is in between.",
            url=token.url,
        )
    return certificate
