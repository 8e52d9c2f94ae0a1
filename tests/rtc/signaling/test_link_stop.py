"""The signaling link is stopped, whatever it is doing: nothing is left, and nobody is told anything afterwards."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import pytest_twisted

from rtunnel.rtc.signaling import client_protocol
from rtunnel.wire.webrtc.signaling import Signal, encode_signal
from tests.ports import free_port
from tests.rtc.signaling.link_parts import OwnServer, RawServer, World
from tests.rtc.signaling.reference_server import ReferenceSignalServer


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue is full, so that nobody gets through."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _number in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@pytest_twisted.ensureDeferred
async def test_while_dialling(world: World, full_port: int) -> None:
    link, user = world.link(full_port)
    world.start(link)
    await world.stop(link)
    assert not world.attempts()
    assert not user.downs


@pytest_twisted.ensureDeferred
async def test_while_a_name_is_looked_up(world: World) -> None:
    link, _ = world.link(80, host="no-such-host.invalid")
    world.start(link)
    await world.stop(link)
    assert not world.attempts()


@pytest.mark.parametrize("secure", [False, True], ids=["WebSocket", "TLS"])
@pytest_twisted.ensureDeferred
async def test_in_the_handshake(world: World, secure: bool) -> None:
    server = world.start(RawServer(world.reactor))
    link, _ = world.link(server.port, secure=secure)
    world.start(link)
    await world.until(lambda: server.received, "a request")
    await world.stop(link)
    await world.until(lambda: not server.transports, "gone")
    assert (server.connections, world.attempts()) == (1, [])


@pytest_twisted.ensureDeferred
async def test_before_it_is_registered(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    server.answers_pings = False
    link, user = world.link(server.port)
    world.start(link)
    await world.until(lambda: server.received, "a registration")
    await world.stop(link)
    await world.until(lambda: server.gone, "gone")
    assert server.gone[0].was_clean
    assert (user.ups, user.downs) == (0, [])


@pytest_twisted.ensureDeferred
async def test_the_answer_to_the_registration_comes_too_late(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    server.answers_pings = False
    link, user = world.link(server.port)
    world.start(link)
    await world.until(lambda: server.pings, "a ping")
    stopped = world.stop(link)
    server.peers[0].sendPong(server.peers[0].pinged)
    await stopped
    assert (link.up, user.ups) == (False, 0)


@pytest_twisted.ensureDeferred
async def test_while_it_waits_for_the_next_attempt(world: World) -> None:
    link, _ = world.link(free_port(), reconnect_min=60.0, reconnect_max=60.0)
    world.start(link)
    await world.until(world.attempts, "an attempt that failed")
    await world.stop(link)
    assert len(world.attempts()) == 1


@pytest.mark.parametrize("build", [OwnServer, ReferenceSignalServer])
@pytest_twisted.ensureDeferred
async def test_the_id_is_free_at_once(world: World, build: Any) -> None:
    server = world.start(build(world.reactor))
    for _number in range(3):
        link, user = await world.up(server.port)
        await world.stop(link)
        assert not link.up
        assert not link.send(Signal("answer", None, "7a1c"))
        assert user.downs == []
    assert not world.attempts()


@pytest_twisted.ensureDeferred
async def test_the_server_is_told_goodbye(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    link, _ = await world.up(server.port)
    await world.stop(link)
    await world.until(lambda: server.gone, "gone")
    assert (server.gone[0].was_clean, server.gone[0].close_code) == (True, 1000)


@pytest_twisted.ensureDeferred
async def test_a_server_that_answers_no_goodbye(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_protocol, "GOODBYE", 0.1)
    monkeypatch.setattr(client_protocol, "PING_EVERY", 600.0)
    server = world.start(OwnServer(world.reactor))
    link, user = await world.up(server.port)
    for transport in server.transports:
        transport.pauseProducing()
    await world.stop(link)
    assert (link.up, user.downs) == (False, [])


@pytest_twisted.ensureDeferred
async def test_a_server_that_answers_our_goodbye_and_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_protocol, "GOODBYE", 600.0)
    server = world.start(OwnServer(world.reactor))
    link, _ = await world.up(server.port)
    server.peers[0].dropConnection = lambda abort=False: None
    # It is not waited for.
    await world.stop(link)
    assert not link.up


@pytest_twisted.ensureDeferred
async def test_while_the_server_says_goodbye(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    link, user = await world.up(server.port)
    server.peers[0].sendClose(1000)
    await world.stop(link)
    assert (link.up, user.downs, world.attempts()) == (False, [], [])


@pytest_twisted.ensureDeferred
async def test_messages_that_come_afterwards_are_not_passed_on(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    link, user = await world.up(server.port)
    stopped = world.stop(link)
    for _number in range(10):
        server.peers[0].sendMessage(encode_signal(Signal("offer", None, "cottage", "7a1c")))
    await stopped
    assert user.signals == []


@pytest_twisted.ensureDeferred
async def test_by_its_user_who_is_just_told_something(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    user: Any
    link, user = world.link(server.port)
    ended: list[object] = []
    user.signaling_up = lambda: link.stopService().addCallback(ended.append)
    link.startService()
    await world.until(lambda: ended, "stopped")
    assert not link.up
    link, user = await world.up(server.port)
    user.signal_received = lambda signal: link.stopService().addCallback(ended.append)
    server.peers[0].sendMessage(encode_signal(Signal("offer", None, "cottage", "7a1c")))
    await world.until(lambda: len(ended) == 2, "stopped")
    link, user = await world.up(server.port)
    user.signaling_down = lambda why: link.stopService().addCallback(ended.append)
    server.cut_off()
    await world.until(lambda: len(ended) == 3, "stopped")
    assert not server.peers


@pytest_twisted.ensureDeferred
async def test_twice_and_started_again(world: World) -> None:
    server = world.start(OwnServer(world.reactor))
    link, user = await world.up(server.port)
    first, second = link.stopService(), link.stopService()
    await first
    await second
    link.startService()
    await world.until(lambda: user.ups == 2, "up again")
    assert link.up
