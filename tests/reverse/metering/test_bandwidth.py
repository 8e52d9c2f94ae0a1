"""Bandwidths at the server, for all kinds of tunnels, on both planes: what passes, by a clock that stands still."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.relay.local_socket import LocalSocket
from rtunnel.relay.socket_end import SocketEnd
from tests.reverse.metering.parts import NAME, RATE, SLACK, WAYS, Limited, Source
from tests.reverse.net import BOTH_PLANES, HOST, Peer, turns, until
from tests.reverse.world import World, port_of
from tests.rtc.udp.parts import Echo, Program

SIZE = 2_000_000
"""More than passes in a second, with what was saved up."""


@pytest.fixture(params=["bare socket", "transport"])
def _connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports of both kinds: those that hand out bare sockets, and those that cannot."""
    if request.param == "transport":
        monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)
        monkeypatch.setattr("rtunnel.reverse.server.ports.give_sockets", lambda _port, _factory: None)


async def settled(count: Any) -> int:
    """What *count* says once it has not changed for a while."""
    before = -1
    while (now := count()) != before:
        before = now
        await turns(60)
    return int(now)


async def is_kept(limited: Limited, count: Any, size: int) -> None:
    """The rate is kept, and nothing is lost."""
    await until(lambda: count() > 0)
    first = await settled(count)
    assert first <= SLACK
    await limited.pass_time(1)
    now = await settled(count)
    assert RATE - 300_000 <= now <= RATE + SLACK
    while count() < size:
        await limited.pass_time(0.2)
    assert limited.clock.seconds() >= (size - SLACK) / RATE


@BOTH_PLANES
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_to_the_visitor(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source(way, SIZE))
    await limited.publish(way, service.port, bandwidth="8Mbit")
    visitor = await limited.visit(way)
    await is_kept(limited, lambda: visitor.count, SIZE)


@BOTH_PLANES
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_from_the_visitor(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source(way))
    await limited.publish(way, service.port, bandwidth="8Mbit")
    visitor = await limited.visit(way, length=SIZE)
    visitor.send(bytes(SIZE))
    await is_kept(limited, lambda: sum(peer.count for peer in service.peers), SIZE)


@BOTH_PLANES
@pytest.mark.parametrize("way", WAYS)
@ensureDeferred
async def test_visitors_share(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source(way, SIZE))
    await limited.publish(way, service.port, bandwidth="8Mbit")
    visitors = [await limited.visit(way) for _ in range(4)]
    await limited.pass_time(3)
    counts = [visitor.count for visitor in visitors]
    assert sum(counts) <= 3 * RATE + SLACK
    assert min(counts) >= 0.4 * max(counts)


@BOTH_PLANES
@pytest.mark.parametrize("way", WAYS)
@ensureDeferred
async def test_each_visitor_has_his_own(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source(way, SIZE))
    await limited.publish(way, service.port, visitor_bandwidth="8Mbit")
    visitors = [await limited.visit(way) for _ in range(3)]
    await limited.pass_time(1)
    for visitor in visitors:
        assert RATE / 2 <= visitor.count <= RATE + SLACK


@BOTH_PLANES
@ensureDeferred
async def test_a_stopped_visitor_holds_up_nobody(world: World, tmp_path: Path) -> None:
    """Other tunnels of the link go on, and what is not delivered stays within a window."""
    limited = Limited(world, tmp_path)
    source, echo = await world.service(lambda: Source("tcp", SIZE)), await world.echo()
    await limited.publish("tcp", source.port, bandwidth="8kbit")
    await limited.publish("http", echo.port)
    stopped = await limited.visit("tcp")
    await until(lambda: stopped.count)
    other = await limited.visit("http")
    await until(lambda: other.count)
    assert stopped.count < SLACK


@BOTH_PLANES
@pytest.mark.parametrize("way", ["tcp", "https"])
@ensureDeferred
async def test_ends_come_behind_the_bytes(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)

    class Says(Peer):
        def connectionMade(self) -> None:
            super().connectionMade()
            self.transport.write(bytes(SIZE))
            self.transport.loseWriteConnection()

    service = await world.service(Says)
    await limited.publish(way, service.port, bandwidth="8Mbit")
    visitor = await limited.visit(way)
    while not visitor.over:
        await limited.pass_time(0.2)
    assert visitor.count == SIZE
    assert not visitor.was_reset
    visitor.send(b"last words")
    visitor.half_close()
    while not service.peers[0].over:
        await limited.pass_time(0.2)
    assert not service.peers[0].was_reset
    await until(lambda: not limited.server.visitors)
    assert not [call for call in limited.clock.getDelayedCalls() if call.active()]


@BOTH_PLANES
@pytest.mark.parametrize("who", ["visitor", "service", "client"])
@pytest.mark.parametrize("way", WAYS)
@ensureDeferred
async def test_whoever_breaks_off(world: World, way: str, who: str, tmp_path: Path) -> None:
    """In the middle of what waits. Nothing is left of it."""
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source(way, SIZE))
    client = await limited.publish(way, service.port, bandwidth="8Mbit")
    visitors = [await limited.visit(way) for _ in range(3)]
    await until(lambda: visitors[0].count and len(service.peers) == 3)
    if who == "visitor":
        for visitor in visitors:
            visitor.abort()
    elif who == "service":
        for peer in service.peers:
            peer.abort()
    else:
        client.stop_now()
        await client.stopService()
    if who != "visitor" and way != "http":  # whose connection may be kept
        for visitor in visitors:
            while not visitor.over:
                await limited.pass_time(0.1)
    for visitor in visitors:
        if visitor.lost is None:
            visitor.abort()
    while limited.server.visitors or limited.clock.getDelayedCalls():
        await limited.pass_time(0.1)


