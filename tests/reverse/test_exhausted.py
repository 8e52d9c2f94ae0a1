"""No descriptor is left, or the system lets no more be watched: somebody is turned away, and nothing else happens."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import LogLevel

from rtunnel.access.admission import Admission, AdmissionSettings
from rtunnel.access.public import Public
from rtunnel.errors import ConfigError
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.upkeep import accepting
from tests.no_collector import no_collector
from tests.ports import free_port
from tests.reverse.data import ATTACH, AUTO, CAPABILITIES, FULL, R_RESET, Full, attach, session_of, tickets_of
from tests.reverse.net import (
    ERROR,
    HELLO,
    HOST,
    INIT,
    NEW_CONN,
    READY,
    can_bind,
    frame,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.server_by_hand import ServerByHand
from tests.reverse.world import World


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """This process may open so many more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    with no_collector():
        highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2 + count, before[1]))
        try:
            with suppress(OSError):
                while True:
                    held.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(count):
                os.close(held.pop())
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
            for number in held:
                os.close(number)


def was_reset(sock: socket.socket) -> bool:
    """The other end has reset it by now."""
    sock.setblocking(False)
    try:
        sock.recv(1)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    raise AssertionError("bytes, or an end in order")


async def client_by_hand(world: World, server: TunnelServer, port: int) -> Any:
    """A link by hand with a tunnel for *port*, and its first tickets."""
    link = await world.raw_extended(server, capabilities=CAPABILITIES)
    link.put(INIT, 0, b"%d:local" % port)
    await link.take(READY, 0)
    return link, await tickets_of(link)


# No descriptor


def test_clients_file_that_nobody_could_read_meanwhile(tmp_path: Path) -> None:
    """Whoever lost their rights in the meantime has lost them, as soon as it can be read."""
    path = tmp_path / "clients.yaml"
    path.write_text("laptop:\nphone:\n")
    admission = Admission(AdmissionSettings(path))
    path.write_text("phone:\n")
    with descriptors_left(0):
        with pytest.raises(ConfigError, match="Too many open files"):
            admission.refresh()
        assert not admission.refresh(), "said once"
    assert admission.refresh()
    assert admission.clients is not None
    assert set(admission.clients.rights) == {"phone"}
    assert not admission.refresh()


# Nothing more can be watched


@AUTO
@pytest.mark.parametrize("at_once", [True, False])
@ensureDeferred
async def test_data_connection_that_cannot_be_watched_at_the_server(world: World, at_once: bool) -> None:
    """Its ticket has come when the connection is accepted, or later."""
    server, port = world.server(), free_port()
    link, tickets = await client_by_hand(world, server, port)
    session = session_of(server)
    server.poller = Full(poller := server.poller)
    with socket.create_connection((HOST, world.control_port(server))) as data:
        if not at_once:
            await until(lambda: len(server.door) == 1)
        data.sendall(frame(ATTACH, 0, tickets[0].id))
        data.setblocking(False)

        def is_over() -> bool:
            try:
                return data.recv(1) == b""
            except BlockingIOError:
                return False

        await until(is_over)
    await world.logged(f"a data connection is closed: [Errno 28] {FULL}", LogLevel.debug)
    await world.sessions(server, 1)
    assert not session.carriers[0]._idle
    visitor = await world.visitor(port)
    await link.take(NEW_CONN)
    server.poller = poller
    await attach(world, server, tickets[1])
    await until(lambda: session.carriers[0]._idle)
    assert not visitor.over


@AUTO
@pytest.mark.parametrize("at_once", [True, False])
@ensureDeferred
async def test_data_connection_that_cannot_be_watched_at_the_client(
    world: World, full_backlog: int, at_once: bool
) -> None:
    """It is there, or it takes its time."""
    server = await ServerByHand().start(world, (8080, 9))
    service: Any = server.client.link
    service._server_now = service.settings.server
    there = service._server_now.socket_address()
    service._address_now = there if at_once else (socket.AF_INET, (HOST, full_backlog))
    service.poller = Full(poller := service.poller)
    server.send_tickets(1)
    assert FULL.lower() in await world.logged("data connections cannot be made: ", LogLevel.warn)
    assert not service.session.data._connections
    assert not service.session.data._attempts
    service.poller, service._address_now = poller, there
    before = len(server.listening.peers)
    server.send_tickets(1)
    await server.data(before - 1)
    await server.link.is_alive()


@AUTO
@pytest.mark.parametrize("way", ["at once", "slowly", "by an endpoint"])
@ensureDeferred
async def test_visitor_who_cannot_be_watched_at_the_client(world: World, full_backlog: int, way: str) -> None:
    service = await world.echo()
    server = await ServerByHand().start(world, (8080, service.port if way == "at once" else full_backlog))
    session = server.client.link.session
    if way == "by an endpoint":
        session._tunnels[0].wanted.address = None
    server.send_tickets(1)
    data = await server.data(0)
    session.data._visits._poller = Full(poller := session.data._visits._poller)
    data.open()
    await data.is_reset()
    data.say(R_RESET)
    await until(lambda: not server.client.visitors)
    assert session.link.stream_count == 0
    session.data._visits._poller = poller
    data.open()
    await until(lambda: session.link.stream_count == 1)
    data.abort()
    await until(lambda: not server.client.visitors)


