"""What counts as one address, and how many descriptors a process takes."""

from __future__ import annotations

import resource
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.address import HostnameAddress, IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress

from rtunnel.relay import sockets
from rtunnel.relay.sockets import ENOUGH, address_prefix, descriptor_limit, raise_descriptor_limit


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
    ("soft", "hard", "raised"),
    [
        (1024, 4096, 4096),
        (1024, 1 << 20, ENOUGH),
        (1024, -1, ENOUGH),
        (1024, 1024, 1024),
        # What somebody has chosen stays.
        (1 << 18, 1 << 20, 1 << 18),
        (-1, -1, -1),
    ],
)
def test_soft_limit_is_raised(monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int) -> None:
    limits = (soft, hard)

    def change(_which: int, wanted: tuple[int, int]) -> None:
        nonlocal limits
        limits = wanted

    system: Any = SimpleNamespace(
        RLIMIT_NOFILE=7, RLIM_INFINITY=resource.RLIM_INFINITY, getrlimit=lambda _which: limits, setrlimit=change
    )
    monkeypatch.setattr(sockets, "resource", system)
    raise_descriptor_limit()
    assert limits == (raised, hard)
    assert descriptor_limit() == (raised if raised > 0 else 1 << 20)


def test_system_that_allows_less_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_which: int, _wanted: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (256, 1 << 20))
    raise_descriptor_limit()
    assert descriptor_limit() == 256
