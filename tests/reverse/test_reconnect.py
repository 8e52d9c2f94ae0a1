"""The client comes back for ever: how long it waits, and what makes it start again with the shortest wait."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel

from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.links.links import Links
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.visitors import Visitors
from tests.ports import free_port
from tests.reverse.net import BOTH_PLANES, INIT, hello, until
from tests.reverse.world import World


class Dialler:
    """A client in a world without network: every attempt is refused, and time is in our hands."""

    def __init__(self) -> None:
        self.reactor: Any = MemoryReactorClock()
        settings = ClientSettings(
            DialAddress.parse("192.0.2.1:7000"), (TunnelSettings(8080, DialAddress.parse(":80")),), 1.0, 30.0
        )
        self.link = Links(self.reactor, settings, Visitors(Descriptors(self.reactor), Accounts(self.reactor)))
        self.link.startService()

    @property
    def attempts(self) -> int:
        return len(self.reactor.tcpClients)

    def refuse(self) -> float:
        """Refuse the present attempt; how long the next one takes to come."""
        from twisted.internet.error import ConnectionRefusedError
        from twisted.python.failure import Failure

        count, clock = self.attempts, self.reactor
        self.reactor.tcpClients[-1][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))
        began = clock.seconds()
        while self.attempts == count:
            assert clock.seconds() - began < 100
            clock.advance(0.05)
        return float(clock.seconds() - began)


def test_waits_between_attempts() -> None:
    dialler = Dialler()
    waits = [dialler.refuse() for _ in range(40)]
    assert 1.0 <= waits[0] <= 1.6
    assert all(wait <= 30.1 for wait in waits)
    assert all(wait >= 19.9 for wait in waits[12:])
    dialler.link.stopService()
    assert not [call for call in dialler.reactor.getDelayedCalls() if call.active()]


def test_stop_during_an_attempt_and_during_a_wait() -> None:
    for refused in (False, True):
        dialler = Dialler()
        if refused:
            dialler.refuse()
        stopped = dialler.link.stopService()
        assert stopped.called
        dialler.reactor.advance(100)
        assert dialler.attempts == 1 + refused


def test_clock_is_what_it_says() -> None:
    assert isinstance(Dialler().reactor, Clock)


@BOTH_PLANES
@ensureDeferred
async def test_comes_back_to_a_server_that_comes_back(world: World) -> None:
    control, port, service = free_port(), free_port(), await world.echo()
    server = world.server(control=control, drain=0.0)
    world.client(control, (port, service.port))
    for round_ in range(3):
        await world.reachable(round_ + 1)
        visitor = await world.visitor(port)
        visitor.send(b"%d" % round_)
        await visitor.has(b"%d" % round_)
        await server.stopService()
        await until(lambda: visitor.over)  # noqa: B023
        await world.logged("cannot reach server", LogLevel.warn)
        server = world.server(control=control, drain=0.0)
    await world.reachable(4)


@pytest.mark.parametrize("useful", [True, False])
@ensureDeferred
async def test_only_a_link_of_use_starts_the_waits_again(world: World, useful: bool) -> None:
    """A server that takes a connection and closes it at once has not taken us."""
    by_hand = await world.raw_server()
    client = world.client(by_hand.port, (8080, 9), reconnect_min=0.01, reconnect_max=0.5)
    for number in range(8):
        link: Any = await by_hand.peer(number)
        if useful:
            link.send(hello())
            await link.take(INIT)
            await until(lambda: client.link.session is not None and client.link.session.was_useful)
        link.close()
    attempts = client.link._backoff._attempts
    assert attempts <= 1 if useful else attempts >= 7


@ensureDeferred
async def test_same_session_name_for_the_life_of_the_process(world: World) -> None:
    by_hand = await world.raw_server()
    world.client(by_hand.port, (8080, 9))
    names = []
    for number in range(3):
        link: Any = await by_hand.peer(number)
        names.append((await link.take_json(0x10))["session"])
        link.abort()
    assert len(set(names)) == 1
    assert len(names[0]) == 32


@ensureDeferred
async def test_streams_of_a_lost_link_are_reset_at_both_ends(world: World) -> None:
    """Those that it carries itself."""
    server, service, port = world.server(), await world.service(), free_port()
    client = world.client(server, (port, service.port))
    await world.reachable()
    visitors = [await world.visitor(port) for _ in range(5)]
    await service.peer(4)
    client.link.session.drop()
    await until(lambda: all(visitor.was_reset for visitor in visitors))
    await until(lambda: all(peer.was_reset for peer in service.peers))
    await world.reachable(2)
    assert not server.visitors


@BOTH_PLANES
@ensureDeferred
async def test_dials_again_whatever_the_end_of_a_link_raises(
    world: World, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Any
) -> None:
    server = world.server()
    client = world.client(server, reconnect_min=0.01, reconnect_max=0.01)
    await until(lambda: len(server.sessions) == 1)
    session = client.link.session
    assert session is not None
    with monkeypatch.context() as patch:
        patch.setattr(session, "_close_data", lambda: 1 / 0)
        session.drop()
        await until(lambda: client.link.session not in (None, session), "another link")
    assert flush_logged_errors()
