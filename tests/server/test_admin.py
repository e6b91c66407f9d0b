"""The operator's command, run as the operator runs it."""

from __future__ import annotations

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from xwgrid_server import admin, authority, database, settings, signing_keys
from xwgrid_server.settings import Settings
from xwgrid_server.settings_template import settings_text

from xwgrid import tokens


class Operator:
    """Somebody at a terminal, with a settings file of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings_file = folder / "server.toml"
        self.state = folder / "state"

    def run(self, *arguments: str) -> Result:
        """Run a command as it would be typed."""
        return CliRunner().invoke(admin.main, [*arguments, "--settings", str(self.settings_file)])

    def ask(self, *arguments: str) -> Any:
        """Run a command that must succeed, with --json; return what it said."""
        ended = self.run(*arguments, "--json")
        assert ended.exit_code == 0, ended.output
        return json.loads(ended.stdout)

    def refused(self, *arguments: str, status: int) -> str:
        """Run a command that must be refused with one sentence on standard error; return that."""
        ended = self.run(*arguments)
        assert ended.exit_code == status, ended.output
        assert ended.stdout == ""
        assert "Traceback" not in ended.stderr
        return ended.stderr

    def init(self, *options: str) -> Any:
        """Make a server."""
        return self.ask("init", "--state", str(self.state), *options)


@pytest.fixture
def operator(tmp_path: Path) -> Operator:
    """An operator who has not begun."""
    return Operator(tmp_path)


@pytest.fixture
def begun(operator: Operator) -> Operator:
    """An operator who has run init."""
    operator.init("--host-name", "grid.example.org")
    return operator


# --- init -------------------------------------------------------------------------------------------------------


def test_init_makes_a_whole_server(operator: Operator) -> None:
    """Settings, CA, database, first user, applications and a token that fits them, in one command."""
    made = operator.init("--host-name", "grid.example.org", "--operator", "ada")
    chosen = settings.load(operator.settings_file, {})
    ca = authority.load(chosen.authority_folder)
    token = tokens.parse(made["token"], kind="requester")
    assert (token.url, token.ca_key) == ("https://grid.example.org:8443", ca.key_hash)
    assert [user["name"] for user in operator.ask("user", "list")] == ["ada"]
    assert {app["application"] for app in operator.ask("app", "list")} == {"blender", "digest"}
    assert operator.ask("db", "check") == {"good": True}


def test_what_init_writes_is_for_the_servers_user_alone(begun: Operator) -> None:
    """Nobody else on the machine reads a key, a password or the database."""
    assert stat.S_IMODE(begun.state.stat().st_mode) == 0o700
    assert stat.S_IMODE(begun.settings_file.stat().st_mode) == 0o600
    assert stat.S_IMODE((begun.state / "application-signing-key.pem").stat().st_mode) == 0o600


def test_init_never_writes_over_a_server(begun: Operator) -> None:
    """Run again it is refused, and CA, users and settings are as they were."""
    before = {path: path.read_bytes() for path in (begun.state / "ca").iterdir()}
    assert "not written over" in begun.refused("init", status=1)
    assert "change it there" in begun.refused("init", "--host-name", "other.example", status=1)
    assert {path: path.read_bytes() for path in (begun.state / "ca").iterdir()} == before
    assert len(begun.ask("user", "list")) == 1


def test_init_uses_a_settings_file_that_is_there(operator: Operator) -> None:
    """What the operator wrote stays byte for byte, and is what the server is made from."""
    written = f'state = "{operator.state}"\napi = "127.0.0.1:9443"\n'
    operator.settings_file.write_text(written)
    assert operator.ask("init")["api_url"] == "https://localhost:9443"
    assert operator.settings_file.read_text() == written


@pytest.mark.parametrize(
    "options",
    [
        ("--signing-key", "FOLDER/rubbish.pem"),
        ("--signing-key", "FOLDER/missing/key.pem"),
        ("--host-name", "two words"),
        ("--operator", " "),
        ("--database", "sqlite:////nowhere/at/all.sqlite"),
        ("--database", "postgresql+psycopg://127.0.0.1:9/none"),
        ("--database", "oracle://somewhere"),
    ],
)
def test_a_failed_init_leaves_nothing(operator: Operator, options: tuple[str, str]) -> None:
    """Whatever it fails at, the folder is as before, and a second try with good options works."""
    (operator.folder / "rubbish.pem").write_text("not a key")
    option, value = options[0], options[1].replace("FOLDER", str(operator.folder))
    ended = operator.run("init", "--state", str(operator.state), option, value)
    assert ended.exit_code in {1, 2}
    assert "Traceback" not in ended.output
    assert [path.name for path in operator.folder.iterdir()] == ["rubbish.pem"]
    operator.init()


def test_a_failed_init_leaves_what_was_there(operator: Operator) -> None:
    """A state folder that existed keeps its contents, and nothing else is in it."""
    operator.state.mkdir()
    (operator.state / "notes").write_text("mine")
    operator.refused("init", "--state", str(operator.state), "--operator", " ", status=2)
    assert [path.name for path in operator.state.iterdir()] == ["notes"]


def test_init_on_an_empty_database(operator: Operator, empty_database_url: str) -> None:
    """SQLite and PostgreSQL are both made ready by init; a database with users is left alone."""
    operator.init("--database", empty_database_url)
    assert operator.ask("db", "check") == {"good": True}
    second = Operator(operator.folder / "second")
    second.folder.mkdir()
    told = second.refused("init", "--state", str(second.state), "--database", empty_database_url, status=1)
    assert "has users already" in told
    assert list(second.folder.iterdir()) == []
    assert len(operator.ask("user", "list")) == 1


def test_a_password_is_not_taken_from_the_command_line(operator: Operator) -> None:
    """It is refused before it is used, and not repeated."""
    told = operator.refused("init", "--database", "postgresql+psycopg://grid:hunter2@127.0.0.1/grid", status=2)
    assert "pgpass" in told
    assert "hunter2" not in told


def test_init_signs_with_the_key_that_is_given(operator: Operator) -> None:
    """An existing key is used and not moved; one that is not there is made, for its owner's eyes only."""
    key = operator.folder / "key.pem"
    operator.init("--signing-key", str(key))
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes()
    second = Operator(operator.folder / "second")
    second.folder.mkdir()
    second.init("--signing-key", str(key))
    assert key.read_bytes() == before
    keys = [{app["signed"]["key"] for app in one.ask("app", "list")} for one in (operator, second)]
    assert keys[0] == keys[1]


