"""Whose request it is: what proxies tell each other, and services (RFC 7239 and the older fields)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from rtunnel.wire.web.heads import RequestHead


class TrustedProxies:
    """The proxies in front of this server whose word counts about whose request it is."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._networks = networks

    def __contains__(self, address: Any) -> bool:
        if not self._networks:
            return False
        host = getattr(address, "host", None)
        if not isinstance(host, str):
            # A UNIX socket: whoever reaches it is on this machine, and is let in by its permissions.
            return True
        ip = ip_address(host.partition("%")[0])
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._networks)


def forwarded_lines(head: RequestHead, host: str, scheme: str, *, is_trusted: bool) -> bytes:
    """Return the lines that tell the service whose request *head* is.

    :param host: the IP address of the other end of the connection.
    :param scheme: ``http`` or ``https``.
    :param is_trusted: what the other end says about that counts, and is passed on with *host* behind it.
    """
    said = (head.forwarded or {}) if is_trusted else {}
    address = host.encode("ascii", "replace")
    proto = said.get(b"x-forwarded-proto", scheme.encode("ascii"))
    authority = said.get(b"x-forwarded-host", head.authority)
    node = b'"[%b]"' % address if b":" in address else address or b"unknown"
    # A port makes it no token (RFC 7239, section 4).
    quoted = b'"%b"' % authority if b":" in authority else authority
    element = b"for=%b;host=%b;proto=%b" % (node, quoted or b'""', scheme.encode("ascii"))
    before, elements = said.get(b"x-forwarded-for"), said.get(b"forwarded")
    return b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b\r\nForwarded: %b\r\n" % (
        b"%b, %b" % (before, address) if before else address,
        proto,
        authority,
        b"%b, %b" % (elements, element) if elements else element,
    )
