"""The volunteer's settings file."""

from __future__ import annotations

from pathlib import Path

import pytest
from xwgrid_volunteer.runtimes import RuntimeSettings
from xwgrid_volunteer.settings import load

from xwgrid.errors import BadSettings


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """Every key arrives, tables for runtimes too, and the environment wins."""
    file = tmp_path / "volunteer.toml"
    file.write_text(
        f'state = "{tmp_path}/state"\nslots = 2\nhours = ["mon-fri 18:00-08:00"]\nmax_load = 1\n'
        'trusted_without_sandbox = ["digest"]\n'
        '[runtimes.blender]\ncommand = ["/opt/wrapped", "--loud"]\nread_only = ["/opt"]\n'
    )
    found = load(file, {"XWGRID_VOLUNTEER_SLOTS": "3", "XWGRID_RUNTIMES": "/srv/runtimes"})
    assert found.state_folder == tmp_path / "state"
    assert found.slots == 3
    assert found.runtimes_folder == "/srv/runtimes"
    assert found.runtimes == {"blender": RuntimeSettings(command=("/opt/wrapped", "--loud"), read_only=("/opt",))}
    assert len(found.wishes().hours) == 5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("slots = 0", "slots"),
        ("slotz = 1", "slotz"),
        ('hours = ["mondays"]', "mondays"),
        ("slots = [", "is not TOML"),
        ("max_load = 0", "max_load"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    """The sentence names the file and what is wrong in it."""
    file = tmp_path / "volunteer.toml"
    file.write_text(text)
    with pytest.raises(BadSettings, match=named) as caught:
        load(file, {})
    assert str(file) in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """A misspelt --settings is not silently the defaults."""
    with pytest.raises(BadSettings, match=r"missing\.toml"):
        load(tmp_path / "missing.toml", {})
