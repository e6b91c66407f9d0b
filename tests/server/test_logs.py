"""What gets into the server's log."""

from __future__ import annotations

from xwgrid_server.logs import without_secrets

from xwgrid.tokens import Token


def test_a_token_in_a_message_is_cut() -> None:
    """Wherever a token turns up in a line, only its kind is left."""
    for kind in ("enrol", "requester"):
        text = Token(kind=kind, url="https://localhost:8443", ca_key="0" * 64, secret=bytes(range(32))).text()
        line = without_secrets(f"call failed: 'Bearer {text}', {text}!")
        assert line == f"call failed: 'Bearer xwgrid-{kind}-…', xwgrid-{kind}-…!"
