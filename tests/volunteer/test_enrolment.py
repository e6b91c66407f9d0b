"""Joining a grid, against the real server."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from xwgrid_volunteer.enrolment import enrol, load_identity

from tests.grid import Grid
from tests.volunteer.connect_proxy import ConnectProxy
from xwgrid.errors import BadInput, Conflict, NotFound, Unauthenticated, Unavailable
from xwgrid.tokens import Token, parse


def token(grid: Grid) -> Token:
    """Return a new enrolment token."""
    return parse(grid.token("enrol", "owner"), kind="enrol")


def test_a_volunteer_joins(grid: Grid, tmp_path: Path) -> None:
    """It has a key nobody else can read, a certificate for that key which names its host, and whom to trust."""
    identity = enrol(token(grid), name="desk", state=tmp_path / "state", now=time.time())
    key_file = tmp_path / "state" / "identity" / "key.pem"
    assert key_file.stat().st_mode & 0o777 == 0o600
    key = load_pem_private_key(key_file.read_bytes(), None)
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    assert certificate.public_key() == key.public_key()
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"xwgrid://host/{identity.enrolment.host}"]
    assert identity.enrolment.application_keys
    assert load_identity(tmp_path / "state") == identity
    assert "PRIVATE" not in repr(identity)


def test_a_token_is_good_for_one_host(grid: Grid, tmp_path: Path) -> None:
    """A second use is refused, and leaves nothing behind."""
    once = token(grid)
    enrol(once, name="desk", state=tmp_path / "first", now=time.time())
    with pytest.raises(Unauthenticated):
        enrol(once, name="desk", state=tmp_path / "second", now=time.time())
    assert list((tmp_path / "second").iterdir()) == []


def test_an_identity_is_not_overwritten(grid: Grid, tmp_path: Path) -> None:
    """Only --again replaces it, and then nothing of the old one is left; the token is not used up by the refusal."""
    first = enrol(token(grid), name="desk", state=tmp_path, now=time.time())
    second = token(grid)
    with pytest.raises(Conflict, match="--again"):
        enrol(second, name="desk", state=tmp_path, now=time.time())
    assert load_identity(tmp_path) == first
    again = enrol(second, name="desk", state=tmp_path, now=time.time(), again=True)
    assert load_identity(tmp_path) == again != first
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["identity", "identity"]


def test_an_impostor_never_sees_the_token(grid: Grid, tmp_path: Path) -> None:
    """A server whose CA has another key is told nothing, and the token stays good."""
    real = token(grid)
    with pytest.raises(Unauthenticated, match="not the one this token was made by"):
        enrol(msgspec.structs.replace(real, ca_key="0" * 64), name="desk", state=tmp_path, now=time.time())
    assert list(tmp_path.iterdir()) == []
    enrol(real, name="desk", state=tmp_path, now=time.time())


def test_a_name_that_is_not_the_servers_is_refused(grid: Grid, tmp_path: Path) -> None:
    """The right CA is not enough: the certificate must be for the address that was dialled."""
    other = token(grid).url.replace("127.0.0.1", "127.0.0.2")
    with pytest.raises((Unauthenticated, Unavailable)):
        enrol(token(grid), server=other, name="desk", state=tmp_path, now=time.time())
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_wrong_is_named(grid: Grid, tmp_path: Path) -> None:
    """A machine that wakes up in 1970 is told to set its clock."""
    with pytest.raises(Unauthenticated, match="set the clock"):
        enrol(token(grid), name="desk", state=tmp_path, now=0.0)


def test_joining_through_a_proxy(grid: Grid, tmp_path: Path) -> None:
    """HTTPS_PROXY leads both contacts through CONNECT, its password goes along, and NO_PROXY keeps them out."""
    secret = "Basic " + base64.b64encode(b"me:a/b").decode()
    with ConnectProxy(authorization=secret) as proxy:
        address = proxy.url.replace("http://", "http://me:a%2Fb@")
        environment = {"HTTPS_PROXY": address}
        enrol(token(grid), name="desk", state=tmp_path / "one", now=time.time(), environment=environment)
        assert proxy.targets == [token(grid).url.removeprefix("https://")] * 2
        environment["NO_PROXY"] = "127.0.0.0/8"
        enrol(token(grid), name="desk", state=tmp_path / "two", now=time.time(), environment=environment)
        assert len(proxy.targets) == 2


def test_a_server_that_is_not_there(grid: Grid, tmp_path: Path) -> None:
    """The sentence names the address; nothing is left behind."""
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        enrol(token(grid), server="https://127.0.0.1:1", name="desk", state=tmp_path, now=time.time())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_no_token(grid: Grid, tmp_path: Path) -> None:
    """The place for the key is tried before the token is used up."""
    (tmp_path / "file").write_text("")
    once = token(grid)
    with pytest.raises(BadInput, match="cannot be written"):
        enrol(once, name="desk", state=tmp_path / "file", now=time.time())
    enrol(once, name="desk", state=tmp_path / "state", now=time.time())


def test_without_an_identity_it_says_how_to_get_one(tmp_path: Path) -> None:
    """And a damaged one is told from none."""
    with pytest.raises(NotFound, match="xwgrid-volunteer enrol"):
        load_identity(tmp_path)
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "enrolment.json").write_text("{")
    with pytest.raises(BadInput, match="--again"):
        load_identity(tmp_path)
