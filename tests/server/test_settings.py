"""The server's settings file."""

from __future__ import annotations

from pathlib import Path

import pytest
from xwgrid_server import settings

from xwgrid.errors import BadSettings
from xwgrid.model import Audit, Credibility, Fixed


def parse(text: str, **environment: str) -> settings.Settings:
    """Read settings from text alone."""
    return settings.parse(text, source="server.toml", environment=environment)


def test_an_empty_file_is_a_server_on_loopback() -> None:
    """Nobody outside the machine reaches a server whose operator has decided nothing yet."""
    default = parse("")
    assert default.api_address.host == default.volunteer_address.host == "127.0.0.1"
    assert default.public_api_url(8443) == "https://localhost:8443"
    assert default.database_url.startswith("sqlite:////")


def test_public_addresses_follow_the_first_host_name_and_the_real_port() -> None:
    """What tokens and enrolments carry is what others can dial."""
    named = parse('host_names = ["grid.example.org", "10.0.0.1"]\napi = "0.0.0.0:0"')
    assert named.public_api_url(40_000) == "https://grid.example.org:40000"
    assert parse('host_names = ["::1"]').public_volunteer_url(8444) == "https://[::1]:8444"
    assert parse('api_url = "https://grid.example.org"').public_api_url(8443) == "https://grid.example.org"


def test_the_environment_has_the_last_word() -> None:
    """XWGRID_SERVER_STATE and its like override the file, without an own file for each container."""
    read = parse('state = "/one"', XWGRID_SERVER_STATE="/two", XWGRID_SERVER_HOST_NAMES='["a.example"]')
    assert read.folder == Path("/two")
    assert read.host_names == ("a.example",)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('api = "8443"', "api = '8443'"),
        ('volunteers = "[::1:8444"', "volunteers"),
        ('api = "127.0.0.1:70000"', "api"),
        ("host_names = []", "host_names"),
        ('host_names = ["two words"]', "two words"),
        ("lease_seconds = 31", "lease_seconds"),
        ("heartbeat_seconds = 0", "heartbeat_seconds"),
        ('api_url = "http://grid.example.org"', "api_url"),
        ('api_url = "https://grid.example.org/path"', "api_url"),
        ('database = "mysql://somewhere/grid"', "mysql"),
        ('database = "nonsense"', "database"),
        ("[readers]\nprocesses = 0", "readers"),
        ("[trust]\nepsilon = 0", "epsilon 0.0"),
        ("[trust]\nepsilon = 0.51", "epsilon 0.51"),
        ("[trust]\nepsilon = nan", "epsilon nan"),
        ('[trust]\nepsilon = "small"', "trust.epsilon"),
        ("[trust]\nshare = 0", "share 0.0"),
        ("[trust]\nshare = inf", "share inf"),
        ('[trust]\npolicy = "boinc"', "'boinc' - at `$.trust.policy`"),
        ('[trust]\nallowed = ["audit", "boinc"]', "'boinc' - at `$.trust.allowed[1]`"),
        ('[trust]\nallowed = ["fixed"]', "policy = 'audit' is not among those of allowed = ['fixed']"),
        ("[trust]\nallowed = []", "allowed = []"),
        ("[trust]\ndraw_from = 0", "draw_from = 0"),
        ("[trust]\ndraw_from = 1001", "draw_from = 1001"),
        ("[trust]\nquorum = 2", "quorum"),
        ("colour = 1", "colour"),
        ("state = ", "TOML"),
    ],
)
def test_a_bad_value_is_named_with_its_file(text: str, named: str) -> None:
    """Whoever wrote a bad setting reads which file, which key and what to write instead."""
    with pytest.raises(BadSettings) as refused:
        parse(text)
    assert "server.toml" in refused.value.message
    assert named in refused.value.message


def test_results_are_audited_unless_the_operator_says_otherwise() -> None:
    """A server whose operator decided nothing audits; each policy can be made the default, with its numbers."""
    assert parse("").trust.default == Audit(epsilon=0.001, share=0.05)
    assert parse('[trust]\npolicy = "credibility"\nepsilon = 0.01').trust.default == Credibility(epsilon=0.01)
    assert parse("", XWGRID_SERVER_TRUST='{policy = "fixed"}').trust.default == Fixed()


def test_a_bad_environment_variable_is_named() -> None:
    """A bad override is not blamed on the file."""
    with pytest.raises(BadSettings, match="XWGRID_SERVER_API"):
        parse("", XWGRID_SERVER_API="nowhere")


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    """A typing error in --settings does not quietly start a server with default settings."""
    with pytest.raises(BadSettings, match="xwgrid-admin init"):
        settings.load(tmp_path / "missing.toml", {})


def test_the_password_of_the_database_is_not_shown() -> None:
    """Settings may be logged: the password in the database's address is not in their representation."""
    read = parse('database = "postgresql+psycopg://grid:hunter2@db.example/grid"')
    assert "hunter2" not in repr(read)
    assert "hunter2" not in str(read)
    assert "db.example" in repr(read)
