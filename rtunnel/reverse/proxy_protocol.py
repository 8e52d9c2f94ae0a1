"""The PROXY header that a local service gets from the client, so that it sees the visitor's address and not ours."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from rtunnel.host_names import WILDCARD
from rtunnel.relay.proxy_header import AUTHORITY, CUSTOM, End, encode_tlv, encode_v1, encode_v2
from rtunnel.reverse.settings import TunnelSettings

#: The type of the TLV with the tunnel's name. ``PP2_TYPE_UNIQUE_ID`` is for what tells connections apart, and all
#: visitors of a tunnel have its name; so it is one of those for applications. 0xE0 is Google's, 0xEA Amazon's, and 0xEE
#: Microsoft's.
TUNNEL_NAME = CUSTOM + 7
#: The port of a name whose address has none.
_HTTPS = 443


def header_for(tunnel: TunnelSettings, visitor: str, public: str = "") -> bytes:
    """Return the header for a visitor's connection or datagrams; empty if the tunnel has none.

    The destination is the public address. Where the server does not tell its IP address, or that is of the other
    family, it is 0.0.0.0 or ``::``.

    :param visitor: his address as the server tells it, ``host:port``. It may be empty, or any other text.
    :param public: the tunnel's public address, as the server tells it.
    """
    if not tunnel.proxy_protocol:
        return b""
    source = _end(visitor)
    ends = None if source is None else (source, _destination(source, public, tunnel.remote_port or _HTTPS))
    if tunnel.proxy_protocol == "v1":
        return encode_v1(ends)
    # Only visitors who ask for this name get here. Behind a wildcard, the service reads theirs in the ClientHello.
    tlvs = encode_tlv(AUTHORITY, tunnel.host) if tunnel.host and not tunnel.host.startswith(WILDCARD) else b""
    if tunnel.name:
        tlvs += encode_tlv(TUNNEL_NAME, tunnel.name)
    return encode_v2(ends, tlvs, is_datagram=tunnel.protocol == "udp")


def _end(text: str) -> End | None:
    host, _, port = text.rpartition(":")
    number = _port(port)
    try:
        # What is behind "%" means something only on the server.
        address = ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return None if number is None else (getattr(address, "ipv4_mapped", None) or address, number)


def _port(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= 5
    return int(text) if is_number and int(text) <= 65535 else None


def _destination(source: End, public: str, default_port: int) -> End:
    known = _end(public)
    if known is not None and known[0].version == source[0].version:
        return known
    port = _port(public.rpartition(":")[2])
    return (IPv4Address if source[0].version == 4 else IPv6Address)(0), default_port if port is None else port
