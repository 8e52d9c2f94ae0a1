"""Local services get a PROXY header before the first byte of each visitor, whatever way he comes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from pytest_twisted import ensureDeferred

from rtunnel.addresses import DialAddress
from rtunnel.relay.proxy_header import AUTHORITY, SIGNATURE, ProxyHeader, encode_tlv
from rtunnel.reverse.client import visits
from rtunnel.reverse.proxy_protocol import TUNNEL_NAME, header_for
from rtunnel.reverse.settings import TunnelSettings
from tests.ports import free_port
from tests.reverse.data import AUTO, R_DATA, RawData
from tests.reverse.net import BOTH_PLANES, DATA, FIN, HOST, MOVE, NEW_CONN, Peer, RawLink, until
from tests.reverse.server_by_hand import ServerByHand
from tests.reverse.test_moving_client import COUNT, STREAM, Moving
from tests.reverse.world import World

LOCAL = SIGNATURE + bytes.fromhex("20000000")
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])
MUCH = 5_000_000


def tunnel(port: int = 8080, version: str = "v1", **more: Any) -> TunnelSettings:
    return TunnelSettings(port, DialAddress.parse(":80"), proxy_protocol=version, **more)


@pytest.mark.parametrize(
    ("visitor", "public", "expected"),
    [
        ("192.0.2.1:5000", "198.51.100.7:8080", "TCP4 192.0.2.1 198.51.100.7 5000 8080"),
        ("[2001:db8::1]:5000", "[2001:db8::7]:8080", "TCP6 2001:db8::1 2001:db8::7 5000 8080"),
        # The server listens on all addresses, or on one of the other family.
        ("192.0.2.1:5000", "0.0.0.0:8081", "TCP4 192.0.2.1 0.0.0.0 5000 8081"),
        ("192.0.2.1:5000", "[::]:8081", "TCP4 192.0.2.1 0.0.0.0 5000 8081"),
        ("[2001:db8::1]:5000", "198.51.100.7:8081", "TCP6 2001:db8::1 :: 5000 8081"),
        ("[fe80::1%eth0]:5000", "x:8081", "TCP6 fe80::1 :: 5000 8081"),
        ("[::ffff:192.0.2.1]:5000", "", "TCP4 192.0.2.1 0.0.0.0 5000 8080"),
        ("192.0.2.1:5000", "a socket", "TCP4 192.0.2.1 0.0.0.0 5000 8080"),
        # Those without an address, and what no honest server says.
        ("", "", "UNKNOWN"),
        ("unix:/run/x", "192.0.2.1:1", "UNKNOWN"),
        ("192.0.2.1", "", "UNKNOWN"),
        ("192.0.2.1:65536", "", "UNKNOWN"),
        ("192.0.2.1:-1", "", "UNKNOWN"),
        ("192.0.2.1:\u0665", "", "UNKNOWN"),
        ("example.org:80", "", "UNKNOWN"),
        ("192.0.2.1 1\r\n:80", "", "UNKNOWN"),
    ],
)
def test_whom_it_names(visitor: str, public: str, expected: str) -> None:
    assert header_for(tunnel(), visitor, public) == f"PROXY {expected}\r\n".encode()


@given(st.text(), st.text(), st.sampled_from(["v1", "v2"]))
def test_any_text_of_a_server(visitor: str, public: str, version: str) -> None:
    header = ProxyHeader()
    data = header_for(tunnel(version=version), visitor, public)
    assert header.take(data) == len(data)
    assert header.is_complete


def test_no_header() -> None:
    assert header_for(tunnel(version=""), "192.0.2.1:5000") == b""


@pytest.mark.parametrize(
    ("host", "name", "tlvs"),
    [
        ("", "", b""),
        ("", "b\u00fcro", encode_tlv(TUNNEL_NAME, "b\u00fcro")),
        ("app.example.org", "web", encode_tlv(AUTHORITY, "app.example.org") + encode_tlv(TUNNEL_NAME, "web")),
        ("*.example.org", "", b""),
    ],
)
def test_tlvs(host: str, name: str, tlvs: bytes) -> None:
    one = tunnel(0, "v2", host=host, name=name, protocol="https" if host else "tcp")
    data = header_for(one, "192.0.2.1:5000", "https://app.example.org:8443")
    assert data[16 + 12 :] == tlvs
    assert data[24:28] == bytes.fromhex("138820fb")
    # The usual port of HTTPS does not stand in the address.
    assert header_for(one, "192.0.2.1:5000", "https://app.example.org")[26:28] == bytes.fromhex("01bb")
    assert header_for(one, "") == LOCAL


def expected(visitor: Peer, port: int, version: str) -> bytes:
    return header_for(tunnel(port, version), visitor.name, f"{HOST}:{port}")


@VERSIONS
@BOTH_PLANES
@ensureDeferred
async def test_first_bytes_of_services(world: World, version: str) -> None:
    """Of one that speaks first, of one that is asked much, and of one whose visitor says nothing but his end."""
    service, port, server = await world.service(lambda: Peer(keep=True)), free_port(), world.server()
    world.client(server, (port, service.port), proxy_protocol=version)
    await world.logged(" is published")
    visitors = []
    for number, said in enumerate((b"", b"x" * MUCH, b"")):
        visitor = await world.visitor(port)
        visitors.append(visitor)
        if number == 2:
            visitor.half_close()
        visitor.send(said)
        peer = await service.peer(number)
        await peer.has(expected(visitor, port, version) + said)
        peer.send(b"answer")
        await visitor.has(b"answer")
        assert peer.eof == (number == 2)
    for number, visitor in enumerate(visitors):
        visitor.close()
        (await service.peer(number)).close()
        await service.peers[number].ends()
        assert not visitor.was_reset


@VERSIONS
@pytest.mark.parametrize("way", ["name", "endpoint", "no socket"])
@BOTH_PLANES
@ensureDeferred
async def test_ways_to_a_service(world: World, monkeypatch: pytest.MonkeyPatch, version: str, way: str) -> None:
    """One by a name is dialled by an endpoint. One by UNIX is in tests/process."""
    service, port = await world.service(), free_port()
    local = f"tcp:host={HOST}:port={service.port}" if way == "endpoint" else f"localhost:{service.port}"
    if way == "no socket":
        monkeypatch.setattr(visits, "has_socket", lambda _transport: False)
    world.client(world.server(), (port, local), proxy_protocol=version)
    await world.logged(" is published")
    visitor = await world.visitor(port)
    visitor.send(b"question")
    peer = await service.peer()
    await peer.has(expected(visitor, port, version) + b"question")
    visitor.half_close()
    await until(lambda: peer.eof, "the end")
    peer.send(b"answer")
    await visitor.has(b"answer")
    peer.close()
    await visitor.ends()
    assert not visitor.was_reset


@VERSIONS
@AUTO
@ensureDeferred
async def test_visitor_that_moves(world: World, version: str) -> None:
    """The service has one header, in front of all."""
    visit = Moving()
    visit.service = await world.service()
    visit.by_hand = await ServerByHand().start(world, (8080, visit.service.port), proxy_protocol=version)
    visit.by_hand.send_tickets(1)
    visit.data = await visit.by_hand.data()
    visit.link = visit.by_hand.link
    visit.put(NEW_CONN, b'{"tunnel": 0, "visitor": "192.0.2.1:5000"}')
    visit.put(DATA, b"question")
    header = header_for(tunnel(8080, version), "192.0.2.1:5000", "127.0.0.1:8080")
    visit.peer = await visit.service.peer()
    await visit.peer.has(header + b"question")
    visit.open((R_DATA, b", moved"))
    assert await visit.link.take(MOVE, STREAM) == (STREAM, COUNT.pack(0))
    visit.put(MOVE, COUNT.pack(8))
    await visit.peer.has(header + b"question, moved")
    # The credit of the link counts the visitor's bytes alone.
    visit.peer.send(b"answer")
    await visit.data.has_stream(b"answer")


@VERSIONS
@AUTO
@ensureDeferred
async def test_visitor_without_an_address(world: World, version: str) -> None:
    """The server does not tell it, on the link and on a data connection."""
    service = await world.service()
    by_hand = await ServerByHand().start(world, (8080, service.port), proxy_protocol=version)
    by_hand.send_tickets(1)
    data: RawData = await by_hand.data()
    link: RawLink = by_hand.link
    nobody = b"PROXY UNKNOWN\r\n" if version == "v1" else LOCAL
    link.put(NEW_CONN, STREAM, b'{"tunnel": 0, "visitor": ""}')
    link.put(DATA, STREAM, b"by the link")
    link.put(FIN, STREAM, COUNT.pack(11))
    await (await service.peer()).has(nobody + b"by the link")
    data.open(visitor="")
    data.say(R_DATA, b"by itself")
    await (await service.peer(1)).has(nobody + b"by itself")
