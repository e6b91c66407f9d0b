"""The server as a process of its own: its ports over real TLS, its lock, its end."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from cryptography import x509
from sqlalchemy import Engine
from xwgrid_server import accounts, admin, authority, database, settings
from xwgrid_server.accounts import Contact
from xwgrid_server.authority import Authority, pem_text
from xwgrid_server.listening import Listening, read_listening
from xwgrid_server.settings import Settings

from tests.server.certificates import key_pem, new_key, signing_request
from xwgrid import tokens
from xwgrid.model import HostId

RUN = [sys.executable, "-c", "from xwgrid_server.main import main; main()", "run"]
REFUSED = (ssl.SSLError, ConnectionError, http.client.HTTPException)
NO_BLOB = "/v1/blobs/" + "0" * 64


class Running:
    """A server process, and what is beside it."""

    def __init__(self, folder: Path) -> None:
        self.settings_file = folder / "server.toml"
        self.log = folder / "server.log"
        ended = CliRunner().invoke(
            admin.main,
            ["init", "--settings", str(self.settings_file), "--state", str(folder / "state"), "--host-name",
             "127.0.0.1", "--api", "127.0.0.1:0", "--volunteers", "127.0.0.1:0"],
        )  # fmt: skip
        assert ended.exit_code == 0, ended.output
        self.settings: Settings = settings.load(self.settings_file, {})
        self.authority: Authority = authority.load(self.settings.authority_folder)
        self.engine: Engine = database.open_engine(self.settings.database_url)
        self.process = self.started()
        listening = read_listening(self.settings.listening_file)
        assert listening is not None
        self.listening: Listening = listening

    def started(self) -> subprocess.Popen[str]:
        """Start a process and return when it says that it is ready, or has ended."""
        with self.log.open("a") as log:
            process = subprocess.Popen(
                [*RUN, "--settings", str(self.settings_file)], stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert process.stdout is not None
        self.first_line = process.stdout.readline()
        return process

    def token(self, kind: accounts.Kind) -> str:
        """Make a token for the first user."""
        contact = Contact(url=self.listening.api, ca_key=self.authority.key_hash)
        now = time.time()
        user = accounts.user_named(self.engine, "operator")
        return accounts.make_token(self.engine, user, kind, contact, expires_at=now + 3_600, now=now)

    def ask(
        self, port: str, path: str, *, client: Path | None = None, method: str = "GET", body: object = None,
        token: str = "",
    ) -> tuple[int, bytes]:  # fmt: skip
        """Make one call, with the certificate and key in the file `client`, and return status and body."""
        address = urlsplit(self.listening.api if port == "api" else self.listening.volunteers)
        context = ssl.create_default_context(cadata=self.authority.pem)
        if client is not None:
            context.load_cert_chain(client)
        connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server process for all tests of this file."""
    running = Running(tmp_path_factory.mktemp("server"))
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=30)
    running.engine.dispose()


def certificate_file(folder: Path, ca: Authority, now: float) -> Path:
    """Return a file with a key and a certificate for it that `ca` signed, for host 1."""
    key = new_key()
    request = authority.read_request(signing_request(key))
    return key_and_certificate(folder, key_pem(key), ca.issue_host(request, HostId(1), now))


def key_and_certificate(folder: Path, key: bytes, certificate: x509.Certificate) -> Path:
    """Return a file with both."""
    file = folder / "client.pem"
    file.write_bytes(key + pem_text(certificate).encode())
    return file


def enrolled(server: Running, folder: Path) -> tuple[HostId, Path]:
    """Let a host join over the API port; return its number, and the file with its key and certificate."""
    key = new_key()
    body = {"token": server.token("enrol"), "csr_pem": signing_request(key), "name": "attic"}
    status, answer = server.ask("api", "/v1/enrol", method="POST", body=body)
    assert status == 200, answer
    certificate = x509.load_pem_x509_certificate(json.loads(answer)["certificate_pem"].encode())
    return HostId(json.loads(answer)["host"]), key_and_certificate(folder, key_pem(key), certificate)


def test_it_says_where_it_listens(server: Running) -> None:
    """With port 0 the real ports are told, on standard output and in a file for commands beside it."""
    told = f"ready: api {server.listening.api} volunteers {server.listening.volunteers}\n"
    assert server.first_line == told
    assert server.listening.pid == server.process.pid
    assert urlsplit(server.listening.api).port not in {None, 0, 8443}


def test_the_first_contact_is_authenticated_by_the_token(server: Running) -> None:
    """GET /v1/ca gives, without any token, the CA whose key's hash is in the tokens that the admin command makes."""
    status, pem = server.ask("api", "/v1/ca")
    ended = CliRunner().invoke(
        admin.main, ["token", "enrol", "--user", "operator", "--settings", str(server.settings_file)]
    )
    assert ended.exit_code == 0, ended.output
    token = tokens.parse(ended.stdout, kind="enrol")
    assert status == 200
    assert token.url == server.listening.api
    assert tokens.check_ca(pem.decode(), token) == server.authority.certificate


def test_a_machine_that_joined_is_heard(server: Running, tmp_path: Path) -> None:
    """Its certificate opens the volunteers' port: a work call is answered."""
    _host, client = enrolled(server, tmp_path)
    body = {"call": 1, "want": 1}
    status, answer = server.ask("volunteers", "/v1/work", client=client, method="POST", body=body)
    assert status == 200, answer
    assert json.loads(answer)["heartbeat_seconds"] > 0


def test_an_enrolment_token_is_good_once(server: Running) -> None:
    """The second machine that brings the same token is refused."""
    body = {"token": server.token("enrol"), "csr_pem": signing_request(), "name": "attic"}
    assert server.ask("api", "/v1/enrol", method="POST", body=body)[0] == 200
    status, answer = server.ask("api", "/v1/enrol", method="POST", body=body)
    assert status == 401
    assert b"used already" in answer


