"""Who may open a WebSocket: origins."""

from __future__ import annotations

import pytest

from rtunnel.access.web_admission import Origins
from rtunnel.errors import ConfigError


@pytest.mark.parametrize(
    ("rule", "origin", "is_allowed"),
    [
        ("*", "https://any.example", True),
        ("https://a.example", None, True),
        ("https://a.example", "https://a.example", True),
        ("https://a.example", "HTTPS://A.example:443", True),
        ("https://a.example", "http://a.example", False),
        ("https://a.example", "https://a.example:8443", False),
        ("https://a.example:*", "https://a.example:8443", True),
        ("https://*.example", "https://a.b.example", True),
        ("https://*.example", "https://example", False),
        ("*://a.example", "http://a.example", True),
        ("https://a.example", "https://*", False),
        ("https://a.example", "null", False),
    ],
)
def test_origins(rule: str, origin: str | None, is_allowed: bool) -> None:
    assert Origins([rule]).allow(origin) == is_allowed


def test_rule_that_is_not_an_origin() -> None:
    with pytest.raises(ConfigError, match=r"'a\.example' is not an origin; write scheme and host"):
        Origins(["a.example"])
