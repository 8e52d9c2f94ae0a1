"""Whose request it is: what proxies tell each other, and services (RFC 7239 and the older fields)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from rtunnel.wire.web.heads import RequestHead

_TOKEN = re.compile(rb"[A-Za-z0-9.-]+")
_OLDER = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host")
_OLDER_LINES = b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b\r\nX-Forwarded-Host: %b"
_LINE = b"\r\nForwarded: %b"
# The node of an element, without a port (RFC 7239, section 6).
_FOR = re.compile(rb'(?:^|;)[ \t]*for="?(\[[0-9a-f:.]+\]|[0-9.]+)', re.IGNORECASE)


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


def forwarded_lines(head: RequestHead, host: str, scheme: str) -> bytes:
    """Return the lines that tell the service whose request *head* is, which has come from a trusted proxy.

    What the proxy says about that counts, and is passed on with *host* behind it. It is taken from the fields of one
    kind: a proxy that sets those of the other kind may have left these to its visitors.

    :param host: the IP address of the proxy; empty: it has none.
    :param scheme: ``http`` or ``https``.
    """
    said = head.forwarded
    if not said:
        return own_lines(host, scheme, head.authority)
    if any(field in said for field in _OLDER):
        before, node = said.get(b"x-forwarded-for"), _node(host)
        return _OLDER_LINES % (
            b"%b, %b" % (before, node) if before else node,
            said.get(b"x-forwarded-proto", scheme.encode("ascii")),
            said.get(b"x-forwarded-host", head.authority),
        )
    if elements := said.get(b"forwarded"):
        return _LINE % (b"%b, %b" % (elements, _element(host, scheme, head.authority)))
    return own_lines(host, scheme, head.authority)


def host_of(name: str) -> str:
    """Return the IP address in *name*, an address with a port as logs show it; empty: it is something else."""
    try:
        return str(ip_address(name.partition(" ")[0].rpartition(":")[0].strip("[]").partition("%")[0]))
    except ValueError:
        return ""


def origin(head: RequestHead, host: str) -> str:
    """Return the IP address of whose request it is, as far as a trusted proxy says so.

    :param host: the proxy's.
    """
    said = head.forwarded or {}
    if any(field in said for field in _OLDER):
        node = said.get(b"x-forwarded-for", b"").rpartition(b",")[2].strip()
    else:
        match = _FOR.search(said.get(b"forwarded", b"").rpartition(b",")[2])
        node = match[1] if match else b""
    try:
        found = ip_address(node.decode("ascii", "replace").strip("[]"))
    except ValueError:
        return host
    # A proxy that listens for both families at once may write an address of IPv4 in this way.
    return str(getattr(found, "ipv4_mapped", None) or found)


def is_secure(head: RequestHead) -> bool:
    """Return whether a trusted proxy says that the visitor speaks TLS to it."""
    said = (head.forwarded or {}).get(b"x-forwarded-proto", b"")
    return said.partition(b",")[0].strip().lower() == b"https"


@lru_cache(1024)
def own_lines(host: str, scheme: str, authority: bytes) -> bytes:
    """Return the lines that tell the service whose request it is, if nobody else's word counts.

    :param host: the IP address of the other end of the connection; empty: it has none.
    :param authority: of the request.
    """
    older = _OLDER_LINES % (_node(host), scheme.encode("ascii"), authority)
    return older + _LINE % _element(host, scheme, authority)


def _node(host: str) -> bytes:
    return host.encode("ascii", "replace") or b"unknown"


def _element(host: str, scheme: str, authority: bytes) -> bytes:
    node = _node(host)
    # What is no token is quoted (RFC 7239, section 4).
    node = b'"[%b]"' % node if b":" in node else node
    quoted = authority if _TOKEN.fullmatch(authority) else b'"%b"' % authority
    return b"for=%b;host=%b;proto=%b" % (node, quoted, scheme.encode("ascii"))
