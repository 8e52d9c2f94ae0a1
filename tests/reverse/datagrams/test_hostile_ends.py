"""An end that has the keys, and sends what no honest end does."""

from __future__ import annotations

import gc
import random
import socket
import time
from collections.abc import Sequence
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from rtunnel.reverse.datagrams.client_flows import ClientDatagrams
from rtunnel.reverse.datagrams.server_flows import ServerDatagrams, UdpPort
from rtunnel.upkeep.descriptors import open_descriptors
from rtunnel.wire.datagrams import messages
from rtunnel.wire.datagrams.path import Path
from tests.no_collector import no_collector
from tests.ports import free_port
from tests.reverse.datagrams.parts import BY_CONNECTION, BY_UDP, Tunnel, ask, published, udp_client
from tests.reverse.net import HOST, turns, until
from tests.reverse.world import World
from tests.rtc.udp.parts import Program

#: The most processor time that a message of the other end may cost, in seconds; several times what it costs.
PER_MESSAGE, PER_FLOW, PER_GARBAGE = 0.0005, 0.005, 0.0005
AROUND = [
    b"",
    bytes((messages.FIRST,)),
    messages.encode_first(9, 0, "v" * 255, b"")[:200],
    messages.encode_first(9, 77, "10.0.0.1:1", b"no such tunnel"),
    messages.encode_number(messages.KNOWN, 77),
    messages.encode_number(messages.UNKNOWN, 77),
    messages.encode_number(messages.OVER, 77),
    messages.encode_number(messages.DATAGRAM, 77, b"of nobody"),
    *(bytes((kind,)) for kind in range(messages.DATAGRAM, 256)),
    *(messages.encode_number(kind, 77, b"?") for kind in range(messages.OVER + 1, 256)),
]


async def send(carrier: Any, sent: list[bytes]) -> None:
    """Send messages on a path, not faster than the other end takes them."""
    for start in range(0, len(sent), 50):
        for message in sent[start : start + 50]:
            if message:
                carrier.send(message)
        carrier.flush()
        await turns(2)


@ensureDeferred
async def test_server_that_begins_flows_without_end(world: World) -> None:
    """Descriptors are those that the client may use; the flow of a visitor who gets answers stays."""
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    for _ in range(3):
        await ask(visitor, tunnel.at)
    before = open_descriptors()
    descriptors = tunnel.client.visitors.descriptors
    descriptors._limit = lambda: before + 100
    descriptors.tick()
    began, count = time.process_time(), 2000
    flood = [messages.encode_first(100 + n, 0, f"10.{n >> 8}.{n & 255}.1:9", b"x") for n in range(count)]
    await send(tunnel.session.datagrams.carrier, flood)
    assert open_descriptors() <= before + 100
    assert time.process_time() - began < 1 + count * PER_FLOW
    await ask(visitor, tunnel.at)
    [mine] = [flow for flow in tunnel.flows.table if flow.name == f"{HOST}:{visitor.address[1]}"]
    assert mine.sent >= 4, "it is the same as before"
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_server_that_makes_datagrams_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the service's name is looked up, datagrams are kept. They count for --memory."""
    looking: list[Deferred[Any]] = []

    def look_up(_reactor: Any, _host: str) -> Deferred[Any]:
        looking.append(Deferred(lambda _deferred: None))
        return looking[-1]

    monkeypatch.setattr("rtunnel.services.flow.look_up", look_up)
    server, port = world.server(), free_port()
    client = udp_client(world, server, (port, ("slow.example", 9)), memory=4 << 20)
    await published(world)
    await world.logged(BY_UDP)
    [session] = server.sessions
    assert session.datagrams is not None
    carrier = session.datagrams.carrier
    for n in range(400):
        carrier.send(messages.encode_first(100 + n, 0, f"10.0.{n & 255}.1:{n}", bytes(30000)))
        carrier.flush()
        await turns(1)
    await until(lambda: sum(flow.held for flow in client.link.flows.table) <= 4 << 20)
    assert sum(flow.held for flow in client.link.flows.table) > 1 << 20
    assert world.lines("memory is")


