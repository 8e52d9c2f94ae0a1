"""Who may open a WebSocket: origins, and what counts as one address."""

from __future__ import annotations

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from rtunnel.access.web_admission import Origins, address_prefix
from rtunnel.errors import ConfigError


def ipv6(host: str) -> IPv6Address:
    return IPv6Address("TCP", host, 1)


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        (IPv4Address("TCP", "192.0.2.1", 1), "192.0.2.1"),
        (ipv6("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::"),
        (ipv6("2001:db8:1:2::"), "2001:db8:1:2::"),
        (ipv6("2001:db8:1:3::"), "2001:db8:1:3::"),
        (ipv6("::ffff:192.0.2.1"), "192.0.2.1"),
        (ipv6("fe80::1%eth0"), "fe80::"),
        (ipv6("::1"), "::"),
        (UNIXAddress(b"/run/x"), ""),
        (HostnameAddress(b"x", 1), ""),
        (None, ""),
    ],
)
def test_what_counts_as_one_address(address: IAddress | None, counts_as: str) -> None:
    assert address_prefix(address) == counts_as


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
