"""A port changes hands: to the same client at once, to another one only when its holder is dead."""

from __future__ import annotations

import pytest
from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.reverse.server import take_over
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.data import AUTO, CAPABILITIES, TICKETS, session_of, tickets_of
from tests.reverse.net import (
    BOTH_PLANES,
    ERROR,
    INIT,
    NEW_CONN,
    PING,
    PONG,
    READY,
    RawLink,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World

SESSION = "0123456789abcdef" * 2


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 0.3)
    monkeypatch.setattr(take_over, "TAKE_OVER_POLL", 0.01)


@pytest.fixture
def patient(_quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever happens in the test does not happen because a holder was silent for too long."""
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 1000.0)


async def visit(world: World, port: int, link: RawLink) -> None:
    """A visitor of *port* reaches *link*."""
    await world.visitor(port)
    await link.take(NEW_CONN)


@pytest.mark.usefixtures("patient")
@ensureDeferred
async def test_same_client_takes_its_port_at_once(world: World) -> None:
    """The old link looks alive: it is half-open, as after a change of network."""
    server, port = world.server(), free_port()
    old = await world.raw_extended(server, port, session=SESSION)
    old_visitor = await world.visitor(port)
    await old.take(NEW_CONN)
    new = await world.raw_extended(server, port, session=SESSION)
    assert (await old.take_json(ERROR, 0))["code"] == "taken-over"
    await until(lambda: old.over and old_visitor.over)
    await visit(world, port, new)
    assert len(world.lines("the same client came back", LogLevel.warn)) == 1
    await world.sessions(server, 1)


@BOTH_PLANES
@ensureDeferred
async def test_same_client_that_comes_back_often_leaves_nothing_behind(world: World) -> None:
    """Half-open control connections must not add up (frp before 0.70.1)."""
    server, port = world.server(), free_port()
    for _ in range(20):
        link = await world.raw_extended(server, port, session=SESSION)
    await world.sessions(server, 1)
    await visit(world, port, link)


@pytest.mark.usefixtures("patient")
@ensureDeferred
async def test_other_client_does_not_get_the_port_of_a_live_holder(world: World) -> None:
    server, port = world.server(), free_port()
    world.client(server, (port, 9))
    await world.reachable()
    other = await world.raw_extended(server)
    other.put(INIT, 0, b"%d:x" % port)
    assert (await other.take_json(ERROR, 0))["code"] == "port-in-use"


@BOTH_PLANES
@ensureDeferred
async def test_other_client_gets_the_port_of_a_dead_holder_after_a_while(world: World) -> None:
    server, port = world.server(), free_port()
    dead = await world.raw_extended(server, port)
    other = await world.raw_extended(server)
    began = reactor.seconds()
    other.put(INIT, 0, b"%d:x" % port)
    await other.take(READY, 0)
    assert reactor.seconds() - began >= take_over.TAKE_OVER_AFTER
    await dead.take(PING)
    error = await dead.take_json(ERROR, 0)
    assert (error["scope"], error["code"]) == ("link", "taken-over")
    assert other.name not in error["message"]
    await visit(world, port, other)
    why = f"it does not answer, and another client asks for port {port}"
    assert world.lines(f"client {dead.name} dropped: {why} (client {other.name})", LogLevel.warn)


@pytest.mark.usefixtures("patient")
@ensureDeferred
async def test_holder_that_answers_at_the_last_moment_keeps_its_port(world: World) -> None:
    server, port = world.server(), free_port()
    holder = await world.raw_extended(server, port)
    other = await world.raw_extended(server)
    other.put(INIT, 0, b"%d:x" % port)
    await turns(50)
    holder.put(PONG, 0, b"whatever")
    assert (await other.take_json(ERROR, 0))["code"] == "port-in-use"
    await visit(world, port, holder)


@ensureDeferred
async def test_two_clients_for_the_port_of_a_dead_holder(world: World) -> None:
    server, port = world.server(), free_port()
    await world.raw_extended(server, port)
    others = [await world.raw_extended(server) for _ in range(2)]
    for other in others:
        other.put(INIT, 0, b"%d:x" % port)
    await until(lambda: all({READY, ERROR} & set(other.seen) for other in others), "two answers")
    (winner,) = [other for other in others if READY in other.seen]
    (loser,) = [other for other in others if ERROR in other.seen]
    assert (await loser.take_json(ERROR, 0))["code"] == "port-in-use"
    await visit(world, port, winner)


@ensureDeferred
async def test_reference_client_keeps_its_port_while_its_link_is_up(world: World) -> None:
    """It cannot be asked whether it lives."""
    server, service, port = world.server(), await world.service(), free_port()
    reference = world.reference_client(server, service.port, port)
    await until(lambda: len(server.ports) == 1)
    other = await world.raw_extended(server)
    other.put(INIT, 0, b"%d:x" % port)
    assert (await other.take_json(ERROR, 0))["code"] == "port-in-use"
    reference.stopService()
    await world.sessions(server, 1)
    other.put(INIT, 0, b"%d:x" % port)
    await other.take(READY, 0)


@AUTO
@pytest.mark.usefixtures("patient")
@ensureDeferred
async def test_claimant_makes_no_data_connections_before_it_has_the_port(world: World) -> None:
    """They would be cut when the port is refused, which looks to the client as if none could be made."""
    server, port = world.server(), free_port()
    holder = await world.raw_extended(server, port)
    other = await world.raw_extended(server, capabilities=CAPABILITIES)
    pool = session_of(server).carriers[0]
    other.put(INIT, 0, b"%d:x" % port)
    await other.is_alive()
    pool.tick(reactor.seconds())
    await other.is_alive()
    assert TICKETS not in other.seen
    await holder.is_alive()
    assert (await other.take_json(ERROR, 0))["code"] == "port-in-use"
    other.put(INIT, 0, b"%d:x" % free_port())
    assert await tickets_of(other)


@ensureDeferred
async def test_claimant_that_gives_up_while_the_holder_is_asked(world: World) -> None:
    server, port = world.server(), free_port()
    dead = await world.raw_extended(server, port)
    other = await world.raw_extended(server)
    other.put(INIT, 0, b"%d:x" % port)
    await dead.take(PING)
    other.put(ERROR, 0, b'{"scope": "tunnel", "code": "shutting-down", "message": ""}')
    await world.logged(f"port {port} withdrawn")
    await until(lambda: dead.over)
    await until(lambda: not server.ports)
    await other.is_alive()
    assert READY not in other.seen


@ensureDeferred
async def test_nothing_is_opened_for_a_claim_that_outlives_the_start_of_draining(world: World) -> None:
    server, port = world.server(drain=PATIENCE), free_port()
    await world.raw_extended(server, port)
    busy_port = free_port()
    other = await world.raw_extended(server, busy_port)
    await visit(world, busy_port, other)
    other.put(INIT, 1, b"%d:x" % port)
    await turns()
    stopped = server.stopService()
    assert (await other.take_json(ERROR, 1))["code"] in ("shutting-down", "port-in-use")
    assert not server.ports
    server.stop_now()
    await stopped
