"""What counts as one address."""

from __future__ import annotations

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from rtunnel.relay.sockets import address_prefix


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
