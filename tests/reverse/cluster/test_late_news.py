"""A client leaves a node, and another node still sends visitors there: it has not heard yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.task import deferLater

from rtunnel.addresses import DialAddress
from rtunnel.reverse.server.service import TunnelServer
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.reverse.cluster.parts import HOSTS, Cluster, http_port, two_nodes
from tests.reverse.https import https_port
from tests.reverse.net import BOTH_PLANES, HOST, Peer, reactor, until
from tests.reverse.world import World
from tests.wire.web.hellos import hello

#: Seconds for which the news are late.
LATE = 0.3
HEAD = b" / HTTP/1.1\r\nHost: app.example.org\r\n"
POST = b"POST" + HEAD + b"Content-Length: 4\r\n\r\nbody"
REQUESTS = [b"GET" + HEAD + b"\r\n", POST.replace(b"4\r\n\r\nbody", b"0\r\n\r\n")]


class Answering(Peer):
    """A service that answers requests, until its visitor sends no more."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.received.endswith((b"\r\n\r\n", b"body")):
            self.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def readConnectionLost(self) -> None:
        self.close()


async def has_data_connection(node: TunnelServer) -> None:
    """Wait until *node* has a data connection to the other one that it can use."""
    (session,) = node.nodes.sessions
    await until(lambda: session._pool is not None and session._pool._idle, "a data connection waits")


def deaf(node: TunnelServer) -> Callable[[], None]:
    """Let *node* read nothing of its link from the other one, which data connections overtake.

    :returns: lets it read on.
    """
    (session,) = node.nodes.sessions
    session.transport.pauseProducing()
    return session.transport.resumeProducing  # type: ignore[no-any-return]


def lead_to(client: Any, node: TunnelServer) -> None:
    """Let the next link of *client* lead to *node*."""
    client.link.settings = replace(client.settings, server=DialAddress.parse(node.control.local_address))


@pytest.mark.parametrize("request_", REQUESTS)
@ensureDeferred
async def test_a_request_waits_for_the_news(world: World, request_: bytes) -> None:
    """However late they are: those that were not there in 50 milliseconds were not waited for."""
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    service = await world.service(Answering)
    client = cluster.client(first, f"http:app.example.org={HOST}:{service.port}")
    await cluster.serves(second)
    await has_data_connection(second)
    hear = deaf(second)
    lead_to(client, second)
    (session,) = first.sessions
    session.transport.abortConnection()
    await until(lambda: not first.sessions, "the client is gone")
    visitor = await world.visitor(http_port(second), to=HOSTS[1])
    visitor.send(request_)
    await until(lambda: second.http._looks or visitor.received, "the other node has turned it away")
    await deferLater(reactor, LATE)
    hear()
    await until(lambda: visitor.received, "an answer")
    assert visitor.received.startswith(b"HTTP/1.1 200 ")
    assert [peer.received.count(b"HTTP/1.1") for peer in service.peers] == [1]


