"""Which addresses of this machine ICE may offer."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import ifaddr


class NoAddress(Exception):
    """No address of this machine may be offered; the message says what to change."""


def local_addresses(interfaces: tuple[str, ...]) -> list[str]:
    """Return the addresses of this machine that may be offered.

    :param interfaces: names of interfaces, addresses or networks; empty: all but loopback and link-local ones.
    """
    found = []
    for name, text in _all_addresses():
        address = ipaddress.ip_address(text)
        if interfaces:
            wanted = any(_means(interface, name, address) for interface in interfaces)
        else:
            wanted = not address.is_loopback and not address.is_link_local
        if wanted and text not in found:
            found.append(text)
    return found


def _all_addresses() -> Iterator[tuple[str, str]]:
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            # An IPv6 address with a scope can be reached only on its own link.
            if isinstance(ip.ip, str):
                yield adapter.name, ip.ip
            elif ip.ip[2] == 0:
                yield adapter.name, ip.ip[0]


def _means(interface: str, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if interface == name:
        return True
    try:
        return address in ipaddress.ip_network(interface, strict=False)
    except ValueError:
        return False
