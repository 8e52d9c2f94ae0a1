"""What the server does not give: ports in use or not allowed, links beyond the limit, visitors nobody can serve."""

from __future__ import annotations

import errno

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.logger import LogLevel

from rtunnel.addresses import PortRanges
from rtunnel.upkeep import listening
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.net import (
    ERROR,
    HOST,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    READY,
    Peer,
    can_bind,
    hello,
    is_refused,
    turns,
    until,
)
from tests.reverse.world import World, port_of


@ensureDeferred
async def test_port_of_another_program(world: World) -> None:
    other = await world.service()
    link = await world.raw_extended(world.server())
    link.put(INIT, 3, b"%d:x" % other.port)
    error = await link.take_json(ERROR, 3)
    assert (error["scope"], error["code"]) == ("tunnel", "port-in-use")
    assert str(other.port) in error["message"]
    assert await world.logged(f"port {other.port} refused: port-in-use", LogLevel.warn)
    await link.is_alive()


@ensureDeferred
async def test_port_that_the_system_keeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise CannotListenError("", 80, PermissionError(errno.EACCES, "Permission denied"))

    link = await world.raw_extended(world.server(allow_ports=PortRanges.parse("80")))
    monkeypatch.setattr(TCP4ServerEndpoint, "listen", refuse)
    link.put(INIT, 0, b"80:x")
    error = await link.take_json(ERROR, 0)
    assert error["code"] == "port-unavailable"
    assert error["message"].startswith(
        "port 80: Permission denied; at the server, low ports need the capability CAP_NET_"
    )


@ensureDeferred
async def test_port_of_another_client(world: World) -> None:
    """Refused as soon as the holder has answered a PING, and not taken from it."""
    server, port = world.server(), free_port()
    holder, other = await world.raw_extended(server, port), await world.raw_extended(server)
    other.put(INIT, 0, b"%d:x" % port)
    number, mark = await holder.take(PING)
    holder.put(PONG, number, mark)
    error = await other.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("tunnel", "port-in-use")
    # Who has it is told to the operator, and nobody else.
    text = f"port-in-use: port {port} is served by another client"
    await world.logged(f"client {other.name}: port {port} refused: {text} (client {holder.name})", LogLevel.warn)
    assert error["message"] == f"port {port} is served by another client"
    await other.is_alive()
    await world.join(port, Peer())
    await holder.take(NEW_CONN)


@ensureDeferred
async def test_port_that_the_client_has_already(world: World) -> None:
    port = free_port()
    link = await world.raw_extended(world.server(), port)
    link.put(INIT, 1, b"%d:x" % port)
    error = await link.take_json(ERROR, 1)
    assert (error["code"], error["message"]) == ("port-in-use", f"this client serves port {port} already")
    await link.is_alive()


@ensureDeferred
async def test_same_port_twice_over_one_link(world: World) -> None:
    port = free_port()
    link = await world.raw_extended(world.server(), port)
    link.put(INIT, 1, b"%d:x" % port)
    assert (await link.take_json(ERROR, 1))["code"] == "port-in-use"
    await link.is_alive()


@ensureDeferred
async def test_refused_tunnel_may_be_asked_for_again(world: World) -> None:
    other = await world.service()
    link = await world.raw_extended(world.server())
    link.put(INIT, 0, b"%d:x" % other.port)
    await link.take(ERROR, 0)
    await world.stop_service(other)
    link.put(INIT, 0, b"%d:x" % other.port)
    ready = await link.take_json(READY, 0)
    assert ready["address"].endswith(f":{other.port}")


@pytest.mark.parametrize("busy", ["another program", "another client", "not allowed"])
@ensureDeferred
async def test_reference_client_is_told_by_the_end_of_its_link(world: World, busy: str) -> None:
    server, port = world.server(allow_ports=PortRanges.parse("10000-65535")), free_port()
    if busy == "another program":
        await world.service(port=port)
    elif busy == "another client":
        world.client(server, (port, 9))
        await world.reachable()
    else:
        port = 9999
    link = await world.raw(server)
    link.put(INIT, 0, b"%d:127.0.0.1:80" % port)
    await link.ends()
    assert link.seen == []
    lines = world.lines("closed by us", LogLevel.warn)
    assert len(lines) == 1
    assert str(port) in lines[0]
    if busy == "another client":
        (session,) = server.sessions
        assert f"port {port} is served by another client (client {session.peer_name})" in lines[0]


@pytest.mark.parametrize("port", [8079, 8090, 1023, 1])
@ensureDeferred
async def test_port_that_is_not_allowed(world: World, port: int) -> None:
    server = world.server(allow_ports=PortRanges.parse("8080-8089,9443"))
    link = await world.raw_extended(server)
    link.put(INIT, 0, b"%d:x" % port)
    error = await link.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("tunnel", "port-not-allowed")
    assert "8080-8089,9443" in error["message"]
    await link.is_alive()


