"""Users, tokens and hosts, on SQLite and PostgreSQL."""

from __future__ import annotations

import threading

import pytest
from cryptography import x509
from sqlalchemy import Engine, func, select
from xwgrid_schema.tables import certificates, hosts, tokens
from xwgrid_server import accounts, authority
from xwgrid_server.accounts import DAY, Contact, User
from xwgrid_server.authority import Authority, HostIdentity

from tests.server.certificates import NOW, signing_request
from xwgrid import tokens as token_texts
from xwgrid.errors import BadInput, Conflict, Forbidden, GridError, NotFound, Unauthenticated
from xwgrid.model import HostId
from xwgrid.wire import EnrolRequest


@pytest.fixture(scope="module")
def ca() -> Authority:
    """One CA for all tests of this file."""
    return authority.new_authority(NOW)


@pytest.fixture
def contact(ca: Authority) -> Contact:
    """What tokens say of the server."""
    return Contact(url="https://localhost:8443", ca_key=ca.key_hash)


@pytest.fixture
def ada(engine: Engine) -> User:
    """A person."""
    return accounts.add_user(engine, "ada", "requester", NOW)


def token_of(engine: Engine, user: User, kind: accounts.Kind, contact: Contact) -> str:
    """Make a token that is good for a day."""
    return accounts.make_token(engine, user, kind, contact, expires_at=NOW + DAY, now=NOW)


def enrolment(token: str, csr: str | None = None, name: str = "attic") -> EnrolRequest:
    """What a new volunteer sends."""
    return EnrolRequest(token=token, csr_pem=csr or signing_request(), name=name)


def joined(engine: Engine, user: User, contact: Contact, ca: Authority) -> HostIdentity:
    """Let a host of a user join, and return whom its certificate names."""
    enrolled = accounts.enrol(engine, enrolment(token_of(engine, user, "enrol", contact)), ca, NOW)
    return authority.identity(x509.load_pem_x509_certificate(enrolled.certificate_pem.encode()))


def rows(engine: Engine, table: object = hosts) -> int:
    """Count the rows of a table."""
    with engine.connect() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


# --- people -----------------------------------------------------------------------------------------------------


def test_two_people_cannot_have_one_name(engine: Engine, ada: User) -> None:
    """A name stands for one person; the second is told to choose another."""
    with pytest.raises(Conflict, match="'ada'"):
        accounts.add_user(engine, "ada", "operator", NOW)
    assert accounts.list_users(engine) == (ada,)
    assert accounts.user_named(engine, "ada") == ada
    with pytest.raises(NotFound, match="'bob'"):
        accounts.user_named(engine, "bob")


@pytest.mark.parametrize("name", ["", " ada", "a" * 201, "line\nbreak"])
def test_a_name_must_be_printable(engine: Engine, name: str) -> None:
    """Names that cannot be shown in a list are refused."""
    with pytest.raises(BadInput, match="printable"):
        accounts.add_user(engine, name, "requester", NOW)


# --- tokens -----------------------------------------------------------------------------------------------------


def test_a_requester_token_tells_whose_it_is(engine: Engine, ada: User, contact: Contact) -> None:
    """The text that was handed out is enough to know its owner, and carries address and CA of the server."""
    text = token_of(engine, ada, "requester", contact)
    assert accounts.authenticate(engine, text, NOW) == ada
    said = token_texts.parse(text, kind="requester")
    assert (said.url, said.ca_key) == (contact.url, contact.ca_key)


def test_two_tokens_are_never_equal(engine: Engine, ada: User, contact: Contact) -> None:
    """Each token has a secret of its own, and of none is more kept than its hash."""
    first, second = token_of(engine, ada, "requester", contact), token_of(engine, ada, "requester", contact)
    assert first != second
    secret = token_texts.parse(first, kind="requester").secret
    with engine.connect() as connection:
        for row in connection.execute(select(tokens)):
            assert first not in str(row)
            assert secret.hex() not in str(row)
    assert first not in repr(accounts.list_tokens(engine))


def test_an_expired_unknown_or_revoked_token_opens_nothing(engine: Engine, ada: User, contact: Contact) -> None:
    """Each is refused with its own sentence, in which no token stands."""
    text = token_of(engine, ada, "requester", contact)
    forged = token_texts.Token(kind="requester", url=contact.url, ca_key=contact.ca_key, secret=bytes(32)).text()
    refusals = []
    for tried, now, sentence in ((text, NOW + DAY, "expired"), (forged, NOW, "not known"), ("", NOW, "not known")):
        with pytest.raises(Unauthenticated, match=sentence) as refused:
            accounts.authenticate(engine, tried, now)
        refusals.append(repr(refused.value))
    accounts.revoke_token(engine, accounts.list_tokens(engine)[0].id, NOW)
    with pytest.raises(Unauthenticated, match="revoked") as refused:
        accounts.authenticate(engine, text, NOW)
    assert text not in f"{refusals}{refused.value!r}"


def test_a_token_of_the_other_kind_opens_nothing(engine: Engine, ada: User, contact: Contact, ca: Authority) -> None:
    """An enrolment token is no login, and a login enrols no machine."""
    with pytest.raises(Unauthenticated, match="not known"):
        accounts.authenticate(engine, token_of(engine, ada, "enrol", contact), NOW)
    with pytest.raises(Unauthenticated, match="not known"):
        accounts.enrol(engine, enrolment(token_of(engine, ada, "requester", contact)), ca, NOW)


def test_a_token_is_not_made_expired(engine: Engine, ada: User, contact: Contact) -> None:
    """A token nobody could ever use is refused when it is asked for."""
    with pytest.raises(BadInput, match="later"):
        accounts.make_token(engine, ada, "enrol", contact, expires_at=NOW, now=NOW)


