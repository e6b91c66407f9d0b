"""Which proxy leads where."""

from __future__ import annotations

import pytest
from xwgrid_volunteer.proxy import Proxy, proxy_for

from xwgrid.errors import BadSettings

URL = "https://grid.example.org:8444"
HOUSE = Proxy(host="proxy.example", port=3128)


@pytest.mark.parametrize(
    ("setting", "environment", "found"),
    [
        (None, {}, None),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128"}, HOUSE),
        (None, {"https_proxy": "proxy.example"}, HOUSE),
        (None, {"ALL_PROXY": "http://proxy.example:3128/"}, HOUSE),
        ("", {"HTTPS_PROXY": "http://proxy.example:3128"}, None),
        ("http://proxy.example:3128", {"NO_PROXY": "*"}, HOUSE),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "example.com, .example.org"}, None),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "grid.example.org:8444"}, None),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "grid.example.org:443"}, HOUSE),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "id.example.org"}, HOUSE),
        (None, {"HTTPS_PROXY": "http://proxy.example:3128", "NO_PROXY": "*"}, None),
    ],
)
def test_settings_come_first_then_the_environment(
    setting: str | None, environment: dict[str, str], found: Proxy | None
) -> None:
    """As curl reads HTTPS_PROXY and NO_PROXY; an empty setting means none at all."""
    assert proxy_for(URL, setting, environment) == found


def test_networks_are_excepted_by_number() -> None:
    """NO_PROXY=10.0.0.0/8 covers an address in it."""
    environment = {"HTTPS_PROXY": "proxy.example:3128", "NO_PROXY": "10.0.0.0/8"}
    assert proxy_for("https://10.1.2.3:8444", None, environment) is None
    assert proxy_for("https://11.1.2.3:8444", None, environment) == HOUSE


@pytest.mark.parametrize("address", ["socks5://proxy:1080", "http://", "http://proxy:x"])
def test_what_is_no_http_proxy_is_named(address: str) -> None:
    """The sentence says where the address came from."""
    with pytest.raises(BadSettings, match="HTTPS_PROXY"):
        proxy_for(URL, None, {"HTTPS_PROXY": address})


def test_a_password_stays_secret() -> None:
    """It is not in what is logged."""
    found = proxy_for(URL, "http://me:geheim@proxy.example:1", {})
    assert found is not None
    assert "geheim" not in repr(found)
    assert "geheim" in found.url()