@ensureDeferred
async def test_rights_are_checked_for_every_tunnel(world: World) -> None:
    """Not only for the first of a link (chisel CVE-2026-48113)."""
    good, bad = free_port(), free_port()
    server = world.server(allow_ports=PortRanges.parse(f"{good}"))
    link = await world.raw_extended(server, good)
    for number in (1, 2, 0):
        link.put(INIT, number, b"%d:x" % bad)
    assert (await link.take_json(ERROR, 1))["code"] == "port-not-allowed"
    assert (await link.take_json(ERROR, 2))["code"] == "port-not-allowed"
    await link.is_alive()
    assert can_bind(bad)
    assert len(server.ports) == 1


@ensureDeferred
async def test_no_shared_port(world: World) -> None:
    link = await world.raw_extended(world.server())
    link.put(INIT, 0, b"0:x")
    error = await link.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("tunnel", "no-shared-port")
    await link.is_alive()


@ensureDeferred
async def test_tunnels_beyond_the_limit(world: World) -> None:
    server = world.server(limits=LinkLimits(max_tunnels=2))
    link = await world.raw_extended(server)
    for number in range(3):
        link.put(INIT, number, b"%d:x" % free_port())
    assert (await link.take_json(ERROR, 2))["code"] == "limit"
    await link.is_alive()
    assert len(server.ports) == 2


@ensureDeferred
async def test_links_beyond_the_limit(world: World) -> None:
    server = world.server(max_links=2)
    links = [await world.raw_extended(server) for _ in range(2)]
    for _ in range(3):
        late = await world.raw(server)
        late.send(hello())
        assert (await late.take_json(ERROR))["code"] == "limit"
        await late.ends()
    assert len(world.lines("2 links, the limit", LogLevel.warn)) == 1
    for link in links:
        await link.is_alive()
    links[0].abort()
    await until(lambda: len(server.sessions) == 1)
    await (await world.raw_extended(server)).is_alive()


@ensureDeferred
async def test_visitor_of_a_shared_port_without_clients(world: World) -> None:
    """It is refused, as a load balancer must see; with a client who serves it, until that has left, it is not."""
    server = world.server(shared=True)
    port = port_of(server.shared)
    await world.logged(f"shared public port {HOST}:{port} is closed until somebody serves it")
    await is_refused(port)
    links = [await world.raw_extended(server, 0)]
    await world.visitor(port)
    await links[0].take(NEW_CONN)
    links.append(await world.raw_extended(server, 0))
    assert len(world.lines(f"shared public port listening on {HOST}:{port}")) == 1
    links[0].close()
    await world.sessions(server, 1)
    await world.visitor(port)
    await links[1].take(NEW_CONN)
    links[1].put(ERROR, 0, b'{"scope": "tunnel"}')
    await world.logged(f"shared public port {HOST}:{port} is closed: nobody serves it")
    await is_refused(port)
    assert len(server.visitors) == 1, "it stays until it has finished"
    links[1].put(INIT, 0, b"0:local")
    await links[1].take(READY, 0)
    await world.visitor(port)
    await links[1].take(NEW_CONN)


@ensureDeferred
async def test_shared_port_that_cannot_be_opened_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server = world.server(shared=True)

    def refuse(_port: object) -> None:
        raise OSError(errno.ENOBUFS, "No buffer space available")

    monkeypatch.setattr(listening, "accept_connections", refuse)
    link = await world.raw_extended(server)
    link.put(INIT, 0, b"0:local")
    error = await link.take_json(ERROR, 0)
    where = f"the shared public port {HOST}:{port_of(server.shared)}"
    assert (error["code"], error["message"]) == ("port-unavailable", f"{where}: No buffer space available")
    assert not server.shared_backends


@ensureDeferred
async def test_visitor_beyond_the_limit_of_streams(world: World) -> None:
    server, port = world.server(limits=LinkLimits(max_streams=2)), free_port()
    link = await world.raw_extended(server, port)
    for _ in range(2):
        await world.visitor(port)
        await link.take(NEW_CONN)
    late = await world.visitor(port)
    await late.ends()
    await link.is_alive()
    assert len(server.visitors) == 2
    assert len(world.lines("cannot take a visitor", LogLevel.warn)) == 1


@ensureDeferred
async def test_full_client_leaves_the_visitor_to_the_next(world: World) -> None:
    server = world.server(shared=True, limits=LinkLimits(max_streams=1))
    links = [await world.raw_extended(server, 0) for _ in range(2)]
    for _ in range(2):
        await world.visitor(port_of(server.shared))
    for link in links:
        await link.take(NEW_CONN)
    await (await world.visitor(port_of(server.shared))).ends()


@ensureDeferred
async def test_streams_whose_credit_would_pass_the_bound_of_the_link(world: World) -> None:
    limits = LinkLimits(initial_credit=65536, link_buffer=3 * 65536)
    server, port = world.server(limits=limits), free_port()
    link = await world.raw_extended(server, port)
    for _ in range(3):
        await world.visitor(port)
        await link.take(NEW_CONN)
    await (await world.visitor(port)).ends()
    await turns()
    assert NEW_CONN not in [kind for kind, _, _ in link.frames]
