"""Visitors who wait for a client, and are put away: with whom a process goes on, and where what was left is garbage."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from rtunnel.reverse.server.held import LEAST_HOLD, HeldVisitor, Line
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.stored.held import release, wait_on, write
from rtunnel.reverse.stored.server import ServerKeeper, take_back
from rtunnel.wire.data.frozen import Fields
from tests.ports import free_port
from tests.reverse.data import DIRECT
from tests.reverse.data_server_parts import client_by_hand
from tests.reverse.net import NEW_CONN, until
from tests.reverse.test_held import LAPTOP, PHONE, TOKENS, held, lose, patient
from tests.reverse.test_stored import GARBAGE, Store, paths_of, replaced
from tests.reverse.world import World, port_of


async def put(server: TunnelServer) -> Store:
    """Put all away who wait, as a server that stops does."""
    store = Store()
    keeper = ServerKeeper(server, store)
    server.leave_waiting_to(keeper.take_waiting)
    await keeper.leave()
    server.lobby.heir = None
    return store


def take(server: TunnelServer, store: Store) -> None:
    store.give_back(lambda state, found: take_back(server, state, found))


@ensureDeferred
async def test_they_go_on_waiting_in_their_order(world: World) -> None:
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    visitors = await held(world, server, port, b"0", b"1", b"2")
    store = await put(server)
    assert not server.visitors
    take(server, store)
    assert len(server.visitors) == 3
    link = await world.raw_extended(server, port)
    for number in range(3):
        stream, _ = await link.take(NEW_CONN)
        await link.has_data(stream, b"%d" % number)
    assert not any(visitor.over for visitor in visitors)


@ensureDeferred
async def test_at_the_shared_port(world: World) -> None:
    server = patient(world, shared=True)
    await lose(server, await world.raw_extended(server, 0))
    [visitor] = await held(world, server, port_of(server.shared_port.listener), b"x")
    take(server, await put(server))
    link = await world.raw_extended(server, 0)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"x")
    assert not visitor.over


@ensureDeferred
async def test_what_was_known_of_one_stays_known(world: World) -> None:
    """His address, which may be what a load balancer has said, and what was read of him."""
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    [peer] = await held(world, server, port, b"behind")
    [group] = server.ports.groups
    [visitor] = group._line.release()
    visitor.address, visitor.first = IPv4Address("TCP", "192.0.2.7", 77), b"read "
    state = write(group.public, visitor, None)
    assert state is not None
    assert wait_on(server, Fields(state), release(visitor))
    [waits] = server.visitors
    assert isinstance(waits, HeldVisitor)
    assert waits.payer == "192.0.2.7"
    link = await world.raw_extended(server, port)
    stream, payload = await link.take(NEW_CONN)
    assert b"192.0.2.7:77" in payload
    await link.has_data(stream, b"read behind")
    assert not peer.over


@ensureDeferred
async def test_one_who_has_left_meanwhile_is_forgotten(world: World) -> None:
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    [visitor] = await held(world, server, port, b"x")
    store = await put(server)
    visitor.abort()
    await until(lambda: visitor.over)
    take(server, store)
    await until(lambda: not server.visitors, "he is forgotten")


@ensureDeferred
async def test_the_client_is_there_before_them(world: World) -> None:
    """They are served by it, but not by another one."""
    server, port = patient(world, admission=TOKENS), free_port()
    for back, is_served in ((LAPTOP, True), (PHONE, False)):
        await lose(server, await world.raw_extended(server, port, **LAPTOP))
        [visitor] = await held(world, server, port, b"x")
        store = await put(server)
        link = await world.raw_extended(server, port, **back)
        take(server, store)
        if is_served:
            stream, _ = await link.take(NEW_CONN)
            await link.has_data(stream, b"x")
            assert not visitor.over
        else:
            await visitor.ends()
            assert visitor.was_reset
            await world.logged("a visitor who has waited in another process is closed: nobody is waited for there")
        await lose(server, link)


@ensureDeferred
async def test_nobody_is_put_away_behind_the_others(world: World) -> None:
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    store = Store()
    keeper = ServerKeeper(server, store)
    await keeper.leave()
    server.leave_waiting_to(keeper.take_waiting)
    [visitor] = await held(world, server, port, b"x")
    assert store.states == []
    assert not visitor.over


@ensureDeferred
async def test_no_more_than_there_is_room_for(world: World) -> None:
    """The others are reset, as nobody will ever serve them."""
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    first, second = await held(world, server, port, b"1", b"2")
    store = Store(room=1)
    keeper = ServerKeeper(server, store)
    server.leave_waiting_to(keeper.take_waiting)
    await keeper.leave()
    await second.ends()
    assert second.was_reset
    server.lobby.heir = None
    take(server, store)
    assert not first.over
    assert len(server.visitors) == 1


@pytest.mark.parametrize(("hold", "left", "until"), [(60.0, 20.0, 20.0), (60.0, 1.0, LEAST_HOLD), (60.0, None, 60.0)])
def test_what_is_left_of_the_time(hold: float, left: float | None, until: float) -> None:
    """And a client always has the time that it takes to come back."""
    clock, over = Clock(), []
    line = Line(clock, lambda: over.append(clock.seconds()))
    line.hold(hold)
    line.hold_on(left)
    clock.pump([0.25] * int(4 * until - 1))
    assert over == []
    clock.pump([0.25] * 5)
    assert len(over) == 1


def garbled(server: TunnelServer, state: Any, path: Any, value: Any, name: int) -> socket.socket:
    """Take garbage. Return the other end of the socket that it is about."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    store = Store()
    store.sockets, store.states = {name: ours}, [replaced(state, path, value)]
    take(server, store)
    server.visitors.abort_all()
    assert ours.fileno() < 0, path
    return theirs


@ensureDeferred
async def test_garbage(world: World) -> None:
    """Whatever stands in any place: no error, and no socket is left. What can be used is used."""
    server, port = patient(world), free_port()
    await lose(server, await world.raw_extended(server, port))
    [visitor] = await held(world, server, port, b"x")
    store = await put(server)
    [whole] = store.states
    [name] = store.sockets
    for path in paths_of(whole):
        for value in GARBAGE:
            garbled(server, whole, path, value, name).close()
    take(server, store)
    link = await world.raw_extended(server, port)
    stream, _ = await link.take(NEW_CONN)
    await link.has_data(stream, b"x")
    assert not visitor.over
    assert not world.lines("Traceback")


@DIRECT
@ensureDeferred
async def test_those_who_have_waited_for_a_data_connection(world: World) -> None:
    """Their link is given up, and nobody was told of them."""
    server, link, port, _tickets = await client_by_hand(world)
    visitor = await world.visitor(port)
    visitor.send(b"x")
    await until(lambda: len(server.visitors) == 1)
    store = Store()
    keeper = ServerKeeper(server, store)
    server.leave_waiting_to(keeper.take_waiting)
    link.abort()
    await until(lambda: not server.visitors, "he is put away")
    assert not visitor.over
    await keeper.leave()
    server.lobby.heir = None
    take(server, store)
    assert len(server.visitors) == 1
