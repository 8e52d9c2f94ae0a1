"""PROXY headers as balancers send them, whole and in pieces, and what is none."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from twisted.internet.address import IPv4Address, IPv6Address

from rtunnel.relay.proxy_header import (
    AUTHORITY,
    SIGNATURE,
    BadHeader,
    ProxyHeader,
    encode_tlv,
    encode_v1,
    encode_v2,
)

V4 = (IPv4Address("TCP", "192.0.2.7", 1234), IPv4Address("TCP", "198.51.100.1", 443))
V6 = (IPv6Address("TCP", "2001:db8::7", 1234), IPv6Address("TCP", "2001:db8::1", 443))
NONE = (None, None)


def v2(command: int, family: int, addresses: bytes, tlvs: bytes = b"") -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(addresses) + len(tlvs)) + addresses + tlvs


ADDRESSES_4 = struct.pack("!4s4sHH", socket.inet_aton("192.0.2.7"), socket.inet_aton("198.51.100.1"), 1234, 443)
ADDRESSES_6 = struct.pack(
    "!16s16sHH",
    socket.inet_pton(socket.AF_INET6, "2001:db8::7"),
    socket.inet_pton(socket.AF_INET6, "2001:db8::1"),
    1234,
    443,
)
TLV = b"\x02\x00\x0bexample.com"

HEADERS = {
    "v1 of IPv4": (b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n", V4),
    "v1 of IPv6": (b"PROXY TCP6 2001:db8::7 2001:db8:0::1 1234 443\r\n", V6),
    "v1 of mapped IPv4": (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 1234 443\r\n", V4),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", NONE),
    "v1, unknown with addresses": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", NONE),
    "v2 of IPv4": (v2(0x21, 0x11, ADDRESSES_4), V4),
    "v2 of IPv6": (v2(0x21, 0x21, ADDRESSES_6), V6),
    "v2 with TLVs": (v2(0x21, 0x11, ADDRESSES_4, TLV), V4),
    "v2 with as many TLVs as there may be": (v2(0x21, 0x11, ADDRESSES_4, TLV * 4680), V4),
    "v2, local": (v2(0x20, 0x00, b""), NONE),
    "v2, local with addresses": (v2(0x20, 0x11, ADDRESSES_4), NONE),
    "v2, unspecified": (v2(0x21, 0x00, TLV), NONE),
    "v2 of a UNIX socket": (v2(0x21, 0x31, bytes(216)), NONE),
    "v2 of a family to come": (v2(0x21, 0x41, bytes(9)), NONE),
}


@pytest.mark.parametrize(("data", "addresses"), HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("behind", [b"", b"\r\n\r\n\x00\r\nQUIT\nPROXY UNKNOWN\r\n"], ids=["alone", "with more"])
def test_headers(data: bytes, addresses: object, behind: bytes) -> None:
    header = ProxyHeader()
    assert header.take(data + behind) == len(data)
    assert header.is_complete
    assert (header.source, header.destination) == addresses


@given(st.sampled_from(list(HEADERS.values())), st.lists(st.integers(1, 60)))
def test_pieces(one: tuple[bytes, object], sizes: list[int]) -> None:
    data, addresses = one
    header, left = ProxyHeader(), data + b"and more"
    for size in (*sizes, len(left)):
        if header.is_complete:
            break
        left = left[header.take(left[:size]) :]
    assert header.is_complete
    assert left == b"and more"
    assert (header.source, header.destination) == addresses


@given(
    st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)) | st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)),
    st.booleans(),
)
@example((ip_address("37.0.2.7"), ip_address("198.51.100.1")), True)  # 37 is "%"
@example((ip_address("2001:db8::25"), ip_address("::1")), True)
def test_all_addresses(addresses: tuple[Any, Any], binary: bool) -> None:
    source, destination = addresses
    if binary:
        packed = source.packed + destination.packed + struct.pack("!HH", 1234, 443)
        data = v2(0x21, 0x11 if source.version == 4 else 0x21, packed)
    else:
        data = f"PROXY TCP{source.version} {source} {destination} 1234 443\r\n".encode()
    header = ProxyHeader()
    assert header.take(data) == len(data)
    assert header.source is not None
    assert header.source.host == str(getattr(source, "ipv4_mapped", None) or source)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n", "it does not begin with a PROXY header"),
        (b"\x16\x03\x01", "it does not begin with a PROXY header"),
        (b"\r\n\r\n\r\n", "it does not begin with a PROXY header"),
        (b"PROXYTCP4", "it does not begin with a PROXY header"),
        (b"PROXY\r\n", "it does not begin with a PROXY header"),
        (b"PROXY UNKNOWN\n", "its PROXY header has no end"),
        (b"PROXY UNKNOWN " + b"f" * 94, "its PROXY header has no end"),
        (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", "its PROXY header has no end"),
        (b"PROXY \r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP5 192.0.2.7 192.0.2.8 1 2\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 1 65536\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 x 2\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP4 192.0.2.7 192.0.2.8 \xb2 2\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP4 2001:db8::7 192.0.2.8 1 2\r\n", "its PROXY header cannot be read"),
        (b"PROXY TCP6 fe80::1%\x1b[31m ::1 1 2\r\n", "its PROXY header cannot be read"),
        (v2(0x11, 0x11, ADDRESSES_4), "its PROXY header has an unknown version or command"),
        (v2(0x22, 0x11, ADDRESSES_4), "its PROXY header has an unknown version or command"),
        (v2(0x21, 0x11, ADDRESSES_4[:-1]), "its PROXY header is too short"),
        (v2(0x21, 0x21, ADDRESSES_4), "its PROXY header is too short"),
    ],
)
def test_no_headers(data: bytes, why: str) -> None:
    with pytest.raises(BadHeader, match=why):
        ProxyHeader().take(data)


@given(st.one_of(st.just(b""), st.just(b"PROXY TCP4 "), st.just(SIGNATURE + b"\x21\x11")), st.binary())
def test_any_bytes(first: bytes, data: bytes) -> None:
    header = ProxyHeader()
    try:
        taken = header.take(first + data)
    except BadHeader:
        return
    assert 0 <= taken <= len(first + data)
    assert header.is_complete or taken == len(first + data)


# What we write


V4_ADDRESSES, V6_ADDRESSES, PORTS = st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65535)
ENDS = st.one_of(*(st.tuples(*[st.tuples(addresses, PORTS)] * 2) for addresses in (V4_ADDRESSES, V6_ADDRESSES)))


@given(st.none() | ENDS, st.booleans(), st.lists(st.text(max_size=64), max_size=3), st.booleans())
def test_what_we_write_can_be_read(ends: Any, is_v1: bool, tlvs: list[str], is_datagram: bool) -> None:
    written = b"".join(encode_tlv(AUTHORITY, text) for text in tlvs)
    data = encode_v1(ends) if is_v1 else encode_v2(ends, written, is_datagram=is_datagram)
    header = ProxyHeader()
    assert header.take(data + b"behind") == len(data)
    assert header.is_complete
    found = [header.source, header.destination]
    if ends is None:
        assert found == [None, None]
        return
    # An address of IPv4 in one of IPv6 is read as the former.
    hosts = [getattr(address, "ipv4_mapped", None) or address for address, _ in ends]
    assert [(one.host, one.port) for one in found if one] == [
        (str(host), port) for host, (_, port) in zip(hosts, ends, strict=True)
    ]


def test_the_bytes_of_headers() -> None:
    ends = (ip_address("192.0.2.7"), 1234), (ip_address("198.51.100.1"), 443)
    assert encode_v1(ends) == HEADERS["v1 of IPv4"][0]
    assert encode_v2(ends) == HEADERS["v2 of IPv4"][0]
    assert encode_v2(ends, encode_tlv(AUTHORITY, "example.com")) == HEADERS["v2 with TLVs"][0]
    assert encode_v2(ends, is_datagram=True) == v2(0x21, 0x12, ADDRESSES_4)
    ends_6 = (ip_address("2001:db8::7"), 1234), (ip_address("2001:db8::1"), 443)
    assert encode_v2(ends_6) == v2(0x21, 0x21, ADDRESSES_6)
    assert encode_v2(ends_6, is_datagram=True) == v2(0x21, 0x22, ADDRESSES_6)
    assert encode_v1(None) == b"PROXY UNKNOWN\r\n"
    assert encode_v2(None, b"no TLV without addresses") == HEADERS["v2, local"][0]
    longest = ip_address("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), 65535
    assert len(encode_v1((longest, longest))) <= 107
