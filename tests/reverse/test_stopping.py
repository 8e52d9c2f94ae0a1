"""Services that are stopped in the middle of something, twice, and started again."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.interfaces import IHostnameResolver, IHostResolution
from zope.interface import implementer

from rtunnel.addresses import DialAddress
from rtunnel.reverse.carriers import link_protocol
from rtunnel.reverse.client.links.links import Links
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.limits import LinkLimits
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import (
    CREDIT,
    DATA,
    ERROR,
    FIN,
    HOST,
    INIT,
    NEW_CONN,
    Peer,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World, port_of


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("wait", [0, 50])
@ensureDeferred
async def test_link_is_stopped_twice_and_started_again(world: World, host: str, wait: int) -> None:
    tunnels = (TunnelSettings(0, DialAddress.parse(":1")),)
    server = DialAddress.parse(f"{host}:{free_port()}")
    settings = ClientSettings(server, tunnels)
    service = Links(reactor, settings, Visitors(Descriptors(reactor), Accounts(reactor)))
    for _ in range(2):
        service.startService()
        await turns(wait)
        first, second = service.stopService(), service.stopService()
        await first
        await second


@ensureDeferred
async def test_dial_timeout_covers_the_look_up_of_the_name(world: World) -> None:
    @implementer(IHostResolution)
    class Resolution:
        name = "app.internal"

        def cancel(self) -> None:
            """There is nothing to cancel."""

    @implementer(IHostnameResolver)
    class Silent:
        def resolveHostName(self, receiver: Any, *_args: Any, **_more: Any) -> Resolution:  # type: ignore[override]
            resolution = Resolution()
            receiver.resolutionBegan(resolution)
            return resolution

    by_hand = await world.raw_server()
    before = reactor.installNameResolver(Silent())
    try:
        server = DialAddress.parse(f"{HOST}:{by_hand.port}")
        tunnels = (TunnelSettings(8080, DialAddress.parse("app.internal:80")),)
        world.start(TunnelClient(reactor, ClientSettings(server, tunnels, dial_timeout=0.2, drain=0.0)))
        link: Any = await by_hand.peer()
        link.send(hello())
        await link.take(INIT, 0)
        link.put(NEW_CONN, 1, b'{"tunnel": 0, "visitor": "192.0.2.1:1"}')
        _, error = await link.take(ERROR, 1)
        assert b"local-timeout" in error
    finally:
        reactor.installNameResolver(before)


@ensureDeferred
async def test_draining_client_does_not_come_back(world: World) -> None:
    """The link is lost while a slow service still takes the last bytes of a stream that has ended."""
    by_hand = await world.raw_server()
    service = await world.service(Peer)
    client = world.client(by_hand.port, (8080, service.port), drain=PATIENCE)
    link: Any = await by_hand.peer()
    link.send(hello())
    link.put(NEW_CONN, 1, b'{"tunnel": 0, "visitor": "192.0.2.1:1"}')
    slow = await service.peer()
    slow.stop_reading()
    slow.half_close()
    await link.take(FIN, 1)
    sent, limit = 0, 65536
    while sent < limit:
        link.put(DATA, 1, bytes(min(limit - sent, 60000)))
        sent += min(limit - sent, 60000)
        # The kernel takes much before the service has to: go on until no more credit comes.
        await turns(200 if sent == limit else 2)
        limit = max([limit, *(int.from_bytes(each[2][:8], "big") for each in link.frames if each[0] == CREDIT)])
    link.put(FIN, 1, sent.to_bytes(8, "big"))
    await link.is_alive()
    client.stopService()
    await turns(20)
    link.abort()
    await turns(300)
    assert len(client.visitors) == 1
    assert len(by_hand.peers) == 1


class SlowPath:
    """A path to a port with a bounded rate there and none back, which passes ends and resets on as a network does."""

    def __init__(self, port: int, rate: int) -> None:
        self._target = port
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, args=(rate,))]
        self._threads[0].start()

    def close(self) -> None:
        """Both connections have ended, or do now."""
        self._listening.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self, rate: int) -> None:
        here, _ = self._listening.accept()
        here.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        there = socket.create_connection((HOST, self._target))
        back = threading.Thread(target=self._pump, args=(there, here, 0))
        back.start()
        self._pump(here, there, rate)
        back.join(10)
        here.close()
        there.close()

    def _pump(self, source: socket.socket, sink: socket.socket, rate: int) -> None:
        while True:
            try:
                data = source.recv(16384)
            except OSError:
                with suppress(OSError):
                    sink.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    sink.shutdown(socket.SHUT_RDWR)
                return
            if rate:
                time.sleep(len(data) / rate)
            with suppress(OSError):
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)


@ensureDeferred
async def test_tail_of_a_finished_stream_survives_the_stop_of_its_client(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the kernel, on a slow path, while CREDIT for it still comes: nothing may reset that connection."""
    # How slow the path is depends on the machine too.
    monkeypatch.setattr(link_protocol, "LINGER", PATIENCE)
    answer = os.urandom(4_000_000)

    class Service(Peer):
        def readConnectionLost(self) -> None:
            self.transport.write(answer)
            self.transport.loseConnection()

    service, port = await world.service(Service), free_port()
    server = world.server(limits=LinkLimits(initial_credit=1_000_000))
    path = SlowPath(port_of(server.control), rate=2_000_000)
    try:
        client = world.client(path.port, (port, service.port), drain=PATIENCE)
        await world.reachable()
        visitor = await world.visitor(port, keep=False)
        visitor.send(b"GET")
        visitor.half_close()
        await until(lambda: visitor.count > 300_000)
        await client.stopService()
        await until(lambda: visitor.over)
        assert visitor.count == len(answer)
    finally:
        path.close()
