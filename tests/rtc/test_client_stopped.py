"""``rtc-client`` in this process: how it stops, and that nothing stays."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_twisted

from rtunnel.rtc import client as client_module
from rtunnel.rtc.client import RtcClient
from rtunnel.rtc.peers.client_peer import ClientPeer
from tests.no_collector import Left, no_collector
from tests.reverse.net import Peer, turns, until
from tests.rtc.aiortc.ice_parts import open_sockets
from tests.rtc.world import World, attempts


@pytest.mark.parametrize("pauses", range(0, 40, 3))
@pytest_twisted.ensureDeferred
async def test_a_client_that_is_stopped_at_any_moment(rtc: World, pauses: int) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    await rtc.registered(host)
    before = open_sockets()
    client = rtc.client(server)
    visitor = await rtc.visitor(client)
    visitor.send(b"x")
    await turns(pauses)
    await rtc.stop(client)
    await until(lambda: visitor.lost, "the end of its connection")
    await until(lambda: not client.visitors and not host.visitors, "both to forget it")
    await until(lambda: not any(peer.is_connected for peer in host._peers.values()), "the host to know")
    for peer in list(host._peers.values()):
        peer.give_up("the test is over")
    await until(lambda: not host._leaving and open_sockets() <= before, "all sockets to be closed")


@pytest_twisted.ensureDeferred
async def test_a_client_that_waits_for_its_next_attempt_is_stopped(rtc: World) -> None:
    client: RtcClient = rtc.client(rtc.signal())
    await until(lambda: client._retry is not None, "a wait")
    await rtc.stop(client)


def has_one(things: dict[Any, Any]) -> bool:
    return len(things) == 1


def is_within(things: dict[Any, Any], others: dict[Any, Any]) -> bool:
    return things.keys() <= others.keys()


@pytest_twisted.ensureDeferred
async def test_many_connections_one_after_the_other_leave_nothing(rtc: World) -> None:
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    for _ in range(8):
        visitors = [await rtc.visitor(client) for _ in range(25)]
        for visitor in visitors:
            visitor.send(b"hello")
        for visitor in visitors:
            await visitor.has(b"hello")
            visitor.close()
        await until(lambda: not client.visitors and not host.visitors, "the end of all")
    peer, other = client._peer, next(iter(host._peers.values()))
    assert peer is not None
    for one in (peer, other):
        channels = one.connection._channels
        # That of the ends themselves stays.
        left = channels._channels
        await until(partial(has_one, left), "no channel to be left")
        assert one.streams is not None
        assert not len(one.streams)
        association = channels._association
        assert association is not None
        assert association._halves is not None
        streams = association._halves.inbound._reassembly._streams
        await until(partial(is_within, streams, left), "no stream to be left")
        assert {stream for stream, _ in association._scheduler._numbers} <= left.keys()
        assert one.connection.buffered == 0
    assert attempts(rtc) == 0


@pytest_twisted.ensureDeferred
async def test_goes_on_after_an_attempt_that_could_not_even_begin(
    rtc: World, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    server, service = rtc.signal(), await rtc.service()
    rtc.host(server, service.port)
    fails = iter([True])
    make = ClientPeer

    def fail_once(*arguments: Any) -> Any:
        if next(fails, False):
            raise OSError("no descriptor is left")
        return make(*arguments)

    client = rtc.client(server)
    await rtc.connected(client)
    monkeypatch.setattr(client_module, "ClientPeer", fail_once)
    assert client._peer is not None
    client._peer.give_up("a test says so")
    await rtc.connected(client)
    assert not next(fails, False)
    flush_logged_errors()


@pytest_twisted.ensureDeferred
async def test_comes_back_whatever_the_end_of_a_connection_raises(
    rtc: World, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    server, service = rtc.signal(), await rtc.service()
    rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    peer = client._peer
    assert peer is not None
    monkeypatch.setattr(peer, "_ended", lambda: 1 / 0)
    peer.give_up("a test says so")
    await until(lambda: client._peer not in (None, peer) and client._peer.is_connected, "another connection")
    flush_logged_errors()


@pytest_twisted.ensureDeferred
async def test_what_is_over_goes_at_once(rtc: World) -> None:
    """Both ends of a connection when it ends, and of a peer connection. The garbage collector may come late."""
    server, service = rtc.signal(), await rtc.echo()
    host = rtc.host(server, service.port)
    client = rtc.client(server)
    await rtc.connected(client)
    with no_collector():
        for how in (Peer.close, Peer.abort):
            visitor = await rtc.visitor(client)
            visitor.send(b"x")
            await visitor.has(b"x")
            ends = Left([*client.visitors._ends, *host.visitors._ends])
            how(visitor)
            await turns()
            assert not ends()
        [peer] = host._peers.values()
        left = Left([peer, peer.connection, client._peer])
        del peer
        await rtc.stop(client)

        def are_gone() -> bool:
            rtc.log.events.clear()  # they have their sources
            return not left()

        # The host hears of it from the network.
        await until(are_gone, "all of them to be freed without the collector")
