"""Who may open a WebSocket: addresses and tokens, without a connection."""

from __future__ import annotations

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from rtunnel.access.web_admission import Tokens, neighbourhood


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
    assert neighbourhood(address) == counts_as


def test_every_token_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(shown: bytes, token: bytes) -> bool:
        compared.append(token)
        return shown == token

    monkeypatch.setattr("hmac.compare_digest", compare)
    assert Tokens(["a", "b", "c"]).allow("Bearer a")
    assert compared == [b"a", b"b", b"c"]


def test_an_empty_token_lets_nobody_in_without_one() -> None:
    assert not Tokens(["a"]).allow(None)
    assert not Tokens(["a"]).allow("Bearer")
