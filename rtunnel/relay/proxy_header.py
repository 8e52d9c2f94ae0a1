"""The PROXY header, in which a proxy tells whose connection it passes on. It is text (v1) or binary (v2).

    v1 = "PROXY" SP ("TCP4" / "TCP6") SP source SP destination SP source-port SP destination-port CRLF
       / "PROXY UNKNOWN" *VCHAR CRLF                                                    at most 107 bytes
    v2 = signature(12) version-and-command(1) family-and-protocol(1) length(2) addresses *TLV

See https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt. Twisted has a parser too, but only as part of an
endpoint that tells a protocol of its connection before the header is there, and keeps the socket. It also refuses
``PROXY UNKNOWN``, and a v2 header that comes in pieces.

Without addresses, :func:`encode_v2` writes ``LOCAL``, which says as much as ``UNKNOWN`` in v1: the connection's own
addresses count. By the specification, ``PROXY`` with the family ``AF_UNSPEC`` would be possible too. But HAProxy 2.6
closes connections that begin with it.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Literal

from twisted.internet.address import IPv4Address, IPv6Address

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1_BEGINS = b"PROXY "
_V1_LONGEST = 107
_V2_FIXED = 16
_LOCAL, _PROXY = 0x20, 0x21
#: Addresses of IPv4 and of IPv6, by family and protocol; both protocols, stream and datagram, have the same.
_ADDRESSES = {0x1: struct.Struct("!4s4sHH"), 0x2: struct.Struct("!16s16sHH")}


#: Types of TLVs: the host name that the visitor asked for; and the first of those that are free for everybody to use.
AUTHORITY, CUSTOM = 0x02, 0xE0
_TLV = struct.Struct("!BH")
_INET, _INET6 = 0x10, 0x20
_STREAM, _DGRAM = 0x1, 0x2

#: An address and a port.
End = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]


def encode_v1(ends: tuple[End, End] | None) -> bytes:
    """Return a header of version 1, which is for TCP only.

    :param ends: source and destination, of one family; None: they are not known.
    """
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    (source, source_port), (destination, destination_port) = ends
    return b"PROXY TCP%d %b %b %d %d\r\n" % (
        source.version,
        str(source).encode(),
        str(destination).encode(),
        source_port,
        destination_port,
    )


def encode_v2(ends: tuple[End, End] | None, tlvs: bytes = b"", *, is_datagram: bool = False) -> bytes:
    """Return a header of version 2.

    :param ends: source and destination, of one family; None: they are not known, and the header has no TLVs either.
    :param tlvs: what :func:`encode_tlv` has returned.
    :param is_datagram: it is for a datagram and not for a connection.
    """
    if ends is None:
        return SIGNATURE + bytes((_LOCAL, 0, 0, 0))
    (source, source_port), (destination, destination_port) = ends
    family = _INET if source.version == 4 else _INET6
    form = _ADDRESSES[family >> 4]
    addresses = form.pack(source.packed, destination.packed, source_port, destination_port)
    transport = _DGRAM if is_datagram else _STREAM
    return SIGNATURE + struct.pack("!BBH", _PROXY, family | transport, len(addresses) + len(tlvs)) + addresses + tlvs


def encode_tlv(kind: int, value: str) -> bytes:
    """Return a TLV of a header of version 2, whose value is text."""
    content = value.encode()
    return _TLV.pack(kind, len(content)) + content


class BadHeader(ValueError):
    """What came is no PROXY header, or a broken one. The text says which, for a log."""


class ProxyHeader:
    """One header that is being read.

    :ivar is_complete: all of it was taken.
    :ivar source: whose connection it is; None: nobody's but the balancer's own (``LOCAL``), or the balancer does not
        say (``UNKNOWN``, or not an IP address).
    :ivar destination: where that was made to; None when *source* is.
    """

    def __init__(self) -> None:
        self.is_complete = False
        self.source: IPv4Address | IPv6Address | None = None
        self.destination: IPv4Address | IPv6Address | None = None
        # Without the TLVs, which nothing here needs.
        self._held = b""
        self._taken = 0
        self._size = _V2_FIXED

    def take(self, data: bytes) -> int:
        """Take what belongs to the header from the beginning of *data*; return how many bytes these are.

        :raises BadHeader: it is not a header.
        """
        before = self._taken
        while not self.is_complete and (rest := data[self._taken - before :]):
            if (self._held or rest)[:1] == SIGNATURE[:1]:
                self._take_v2(rest)
            else:
                self._take_v1(rest)
        return self._taken - before

    def _hold(self, piece: bytes, begins: bytes, most: int) -> None:
        self._taken += len(piece)
        self._held += piece[: max(0, most - len(self._held))]
        if self._held[: len(begins)] != begins[: len(self._held)]:
            raise BadHeader("it does not begin with a PROXY header")

    def _take_v1(self, rest: bytes) -> None:
        end = rest.find(b"\n") + 1
        self._hold(rest[: end or len(rest)], _V1_BEGINS, _V1_LONGEST + 1)
        if len(self._held) > _V1_LONGEST or (end and not self._held.endswith(b"\r\n")):
            raise BadHeader("its PROXY header has no end")
        if end:
            self._read_v1(self._held[:-2])
            self.is_complete = True

    def _read_v1(self, line: bytes) -> None:
        words = line.decode("ascii", "replace").split(" ")
        if words[1] == "UNKNOWN":
            return
        try:
            _, family, source, destination, source_port, destination_port = words
            version: Literal[4, 6] = {"TCP4": 4, "TCP6": 6}[family]  # type: ignore[assignment]
            self.source = _address(version, source, source_port)
            self.destination = _address(version, destination, destination_port)
        except (KeyError, ValueError):
            raise BadHeader("its PROXY header cannot be read") from None

    def _take_v2(self, rest: bytes) -> None:
        self._hold(rest[: self._size - self._taken], SIGNATURE, _V2_FIXED + 36)
        if self._taken == _V2_FIXED == self._size:
            self._size += int.from_bytes(self._held[14:16])
        if self._taken == self._size:
            self._read_v2(self._held[12], self._held[13] >> 4, self._held[_V2_FIXED:])
            self.is_complete = True

    def _read_v2(self, command: int, family: int, addresses: bytes) -> None:
        if command not in (_LOCAL, _PROXY):
            raise BadHeader("its PROXY header has an unknown version or command")
        form = _ADDRESSES.get(family)
        if command == _LOCAL or form is None:
            return
        if self._size - _V2_FIXED < form.size:
            raise BadHeader("its PROXY header is too short")
        source, destination, source_port, destination_port = form.unpack_from(addresses)
        version: Literal[4, 6] = 4 if family == 0x1 else 6
        self.source = _address(version, source, source_port)
        self.destination = _address(version, destination, destination_port)


def _address(version: Literal[4, 6], host: str | bytes, port: str | int) -> IPv4Address | IPv6Address:
    """Return an address of a header.

    :raises ValueError: it is not one.
    """
    number = int(port) if isinstance(port, int) or (port.isascii() and port.isdigit()) else -1
    if not 0 <= number <= 65535:
        raise ValueError(port)
    if isinstance(host, str) and "%" in host:
        raise ValueError(host)  # the scope behind it could be any text
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    if version == 4:
        address = ipaddress.IPv4Address(host)
    else:
        address = ipaddress.IPv6Address(host)
        # A balancer that listens for both families at once may have written an address of IPv4 in this way.
        address = address.ipv4_mapped or address
    return (IPv4Address if address.version == 4 else IPv6Address)("TCP", str(address), number)