def test_the_settings_file_explains_every_key() -> None:
    """Each key stands in the file once, and with its comment sign removed says the default."""
    lines = settings_text({}).splitlines()
    shown = "\n".join(line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in lines)
    read = tomllib.loads(shown)
    assert set(read) == {field.name for field in msgspec.structs.fields(Settings)}
    assert settings.parse(shown, source="template", environment={}) == Settings()
    assert settings.parse("\n".join(lines), source="template", environment={}) == Settings()


# --- afterwards -------------------------------------------------------------------------------------------------


def test_a_token_is_alone_on_standard_output(begun: Operator) -> None:
    """So that it can be piped into `xwgrid-volunteer enrol --token-file -`."""
    begun.ask("user", "add", "ada")
    ended = begun.run("token", "enrol", "--user", "ada")
    assert tokens.parse(ended.stdout, kind="enrol").url == "https://grid.example.org:8443"
    assert ended.stdout.count("\n") == 1
    assert tokens.parse(begun.run("token", "requester", "--user", "ada").stdout, kind="requester")


def test_tokens_are_listed_without_their_secret_and_revoked(begun: Operator) -> None:
    """The list tells whose, until when, and whether it is good; never the token."""
    secret = begun.run("token", "enrol", "--user", "operator", "--expires", "30m", "--note", "attic").stdout.strip()
    listed = begun.run("token", "list").stdout
    assert secret not in listed
    assert "attic" in listed
    newest = begun.ask("token", "list")[-1]
    assert newest["expires_at"] - newest["created_at"] == pytest.approx(1_800)
    begun.ask("token", "revoke", str(newest["id"]))
    assert "revoked" in begun.run("token", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("token", "enrol", "--user", "nobody"), "no user 'nobody'"),
        (("token", "enrol", "--user", "operator", "--expires", "soon"), "30m, 12h or 7d"),
        (("token", "revoke", "99"), "no token 99"),
        (("host", "ban", "99"), "no host 99"),
        (("host", "revoke", "99"), "no host 99"),
        (("job", "show", "99"), "job 99"),
        (("task", "list", "99"), "job 99"),
        (("app", "revoke", "blender", "0"), "blender 0"),
        (("app", "publish"), "--signing-key"),
        (("app", "publish", "--signing-key", "/nowhere.pem"), "/nowhere.pem"),
        (("user", "add", ""), "printable"),
        (("host", "ban", "9" * 40), "not in the range"),
        (("token", "revoke", "9" * 40), "not in the range"),
        (("job", "show", "9" * 40), "not in the range"),
        (("task", "list", "1", "--after", "9" * 40), "not in the range"),
        (("replica", "list", "--host", "9" * 40), "not in the range"),
    ],
)
def test_what_is_not_there_is_named(begun: Operator, arguments: tuple[str, ...], sentence: str) -> None:
    """Wrong names, numbers and values end with 2 and a sentence that says what was wrong."""
    assert sentence in begun.refused(*arguments, status=2)


