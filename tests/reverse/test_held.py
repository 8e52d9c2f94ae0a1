"""A client is away for a moment: who comes then waits for it, and is served in turn once it is back."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.tokens import parse_tokens
from rtunnel.reverse.server.held import HeldVisitor
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.wire.limits import LinkLimits
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.net import (
    BOTH_PLANES,
    CLOSE_CONN,
    DATA,
    ERROR,
    INIT,
    NEW_CONN,
    READY,
    Peer,
    RawLink,
    can_bind,
    is_refused,
    turns,
    until,
)
from tests.reverse.world import World, port_of

SHUTTING_DOWN = b'{"scope": "%s", "code": "shutting-down", "message": ""}'
TOKENS = AdmissionSettings(tokens=parse_tokens(["laptop:0123456789abcdef", "phone:fedcba9876543210"]))
LAPTOP, PHONE = {"token": "0123456789abcdef"}, {"token": "fedcba9876543210"}


@pytest.fixture(params=["bare socket", "transport"])
def _connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ports of both kinds: those that hand out bare sockets, and those that cannot."""
    if request.param == "transport":
        monkeypatch.setattr("rtunnel.reverse.server.ports.give_sockets", lambda _port, _factory: None)


def patient(world: World, **settings: Any) -> TunnelServer:
    """A server whose visitors wait for as long as it takes."""
    return world.server(hold=PATIENCE, **settings)


async def lose(server: TunnelServer, link: RawLink) -> None:
    """The connection of a link breaks, and those whom it served are gone."""
    link.abort()
    await until(lambda: not server.sessions, "the link is lost")
    await until(lambda: all(isinstance(each, HeldVisitor) for each in server.visitors._ends), "its visitors are lost")


async def held(world: World, server: TunnelServer, port: int, *data: bytes) -> list[Peer]:
    """Visitors who have said this, and wait."""
    visitors = []
    for each in data:
        before = len(server.visitors)
        visitors.append(await world.visitor(port))
        visitors[-1].send(each)
        await until(lambda: len(server.visitors) == before + 1, "a visitor waits")  # noqa: B023
    return visitors


@BOTH_PLANES
@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_visitors_wait_for_a_client_that_was_killed(world: World) -> None:
    """It is started again, so that it has another session."""
    server, echo, port = patient(world), await world.echo(), free_port()
    killed = world.client(server, (port, echo.port), reconnect_min=PATIENCE, reconnect_max=PATIENCE)
    await world.reachable()
    killed.link.session.drop()
    await world.logged(f"visitors wait {PATIENCE:g} s for it: {port}")
    visitors = await held(world, server, port, b"one", b"two" * 10_000)
    silent = await world.visitor(port)
    ended = await world.visitor(port)
    ended.send(b"all")
    ended.half_close()
    await turns()
    assert not echo.peers
    world.client(server, (port, echo.port))
    await visitors[0].has(b"one")
    await visitors[1].has(b"two" * 10_000)
    await ended.has(b"all")
    silent.send(b"late")
    await silent.has(b"late")
    for peer in (*visitors, silent):
        assert not peer.over
        peer.close()
    await until(lambda: not server.visitors, "nobody is left")


@ensureDeferred
async def test_the_first_is_served_first_and_none_before_there_is_room(world: World) -> None:
    server, port = patient(world, limits=LinkLimits(max_streams=3)), free_port()
    await lose(server, await world.raw_extended(server, port))
    said = [b"%02d" % number for number in range(10)]
    await held(world, server, port, *said)
    link = await world.raw_extended(server, port)
    for number, each in enumerate(said):
        stream, _ = await link.take(NEW_CONN)
        if number == 0:
            # Who comes now is served behind those who have waited.
            [last] = await held(world, server, port, b"last")
        await link.has_data(stream, each)
        if number >= 2:
            assert link.seen.count(NEW_CONN) == number + 1
            link.put(CLOSE_CONN, stream)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"last")
    assert not last.over


@ensureDeferred
async def test_more_than_are_served_at_a_time(world: World) -> None:
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    count = 200
    visitors = await held(world, server, port, *[b"x"] * count)
    link = await world.raw_extended(server, port)
    for _ in range(count):
        await link.take(NEW_CONN)
    assert not any(visitor.over for visitor in visitors)


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_the_time_is_over(world: World) -> None:
    server, port = world.server(hold=0.5), free_port()
    await lose(server, await world.raw_extended(server, port))
    visitor = await world.visitor(port)
    visitor.send(b"x")
    await visitor.ends()
    assert visitor.was_reset
    await until(lambda: can_bind(port), "the port is free")
    await world.logged("1 visitors have waited for the client, which has not come back; they are closed")
    assert not server.visitors