@BOTH_PLANES
@ensureDeferred
async def test_many_small_requests(world: World, tmp_path: Path) -> None:
    """One after the other on a connection that is kept: their answers count."""
    limited = Limited(world, tmp_path)
    body = b"HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n" + bytes(20_000)

    class Web(Peer):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            self.transport.write(body)

    service = await world.service(Web)
    await limited.publish("http", service.port, bandwidth="8Mbit")
    visitor = await limited.visit("http")
    asked = 1

    def ask(_data: bytes) -> None:
        nonlocal asked
        if visitor.count >= asked * (len(body) - 100) and visitor.lost is None:
            asked += 1
            visitor.send(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())

    visitor.on_data = ask
    await settled(lambda: visitor.count)
    assert visitor.count <= SLACK
    await limited.pass_time(1)
    assert RATE / 2 <= visitor.count <= RATE + SLACK


@BOTH_PLANES
@ensureDeferred
async def test_many_small_uploads(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)

    class Web(Peer):
        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            while self.count >= (self.answered + 1) * 20_100:
                self.answered += 1
                self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")

        answered = 0

    service = await world.service(Web)
    await limited.publish("http", service.port, bandwidth="8Mbit")
    visitor = await world.visitor(port_of(limited.server.named.listeners["http"]))
    request = f"POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 20100\r\n\r\n".encode() + bytes(20_100)
    visitor.on_data = lambda _data: visitor.send(request)
    visitor.send(request)
    got = lambda: sum(peer.count for peer in service.peers)  # noqa: E731
    await settled(got)
    assert got() <= SLACK
    await limited.pass_time(1)
    assert RATE / 4 <= got() <= RATE + SLACK


@BOTH_PLANES
@ensureDeferred
async def test_another_protocol(world: World, tmp_path: Path) -> None:
    """After an upgrade, both directions."""
    limited = Limited(world, tmp_path)

    class Switches(Peer):
        has_switched = False

        def dataReceived(self, data: bytes) -> None:
            super().dataReceived(data)
            if not self.has_switched:
                self.has_switched = True
                self.count = 0
                lines = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n"
                self.transport.write(lines.encode() + bytes(SIZE))

    service = await world.service(Switches)
    await limited.publish("http", service.port, bandwidth="8Mbit")
    visitor = await world.visitor(port_of(limited.server.named.listeners["http"]), keep=False)
    visitor.send(f"GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n".encode())
    await until(lambda: visitor.count)
    visitor.send(bytes(SIZE))
    await limited.pass_time(1)
    for count in (visitor.count, service.peers[0].count):
        assert RATE / 2 <= count <= RATE + SLACK
    while visitor.count < SIZE or service.peers[0].count < SIZE:
        await limited.pass_time(0.2)
    visitor.half_close()
    await until(lambda: service.peers[0].over)


@ensureDeferred
async def test_datagrams(world: World, tmp_path: Path) -> None:
    """Those beyond it are dropped, and one line says so."""
    limited = Limited(world, tmp_path)
    service = Echo()
    await limited.publish("udp", service.address[1], bandwidth="8Mbit")
    visitor = Program()
    got = 0

    def count() -> int:
        nonlocal got
        while visitor.poll() is not None:
            got += 1
        return got

    for _ in range(500):
        visitor.send(bytes(1000), (HOST, limited.public))
        await turns(1)
    await settled(count)
    # What was saved up.
    assert 80 <= got <= 101
    await world.logged("are dropped: they are more than its bandwidth")
    before = got
    await limited.pass_time(0.1)
    visitor.send(bytes(1000), (HOST, limited.public))
    await until(lambda: count() == before + 1)
    visitor.close()
    await service.close()


@BOTH_PLANES
@ensureDeferred
async def test_of_a_client(world: World, tmp_path: Path) -> None:
    """All its tunnels together, by the clients file. A change counts for visitors who are there."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("'*': {bandwidth: 8Mbit}")
    limited = Limited(world, tmp_path, admission=AdmissionSettings(clients=clients))
    service = await world.service(lambda: Source("tcp", 3 * SIZE))
    web = await world.service(lambda: Source("http", 3 * SIZE))
    await limited.publish("tcp", service.port)
    await limited.publish("http", web.port, bandwidth="4Mbit")
    visitors = [await limited.visit("tcp"), await limited.visit("http")]
    await limited.pass_time(2)
    assert sum(visitor.count for visitor in visitors) <= 2 * RATE + SLACK
    assert visitors[1].count <= RATE + SLACK
    clients.write_text("'*': {bandwidth: 80Mbit}")
    limited.server.getServiceNamed("guard").look()
    before = visitors[0].count
    await limited.pass_time(0.5)
    assert visitors[0].count - before > RATE


@ensureDeferred
async def test_a_visitor_has_the_lower_of_two(world: World, tmp_path: Path) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("'*': {visitor-bandwidth: 8Mbit}")
    limited = Limited(world, tmp_path, admission=AdmissionSettings(clients=clients))
    service = await world.service(lambda: Source("tcp", SIZE))
    await limited.publish("tcp", service.port, visitor_bandwidth="80Mbit")
    visitor = await limited.visit("tcp")
    await limited.pass_time(1)
    assert visitor.count <= RATE + SLACK


@BOTH_PLANES
@ensureDeferred
async def test_without_a_limit_nothing_is_measured(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    echo = await world.echo()
    await limited.publish("tcp", echo.port)
    visitor = await limited.visit("tcp")
    visitor.send(b"hello")
    await until(lambda: visitor.count == 5)
    [end] = limited.server.visitors._ends
    assert type(end) in (LocalSocket, SocketEnd)
    assert next(iter(limited.server.sessions)).backends[0].budget is None
