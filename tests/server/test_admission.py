"""Who is remembered as welcome, and for how long; asked of a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import Engine
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from xwgrid_server import accounts, authority, database
from xwgrid_server.accounts import DAY, Contact, HostAccount
from xwgrid_server.admission import REMEMBERED_SECONDS, Admission
from xwgrid_server.authority import HostIdentity

from tests.server.certificates import NOW, signing_request
from xwgrid.errors import Forbidden
from xwgrid.wire import EnrolRequest


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database of this test's own."""
    url = f"sqlite:///{tmp_path / 'xwgrid.sqlite'}"
    database.upgrade(url)
    engine = database.open_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def identity(engine: Engine) -> HostIdentity:
    """A host that joined."""
    ca = authority.new_authority(NOW)
    ada = accounts.add_user(engine, "ada", "requester", NOW)
    contact = Contact(url="https://localhost:8443", ca_key=ca.key_hash)
    token = accounts.make_token(engine, ada, "enrol", contact, expires_at=NOW + DAY, now=NOW)
    enrolled = accounts.enrol(engine, EnrolRequest(token=token, csr_pem=signing_request(), name="attic"), ca, NOW)
    return authority.identity(x509.load_pem_x509_certificate(enrolled.certificate_pem.encode()))


class Asked:
    """Calls at once what a server calls in a thread, and counts."""

    def __init__(self) -> None:
        self.times = 0

    def run(
        self, function: Callable[[Engine, HostIdentity], HostAccount], engine: Engine, identity: HostIdentity
    ) -> Deferred[HostAccount]:
        """Call `function`."""
        self.times += 1
        return execute(function, engine, identity)


def result(answer: Deferred[HostAccount]) -> HostAccount:
    """Return what a Deferred that has fired fired with. Raises what it failed with."""
    results: list[HostAccount] = []
    failures: list[BaseException] = []
    answer.addCallbacks(results.append, lambda failure: failures.append(failure.value))
    if failures:
        raise failures[0]
    return results[0]


def test_a_busy_host_is_looked_up_once_in_a_while(engine: Engine, identity: HostIdentity) -> None:
    """Of many calls in five seconds one asks the database; the next one after that asks again."""
    clock, asked = Clock(), Asked()
    admission = Admission(clock.seconds, engine, asked.run)
    assert admission.remembered(identity) is None
    for _ in range(100):
        assert result(Deferred.fromCoroutine(admission.admit(identity))).id == identity.host
    assert admission.remembered(identity) is not None
    assert asked.times == 1
    clock.advance(REMEMBERED_SECONDS)
    assert admission.remembered(identity) is None
    result(Deferred.fromCoroutine(admission.admit(identity)))
    assert asked.times == 2


def test_a_ban_takes_hold_within_seconds_and_ends_at_once(engine: Engine, identity: HostIdentity) -> None:
    """A welcome is remembered for five seconds at most, a refusal never."""
    clock, asked = Clock(), Asked()
    admission = Admission(clock.seconds, engine, asked.run)
    result(Deferred.fromCoroutine(admission.admit(identity)))
    accounts.ban_host(engine, identity.host, "lies")
    clock.advance(REMEMBERED_SECONDS)
    with pytest.raises(Forbidden, match="lies"):
        result(Deferred.fromCoroutine(admission.admit(identity)))
    accounts.unban_host(engine, identity.host)
    assert result(Deferred.fromCoroutine(admission.admit(identity))).name == "attic"
