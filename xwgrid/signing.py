"""Ed25519 signatures over application manifests. Who signs keeps the key offline; who runs knows the public half."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from xwgrid.errors import BadSignature, Malformed
from xwgrid.model import ApplicationManifest, SignedManifest

# Signed bytes begin with this, so that a signature made for an application is good for nothing else.
_CONTEXT = b"xwgrid application manifest v1\n"


def public_text(key: Ed25519PublicKey) -> str:
    """Return a public key as it is written in settings and messages: base64 of its 32 bytes."""
    return base64.b64encode(key.public_bytes_raw()).decode()


def sign(manifest: ApplicationManifest, key: Ed25519PrivateKey) -> SignedManifest:
    """Sign an application version."""
    text = msgspec.json.encode(manifest).decode()
    signature = key.sign(_CONTEXT + text.encode())
    return SignedManifest(
        manifest=text,
        signature=base64.b64encode(signature).decode(),
        key=public_text(key.public_key()),
    )


def verify(signed: SignedManifest, trusted: Collection[str]) -> ApplicationManifest:
    """Return the manifest if one of the `trusted` public keys (base64) signed exactly this text.

    Raises BadSignature if not, Malformed if what was signed is no manifest.
    """
    if signed.key not in trusted:
        raise BadSignature(f"application signed by a key this host does not trust: {signed.key}", key=signed.key)
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(signed.key, validate=True))
        key.verify(base64.b64decode(signed.signature, validate=True), _CONTEXT + signed.manifest.encode())
    except (InvalidSignature, ValueError, binascii.Error) as error:
        raise BadSignature(f"the signature of key {signed.key} does not fit the application", key=signed.key) from error
    try:
        return msgspec.json.decode(signed.manifest, type=ApplicationManifest)
    except msgspec.MsgspecError as error:
        raise Malformed(f"the signed text is not an application manifest: {error}") from error
