"""The publisher's Ed25519 key on disk. It signs application versions, and is best kept off the server."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from xwgrid.errors import BadInput
from xwgrid_server.authority import write_private


def read(path: Path) -> Ed25519PrivateKey:
    """Read a private key in PEM, without a password. Raises BadInput when it is none, or cannot be read."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadInput(f"the signing key {path} cannot be read: {error}", path=str(path)) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadInput(f"{path} is not an Ed25519 private key: `openssl genpkey -algorithm ed25519` makes one")
    return key


def make(path: Path) -> Ed25519PrivateKey:
    """Make a key and write it, mode 0600. Raises BadInput when it cannot be written or there is a file already."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        write_private(path, pem)
    except OSError as error:
        raise BadInput(f"the signing key cannot be written to {path}: {error}", path=str(path)) from error
    return key
