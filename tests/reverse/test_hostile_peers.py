"""Peers that keep to the frames and still mean harm: floods of log lines, of claims, of shares."""

from __future__ import annotations

import json
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.upkeep import log_limiter
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.net import (
    ERROR,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    READY,
    frame,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World, port_of

WITHDRAWN = b'{"scope":"tunnel"}'


async def asked_by_our_client(world: World) -> Any:
    """A server by hand, and our client that has asked it for port 8080."""
    by_hand = await world.raw_server()
    world.client(by_hand.port, (8080, 1))
    link: Any = await by_hand.peer()
    link.send(hello())
    await link.take(INIT, 0)
    return link


@ensureDeferred
async def test_ready_with_a_digit_that_is_no_decimal(world: World) -> None:
    link = await asked_by_our_client(world)
    link.put(READY, 0, json.dumps({"address": "0.0.0.0:\u00b2"}).encode())
    await link.is_alive()


@ensureDeferred
async def test_ready_again_and_again_is_said_once(world: World) -> None:
    link = await asked_by_our_client(world)
    for port in range(100):
        link.put(READY, 0, b'{"address": "0.0.0.0:%d"}' % (port + 1))
    await link.is_alive()
    assert len(world.lines(" is published", LogLevel.info)) == 1


@ensureDeferred
async def test_any_refusal_of_an_extended_server_is_asked_again(world: World) -> None:
    link = await asked_by_our_client(world)
    link.put(ERROR, 0, b'{"scope": "tunnel", "code": "not-supported", "message": "no"}')
    await link.take(INIT, 0)


@ensureDeferred
async def test_visitors_of_a_full_link_do_not_fill_the_log(world: World) -> None:
    port = free_port()
    server = world.server(limits=LinkLimits(max_streams=2))
    await world.raw_extended(server, port)
    visitors = [await world.visitor(port) for _ in range(22)]
    await until(lambda: sum(visitor.lost is not None for visitor in visitors) == 20)
    assert len(world.lines("cannot take a visitor", LogLevel.warn)) == 1


@ensureDeferred
async def test_tunnels_that_come_and_go_do_not_fill_the_log(world: World, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_limiter, "MOST_ADMITTED", 25)
    server = world.server(shared=True)
    link = await world.raw_extended(server)
    link.send((frame(INIT, 0, b"0:x") + frame(ERROR, 0, WITHDRAWN)) * 500)
    await link.is_alive()
    assert len(world.lines("withdrawn", LogLevel.info)) + len(world.lines("published", LogLevel.info)) == 50


@ensureDeferred
async def test_claims_that_are_withdrawn_do_not_pile_up(world: World) -> None:
    server, port = world.server(limits=LinkLimits(max_tunnels=8)), free_port()
    await world.raw_extended(server, port)  # Holds the port, and answers no PING.
    other = await world.raw_extended(server)
    before = len(reactor.getDelayedCalls())
    other.send((frame(INIT, 0, b"%d:x" % port) + frame(ERROR, 0, WITHDRAWN)) * 500)
    await until(lambda: server.sessions and other.seen is not None)
    await turns(50)
    assert len(reactor.getDelayedCalls()) < before + 20


@ensureDeferred
async def test_refusal_of_a_withdrawn_claim_spares_its_successor(world: World) -> None:
    server, taken, free = world.server(), free_port(), free_port()
    holder = await world.raw_extended(server, taken)
    link = await world.raw_extended(server)
    link.put(INIT, 0, b"%d:x" % taken)
    _, mark = await holder.take(PING)
    link.put(ERROR, 0, WITHDRAWN)
    link.put(INIT, 0, b"%d:x" % free)
    await link.take(READY, 0)
    holder.put(PONG, 0, mark)
    # The claim looks every tenth of a second whether the holder lives.
    reached = reactor.seconds() + 0.5
    await until(lambda: reactor.seconds() > reached)
    await link.is_alive()
    assert ERROR not in link.seen


@ensureDeferred
async def test_one_client_has_one_share_of_the_shared_port(world: World) -> None:
    server = world.server(shared=True)
    greedy, honest = await world.raw_extended(server), await world.raw_extended(server)
    for number in range(99):
        greedy.put(INIT, number, b"0:x")
    honest.put(INIT, 0, b"0:x")
    await greedy.is_alive()
    await honest.is_alive()
    for _ in range(10):
        await world.visitor(port_of(server.shared))
    await until(lambda: sum(each[0] == NEW_CONN for link in (greedy, honest) for each in link.frames) == 10)
    assert sum(each[0] == NEW_CONN for each in honest.frames) == 5
