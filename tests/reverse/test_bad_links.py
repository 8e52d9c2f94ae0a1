"""Bad input that concerns a whole link: it ends with one clear line, or goes on; other links never notice."""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.server.service import TunnelServer
from rtunnel.wire.limits import LinkLimits
from rtunnel.wire.server_link import MAX_ANSWER
from tests.ports import free_port
from tests.reverse.net import (
    CLOSE_CONN,
    CREDIT,
    DATA,
    ERROR,
    FIN,
    HEADER,
    HELLO,
    INIT,
    NEW_CONN,
    PING,
    READY,
    RawLink,
    frame,
    hello,
    turns,
    until,
)
from tests.reverse.world import World


@pytest_twisted.async_yield_fixture
async def server(world: World) -> AsyncIterator[TunnelServer]:
    """A server with another client, whose visitor does not notice what happens in a test."""
    server, service, port = world.server(hold=0.0), await world.echo(), free_port()
    world.client(server, (port, service.port))
    await world.reachable()
    visitor = await world.visitor(port)
    visitor.send(b"before")
    await visitor.has(b"before")
    yield server
    visitor.send(b", after")
    await visitor.has(b"before, after")


def said(world: World, peer: RawLink, level: LogLevel = LogLevel.warn) -> list[str]:
    """The lines about this link."""
    return [line for line in world.lines(peer.name, level) if "connected" not in line]


@pytest.mark.parametrize("extended", [False, True])
@ensureDeferred
async def test_length_of_all_ones(world: World, server: TunnelServer, extended: bool) -> None:
    """One packet killed the server (frp CVE-2026-73564)."""
    for frame_type in (NEW_CONN, DATA, CLOSE_CONN, INIT, HELLO, CREDIT, 0x7F):
        link = await (world.raw_extended if extended else world.raw)(server)
        link.send(HEADER.pack(frame_type, 1, 0xFFFFFFFF))
        await link.ends()
        lines = said(world, link)
        assert len(lines) == 1
        assert "4294967295 bytes" in lines[0]
        if extended:
            assert (await link.take_json(ERROR, 0))["scope"] == "link"


@ensureDeferred
async def test_garbage(world: World, server: TunnelServer) -> None:
    texts = [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\xff" * 100]
    for text in texts:
        link = await world.raw(server)
        link.send(text)
        await link.ends()
        assert len(said(world, link)) == 1


@ensureDeferred
async def test_random_bytes(world: World, server: TunnelServer) -> None:
    """Whatever comes, nothing is raised, and there are never many lines."""
    for seed in range(50):
        link = await world.raw(server)
        link.send((hello() if seed % 2 else b"") + random.Random(seed).randbytes(2000))
        await turns(2)
        assert len(said(world, link)) <= 5
        link.abort()


@ensureDeferred
async def test_every_type_with_every_odd_payload(world: World, server: TunnelServer) -> None:
    """Whole frames, any type, any id, payloads that fit none of them."""
    payloads = [b"", b"\0", b"{}", b"[]", b"null", b'{"scope":', b"\xff" * 16, b"[" * 5000, bytes(65536)]
    for prefix in (b"", hello()):
        link = await world.raw(server)
        link.send(prefix)
        for frame_type in [*range(0x20), 0xFF]:
            for payload in payloads:
                if frame_type != INIT:
                    link.put(frame_type, 7, payload)
        await until(lambda: not link.transport.dataBuffer or link.over)  # noqa: B023
        await turns()
        if prefix:
            await link.is_alive()
        assert len(server.sessions) >= 2
        assert len(said(world, link)) < 40, "each kind is told once"
        link.abort()


@ensureDeferred
async def test_frames_cut_anywhere(world: World, server: TunnelServer) -> None:
    text = hello() + frame(0x7F, 1, b"unknown") + frame(INIT, 0, b"%d:x" % free_port())
    for size in (1, 2, 8, 9, 10, 11):
        link = await world.raw(server)
        for start in range(0, len(text), size):
            link.send(text[start : start + size])
            await turns(1)
        await link.take(READY, 0)
        link.close()
        await until(lambda: not server.ports or len(server.ports) == 1)


@pytest.mark.parametrize("cut", [1, 8, 9, 12, 60])
@ensureDeferred
async def test_link_that_ends_within_a_frame(world: World, server: TunnelServer, cut: int) -> None:
    link = await world.raw(server)
    link.send(hello()[:cut])
    link.close()
    await world.sessions(server, 1)
    assert said(world, link) == []


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"[" * 4000,
        b'{"version": 1}',
        json.dumps({"version": 1, "session": "x", "initial_credit": 1}).encode(),
        json.dumps({"version": 1, "session": "0" * 32, "initial_credit": 2**64}).encode(),
        json.dumps({"version": 1, "session": "0" * 32, "initial_credit": -1}).encode(),
        json.dumps({"version": "1", "session": "0" * 32, "initial_credit": 1}).encode(),
        hello()[9:].replace(b"by hand", b"x" * 5000),
    ],
)
@ensureDeferred
async def test_malformed_hello_leaves_the_link_in_reference_mode(
    world: World, server: TunnelServer, payload: bytes
) -> None:
    link, port = await world.raw(server), free_port()
    link.put(HELLO, 0, payload)
    link.put(INIT, 0, b"%d:x" % port)
    await world.logged("malformed HELLO", LogLevel.warn)
    await until(lambda: len(server.ports) == 2)
    await world.visitor(port)
    await link.take(NEW_CONN)
    assert link.seen == [NEW_CONN], "no extension frame to a reference peer"