@ensureDeferred
async def test_nobody_waits_for_room_longer_than_that(world: World) -> None:
    server, port = world.server(hold=2.0, limits=LinkLimits(max_streams=1)), free_port()
    await lose(server, await world.raw_extended(server, port))
    first, second = await held(world, server, port, b"1", b"2")
    link = await world.raw_extended(server, port)
    await link.take(NEW_CONN)
    await second.ends()
    assert second.was_reset
    assert not first.over
    await world.logged("1 visitors have waited for the client, which could not take all of them in time")
    assert await world.sessions(server, 1)


@ensureDeferred
async def test_no_time(world: World) -> None:
    server, port = world.server(hold=0.0), free_port()
    await lose(server, await world.raw_extended(server, port))
    await until(lambda: can_bind(port), "the port is free")
    await world.logged(f"freed: {port}")


@pytest.mark.parametrize("way", ["tunnel", "link", "expelled"])
@ensureDeferred
async def test_who_leaves_or_is_sent_away_is_not_waited_for(world: World, way: str) -> None:
    server, port = patient(world), free_port()
    link = await world.raw_extended(server, port)
    [session] = await world.sessions(server, 1)
    if way == "expelled":
        session.expel("it may not stay")
    else:
        link.put(ERROR, 0, SHUTTING_DOWN % way.encode())
    await until(lambda: can_bind(port), "the port is free")
    await is_refused(port)


@ensureDeferred
async def test_a_client_that_would_not_be_let_in_any_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    server, port = patient(world), free_port()
    link = await world.raw_extended(server, port)
    monkeypatch.setattr(server, "_may_stay", lambda _session: False)
    await lose(server, link)
    await until(lambda: can_bind(port), "the port is free")


@ensureDeferred
async def test_a_client_that_is_shut_out_while_it_is_away(world: World, tmp_path: Path) -> None:
    clients, port = tmp_path / "clients.yaml", free_port()
    clients.write_text("laptop: {token: 0123456789abcdef}\n")
    server = patient(world, admission=AdmissionSettings(clients))
    await lose(server, await world.raw_extended(server, port, **LAPTOP))
    [waiting] = await held(world, server, port, b"x")
    clients.write_text("phone: {token: fedcba9876543210}\n")
    await waiting.ends()
    await until(lambda: can_bind(port), "the port is free")


@ensureDeferred
async def test_another_client_gets_the_port_at_once_and_not_the_visitors(world: World) -> None:
    server, port = patient(world, admission=TOKENS), free_port()
    await lose(server, await world.raw_extended(server, port, **LAPTOP))
    [waiting] = await held(world, server, port, b"for the laptop")
    link = await world.raw_extended(server, port, **PHONE)
    await waiting.ends()
    await world.visitor(port)
    await link.take(NEW_CONN)
    assert link.seen.count(NEW_CONN) == 1
    await lose(server, link)
    [waiting] = await held(world, server, port, b"for the phone")
    again = await world.raw_extended(server, port, **PHONE)
    stream, _ = await again.take(NEW_CONN)
    await again.has_data(stream, b"for the phone")


@ensureDeferred
async def test_it_comes_back_over_another_link_while_the_old_one_looks_alive(world: World) -> None:
    server, port, session = patient(world), free_port(), "0123456789abcdef" * 2
    await world.raw_extended(server, port, session=session)
    link = await world.raw_extended(server, session=session)
    await world.logged(f"visitors wait {PATIENCE:g} s for it: {port}")
    [waiting] = await held(world, server, port, b"x")
    link.put(INIT, 0, b"%d:local" % port)
    await link.take(READY, 0)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"x")
    assert not waiting.over


@ensureDeferred
async def test_a_link_that_is_silent(world: World) -> None:
    server, port = patient(world, limits=LinkLimits(keepalive_interval=0.1, dead_after=0.4)), free_port()
    await world.raw_extended(server, port)
    await world.logged(f"visitors wait {PATIENCE:g} s for it: {port}")
    await held(world, server, port, b"x")


@ensureDeferred
async def test_the_shared_port_stays_open(world: World) -> None:
    server = patient(world, shared=True)
    assert server.shared is not None
    port = port_of(server.shared)
    await lose(server, await world.raw_extended(server, 0))
    await world.logged(f"gone; visitors wait {PATIENCE:g} s for it: the shared public port")
    [waiting] = await held(world, server, port, b"x")
    link = await world.raw_extended(server, 0)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"x")
    assert not waiting.over


