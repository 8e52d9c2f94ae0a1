"""What visitors and services see of a UDP tunnel."""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.access.admission import AdmissionSettings
from rtunnel.addresses import DialAddress, PortRanges
from rtunnel.reasons import LOW_PORTS
from rtunnel.relay.polled_socket import SHORT_TURNS
from rtunnel.relay.udp.sockets import UdpSocket
from tests.needs import needs_ipv6
from tests.ports import free_port
from tests.reverse.datagrams.parts import BY_CONNECTION, BY_UDP, SIZES, Tunnel, ask, can_bind_udp, published, udp_client
from tests.reverse.net import HOST, turns, until
from tests.reverse.world import QUICK, World
from tests.rtc.udp.parts import Echo, Program


@ensureDeferred
async def test_every_size_goes_both_ways(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    for size in SIZES:
        await ask(visitor, tunnel.at, bytes(range(256)) * (size // 256) + bytes(size % 256))
    assert world.lines(BY_CONNECTION) == []
    assert len(world.lines(f"{HOST}:{tunnel.port}/udp -> ")) == 1
    assert len(world.lines("go by UDP")) == 2, "each end says it once"
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_bulk_takes_short_turns_while_datagrams_come(world: World) -> None:
    """At both ends, as it does beside small requests."""
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    ends = tunnel.server.poller, tunnel.client.links.poller
    for poller in ends:
        poller.short_turns = 0
    visitor = Program()
    await ask(visitor, tunnel.at)
    assert [poller.short_turns for poller in ends] == [SHORT_TURNS] * 2
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_each_visitor_has_a_socket_of_its_own_at_the_service(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    visitors = [Program(host) for host in ("127.0.0.1", "127.0.0.1", "127.0.0.2", "127.0.0.3")]
    for _ in range(3):
        for visitor in visitors:
            await ask(visitor, tunnel.at)
    assert len(tunnel.service.sources) == len(tunnel.flows.table) == len(visitors)
    for visitor in visitors:
        visitor.close()
    await tunnel.end()


@pytest.mark.parametrize("everywhere", ["", pytest.param("::", marks=needs_ipv6)])
@ensureDeferred
async def test_answers_leave_from_the_address_that_was_asked(world: World, everywhere: str) -> None:
    """Also if one visitor asks several addresses in turn."""
    tunnel = await Tunnel(world, public_interface=everywhere).begin()
    visitor = Program()
    for _ in range(3):
        for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
            await ask(visitor, (host, tunnel.port), f"you at {host}".encode())
    assert len(tunnel.service.sources) == 3, "each is a flow of its own"
    if everywhere:
        other = Program("::1")
        await ask(other, ("::1", tunnel.port))
        names = sorted(flow.name for flow in tunnel.flows.table)
        assert names == [f"127.0.0.1:{visitor.address[1]}"] * 3 + [f"[::1]:{other.address[1]}"]
        other.close()
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_idle_flows_end_at_both_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.relay.udp.flows.BRIEF_IDLE", 0.3)
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    brief, lasting = Program(), Program()
    await ask(lasting, tunnel.at)
    await ask(lasting, tunnel.at)
    await ask(brief, tunnel.at)
    await until(lambda: len(tunnel.flows.table) == 1, "the end of the brief one")
    [left] = tunnel.flows.table
    assert left.name == f"{HOST}:{lasting.address[1]}"
    for visitor in (brief, lasting):
        visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_client_that_has_forgotten_a_flow_is_told(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    await tunnel.way(BY_UDP)
    visitor = Program()
    await ask(visitor, tunnel.at)
    [flow] = tunnel.flows.table
    flow.end("its memory was needed")
    await ask(visitor, tunnel.at)
    assert len(tunnel.flows.table) == 1
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_client_that_is_restarted(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    await ask(visitor, tunnel.at)
    await tunnel.client.stopService()
    assert len(tunnel.flows.table) == 0
    await world.logged(f"UDP port {tunnel.port} withdrawn")
    assert can_bind_udp(tunnel.port)
    udp_client(world, tunnel.server, (tunnel.port, tunnel.service.address))
    await published(world, 2)
    await ask(visitor, tunnel.at)
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_link_that_is_lost(world: World) -> None:
    """The service sees the same port as before, and takes the visitor for the same."""
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    for number in range(1, 4):
        for _ in range(2):
            await ask(visitor, tunnel.at)
        before = tunnel.session
        assert len(before.datagrams._flows) == 1
        tunnel.client.link.session.transport.abortConnection()
        await published(world, number + 1)
        assert before.datagrams is None
    await ask(visitor, tunnel.at)
    assert len(tunnel.service.sources) == len(tunnel.flows.table) == 1
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_client_that_does_not_come_back(world: World) -> None:
    tunnel = await Tunnel(world, limits=QUICK).begin()
    visitor = Program()
    for _ in range(2):
        await ask(visitor, tunnel.at)
    tunnel.client.link.disownServiceParent()
    tunnel.client.link.session.drop()
    await world.logged(f"UDP port {tunnel.port} freed: its client has not come back")
    assert can_bind_udp(tunnel.port)
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_another_client_asks_for_the_port(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    udp_client(world, tunnel.server, (tunnel.port, tunnel.service.address))
    refusal = await world.logged("refused by the server", LogLevel.warn)
    assert f"UDP port {tunnel.port} is served by another client" in refusal
    visitor = Program()
    await ask(visitor, tunnel.at)
    await tunnel.client.stopService()
    await published(world, 2)
    await ask(visitor, tunnel.at)
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_tunnel_that_is_withdrawn(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    await ask(visitor, tunnel.at)
    await tunnel.client.link.withdraw(lambda: True)
    await world.logged(f"UDP port {tunnel.port} withdrawn")
    assert can_bind_udp(tunnel.port)
    await until(lambda: len(tunnel.flows.table) == 0, "OVER at the client")
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_rights_that_are_taken_away(world: World, tmp_path: Any) -> None:
    """First those to the port, then those to be there at all."""
    clients = tmp_path / "clients.yaml"
    ports = [free_port(), free_port()]
    clients.write_text(f"laptop: {{token: 1234-5678, ports: [{ports[0]}, {ports[1]}]}}\n")
    server, service, visitor = world.server(admission=AdmissionSettings(clients)), Echo(), Program()
    client = udp_client(world, server, *((port, service.address) for port in ports), token="1234-5678")
    await published(world, 2)
    for port in ports:
        await ask(visitor, (HOST, port))
    assert len(client.link.flows.table) == 2
    clients.write_text(f"laptop: {{token: 1234-5678, ports: [{ports[1]}, 1]}}\n")
    await world.logged(f"UDP port {ports[0]} refused", LogLevel.warn)
    await until(lambda: can_bind_udp(ports[0]))
    await until(lambda: len(client.link.flows.table) == 1, "OVER at the client")
    await ask(visitor, (HOST, ports[1]))
    clients.write_text("another: {token: 8765-4321-0000, ports: 1}\n")
    await world.logged(f"gone; freed: {ports[1]}/udp")
    assert can_bind_udp(ports[1])
    visitor.close()
    await service.close()


@ensureDeferred
async def test_server_that_goes_down(world: World) -> None:
    tunnel = await Tunnel(world).begin()
    visitor = Program()
    await ask(visitor, tunnel.at)
    await tunnel.server.stopService()
    assert can_bind_udp(tunnel.port)
    assert can_bind_udp(World.control_port(tunnel.server))
    visitor.close()
    await tunnel.end()


@ensureDeferred
async def test_ports_that_cannot_be_had(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = Program()
    ports = {"refused": free_port(), "low": 53, "taken": taken.address[1]}
    server = world.server(allow_ports=PortRanges.parse(f"53,{ports['taken']}"))
    bind = UdpSocket.bind

    def as_any_user(udp: UdpSocket, host: str, port: int) -> None:
        if port < 1024:
            raise PermissionError(errno.EACCES, "Permission denied")
        bind(udp, host, port)

    monkeypatch.setattr(UdpSocket, "bind", as_any_user)
    udp_client(world, server, *((port, (HOST, 9)) for port in ports.values()))
    await until(lambda: len(world.lines("next attempt", LogLevel.warn)) == len(ports))
    text = "\n".join(world.lines("next attempt", LogLevel.warn))
    assert (
        f"UDP port {ports['refused']} refused by the server: port-not-allowed: port {ports['refused']} is not" in text
    )
    assert f"port-in-use: UDP port {ports['taken']}: " in text
    assert f"port-unavailable: UDP port 53: Permission denied; at the server, {LOW_PORTS}" in text
    taken.close()


@ensureDeferred
async def test_services_that_are_not_there(world: World) -> None:
    """What is dropped is a line, and not one for each datagram."""
    gone = Program()
    ports = [free_port(), free_port()]
    gone.close()
    client = udp_client(world, world.server(), (ports[0], gone.address), (ports[1], ("no-such-name.invalid", 9)))
    await published(world, 2)
    visitor = Program()
    for port, text in zip(ports, ("Connection refused", "its name cannot be looked up"), strict=True):
        client.link.flows._limiter._counts.clear()
        counter = itertools.count()

        def said(port: int = port, text: str = text, counter: Any = counter) -> bool:
            if next(counter) % 10 == 0:
                visitor.send(b"x", (HOST, port))
            return bool(world.lines(f"are dropped: {text}", LogLevel.warn))

        await until(said, text)
    for _ in range(50):
        visitor.send(b"x", (HOST, ports[0]))
    await turns()
    assert len(world.lines("are dropped", LogLevel.warn)) == 2
    visitor.close()


@ensureDeferred
async def test_service_with_two_addresses_of_which_the_first_is_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.internet.address import IPv4Address
    from twisted.internet.defer import succeed

    service = Echo("127.0.0.5")
    addresses = [IPv4Address("UDP", host, service.address[1]) for host in ("127.0.0.4", "127.0.0.5")]
    monkeypatch.setattr("rtunnel.services.flow.look_up", lambda _reactor, _host: succeed(addresses))
    port = free_port()
    udp_client(world, world.server(), (port, ("two.example", service.address[1])))
    await published(world)
    visitors = [Program(), Program()]
    for visitor in visitors:
        await ask(visitor, (HOST, port))
        visitor.close()
    await service.close()


@pytest.mark.parametrize("is_used", [True, False])
@ensureDeferred
async def test_a_client_that_loses_one_of_its_links(world: World, is_used: bool) -> None:
    """Both links serve the port. It stays with the other one, and so do flows."""
    control = free_port()
    two = {"links": 2, "other_servers": (DialAddress.parse(f"127.0.0.2:{control}"),)}
    tunnel = await Tunnel(world, client=two, host="0.0.0.0", control=control, public_interface=HOST).begin()
    ports: Any = tunnel.server.ports
    [held] = ports._held.values()
    await until(lambda: len(held.group) == 2, "both links serve the port")
    visitor, newcomer = Program(), Program()
    await ask(visitor, tunnel.at)
    used = held.port.backend.session
    [other] = [session for session in tunnel.server.sessions if session is not used]
    lost: Any
    left: Any
    lost, left = (used, other) if is_used else (other, used)
    lost.transport.abortConnection()
    await until(lambda: len(held.group) == 1, "the end of the link")
    assert ports._held
    assert not ports._parked
    for program in (visitor, newcomer):
        await ask(program, tunnel.at, b"again")
    assert set(left.datagrams._flows.values()) == set(held.port.table)
    await until(lambda: len(held.group) == 2, "the link is back")
    assert held.port.backend.session is left
    for program in (visitor, newcomer):
        await ask(program, tunnel.at, b"once more")
        program.close()
    await tunnel.end()
