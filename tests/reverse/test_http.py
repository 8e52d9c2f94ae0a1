"""The HTTP port in one process: its streams when tunnels go, when rights change, and when the server stops."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.passwords import make_hash
from rtunnel.addresses import DialAddress, ListenAddress
from rtunnel.options.settings.published import published
from rtunnel.reverse.client.service import TunnelClient
from rtunnel.reverse.server import take_over
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.reverse.settings import ClientSettings
from rtunnel.reverse.web import connection, house, upstreams
from tests.patience import PATIENCE
from tests.reverse.net import BOTH_PLANES, DATA, ERROR, FIN, HOST, NEW_CONN, READY, Peer, RawLink, reactor, until
from tests.reverse.test_host_names import ask, client, publish
from tests.reverse.world import World, port_of

GET = b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
WITHDRAWAL = b'{"scope": "tunnel", "code": "shutting-down", "message": ""}'


def http_server(world: World, **settings: Any) -> TunnelServer:
    return world.server(http_listen=ListenAddress.parse(f"{HOST}:0"), **settings)


async def visit(world: World, server: TunnelServer, data: bytes = GET) -> Peer:
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(data)
    return visitor


async def answered(link: RawLink, visitor: Peer) -> int:
    """Let a client answer a request; return the stream on which it came."""
    stream, _ = await link.take(NEW_CONN)
    await link.take(DATA, stream)
    link.put(DATA, stream, OK)
    await visitor.has(OK)
    return stream


@ensureDeferred
async def test_streams_of_a_tunnel_that_goes_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the service does not close its connection."""
    monkeypatch.setattr(connection, "LINGER", 0.5)
    monkeypatch.setattr(upstreams, "LINGER", 0.5)
    server = http_server(world)
    link = await client(world, server, "http/app.example.org")
    stream = await answered(link, await visit(world, server))
    link.put(ERROR, 0, WITHDRAWAL)
    await link.take(FIN, stream)
    await until(lambda: not server.http._targets)
    await link.is_alive()
    [session] = server.sessions
    assert not session.link.streams


@ensureDeferred
async def test_a_drain_closes_a_kept_connection_behind_its_next_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not between two requests, where the second one may be on the way."""
    monkeypatch.setattr(house, "SETTLE", PATIENCE)
    server = http_server(world, drain=PATIENCE)
    link = await client(world, server, "http/app.example.org")
    visitor = await visit(world, server)
    stream = await answered(link, visitor)
    stopping = server.stopService()
    assert isinstance(stopping, Deferred)
    await until(lambda: server.http.is_stopping)
    visitor.send(GET)
    await link.take(DATA, stream)
    link.put(DATA, stream, OK)
    await until(lambda: b"Connection: close" in visitor.received)
    await stopping


@ensureDeferred
async def test_a_request_does_not_reach_the_tunnel_that_comes_after(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel gives its number to another one while a password is looked at."""
    verdict: Deferred[bool] = Deferred()
    server = http_server(world)
    monkeypatch.setattr(server.http._passwords, "_run", lambda _work: verdict)
    link = await client(world, server)
    ask(link, 0, "http/app.example.org", auth=[f"alice:{make_hash(b'secret')}"])
    await link.take(READY, 0)
    login = b"Authorization: Basic YWxpY2U6c2VjcmV0\r\n\r\n"
    visitor = await visit(world, server, GET[:-2] + login)
    await until(lambda: server.http._passwords._waiting)
    link.put(ERROR, 0, WITHDRAWAL)
    await publish(link, 0, "http/other.example.org")
    verdict.callback(True)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 503 "))
    assert NEW_CONN not in link.seen


@ensureDeferred
async def test_rights_that_are_lost_while_a_holder_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(take_over, "TAKE_OVER_AFTER", 1000.0)
    monkeypatch.setattr(take_over, "TAKE_OVER_POLL", 0.01)
    path = tmp_path / "clients.yaml"
    path.write_text('"*": {hosts: app}')
    server = http_server(world, admission=AdmissionSettings(path))
    holder = await client(world, server, "http/app")
    other = await client(world, server)
    ask(other, 0, "http/app")
    await until(lambda: any(session._opening for session in server.sessions))
    path.write_text('"*": {hosts: none.example.org}')
    assert (await holder.take_json(ERROR, 0))["code"] == "host-not-allowed"
    holder.abort()
    assert (await other.take_json(ERROR, 0))["code"] == "host-not-allowed"
    assert not server.names


@pytest.mark.parametrize("is_trusted", [False, True])
@ensureDeferred
async def test_redirection_behind_a_proxy(world: World, is_trusted: bool) -> None:
    """It is not sent in circles if a proxy that is trusted speaks TLS with the visitor."""
    server = http_server(world, trusted_proxies=(ip_network("127.0.0.0/8"),) if is_trusted else ())
    link = await client(world, server)
    ask(link, 0, "http/app.example.org", **{"redirect-https": True})
    await link.take(READY, 0)
    visitor = await visit(world, server)
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 301 "))
    visitor = await visit(world, server, GET[:-2] + b"X-Forwarded-Proto: https\r\n\r\n")
    if is_trusted:
        await answered(link, visitor)
    else:
        await until(lambda: visitor.received.startswith(b"HTTP/1.1 301 "))


@BOTH_PLANES
@pytest.mark.parametrize("which", ["server", "client"])
@ensureDeferred
async def test_what_only_waits_does_not_hold_a_drain(world: World, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a visitor's connection nor a stream that are kept for another request."""
    monkeypatch.setattr(connection, "LINGER", 0.5)
    monkeypatch.setattr(upstreams, "LINGER", 0.5)
    server = http_server(world, drain=100.0)
    service = await world.service()
    tunnels = published(f"http:app.example.org={HOST}:{service.port}")
    where = DialAddress.parse(f"{HOST}:{world.control_port(server)}")
    settings = ClientSettings(where, tunnels, data_plane=world.plane, drain=100.0, check_services=False)
    ours = world.start(TunnelClient(reactor, settings))
    await until(lambda: len(server.names))
    visitor = await visit(world, server)
    peer = await service.peer()
    await until(lambda: peer.received.endswith(b"\r\n\r\n"))
    peer.send(OK)
    await visitor.has(OK)
    began = reactor.seconds()
    await (server if which == "server" else ours).stopService()
    assert reactor.seconds() - began < 50
    if which == "server":
        await visitor.ends()
        assert not visitor.was_reset