def test_revoking_what_is_not_there_is_said(engine: Engine) -> None:
    """A wrong number is not taken for success."""
    with pytest.raises(NotFound, match="no token 7"):
        accounts.revoke_token(engine, 7, NOW)


# --- machines ---------------------------------------------------------------------------------------------------


def test_a_machine_joins_once_per_token(engine: Engine, ada: User, contact: Contact, ca: Authority) -> None:
    """The first use gives a host and a certificate; the second is told that each token lets one machine in."""
    text = token_of(engine, ada, "enrol", contact)
    enrolled = accounts.enrol(engine, enrolment(text), ca, NOW)
    certificate = x509.load_pem_x509_certificate(enrolled.certificate_pem.encode())
    certificate.verify_directly_issued_by(ca.certificate)
    identity = authority.identity(certificate)
    assert identity.host == enrolled.host
    assert accounts.admit(engine, identity).owner == ada.id
    with pytest.raises(Unauthenticated, match="used already"):
        accounts.enrol(engine, enrolment(text, name="another"), ca, NOW)
    assert rows(engine, hosts) == rows(engine, certificates) == 1


def test_a_bad_signing_request_does_not_use_the_token_up(
    engine: Engine, ada: User, contact: Contact, ca: Authority
) -> None:
    """After a failure nothing is left over, and the same token works."""
    text = token_of(engine, ada, "enrol", contact)
    with pytest.raises(BadInput, match="signing request"):
        accounts.enrol(engine, enrolment(text, "rubbish"), ca, NOW)
    assert rows(engine) == 0
    accounts.enrol(engine, enrolment(text), ca, NOW)


def test_a_failure_while_signing_does_not_use_the_token_up(
    engine: Engine, ada: User, contact: Contact, ca: Authority
) -> None:
    """Token, host and certificate are one transaction: when the last step fails, the first did not happen."""
    year_10000 = 253_402_300_800.0  # no certificate can be made then
    text = accounts.make_token(engine, ada, "enrol", contact, expires_at=year_10000 * 2, now=NOW)
    with pytest.raises((ValueError, OverflowError)):
        accounts.enrol(engine, enrolment(text), ca, year_10000)
    assert rows(engine) == 0
    assert accounts.list_tokens(engine)[0].used_at is None
    accounts.enrol(engine, enrolment(text), ca, NOW)


@pytest.mark.parametrize(("later", "revoke", "sentence"), [(DAY, False, "expired"), (0.0, True, "revoked")])
def test_an_expired_or_revoked_enrolment_lets_nobody_in(
    engine: Engine, ada: User, contact: Contact, ca: Authority, *, later: float, revoke: bool, sentence: str
) -> None:
    """The reason is told, and no host appears."""
    text = token_of(engine, ada, "enrol", contact)
    if revoke:
        accounts.revoke_token(engine, accounts.list_tokens(engine)[0].id, NOW)
    with pytest.raises(Unauthenticated, match=sentence):
        accounts.enrol(engine, enrolment(text), ca, NOW + later)
    assert rows(engine) == 0


def test_of_two_that_bring_one_token_at_once_one_gets_in(
    engine: Engine, ada: User, contact: Contact, ca: Authority
) -> None:
    """A stolen token raced against its owner gives one host, never two."""
    text = token_of(engine, ada, "enrol", contact)
    together = threading.Barrier(4)
    outcomes: list[str] = []

    def join() -> None:
        request = enrolment(text)
        together.wait()
        try:
            accounts.enrol(engine, request, ca, NOW)
            outcomes.append("in")
        except GridError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=join) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["in"] + ["unauthenticated"] * 3
    assert rows(engine) == 1


def test_a_banned_host_is_told_why_and_may_come_back(
    engine: Engine, ada: User, contact: Contact, ca: Authority
) -> None:
    """A ban refuses with its reason; when it is lifted the old certificate is good again."""
    identity = joined(engine, ada, contact, ca)
    accounts.ban_host(engine, identity.host, "sends wrong frames")
    with pytest.raises(Forbidden, match="sends wrong frames"):
        accounts.admit(engine, identity)
    assert accounts.list_hosts(engine)[0].state == "banned"
    accounts.unban_host(engine, identity.host)
    assert accounts.admit(engine, identity).name == "attic"
    with pytest.raises(NotFound, match="no host 99"):
        accounts.ban_host(engine, HostId(99), "")


def test_a_revoked_certificate_is_good_for_nothing(engine: Engine, ada: User, contact: Contact, ca: Authority) -> None:
    """Revoking ends it for good; other hosts go on."""
    identity, other = joined(engine, ada, contact, ca), joined(engine, ada, contact, ca)
    assert accounts.revoke_certificates(engine, identity.host, NOW) == 1
    assert accounts.revoke_certificates(engine, identity.host, NOW) == 0
    assert accounts.is_revoked(engine, identity.serial)
    assert not accounts.is_revoked(engine, other.serial)
    with pytest.raises(Unauthenticated, match="revoked"):
        accounts.admit(engine, identity)
    accounts.admit(engine, other)
    with pytest.raises(NotFound):
        accounts.revoke_certificates(engine, HostId(99), NOW)


def test_a_certificate_the_database_does_not_know_is_refused(
    engine: Engine, ada: User, contact: Contact, ca: Authority
) -> None:
    """Neither an unknown serial number nor one of another host passes, even if the CA signed it."""
    identity, other = joined(engine, ada, contact, ca), joined(engine, ada, contact, ca)
    for forged in (
        HostIdentity(host=identity.host, serial="1234"),
        HostIdentity(host=identity.host, serial=other.serial),
    ):
        with pytest.raises(Unauthenticated, match="not known"):
            accounts.admit(engine, forged)
    assert accounts.is_revoked(engine, "1234")