def test_lists_of_a_new_server_are_empty_and_say_so(begun: Operator) -> None:
    """Every list answers, for people and for programs."""
    for noun in ("job", "replica", "host"):
        assert begun.run(noun, "list").exit_code == 0
    assert begun.ask("job", "list") == {"jobs": []}
    assert begun.ask("replica", "list", "--job", "1", "--state", "voting") == []
    assert begun.ask("host", "list") == []


def test_a_free_port_is_known_only_while_the_server_runs(operator: Operator) -> None:
    """With port 0 no token can say where the server is before it has started, and that is told."""
    assert operator.init("--api", "127.0.0.1:0")["token"] is None
    assert "start the server first" in operator.refused("token", "enrol", "--user", "operator", status=1)


def test_a_database_that_is_newer_than_the_program_is_refused(begun: Operator) -> None:
    """Every command, the upgrade too, says that a newer xwgrid made it, and changes nothing."""
    engine = database.open_engine(settings.load(begun.settings_file, {}).database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    for arguments in (("db", "check"), ("db", "upgrade"), ("user", "list")):
        assert "newer xwgrid" in begun.refused(*arguments, status=2)


def test_commands_before_init_say_so(operator: Operator) -> None:
    """No database is made by looking for one."""
    assert "xwgrid-admin init" in operator.refused("user", "list", status=2)
    operator.settings_file.write_text(f'state = "{operator.state}"\n')
    assert "xwgrid-admin init" in operator.refused("user", "list", status=1)
    assert "xwgrid-admin init" in operator.refused("token", "enrol", "--user", "x", status=1)
    assert not operator.state.exists()


def test_a_version_signed_elsewhere_is_published(begun: Operator) -> None:
    """The key can stay on another machine: sign there, publish here; publishing twice changes nothing."""
    key = begun.folder / "offline.pem"
    signing_keys.make(key)
    out = begun.folder / "signed"
    ended = CliRunner().invoke(admin.main, ["app", "sign", "--signing-key", str(key), "--out", str(out), "--json"])
    assert ended.exit_code == 0, ended.output
    signed = {Path(one["signed"]).stem: one for one in json.loads(ended.stdout)}["digest"]
    publish = ("app", "publish", "--signed", signed["signed"], "--files", signed["files"])
    assert begun.ask(*publish) == []
    version = next(app["version"] for app in begun.ask("app", "list") if app["application"] == "digest")
    begun.ask("app", "revoke", "digest", version)
    assert "published already" in begun.refused(*publish, status=1)


def test_only_ed25519_keys_sign(tmp_path: Path) -> None:
    """What was made is what is read; another kind of key is refused by name."""
    made = signing_keys.make(tmp_path / "key.pem")
    read = signing_keys.read(tmp_path / "key.pem")
    assert isinstance(read, Ed25519PrivateKey)
    assert read.public_key() == made.public_key()


def test_every_command_explains_itself() -> None:
    """--help of each command has an example."""
    for group in admin.main.commands.values():
        members = group.commands.items() if hasattr(group, "commands") else [("", group)]
        for name, _command in members:
            arguments = [group.name or "", *([name] if name else []), "--help"]
            ended = CliRunner().invoke(admin.main, arguments)
            assert ended.exit_code == 0
            assert "Example:" in ended.output, arguments
