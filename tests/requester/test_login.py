"""A token is kept only after the server was told from others by it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from xwgrid_server import authority

from tests.requester.https_server import SmallServer
from xwgrid import wire
from xwgrid.errors import BadSettings, Unauthenticated
from xwgrid.requester.client import GridClient
from xwgrid.requester.command import main
from xwgrid.requester.settings import load_credentials, load_settings
from xwgrid.tokens import Token


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A settings file of somebody who has not logged in."""
    file = tmp_path / "fresh.toml"
    file.write_text(f"credentials = {json.dumps(str(tmp_path / 'mine'))}\n")
    return file


def login(fresh: Path, token: str) -> tuple[int, str]:
    """Hand a token to `xwgrid login` on standard input; return the exit status and what was said."""
    ended = CliRunner().invoke(main, ["--settings", str(fresh), "login", "--token-file", "-"], input=token)
    return ended.exit_code, ended.output


def test_a_token_is_kept_for_its_owner_alone(server: SmallServer, fresh: Path, tmp_path: Path) -> None:
    """After logging in, the token lies in a file nobody else can read, the CA beside it."""
    status, said = login(fresh, server.token().text() + "\n")
    assert (status, said.startswith("You are ada (requester) at https://127.0.0.1:")) == (0, True)
    assert (tmp_path / "mine" / "token").stat().st_mode & 0o777 == 0o600
    assert load_credentials(tmp_path / "mine") == server.credentials()
    assert server.token().text() not in said


def test_the_prompt_does_not_echo(server: SmallServer, fresh: Path) -> None:
    """Typed at the prompt, the token is not shown."""
    ended = CliRunner().invoke(main, ["--settings", str(fresh), "login"], input=server.token().text() + "\n")
    assert ended.exit_code == 0
    assert server.token().text() not in ended.output


def test_a_server_of_another_ca_gets_no_secret(server: SmallServer, fresh: Path, tmp_path: Path) -> None:
    """When the CA at that address is not the one the token names, nothing is sent but the question for it."""
    other = authority.new_authority(time.time())
    status, said = login(fresh, server.token(other).text())
    assert status == 2
    assert "is not the one this token was made by" in said
    assert server.asked == ["GET ca"]
    assert not (tmp_path / "mine").exists()


def test_a_certificate_of_another_ca_is_refused(server: SmallServer) -> None:
    """A server that took over the address later is told from the one we logged in to, before the token is sent."""
    other = authority.new_authority(time.time())
    credentials = server.credentials()
    with (
        GridClient(type(credentials)(token=credentials.token, ca_pem=other.pem)) as client,
        pytest.raises(Unauthenticated, match="is not the one you logged in to"),
    ):
        client.whoami()
    assert server.asked == []


@pytest.mark.parametrize(
    ("token", "sentence"),
    [
        ("hello", "this is not a token of the kind 'requester'"),
        ("xwgrid-enrol-AAAA", "this is not a token of the kind 'requester'"),
        ("xwgrid-requester-AAAA", "this token is damaged"),
    ],
)
def test_what_is_no_token_is_said(fresh: Path, token: str, sentence: str) -> None:
    """A wrong or cut-off token ends with 2 and a sentence."""
    status, said = login(fresh, token)
    assert status == 2
    assert sentence in said


def test_an_expired_token_is_not_kept(server: SmallServer, fresh: Path, tmp_path: Path) -> None:
    """The server's refusal is handed on, and nothing is kept."""
    good = server.token()
    status, said = login(fresh, Token(kind=good.kind, url=good.url, ca_key=good.ca_key, secret=b"x" * 32).text())
    assert status == 2
    assert "ask the operator for a new one" in said
    assert not (tmp_path / "mine").exists()


def test_a_server_that_is_away_is_said(server: SmallServer, fresh: Path) -> None:
    """Nobody at that address: exit status 1, for it is nobody's fault, and nothing is lost."""
    good = server.token()
    token = Token(kind=good.kind, url="https://127.0.0.1:1", ca_key=good.ca_key, secret=good.secret)
    status, said = login(fresh, token.text())
    assert status == 1
    assert "cannot be reached" in said
    assert "try again later" in said


def test_without_login_every_command_says_so(fresh: Path) -> None:
    """Whoever has not logged in is told how, and who gives tokens."""
    ended = CliRunner().invoke(main, ["--settings", str(fresh), "jobs"])
    assert ended.exit_code == 2
    assert "you have not logged in" in ended.output


def test_a_wrong_key_in_the_settings_is_named(tmp_path: Path) -> None:
    """Settings with an unknown key name the file and the key."""
    file = tmp_path / "requester.toml"
    file.write_text("runtime = 'x'\n")
    with pytest.raises(BadSettings, match=r"requester\.toml.*runtime"):
        load_settings(file, {})


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    """XWGRID_RUNTIMES wins over `runtimes`."""
    file = tmp_path / "requester.toml"
    file.write_text("runtimes = '/one'\n")
    assert load_settings(file, {"XWGRID_RUNTIMES": "/other"}).runtimes_folder() == Path("/other")


def test_a_named_settings_file_must_be_there(tmp_path: Path) -> None:
    """A mistyped --settings is not taken for an empty file."""
    with pytest.raises(BadSettings, match="there is no settings file"):
        load_settings(tmp_path / "none.toml", {})


def test_a_user_is_decoded(server: SmallServer) -> None:
    """`whoami` gives the server's answer as it is."""
    server.user = wire.UserView(name="grace", role="operator")
    with GridClient(server.credentials()) as client:
        assert client.whoami() == server.user
