"""Which addresses of this machine ICE may offer, the most useful first, and which ones of a peer it may use."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection, Iterator

import ifaddr

#: How many addresses are offered. With those that servers report they fit into what a peer accepts.
MAX_ADDRESSES = 48

#: Addresses of the internet (a root name server), IPv6 first (RFC 8421). Nothing is sent to them.
_FAR_AWAY = ((socket.AF_INET6, "2001:503:ba3e::2:30"), (socket.AF_INET, "198.41.0.4"))

#: Ports below 1,024 that peers may have at public addresses; the others belong to services. Chromium's rule.
_WEB_PORTS = (80, 443)
_SYSTEM_PORTS = range(1024)
#: Networks of IPv4 in which no peer can be: "this network", which means this machine when it is sent to, and class E.
_NOWHERE = tuple(ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "240.0.0.0/4"))


class NoAddress(Exception):
    """No address of this machine may be offered; the message says what to change."""


def local_addresses(interfaces: tuple[str, ...]) -> list[str]:
    """Return the addresses of this machine that may be offered, those of the default route first.

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
    first = _default_addresses()
    return [text for text in first if text in found] + [text for text in found if text not in first]


def missing_interfaces(interfaces: tuple[str, ...]) -> list[str]:
    """Return those of *interfaces* that no address of this machine fits now."""
    known = [(name, ipaddress.ip_address(text)) for name, text in _all_addresses()]
    return [one for one in interfaces if not any(_means(one, name, address) for name, address in known)]


def show_interfaces() -> str:
    """Return the interfaces of this machine with an address of each, as ``lo (127.0.0.1), eth0 (192.0.2.5)``."""
    known: dict[str, str] = {}
    for name, text in _all_addresses():
        known.setdefault(name, text)
    return ", ".join(f"{name} ({text})" for name, text in known.items()) or "none"


def why_unusable(text: str, port: int, own: Collection[str], broadcasts: Collection[str]) -> str:
    """Return why nothing may be sent to an address that a peer names; empty if it may be used.

    A peer can name any address, to make this end send something there.

    :param text: an IP address.
    :param own: the addresses that this end offers. Only if one of them is a loopback address may the peer have one too.
    :param broadcasts: see :func:`broadcast_addresses`.
    :returns: what continues "it is".
    """
    address = ipaddress.ip_address(text)
    if address.is_unspecified or address.is_multicast or text in broadcasts:
        return "not the address of one machine"
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or address.scope_id is not None:
            return "an address that has a meaning on one machine only"
    elif any(address in network for network in _NOWHERE):
        return "not the address of one machine"
    if address.is_loopback and not any(ipaddress.ip_address(one).is_loopback for one in own):
        return "a loopback address, and --ice-interface names none here"
    if port in _SYSTEM_PORTS and not (port in _WEB_PORTS and address.is_global):
        return "a port of a system service"
    return ""


def broadcast_addresses() -> set[str]:
    """Return the broadcast addresses of the networks that this machine is in (RFC 919)."""
    found = set()
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if isinstance(ip.ip, str) and ip.network_prefix < 31:
                network = ipaddress.ip_network(f"{ip.ip}/{ip.network_prefix}", strict=False)
                found.add(str(network.broadcast_address))
    return found


class AddressWatch:
    """Tells when this machine gets another address, or loses one.

    :ivar addresses: all that it has, loopback addresses too.
    """

    def __init__(self) -> None:
        self.addresses = _addresses()

    def look(self) -> bool:
        """Return whether the addresses are others than at the last look."""
        before, self.addresses = self.addresses, _addresses()
        return self.addresses != before


def _addresses() -> frozenset[str]:
    return frozenset(text for _, text in _all_addresses())


def _all_addresses() -> Iterator[tuple[str, str]]:
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            # An IPv6 address with a scope can be reached only on its own link.
            if isinstance(ip.ip, str):
                yield adapter.name, ip.ip
            elif ip.ip[2] == 0:
                yield adapter.name, ip.ip[0]


def _default_addresses() -> list[str]:
    """Return the addresses from which this machine would send to the internet."""
    found = []
    for family, far_away in _FAR_AWAY:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((far_away, 9))
            found.append(probe.getsockname()[0])
    return found


def _means(interface: str, name: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if interface == name:
        return True
    try:
        return address in ipaddress.ip_network(interface, strict=False)
    except ValueError:
        return False
