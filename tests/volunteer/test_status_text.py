"""How a volunteer stands, as its owner reads it."""

from __future__ import annotations

from msgspec.structs import replace
from xwgrid_volunteer.control import Status
from xwgrid_volunteer.status_text import lines

STATUS = Status(name="desk", host=4, server="https://grid.example", state="idle", why="nobody asks", started_at=0.0)


def test_the_standing_is_a_line_of_its_own() -> None:
    """What the server said of the host stands there in its words; before it said anything there is no such line."""
    said = lines(replace(STATUS, standing="proven: 120 results validated, 1 wrong"), 60.0)
    assert "  standing: proven: 120 results validated, 1 wrong" in said
    assert not any("standing" in line for line in lines(STATUS, 60.0))


def test_a_server_cannot_play_with_the_terminal() -> None:
    """Control characters, new lines and endless sentences of a server do not reach the screen."""
    text = "\x1b[2J\nall is well\r" + "x" * 100_000
    said = lines(replace(STATUS, why=text, standing=text), 60.0)
    assert all(line.isprintable() for line in said)
    assert max(map(len, said)) < 1_100