@ensureDeferred
async def test_hello_twice(world: World, server: TunnelServer) -> None:
    port = free_port()
    link = await world.raw_extended(server, port)
    for _ in range(100):
        link.send(hello())
    await link.is_alive()
    assert link.seen.count(HELLO) == 1
    lines = said(world, link)
    assert [line for line in lines if "HELLO" in line] == lines[-1:]
    await world.visitor(port)
    await link.take(NEW_CONN)


@ensureDeferred
async def test_late_hello_is_ignored(world: World, server: TunnelServer) -> None:
    link, port = await world.raw(server), free_port()
    link.put(INIT, 0, b"%d:x" % port)
    link.send(hello())
    await until(lambda: len(server.ports) == 2)
    await world.visitor(port)
    await link.take(NEW_CONN)
    assert link.seen == [NEW_CONN]
    assert len(said(world, link)) == 1


@pytest.mark.parametrize(
    "request_", [b"", b":", b"x:y", b"-1:x", b"+80:x", b"65536:x", b"99999999999:x", b"8080", b" 8080:x", b"\xb2:x"]
)
@ensureDeferred
async def test_init_that_names_no_port(world: World, server: TunnelServer, request_: bytes) -> None:
    ours = await world.raw_extended(server)
    ours.put(INIT, 2, request_)
    error = await ours.take_json(ERROR, 2)
    assert (error["scope"], error["code"]) == ("tunnel", "bad-request")
    await ours.is_alive()
    assert len(said(world, ours)) == 1
    reference = await world.raw(server)
    reference.put(INIT, 0, request_)
    await reference.ends()
    assert len(said(world, reference)) == 1


@ensureDeferred
async def test_init_repeated_for_the_same_tunnel(world: World, server: TunnelServer) -> None:
    first, second = free_port(), free_port()
    ours = await world.raw_extended(server, first)
    ours.put(INIT, 0, b"%d:x" % second)
    ours.put(INIT, 0, b"%d:x" % first)
    await ours.is_alive()
    assert ours.seen.count(READY) == 1
    assert len(server.ports) == 2, "one of the other client, and the first that was asked for"
    assert len(said(world, ours)) == 1
    await world.visitor(first)
    await ours.take(NEW_CONN)


@ensureDeferred
async def test_new_conn_from_a_client(world: World, server: TunnelServer) -> None:
    for start in (hello(), b""):
        link, port = await world.raw(server), free_port()
        link.send(start + frame(NEW_CONN, 5) + frame(DATA, 5, b"x") + frame(INIT, 0, b"%d:x" % port))
        await until(lambda: len(server.ports) == 2)
        lines = said(world, link)
        assert len(lines) == 1
        assert "NEW_CONN" in lines[0]
        await world.visitor(port)
        await link.take(NEW_CONN)
        link.abort()
        await until(lambda: len(server.ports) == 1)


@ensureDeferred
async def test_link_scope_error_behind_credit_for_queued_bytes(world: World, server: TunnelServer) -> None:
    """The stream may send just when the link is closed: nothing must go round in circles."""
    port = free_port()
    link = await world.raw_extended(server, port, credit=0)
    visitor = await world.visitor(port)
    visitor.send(b"waits for credit")
    number, _ = await link.take(NEW_CONN)
    await until(lambda: any(s.queued for session in server.sessions for s in session.link.streams.values()))
    credit = frame(CREDIT, number, (100).to_bytes(8, "big") + bytes(8))
    link.send(credit + frame(ERROR, 0, b'{"scope": "link", "code": "x", "message": "y"}'))
    await link.ends()
    await until(lambda: visitor.over)


@ensureDeferred
async def test_flood_of_pings_keeps_one_answer(world: World, server: TunnelServer) -> None:
    link = await world.raw_extended(server)
    link.stop_reading()
    for _ in range(20):
        link.send(frame(PING, 0, b"0123456789abcdef") * 4000)
        await turns(2)
    (session,) = [session for session in server.sessions if session.peer_name == link.name]
    await until(lambda: not link.transport.dataBuffer)
    assert session.link._outbox.control_waiting < 10_000
    link.read_on()
    await link.is_alive()


@pytest.mark.parametrize("reads_on", [True, False])
@ensureDeferred
async def test_flood_that_wants_answers_and_does_not_read_them(world: World, reads_on: bool) -> None:
    """Floods of control frames (rust-yamux GHSA-4w32-2493-32g7): not read, until the answers are read or it is dead."""
    limits = LinkLimits() if reads_on else LinkLimits(keepalive_interval=0.5, dead_after=1.5)
    server = world.server(limits=limits)
    link = await world.raw_extended(server)
    link.stop_reading()
    (session,) = [session for session in server.sessions if session.peer_name == link.name]
    theirs: Any = session.transport
    theirs.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    flood = b"".join(frame(INIT, number, b"1:x") for number in range(1000))
    while not (session.link.reading_paused or session.link.is_closed):
        link.send(flood)
        await turns(1)
    # What may wait, and what one read brings.
    assert session.link._outbox.control_waiting < MAX_ANSWER * limits.max_tunnels + 65536 // len(frame(INIT)) * 256
    if reads_on:
        link.read_on()
        await until(lambda: not session.link.reading_paused)
        await link.is_alive()
    else:
        await world.logged("nothing heard for", LogLevel.warn)
        await until(lambda: not server.sessions)


@ensureDeferred
async def test_huge_frames_of_unknown_type_are_not_kept(world: World, server: TunnelServer) -> None:
    link = await world.raw_extended(server)
    payload = os.urandom(65536)
    for _ in range(50):
        link.put(0x7F, 1, payload)
        link.put(FIN, 1, payload)
    await link.is_alive()
    assert [line for line in said(world, link) if "0x7f" in line] == said(world, link)