@ensureDeferred
async def test_messages_that_mean_nothing(world: World) -> None:
    """To both ends; nothing is logged, nothing ends."""
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    await ask(visitor, tunnel.at)
    lines = len(world.lines())
    for session in (tunnel.session, tunnel.client.link.session):
        await send(session.datagrams.carrier, AROUND)
    await ask(visitor, tunnel.at)
    assert len(world.lines()) == lines
    assert len(tunnel.flows.table) == 1
    assert tunnel.session.datagrams.carrier.malformed > 100
    assert tunnel.client.link.session.datagrams.carrier.malformed > 100
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_server_that_uses_a_number_again(world: World) -> None:
    """The visitor who had it has it no more, and its answers do not go to another one."""
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    await ask(visitor, tunnel.at)
    [flow] = tunnel.flows.table
    await send(tunnel.session.datagrams.carrier, [messages.encode_first(flow.number, 0, "10.0.0.1:1", b"x")])
    await until(lambda: flow.ended)
    assert [other.name for other in tunnel.flows.table] == ["10.0.0.1:1"]
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_client_that_sends_for_flows_that_are_not_its_own(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    other_port = free_port()
    hostile = udp_client(world, tunnel.server, (other_port, tunnel.service.address))
    await published(world, 2)
    await tunnel.way(BY_UDP, 2)
    visitor = Program()
    await ask(visitor, tunnel.at)
    began, count = time.process_time(), 5000
    for kind in (messages.DATAGRAM, messages.UNKNOWN, messages.OVER):
        numbers = [messages.encode_number(kind, n, b"from another one") for n in range(count)]
        await send(hostile.link.session.datagrams.carrier, numbers)
    assert time.process_time() - began < 1 + 3 * count * PER_MESSAGE
    await turns()
    assert visitor.poll() is None
    await ask(visitor, tunnel.at)
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_client_that_forgets_a_flow_again_and_again(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    await ask(visitor, tunnel.at)
    [flow] = tunnel.flows.table
    unknown = messages.encode_number(messages.UNKNOWN, flow.number)
    await send(tunnel.client.link.session.datagrams.carrier, [unknown] * 5000)
    await ask(visitor, tunnel.at)
    assert len(tunnel.service.sources) == 1
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_garbage_with_the_id_of_a_path(world: World) -> None:
    """It costs little, moves no address, and is not taken for a sign of life."""
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor, stranger = Program(), Program("127.0.0.9")
    await ask(visitor, tunnel.at)
    path, port = tunnel.session.datagrams.carrier.path, World.control_port(tunnel.server)
    address, refused = path.address, path.refused
    assert tunnel.session._path_id is not None
    start = tunnel.session._path_id.to_bytes(4, "big")
    chance, count = random.Random(1), 5000
    began = time.process_time()
    for number in range(count):
        stranger.send(start + chance.randbytes(chance.choice((25, 40, 1200))), (HOST, port))
        if number % 50 == 0:
            await turns(1)
    await until(lambda: path.refused - refused > count / 2)
    assert time.process_time() - began < 1 + count * PER_GARBAGE
    assert (path.address, path.is_open, stranger.poll()) == (address, True, None)
    await ask(visitor, tunnel.at)
    assert world.lines(BY_CONNECTION) == []
    for program in (visitor, stranger):
        program.close()
    await tunnel.end()


def left(before: Sequence[object] = ()) -> list[object]:
    """What holds sockets or keys of UDP tunnels, although there are none any more.

    :param before: what other tests have left.
    """
    kinds = (Path, UdpPort, ServerDatagrams, ClientDatagrams)
    return [
        thing for thing in gc.get_objects() if isinstance(thing, kinds) and not any(thing is other for other in before)
    ]


def names(things: Sequence[object]) -> list[str]:
    return sorted(type(thing).__name__ for thing in things)


@pytest.mark.parametrize("world", ["mux", "auto"], indirect=True)
@ensureDeferred
async def test_nothing_waits_for_the_collector(world: World) -> None:
    with no_collector():
        before = left()
        tunnel = await Tunnel(world).begin()
        visitor = Program()
        await ask(visitor, tunnel.at)
        assert names(left(before)) == ["ClientDatagrams", "Path", "Path", "ServerDatagrams", "UdpPort"]
        await tunnel.client.stopService()
        await until(lambda: not len(tunnel.server.sessions))
        await turns()
        assert "Path" not in names(left(before))
        sockets = [thing for thing in gc.get_objects() if isinstance(thing, socket.socket) and thing.fileno() >= 0]
        assert [one for one in sockets if one.type == socket.SOCK_DGRAM and one.getsockname()[1] == tunnel.port] == []
    visitor.close()
    await tunnel.end()