@AUTO
@ensureDeferred
async def test_visitor_who_cannot_be_watched_at_the_server(world: World) -> None:
    server, port = world.server(), free_port()
    _link, tickets = await client_by_hand(world, server, port)
    session = session_of(server)
    data = await attach(world, server, tickets[0])
    await until(lambda: session.carriers[0]._idle)
    server.poller = Full(poller := server.poller)
    visitor = await world.visitor(port)
    await until(lambda: visitor.was_reset)
    await data.is_reset()
    server.poller = poller
    assert not server.visitors
    assert session.link.stream_count == 0


@ensureDeferred
async def test_link_that_cannot_be_watched(world: World) -> None:
    server = world.server()
    listening: Any = server.control._port
    listening.reactor = Full(reactor)
    link = await world.raw(server)
    await until(lambda: link.was_reset)
    assert not server.sessions
    listening.reactor = reactor
    await world.raw_extended(server)
    await world.sessions(server, 1)


@ensureDeferred
async def test_visitor_by_the_link_who_cannot_be_watched(world: World) -> None:
    server, port = world.server(), free_port()
    link = await world.raw_extended(server, port)
    listening: Any = server.ports._held[Public(port)].port
    listening.reactor = Full(reactor)
    visitor = await world.visitor(port)
    await until(lambda: visitor.was_reset)
    number, _ = await link.take(NEW_CONN)
    assert (await link.take_json(ERROR, number))["scope"] == "stream"
    assert not server.visitors
    assert not server.ids._live
    listening.reactor = reactor
    again = await world.visitor(port)
    await link.take(NEW_CONN)
    await turns()
    assert not again.over


# The whole system is full


class NothingToGive:
    """A listening socket of a system that has no file left (or no memory), for as long as this is so."""

    def __init__(self, listening: Any, error: int) -> None:
        self.listening = listening
        self.error = error
        self.asked = 0

    def accept(self) -> Any:
        self.asked += 1
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        return self.listening.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.listening, name)


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
@pytest.mark.parametrize("where", ["control", "shared", "public"])
@ensureDeferred
async def test_port_does_not_run_in_circles(world: World, where: str, error: int) -> None:
    """It asks now and then, the others are served, and who waited is served in the end."""
    server, service, ports = world.server(shared=True), await world.echo(), [free_port(), free_port()]
    world.client(server, *[(port, service.port) for port in ports])
    world.client(server, (0, service.port))
    await world.reachable(3)
    port: Any = server.ports._held[Public(ports[0])].port if where == "public" else getattr(server, where)._port
    port.socket._socket = full = NothingToGive(port.socket._socket, error)
    number = port.getHost().port
    waits: Any = await world.raw(number) if where == "control" else await world.visitor(number)
    waits.send(hello() if where == "control" else b"waits")
    began = reactor.seconds()
    await until(lambda: full.asked)
    for _ in range(20):
        other = await world.visitor(ports[1])
        other.send(b"served")
        await other.has(b"served")
        other.close()
    await deferLater(reactor, 3 * accepting.PAUSE)
    assert not waits.received
    assert full.asked <= (reactor.seconds() - began) / accepting.PAUSE + 2
    await world.logged("Could not accept new connection")
    full.error = 0
    if where == "control":
        await waits.take(HELLO)
    else:
        await waits.has(b"waits")


@ensureDeferred
async def test_port_that_stops_while_it_rests(world: World) -> None:
    server, port = world.server(hold=0.0), free_port()
    link = await world.raw_extended(server, port)
    listening: Any = server.ports._held[Public(port)].port
    listening.socket._socket = full = NothingToGive(listening.socket._socket, errno.ENFILE)
    await world.visitor(port)
    await until(lambda: full.asked)
    link.abort()
    await world.sessions(server, 0)
    await until(lambda: can_bind(port))
    await deferLater(reactor, 2 * accepting.PAUSE)
    assert full.asked == 1


@pytest.mark.parametrize(("world", "made"), [("auto", 0), ("direct", 2)], indirect=["world"])
@ensureDeferred
async def test_client_makes_no_data_connection_that_visitors_would_have_to_give_way_to(world: World, made: int) -> None:
    """They can go by the link, unless an end forbids it."""
    server = ServerByHand()
    server.capabilities = [*CAPABILITIES, *(["direct-only"] if made else [])]
    await server.start(world, (8080, 9))
    descriptors = server.client.link.flows.descriptors
    descriptors._limit = lambda: 1
    descriptors._ask_at = descriptors._spare_at = 0.0  # the client may have asked a moment ago
    server.send_tickets(2)
    for number in range(made):
        await server.data(number)
    await turns()
    assert len(server.listening.peers) == 1 + made
