"""The server's certificate authority, without a network."""

from __future__ import annotations

import ipaddress
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from xwgrid_server import authority as authorities

from tests.server.certificates import NOW, signing_request
from xwgrid import tokens
from xwgrid.errors import BadInput, Conflict, Unauthenticated, Unavailable
from xwgrid.model import HostId
from xwgrid.tokens import Token

HOST = HostId(7)


def test_a_host_certificate_says_who_it_is_in_one_place_only() -> None:
    """Names in the signing request are ignored: a volunteer cannot choose whom it is."""
    ca = authorities.new_authority(NOW)
    request = authorities.read_request(signing_request(names=["xwgrid://host/1"], common_name="xwgrid://host/2"))
    issued = ca.issue_host(request, HOST, NOW)
    assert authorities.identity(issued) == authorities.HostIdentity(host=HOST, serial=f"{issued.serial_number:x}")
    assert "host/" not in issued.subject.rfc4514_string()


def test_certificates_are_good_for_one_use_only() -> None:
    """A volunteer's certificate is no server's, a server's is no volunteer's, and neither signs others."""
    ca = authorities.new_authority(NOW)
    host = ca.issue_host(authorities.read_request(signing_request()), HOST, NOW)
    server = ca.issue_server(["localhost", "127.0.0.1"], NOW).certificate
    for certificate, usage in ((host, ExtendedKeyUsageOID.CLIENT_AUTH), (server, ExtendedKeyUsageOID.SERVER_AUTH)):
        certificate.verify_directly_issued_by(ca.certificate)
        extensions = certificate.extensions
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [usage]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    constraints = ca.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value.path_length == 0


def test_a_server_certificate_covers_names_and_addresses() -> None:
    """Host names, IPv4 and IPv6 addresses are each written as what they are."""
    server = authorities.new_authority(NOW).issue_server(["grid.example.org", "10.1.2.3", "::1"], NOW)
    names = server.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["grid.example.org"]
    assert names.get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.1.2.3"),
        ipaddress.ip_address("::1"),
    ]


@pytest.mark.parametrize(
    "uris",
    [[], ["xwgrid://host/0"], ["xwgrid://host/7x"], ["https://host/7"], ["xwgrid://host/7", "xwgrid://host/8"]],
)
def test_a_certificate_that_names_no_host_or_two_is_refused(uris: list[str]) -> None:
    """Only exactly one well-formed identity counts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW, UTC) + timedelta(days=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    with pytest.raises(Unauthenticated, match="names no host"):
        authorities.identity(builder.sign(key, hashes.SHA256()))


def test_a_signing_request_must_be_one() -> None:
    """Rubbish, a request altered on the way, and weak or unusual keys are refused with a sentence."""
    for rubbish in ("", "not PEM", signing_request()[:200]):
        with pytest.raises(BadInput, match="signing request"):
            authorities.read_request(rubbish)
    weak = rsa.generate_private_key(65_537, 1_024)  # noqa: S505  # weak on purpose
    for key in (weak, ec.generate_private_key(ec.SECP521R1())):
        with pytest.raises(BadInput, match="P-256"):
            authorities.read_request(signing_request(key=key))


def test_a_signing_request_for_somebody_elses_key_is_refused() -> None:
    """Who asks for a certificate shows that they hold the key."""
    one, other = (
        x509.load_pem_x509_csr(signing_request(common_name=name).encode()).public_bytes(serialization.Encoding.DER)
        for name in ("same length 1", "same length 2")
    )
    # The signed part of one under the signature of the other; both have a signature of 70 to 72 bytes.
    forged = one.replace(b"same length 1", b"same length 2")
    assert other != forged
    pem = x509.load_der_x509_csr(forged).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(BadInput, match="not signed by its own key"):
        authorities.read_request(pem)


def test_private_keys_are_for_the_servers_user_alone(tmp_path: Path) -> None:
    """The folder is 0700, keys are 0600, and what was saved is what is loaded."""
    ca = authorities.new_authority(NOW)
    folder = tmp_path / "ca"
    authorities.save(ca, ca.issue_server(["localhost"], NOW), folder)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {"key.pem": 0o600, "certificate.pem": 0o644, "server.pem": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(tmp_path.iterdir()) == [folder]
    assert authorities.load(folder).key_hash == ca.key_hash


def test_a_ca_is_never_written_over(tmp_path: Path) -> None:
    """A second CA in the same place is refused, and the first is as it was."""
    folder = tmp_path / "ca"
    first, second = authorities.new_authority(NOW), authorities.new_authority(NOW)
    authorities.save(first, first.issue_server(["localhost"], NOW), folder)
    with pytest.raises(Conflict, match="not written over"):
        authorities.save(second, second.issue_server(["localhost"], NOW), folder)
    assert authorities.load(folder).key_hash == first.key_hash
    assert list(tmp_path.iterdir()) == [folder]


def test_a_missing_or_mixed_up_ca_says_what_to_do(tmp_path: Path) -> None:
    """No CA asks for init; a key of another CA asks for the backup."""
    folder = tmp_path / "ca"
    with pytest.raises(Unavailable, match="xwgrid-admin init"):
        authorities.load(folder)
    ca, other = authorities.new_authority(NOW), authorities.new_authority(NOW)
    authorities.save(ca, ca.issue_server(["localhost"], NOW), folder)
    (folder / "certificate.pem").write_text(other.pem)
    with pytest.raises(Unavailable, match="one backup"):
        authorities.load(folder)


def test_the_server_certificate_is_renewed_when_it_must_be(tmp_path: Path) -> None:
    """It stays while it fits; new host names, its coming end, or a damaged file make a new one, mode 0600."""
    folder = tmp_path / "ca"
    ca = authorities.new_authority(NOW)
    authorities.save(ca, ca.issue_server(["localhost"], NOW), folder)

    def serial(names: list[str], now: float) -> int:
        return authorities.load_server(ca, folder, names, now).certificate.serial_number

    first = serial(["localhost"], NOW)
    assert serial(["localhost"], NOW + 86_400) == first
    second = serial(["localhost", "10.0.0.1"], NOW)
    assert second != first
    assert serial(["10.0.0.1", "localhost"], NOW) == second
    late = NOW + (authorities.SERVER_LIFETIME - timedelta(days=1)).total_seconds()
    third = serial(["localhost", "10.0.0.1"], late)
    assert third != second
    (folder / "server.pem").write_bytes(b"damaged")
    assert serial(["localhost", "10.0.0.1"], late) != third
    assert stat.S_IMODE((folder / "server.pem").stat().st_mode) == 0o600


def test_keys_are_not_in_representations() -> None:
    """Whatever is logged of the CA, its key is not in it."""
    ca = authorities.new_authority(NOW)
    assert "key" not in repr(ca)
    assert "key" not in repr(ca.issue_server(["localhost"], NOW))


def test_a_token_knows_its_ca() -> None:
    """The hash in a token fits the CA it was made by, and no other."""
    ca, other = authorities.new_authority(NOW), authorities.new_authority(NOW)
    token = Token(kind="enrol", url="https://localhost:8443", ca_key=ca.key_hash, secret=bytes(32))
    assert tokens.check_ca(ca.pem, token) == ca.certificate
    with pytest.raises(Unauthenticated, match="another key"):
        tokens.check_ca(other.pem, token)