@ensureDeferred
async def test_news_that_do_not_come(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rtunnel.reverse.fronts.http.NEWS_IN", LATE)
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    service = await world.service(Answering)
    cluster.client(first, f"http:app.example.org={HOST}:{service.port}", reconnect_min=PATIENCE)
    await cluster.serves(second)
    await has_data_connection(second)
    deaf(second)
    (session,) = first.sessions
    session.transport.abortConnection()
    await until(lambda: not first.sessions, "the client is gone")
    visitor = await world.visitor(http_port(second), to=HOSTS[1])
    visitor.send(REQUESTS[0])
    await until(lambda: visitor.received.startswith(b"HTTP/1.1 503 "), "an answer")


async def leaves_late(cluster: Cluster, client: Any) -> tuple[Any, Callable[[], None]]:
    """The first node drains, and the second does not hear of it for now.

    :returns: fires when the first has stopped; and lets the second hear of it.
    """
    first, second = cluster.nodes
    read_on = deaf(second)
    stopped = first.stopService()
    await until(lambda: not first.nodes.carried, "it lets go of its client")

    def hear() -> None:
        lead_to(client, second)
        read_on()

    return stopped, hear


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that waits until others know, however slow the machine is."""
    monkeypatch.setattr("rtunnel.reverse.client.asking.MOST_WITHDRAWAL", PATIENCE)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("kind", ["tcp", "https"])
@BOTH_PLANES
@ensureDeferred
async def test_a_node_that_drains_serves_those_who_are_sent_before_others_know(world: World, kind: str) -> None:
    cluster, first, second = await two_nodes(world, drain=PATIENCE, data_plane=world.plane)
    echo, port = await world.echo(), free_port()
    client = cluster.client(first, f"{f'tcp:{port}' if kind == 'tcp' else 'https:app.example.org'}={HOST}:{echo.port}")
    await cluster.serves(second)
    if world.plane == "direct":
        await has_data_connection(second)
    stopped, hear = await leaves_late(cluster, client)
    said = b"hello" if kind == "tcp" else hello("app.example.org")
    visitor = await world.visitor(port if kind == "tcp" else https_port(second), to=HOSTS[1])
    visitor.send(said)
    if world.plane == "direct":
        await visitor.has(said)
    assert len(first.sessions) == 1
    hear()
    await visitor.has(said)
    visitor.half_close()
    await visitor.ends()
    assert not visitor.was_reset
    await until(lambda: second.claims, "the client is at the other node")
    await stopped


@pytest.mark.usefixtures("patient")
@ensureDeferred
async def test_a_request_with_a_body_to_a_node_that_drains(world: World) -> None:
    """It cannot be sent twice."""
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, drain=PATIENCE)
    service = await world.service(Answering)
    client = cluster.client(first, f"http:app.example.org={HOST}:{service.port}")
    await cluster.serves(second)
    await has_data_connection(second)
    stopped, hear = await leaves_late(cluster, client)
    visitor = await world.visitor(http_port(second), to=HOSTS[1])
    visitor.send(POST)
    await until(lambda: visitor.received, "an answer")
    assert visitor.received.startswith(b"HTTP/1.1 200 ")
    hear()
    visitor.close()
    await until(lambda: second.claims, "the client is at the other node")
    await stopped


@pytest.mark.parametrize("kind", ["tcp", "http"])
@ensureDeferred
async def test_who_waits_for_a_data_connection_when_the_news_come(world: World, kind: str) -> None:
    world.plane = "direct"
    cluster, first, second = await two_nodes(world, hold=PATIENCE, drain=PATIENCE)
    service, echo = await world.service(Answering), await world.echo()
    port, other = free_port(), free_port()
    what = f"tcp:{port}" if kind == "tcp" else "http:app.example.org"
    client = cluster.client(first, f"{what}={HOST}:{service.port}", f"tcp:{other}={HOST}:{echo.port}")
    await cluster.serves(second, 2)
    # As long as he is there, the node does not end.
    last = await world.visitor(other)
    last.send(b"hello")
    await last.has(b"hello")
    await has_data_connection(second)
    (session,) = second.nodes.sessions
    pool: Any = session.carriers[0]
    pool._available = lambda connection: connection.cut()
    for connection in list(pool._idle):
        connection.cut()
    pool._idle.clear()
    visitor = await world.visitor(port if kind == "tcp" else http_port(second), to=HOSTS[1])
    visitor.send(REQUESTS[1])
    await until(lambda: pool._waiting, "there is no data connection for him")
    stopped, hear = await leaves_late(cluster, client)
    hear()
    await until(lambda: visitor.over or visitor.received, "an answer")
    assert visitor.received.startswith(b"HTTP/1.1 200 ")
    for each in visitor, last:
        each.close()
    await stopped


@ensureDeferred
async def test_news_for_a_node_that_stops(world: World) -> None:
    """It waits for nobody any more: its places are free."""
    cluster, first, second = await two_nodes(world, hold=PATIENCE)
    service = await world.service(Answering)
    cluster.client(first, f"http:app.example.org={HOST}:{service.port}", reconnect_min=PATIENCE)
    await cluster.serves(second)
    [group] = second.names.groups
    await second.refuse_visitors()
    (session,) = first.sessions
    session.transport.abortConnection()
    await until(lambda: not len(group), "the news")
    assert not group.is_held_here
    assert not list(second.names.groups)
