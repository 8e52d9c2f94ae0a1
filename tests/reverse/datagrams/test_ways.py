"""How datagrams travel: by UDP, or by a data connection where UDP does not get through."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.addresses import UdpAddress
from rtunnel.relay.udp.batches import BatchSocket
from rtunnel.reverse.datagrams import carrier, fallback
from rtunnel.wire.datagrams import messages
from tests.ports import free_port
from tests.reverse.datagrams.parts import BY_CONNECTION, BY_UDP, SIZES, Tunnel, ask, published, udp_client
from tests.reverse.net import HOST, reactor, turns, until
from tests.reverse.world import World
from tests.rtc.udp.parts import Program

AUTO = pytest.mark.parametrize("world", ["auto"], indirect=True)


class Network:
    """Between both ends. Packets get through, or not."""

    def __init__(self) -> None:
        self.is_open = True


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network, send_all = Network(), BatchSocket.send_all

    def send(udp: BatchSocket, packets: Any, too_large: Any) -> None:
        if network.is_open:
            send_all(udp, packets, too_large)

    monkeypatch.setattr(BatchSocket, "send_all", send)
    return network


def connections(tunnel: Tunnel) -> int:
    """How many data connections carry datagrams."""
    return len(tunnel.session._pool._busy)


@AUTO
@ensureDeferred
async def test_udp_is_blocked_from_the_start_and_opens_later(
    world: World, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtunnel.wire.datagrams.path.MOST_RETRY", 0.5)
    monkeypatch.setattr(fallback, "IDLE", 2.0)
    network.is_open = False
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    for size in SIZES:
        await ask(visitor, tunnel.at, bytes(size))
    await tunnel.way(BY_CONNECTION)
    assert connections(tunnel) == 1
    network.is_open = True
    await tunnel.way(BY_UDP)
    for size in SIZES:
        await ask(visitor, tunnel.at, bytes(size))
    assert len(tunnel.service.sources) == 1
    await until(lambda: connections(tunnel) == 0, "the end of the data connection")
    await until(lambda: tunnel.client.link.session.datagrams.carrier._fallback is None)
    assert len(world.lines("does not get through")) == 2, "each end says it once"
    assert len(world.lines("go by UDP")) == 2
    visitor.close()
    await tunnel.end()


@AUTO
@ensureDeferred
async def test_udp_is_blocked_in_the_middle(world: World, network: Network) -> None:
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    await ask(visitor, tunnel.at)
    blocked_at = reactor.seconds()
    network.is_open = False
    await ask(visitor, tunnel.at, b"while it is blocked")
    await tunnel.way(BY_CONNECTION)
    assert reactor.seconds() - blocked_at >= 1.0
    assert len(tunnel.service.sources) == 1
    visitor.close()
    await tunnel.end()


@AUTO
@ensureDeferred
async def test_port_of_the_path_is_taken(world: World) -> None:
    """The first datagram goes by a data connection, as soon as there is one."""
    taken = Program()
    tunnel = await Tunnel(world, udp_listen=UdpAddress("x", *taken.address)).begin()
    line = await world.logged("--udp-listen", LogLevel.warn)
    assert f"UDP at {HOST}:{taken.address[1]}: " in line
    visitor = Program()
    visitor.send(b"the only one", tunnel.at)
    assert await visitor.gets() == (b"the only one", tunnel.at)
    assert tunnel.session.datagrams.carrier.path is None
    for program in (visitor, taken):
        program.close()
    await tunnel.end()


@ensureDeferred
async def test_neither_way(world: World, network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody can carry is kept for a moment, and not for ever."""
    monkeypatch.setattr(carrier, "KEPT", 2.0)
    monkeypatch.setattr("rtunnel.wire.datagrams.path.MOST_RETRY", 0.5)
    network.is_open = False
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    for _ in range(20):
        visitor.send(bytes(60000), tunnel.at)
        await turns()
    await world.logged("there are no data connections")
    waiting = tunnel.session.datagrams.carrier._waiting
    assert 0 < waiting.bytes <= fallback.MAX_WAITING
    await until(lambda: not waiting.bytes, "nobody waits for them")
    network.is_open = True
    await ask(visitor, tunnel.at, b"news")
    assert visitor.poll() is None
    assert len(world.lines("there are no data connections")) == 1
    visitor.close()
    await tunnel.end()


@AUTO
@ensureDeferred
async def test_the_newest_get_through_a_slow_connection(world: World, network: Network) -> None:
    network.is_open = False
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    await ask(visitor, tunnel.at)
    got: list[int] = []
    client = tunnel.client.link.session.datagrams
    client.received = lambda message: got.append(int(message[messages.NUMBER.size :].partition(b".")[0]))
    far = client.carrier._fallback._far
    far.stop_reading()
    count = 1000
    datagrams = tunnel.session.datagrams
    for number in range(1, count + 1):
        datagrams.carrier.send(messages.encode_number(messages.DATAGRAM, 1, b"%d." % number + bytes(10000)))
        assert datagrams.carrier.held <= fallback.MAX_WAITING + 70000
    await turns()
    far.resume_reading()
    await until(lambda: count in got, "the newest")
    assert got == sorted(got)
    assert len(got) < count / 2
    visitor.close()
    await tunnel.end()


@AUTO
@ensureDeferred
async def test_a_data_connection_that_comes_when_the_link_is_over(world: World, network: Network) -> None:
    network.is_open = False
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    await ask(visitor, tunnel.at)
    datagrams = tunnel.session.datagrams
    tunnel.client.link.session.transport.abortConnection()
    await published(world, 2)
    late = datagrams.fallback()
    datagrams.carrier.fall_back_on(late)
    assert datagrams.carrier._fallback is None
    await ask(visitor, tunnel.at)
    visitor.close()
    await tunnel.end()


@AUTO
@ensureDeferred
async def test_answers_of_many_services_while_nothing_gets_through(world: World, network: Network) -> None:
    """At the client, too, what waits is bounded, and it is memory that is counted."""
    ports = [free_port() for _ in range(3)]
    programs = [Program() for _ in ports]
    server = world.server()
    client = udp_client(world, server, *zip(ports, (program.address for program in programs), strict=True))
    await published(world, len(ports))
    await world.logged(BY_UDP)
    visitor = Program()
    sources = []
    for port, program in zip(ports, programs, strict=True):
        visitor.send(b"x", (HOST, port))
        sources.append((await program.gets())[1])
    datagrams = client.link.session.datagrams
    network.is_open = False
    datagrams.carrier.path.is_open = False
    for _ in range(30):
        for program, source in zip(programs, sources, strict=True):
            program.send(bytes(30000), source)
        await turns(5)
    assert 200_000 < datagrams.carrier.held <= fallback.MAX_WAITING + 70000
    assert datagrams.carrier.held in dict(datagrams.holdings())
    client.link.session.free(datagrams.carrier)
    assert datagrams.carrier.held == 0
    for program in (visitor, *programs):
        program.close()
