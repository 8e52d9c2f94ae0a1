"""Visitors on data connections of their own, under TLS."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.relay.local_socket import LocalSocket
from tests.reverse.net import LocalService, Peer, connect, turns, until
from tests.reverse.tls.data_connection_parts import MIB, Tunnel
from tests.tls.parts import Lines


@ensureDeferred
async def test_visitor_has_a_connection_of_its_own(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    assert [type(used) for used in tunnel.pool._used] == [LocalSocket]
    up, down = os.urandom(5 * MIB), os.urandom(3 * MIB)
    visitor.send(up)
    visitor.half_close()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == up
    peer.send(down)
    peer.close()
    await visitor.has(down)
    await until(lambda: visitor.over)
    assert not visitor.was_reset
    await tunnel.is_empty()
    for _ in range(10):
        other, peer = await tunnel.visit()
        other.send(b"x")
        await peer.has(b"x")
    assert lines.text.count(": TLS 1.3, ") == 2, "one handshake, for the link"


@ensureDeferred
async def test_service_ends_first_and_the_visitor_goes_on(tunnel: Tunnel) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    peer.send(b"that is all from me")
    peer.half_close()
    await until(lambda: visitor.eof)
    up = os.urandom(3 * MIB)
    visitor.send(up)
    visitor.close()
    await until(lambda: peer.eof)
    assert bytes(peer.received) == up
    peer.close()
    await tunnel.is_empty()


@pytest.mark.parametrize("who", ["visitor", "service"])
@ensureDeferred
async def test_reset_goes_through(tunnel: Tunnel, who: str) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit()
    visitor.send(b"half a request")
    await peer.has(b"half a request")
    one, other = (visitor, peer) if who == "visitor" else (peer, visitor)
    one.abort()
    await until(lambda: other.was_reset)
    await tunnel.is_empty()


@ensureDeferred
async def test_service_that_is_down(tunnel: Tunnel, lines: Lines) -> None:
    await tunnel.start()
    await tunnel.service.stop()
    visitor = Peer()
    await connect(tunnel.port, visitor)
    await until(lambda: visitor.was_reset)
    await lines.wait_for(r"does not answer \(connection refused\)")
    await tunnel.is_empty()
    tunnel.service.listening = await _listen_again(tunnel.service)


async def _listen_again(service: LocalService) -> Any:
    port = service.port
    await service.listen(port)
    return service.listening


@ensureDeferred
async def test_stalled_reader_is_bounded_and_holds_up_nobody(tunnel: Tunnel) -> None:
    await tunnel.start()
    visitor, peer = await tunnel.visit(keep=False)
    visitor.stop_reading()
    sent = 0

    class Source:
        def resumeProducing(self) -> None:
            nonlocal sent
            if sent < 256 * MIB:
                sent += 65536
                peer.send(bytes(65536))

        def stopProducing(self) -> None:
            pass

    peer.transport.registerProducer(Source(), False)
    before = -1
    while sent != before:
        before = sent
        await turns(200)
    # What waits, waits in the kernels of four sockets.
    assert sent < 128 * MIB
    other, its_peer = await tunnel.visit()
    its_peer.send(b"here")
    await other.has(b"here")
    visitor.read_on()
    await until(lambda: visitor.count == sent == 256 * MIB)
    peer.transport.unregisterProducer()
    for each in (visitor, other, peer, its_peer):
        each.close()
    await tunnel.is_empty()