def test_who_shows_no_certificate_of_this_ca_is_refused(server: Running, tmp_path: Path) -> None:
    """No certificate, another CA's, an expired one, one for servers: none gets as far as a request."""
    now = time.time()
    with pytest.raises(REFUSED):
        server.ask("volunteers", NO_BLOB)
    with pytest.raises(REFUSED):
        server.ask("volunteers", NO_BLOB, client=certificate_file(tmp_path, authority.new_authority(now), now))
    long_ago = now - 6 * 365 * 86_400
    with pytest.raises(REFUSED):
        server.ask("volunteers", NO_BLOB, client=certificate_file(tmp_path, server.authority, long_ago))
    own = server.authority.issue_server(["127.0.0.1"], now)
    with pytest.raises(REFUSED):
        server.ask("volunteers", NO_BLOB, client=key_and_certificate(tmp_path, key_pem(own.key), own.certificate))


def test_a_certificate_that_is_not_in_the_database_is_refused(server: Running, tmp_path: Path) -> None:
    """Even one that our CA signed: after a restored backup, what was issued since is unknown."""
    client = certificate_file(tmp_path, server.authority, time.time())
    assert server.ask("volunteers", NO_BLOB, client=client)[0] == 401


def test_a_revoked_or_banned_machine_is_refused(server: Running, tmp_path: Path) -> None:
    """A revoked certificate gets 401, a banned host 403 with the reason."""
    host, client = enrolled(server, tmp_path)
    accounts.ban_host(server.engine, host, "sends wrong frames")
    status, answer = server.ask("volunteers", NO_BLOB, client=client)
    assert status == 403
    assert b"sends wrong frames" in answer
    accounts.unban_host(server.engine, host)
    accounts.revoke_certificates(server.engine, host, time.time())
    status, answer = server.ask("volunteers", NO_BLOB, client=client)
    assert status == 401
    assert b"revoked" in answer


def test_the_api_asks_for_no_certificate_but_for_a_token(server: Running) -> None:
    """Browsers are not prompted; without a good token there is nothing to see."""
    assert server.ask("api", "/healthz") == (200, b'{"status":"ok"}')
    assert server.ask("api", "/v1/whoami")[0] == 401
    assert server.ask("api", "/v1/whoami", token="xwgrid-requester-AAAA")[0] == 401
    status, answer = server.ask("api", "/v1/whoami", token=server.token("requester"))
    assert status == 200
    assert json.loads(answer) == {"name": "operator", "role": "operator"}


def test_http_2_is_not_spoken(server: Running) -> None:
    """Of what a client offers, HTTP/1.1 is chosen, and the newest TLS."""
    address = urlsplit(server.listening.api)
    context = ssl.create_default_context(cadata=server.authority.pem)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection((address.hostname or "", address.port or 0)) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as secure,
    ):
        assert secure.selected_alpn_protocol() == "http/1.1"
        assert secure.version() == "TLSv1.3"


def test_a_second_server_on_the_same_database_is_refused(server: Running) -> None:
    """Two dispatching processes could each see one vote of two: the second ends with a sentence."""
    second = subprocess.run(
        [*RUN, "--settings", str(server.settings_file)], capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert "another xwgrid-server" in second.stderr
    assert "Traceback" not in second.stderr


def test_no_token_is_in_the_log_and_no_file_is_open_to_others(server: Running) -> None:
    """After calls with good and bad tokens none is in the log; the state folder is for the server's user alone."""
    good = server.token("requester")
    server.ask("api", "/v1/whoami", token=good)
    server.ask("api", f"/v1/{good}")
    server.ask("api", "/v1/enrol", method="POST", body={"token": good, "csr_pem": "x", "name": "x"})
    assert good not in server.log.read_text()
    assert stat.S_IMODE(server.settings.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(server.settings_file.stat().st_mode) == 0o600


def test_it_ends_in_good_order_and_comes_back(tmp_path: Path) -> None:
    """SIGTERM ends it with 0 and no traceback; started again it is ready again, with the same CA."""
    running = Running(tmp_path)
    try:
        ca = running.ask("api", "/v1/ca")
        for _ in range(2):
            running.process.send_signal(signal.SIGTERM)
            running.process.communicate(timeout=30)
            assert running.process.returncode == 0
            assert "Traceback" not in running.log.read_text()
            running.process = running.started()
            listening = read_listening(running.settings.listening_file)
            assert listening is not None
            running.listening = listening
            assert running.ask("api", "/v1/ca") == ca
    finally:
        running.process.kill()
        running.process.communicate()
        running.engine.dispose()


def test_a_server_that_was_never_set_up_says_what_to_do(tmp_path: Path) -> None:
    """Without init there is one sentence, and nothing is made."""
    file = tmp_path / "server.toml"
    file.write_text(f'state = "{tmp_path / "state"}"\n')
    ended = subprocess.run([*RUN, "--settings", str(file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "xwgrid-admin init" in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["server.toml"]


def test_a_port_that_is_taken_is_named(server: Running, tmp_path: Path) -> None:
    """The address that cannot be listened on is in the sentence, and the process ends."""
    port = urlsplit(server.listening.api).port
    file = tmp_path / "server.toml"
    ended = CliRunner().invoke(
        admin.main,
        ["init", "--settings", str(file), "--state", str(tmp_path / "state"), "--api", f"127.0.0.1:{port}",
         "--volunteers", "127.0.0.1:0"],
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    refused = subprocess.run([*RUN, "--settings", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    assert f"127.0.0.1:{port}" in refused.stderr
    assert "Traceback" not in refused.stderr