@ensureDeferred
async def test_a_reference_client(world: World) -> None:
    server, echo = patient(world, shared=True), await world.echo()
    assert server.shared is not None
    port = port_of(server.shared)
    first = world.reference_client(server, echo.port)
    await until(lambda: len(server.shared_backends) == 1)
    first.stopService()
    await until(lambda: not server.sessions)
    [waiting] = await held(world, server, port, b"x")
    world.reference_client(server, echo.port)
    await waiting.has(b"x")


@ensureDeferred
async def test_a_visitor_who_is_gone_keeps_no_place(world: World) -> None:
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    for reset in (True, False):
        visitors = await held(world, server, port, b"" if not reset else b"x", b"" if not reset else b"y")
        for visitor in visitors:
            (visitor.abort if reset else visitor.close)()
        await until(lambda: not server.visitors, "nobody waits")
    assert not server.poller._watched
    # Who has said something may still wait for the answer.
    [ended] = await held(world, server, port, b"x")
    ended.half_close()
    await turns()
    assert len(server.visitors) == 1


@pytest.mark.usefixtures("_connections")
@ensureDeferred
async def test_the_server_stops(world: World) -> None:
    """Nobody is waited for any longer."""
    server, port = patient(world, drain=PATIENCE), free_port()
    await lose(server, await world.raw_extended(server, port))
    visitors = await held(world, server, port, b"x", b"y")
    await server.stopService()
    for visitor in visitors:
        await visitor.ends()
    assert not server.visitors
    assert can_bind(port)


@ensureDeferred
async def test_the_server_stops_while_they_are_served(world: World) -> None:
    server, port = patient(world, drain=0.0, limits=LinkLimits(max_streams=1)), free_port()
    await lose(server, await world.raw_extended(server, port))
    visitors = await held(world, server, port, b"x", b"y")
    link = await world.raw_extended(server, port)
    await link.take(NEW_CONN)
    await server.stopService()
    for visitor in visitors:
        await visitor.ends()
    await until(lambda: can_bind(port), "the port is free")


@ensureDeferred
async def test_a_lost_client_is_lost_again(world: World) -> None:
    """Those for whom there was no room go on waiting."""
    server, port = patient(world, limits=LinkLimits(max_streams=1)), free_port()
    await lose(server, await world.raw_extended(server, port))
    first, second = await held(world, server, port, b"1", b"2")
    link = await world.raw_extended(server, port)
    await link.take(NEW_CONN)
    await lose(server, link)
    await first.ends()
    link = await world.raw_extended(server, port)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"2")
    assert not second.over


@ensureDeferred
async def test_the_budget_of_descriptors_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has waited for longest of the address that has most gives way."""
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    visitors = await held(world, server, port, *[b"x"] * 30)
    place = next(iter(server.visitors._ends.values()))
    assert place.part is not None
    assert place.part.address.key == "127.0.0.1"
    server.descriptors._give_way(place)
    await visitors[0].ends()
    assert visitors[0].was_reset
    assert not any(visitor.over for visitor in visitors[1:])
    assert len(server.visitors) == 29


@ensureDeferred
async def test_a_visitor_who_is_lost_while_he_is_not_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a port that hands out no bare sockets, his end shows only when he is served."""
    monkeypatch.setattr("rtunnel.reverse.server.ports.give_sockets", lambda _port, _factory: None)
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    [gone, there] = await held(world, server, port, b"x", b"y")
    gone.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    gone.abort()
    link = await world.raw_extended(server, port)
    await until(lambda: b"y" in {link.data_of(number) for kind, number, _ in link.frames if kind == DATA}, "y")
    there.abort()
    await until(lambda: not server.visitors, "nobody is left")


@pytest.mark.parametrize("world", ["direct"], indirect=True)
@ensureDeferred
async def test_those_who_wait_for_a_data_connection_wait_for_the_client(world: World) -> None:
    """Nobody has told the client of them."""
    server, port = patient(world), free_port()
    link = await world.raw_extended(server, port, capabilities=["direct", "withdraw"])
    [visitor] = await held(world, server, port, b"x")
    [session] = await world.sessions(server, 1)
    await until(lambda: session.carriers[0]._waiting, "he waits for a data connection")  # type: ignore[attr-defined]
    await lose(server, link)
    assert [type(each) for each in server.visitors._ends] == [HeldVisitor]
    link = await world.raw_extended(server, port)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"x")
    assert not visitor.over
