"""Joining a grid: a key made here, a certificate for it from the server, and whom to trust from then on.

The server's CA is fetched and compared with the hash in the token before the token leaves this machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
from collections.abc import Mapping
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID
from msgspec import Struct

from xwgrid import tokens, wire
from xwgrid.errors import BadInput, Conflict, GridError, NotFound, Unauthenticated, Unavailable
from xwgrid.model import HostId, Instant
from xwgrid.tokens import Token
from xwgrid.wire import EnrolAnswer, EnrolRequest
from xwgrid_volunteer import durable
from xwgrid_volunteer.proxy import proxy_for

_TIMEOUT = httpx.Timeout(30.0)
_MAX_ANSWER_BYTES = 1 << 20


class Enrolment(Struct, frozen=True, kw_only=True):
    """What is remembered of joining, beside key and certificates: `identity/enrolment.json`."""

    host: HostId
    name: str
    volunteer_url: str  # https://host:port of the mutual TLS port
    application_keys: tuple[str, ...]
    enrolled_at: Instant


class Identity(Struct, frozen=True, kw_only=True):
    """Who this volunteer is to its server."""

    enrolment: Enrolment
    key_pem: bytes
    certificate_pem: bytes
    ca_pem: bytes

    def __repr__(self) -> str:
        return f"Identity(host {self.enrolment.host} of {self.enrolment.volunteer_url})"

    @property
    def grid(self) -> str:
        """Name the pair of server and host: what one grid is owed means nothing to another."""
        return f"{tokens.key_hash(x509.load_pem_x509_certificate(self.ca_pem))}/{self.enrolment.host}"


def load_identity(state: Path) -> Identity:
    """Read the identity in a state folder.

    Raises NotFound when there is none, BadInput when one of its files is damaged.
    """
    folder = _identity(state)
    try:
        enrolment = wire.decode((folder / "enrolment.json").read_bytes(), Enrolment)
        key, certificate, ca = ((folder / name).read_bytes() for name in ("key.pem", "certificate.pem", "ca.pem"))
        x509.load_pem_x509_certificate(certificate)
        x509.load_pem_x509_certificate(ca)
    except FileNotFoundError as error:
        raise NotFound(
            f"this volunteer belongs to no grid yet ({folder} is not there): ask the operator for an enrolment token, "
            "then run xwgrid-volunteer enrol"
        ) from error
    except (OSError, ValueError, GridError) as error:
        raise BadInput(
            f"the identity in {folder} is damaged ({error}): ask the operator for a new enrolment token, "
            "then run xwgrid-volunteer enrol --again"
        ) from error
    return Identity(enrolment=enrolment, key_pem=key, certificate_pem=certificate, ca_pem=ca)


def enrol(
    token: Token,
    *,
    server: str | None = None,
    name: str,
    state: Path,
    now: Instant,
    again: bool = False,
    proxy: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Identity:
    """Join the grid that made `token`. Blocking. The identity appears in `state` whole, or not at all.

    `server` is the API's address if another than the token's, `proxy` as in the settings.
    Raises Conflict when there is an identity already and `again` is not set, Unauthenticated when the server is
    another than the token's or refuses it, Unavailable when it does not answer.
    """
    if _identity(state).exists() and not again:
        raise Conflict(
            f"this volunteer has an identity already ({_identity(state)}): "
            "add --again to give it up for a new one, or name another state folder in the settings"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    # Everything that may fail on this side comes before the token is used up.
    fresh = _fresh_folder(state)
    try:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        durable.write(fresh / "key.pem", pem, mode=0o600)
        url = server or token.url
        route = proxy_for(url, proxy, environment)
        way = _Way(url=url, proxy=None if route is None else route.url())
        request = EnrolRequest(token=token.text(), csr_pem=_request(key, name), name=name)
        answer = _introduce(token, request, way, now)
        _check(answer, key, token)
        enrolment = Enrolment(
            host=answer.host,
            name=name,
            volunteer_url=answer.volunteer_url,
            application_keys=answer.application_keys,
            enrolled_at=now,
        )
        durable.write(fresh / "certificate.pem", answer.certificate_pem.encode())
        durable.write(fresh / "ca.pem", answer.ca_pem.encode())
        durable.write(fresh / "enrolment.json", wire.encode(enrolment))
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _switch(state, fresh)
    return load_identity(state)


class _Way(Struct, frozen=True, kw_only=True):
    """How the API is reached."""

    url: str
    proxy: str | None


def _introduce(token: Token, request: EnrolRequest, way: _Way, now: Instant) -> EnrolAnswer:
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE  # nothing but the CA's certificate is read, and that is compared by hash
    ca = tokens.check_ca(_call(way, "/v1/ca", trust=unverified).decode(errors="replace"), token)
    if not ca.not_valid_before_utc.timestamp() - 3_600 <= now <= ca.not_valid_after_utc.timestamp():
        raise Unauthenticated(
            f"by this machine's clock the grid's CA is not valid (from {ca.not_valid_before_utc:%Y-%m-%d} to "
            f"{ca.not_valid_after_utc:%Y-%m-%d}): set the clock"
        )
    verified = ssl.create_default_context(cadata=ca.public_bytes(Encoding.PEM).decode())
    return wire.decode(_call(way, "/v1/enrol", trust=verified, content=wire.encode(request)), EnrolAnswer)


def _call(way: _Way, path: str, *, trust: ssl.SSLContext, content: bytes | None = None) -> bytes:
    url = way.url.rstrip("/")
    method = "GET" if content is None else "POST"
    headers = {"Content-Type": "application/json"} if content is not None else {}
    try:
        with (
            httpx.Client(verify=trust, proxy=way.proxy, trust_env=False, timeout=_TIMEOUT) as client,
            client.stream(method, url + path, content=content, headers=headers) as response,
        ):
            body = b""
            for part in response.iter_bytes():
                body += part
                if len(body) > _MAX_ANSWER_BYTES:
                    raise Unavailable(f"{url} answers with more than an xwgrid server would: is the address right?")
    except httpx.HTTPError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise Unauthenticated(
                f"{url} does not prove to be the grid's server: {error}. Check the address; --server gives another",
                url=url,
            ) from error
        raise Unavailable(f"{url} cannot be reached: {error or type(error).__name__}", url=url) from error
    if response.status_code not in (200, 201):
        raise wire.error_from_body(body, response.status_code)
    return body


def _request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    # The server decides what the certificate says; the name is for people who look at the request.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _check(answer: EnrolAnswer, key: ec.EllipticCurvePrivateKey, token: Token) -> None:
    tokens.check_ca(answer.ca_pem, token)
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate_pem.encode())
    except ValueError as error:
        raise Unauthenticated(f"the server's answer holds no certificate: {error}") from error
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if certificate.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise Unauthenticated("the server's certificate is for another key than the one made here")
    if not answer.volunteer_url.startswith("https://"):
        raise Unauthenticated(f"the server names '{answer.volunteer_url}' for volunteers, which is not https")


def _identity(state: Path) -> Path:
    return state / "identity"


def _fresh_folder(state: Path) -> Path:
    try:
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in state.glob("identity-*"):
            # What an interrupted enrolment left behind; the one in use is where the link points.
            if left.resolve() != _identity(state).resolve():
                shutil.rmtree(left, ignore_errors=True)
        fresh = state / f"identity-{secrets.token_hex(8)}"
        fresh.mkdir(mode=0o700)
    except OSError as error:
        raise BadInput(f"the state folder {state} cannot be written: {error.strerror or error}") from error
    return fresh


def _switch(state: Path, fresh: Path) -> None:
    """Let the name `identity`, a link, point to the new folder: one step, whatever happens around it."""
    place = _identity(state)
    old = place.resolve() if place.exists() else None
    durable.sync(fresh)
    link = state / ".identity.new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    if place.is_dir() and not place.is_symlink():
        place.rename(state / f"identity-{secrets.token_hex(8)}")  # a folder copied here by hand
    link.replace(place)
    durable.sync(state)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
