"""The client beside its services: services that are down or slow, tunnels that are refused, what it tells."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pytest_twisted import ensureDeferred
from twisted.logger import LogLevel

from rtunnel.addresses import DialAddress
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.settings import ClientSettings, TunnelSettings
from tests.ports import free_port
from tests.reverse.net import (
    BOTH_PLANES,
    ERROR,
    HELLO,
    HOST,
    INIT,
    NEW_CONN,
    READY,
    Peer,
    hello,
    reactor,
    turns,
    until,
)
from tests.reverse.world import World


@ensureDeferred
async def test_service_that_is_down_resets_that_visitor_with_a_reason(world: World) -> None:
    by_hand, service, nobody = await world.raw_server(), await world.echo(), free_port()
    world.client(by_hand.port, (8080, nobody), (8081, service.port))
    link: Any = await by_hand.peer()
    link.send(hello())
    await link.take(INIT, 1)
    link.put(NEW_CONN, 1, b'{"tunnel": 1, "visitor": "192.0.2.1:1"}')
    link.put(NEW_CONN, 2, b'{"tunnel": 0, "visitor": "192.0.2.1:2"}')
    error = await link.take_json(ERROR, 2)
    assert (error["scope"], error["code"]) == ("stream", "local-unreachable")
    assert "refused" in error["message"].lower()
    link.put(2, 1, b"not me")
    await link.has_data(1, b"not me")


@BOTH_PLANES
@ensureDeferred
async def test_service_that_is_down_end_to_end(world: World) -> None:
    server, service, nobody = world.server(), await world.echo(), free_port()
    ports = [free_port(), free_port()]
    world.client(server, (ports[0], nobody), (ports[1], service.port))
    await world.reachable(2)
    for _ in range(5):
        visitor = await world.visitor(ports[0])
        await visitor.ends()
        assert visitor.was_reset
    fine = await world.visitor(ports[1])
    fine.send(b"fine")
    await fine.has(b"fine")
    down = f"the service at 127.0.0.1:{nobody} does not answer (connection refused): visitors get a reset until it does"
    assert len(world.lines(down, LogLevel.warn)) == 1, "loud once"
    assert len(world.lines("cannot be reached", LogLevel.debug)) == 5
    assert len(world.lines("does not answer")) == 1
    await world.service(lambda: Peer(echo=True), port=nobody)
    again = await world.visitor(ports[0])
    again.send(b"back")
    await again.has(b"back")
    assert len(world.lines(f"is published; the service at 127.0.0.1:{nobody} answers", LogLevel.info)) == 1


@ensureDeferred
async def test_service_that_is_slow_to_accept_resets_that_visitor(world: World, full_backlog: int) -> None:
    server, service, ports = world.server(), await world.echo(), [free_port(), free_port()]
    world.client(server, (ports[0], full_backlog), (ports[1], service.port), dial_timeout=0.3)
    await world.reachable(2)
    slow = await world.visitor(ports[0])
    slow.send(b"hello?")
    fine = await world.visitor(ports[1])
    fine.send(b"fine")
    await fine.has(b"fine")
    assert not slow.over
    await slow.ends()
    assert slow.was_reset
    await world.logged("local-timeout", LogLevel.debug)
    assert not fine.over


@BOTH_PLANES
@ensureDeferred
async def test_visitor_who_leaves_while_the_service_is_dialled(world: World, full_backlog: int) -> None:
    server, port = world.server(), free_port()
    client = world.client(server, (port, full_backlog))
    await world.reachable()
    visitor = await world.visitor(port)
    await until(lambda: len(client.visitors) == 1)
    visitor.abort()
    await until(lambda: not client.visitors)
    assert not world.lines("cannot be reached")


def test_a_service_is_given_five_seconds() -> None:
    server = DialAddress.parse("127.0.0.1:7000")
    assert ClientSettings(server, ()).dial_timeout == 5.0


@ensureDeferred
async def test_refused_tunnel_is_asked_for_again_and_the_others_are_served(world: World) -> None:
    server, service, busy = world.server(), await world.echo(), await world.service()
    fine = free_port()
    world.client(server, (busy.port, service.port), (fine, service.port))
    await world.reachable(1)
    visitor = await world.visitor(fine)
    visitor.send(b"fine")
    await visitor.has(b"fine")
    line = await world.logged("refused by the server: port-in-use", LogLevel.warn)
    assert "next attempt in" in line
    await world.stop_service(busy)
    await world.reachable(2)
    late = await world.visitor(busy.port)
    late.send(b"at last")
    await late.has(b"at last")


@ensureDeferred
async def test_refused_tunnel_waits_longer_each_time(world: World) -> None:
    by_hand = await world.raw_server()
    world.client(by_hand.port, (8080, 9), reconnect_min=0.02, reconnect_max=30.0)
    link: Any = await by_hand.peer()
    link.send(hello())
    times = []
    for _ in range(8):
        await link.take(INIT, 0)
        times.append(reactor.seconds())
        link.put(ERROR, 0, b'{"scope": "tunnel", "code": "port-in-use", "message": "sorry"}')
    await until(lambda: len(world.lines("next attempt in")) == 8)
    # What it says, as a busy machine takes longer; but never less.
    waits = [event["wait"] for event in world._log.events if "wait" in event]
    assert waits[-1] > 3 * waits[0]
    assert all(later - earlier > wait - 0.01 for wait, (earlier, later) in zip(waits, pairwise(times), strict=False))
    link.close()


@ensureDeferred
async def test_one_line_says_what_is_published_where(world: World) -> None:
    """With the name of the server as the user wrote it, where the server listens on all its addresses."""
    by_hand = await world.raw_server()
    settings = ClientSettings(
        DialAddress.parse(f"localhost:{by_hand.port}"),
        (TunnelSettings(8080, DialAddress.parse(":80")), TunnelSettings(8081, DialAddress.parse(":81"), "web")),
        check_services=False,
    )
    world.start(TunnelClient(reactor, settings))
    link: Any = await by_hand.peer()
    link.send(hello())
    await link.take(INIT, 1)
    link.put(READY, 0, b'{"address": "0.0.0.0:8080"}')
    link.put(READY, 1, b'{"address": "203.0.113.5:8081"}')
    await world.logged("203.0.113.5:8081 is published; the service at 127.0.0.1:81 has not been tried", LogLevel.info)
    assert len(world.lines("localhost:8080 is published; the service at 127.0.0.1:80 has not", LogLevel.info)) == 1


@ensureDeferred
async def test_hello_and_first_tunnel_come_at_once_and_the_others_wait(world: World) -> None:
    by_hand = await world.raw_server()
    world.client(by_hand.port, (8080, 80), (8081, 81), (0, 82))
    link: Any = await by_hand.peer()
    assert await link.take(INIT) == (0, b"8080:127.0.0.1:80")
    await turns()
    assert link.seen == [HELLO, INIT]
    link.send(hello())
    assert await link.take(INIT, 1) == (1, b"8081:127.0.0.1:81")
    assert await link.take(INIT, 2) == (2, b"0:127.0.0.1:82")
    assert link.seen.count(INIT) == 3


@ensureDeferred
async def test_shared_port_as_the_first_tunnel_waits_for_the_answer(world: World) -> None:
    """Silence is how a reference client asks for it."""
    by_hand = await world.raw_server()
    world.client(by_hand.port, (0, 80))
    link: Any = await by_hand.peer()
    await link.take(HELLO)
    await turns()
    assert link.seen == [HELLO]
    link.send(hello())
    assert await link.take(INIT, 0) == (0, b"0:127.0.0.1:80")


@ensureDeferred
async def test_data_behind_new_conn_waits_for_the_dial(world: World) -> None:
    by_hand, service = await world.raw_server(), await world.service()
    world.client(by_hand.port, (8080, service.port))
    link: Any = await by_hand.peer()
    link.send(hello())
    link.put(NEW_CONN, 5, b'{"tunnel": 0, "visitor": ""}')
    for piece in (b"not ", b"one ", b"lost"):
        link.put(2, 5, piece)
    await (await service.peer()).has(b"not one lost")


@BOTH_PLANES
@ensureDeferred
async def test_unix_socket_as_the_service(world: World, tmp_path: Any) -> None:
    from twisted.internet.endpoints import UNIXServerEndpoint

    from tests.reverse.net import QuietFactory

    factory, path = QuietFactory(), tmp_path / "s"
    factory.buildProtocol = lambda _address: UnixEcho()  # type: ignore[method-assign,assignment]
    listening = await UNIXServerEndpoint(reactor, str(path)).listen(factory)
    server, port = world.server(), free_port()
    tunnels = (TunnelSettings(port, DialAddress.parse(f"unix:{path}")),)
    world.start(
        TunnelClient(reactor, ClientSettings(DialAddress.parse(f"{HOST}:{world.control_port(server)}"), tunnels))
    )
    await world.reachable()
    visitor = await world.visitor(port)
    visitor.send(b"x" * 300_000)
    visitor.half_close()
    await until(lambda: visitor.eof)
    assert bytes(visitor.received) == b"x" * 300_000
    await listening.stopListening()


class UnixEcho(Peer):
    def __init__(self) -> None:
        super().__init__(echo=True)

    def connectionMade(self) -> None:
        """There is no TCP option to set."""
