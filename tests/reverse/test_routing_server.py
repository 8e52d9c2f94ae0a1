"""Who is asked next, in a server."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.reverse.server.interfaces import Backend
from tests.ports import free_port
from tests.reverse.data import AUTO, CAPABILITIES, attach, pool_of, tickets_of
from tests.reverse.net import BOTH_PLANES, DATA, ERROR, HOST, INIT, NEW_CONN, READY, RawLink, until
from tests.reverse.world import World, port_of


async def shared_links(world: World, server: Any, count: int, **values: Any) -> list[RawLink]:
    """Links by hand that serve the shared port."""
    links = []
    for _ in range(count):
        links.append(await world.raw_extended(server, **values))
        links[-1].put(INIT, 0, b"0:local")
        await links[-1].take(READY, 0)
    return links


@ensureDeferred
async def test_visitor_costs_no_look_at_all_links(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Backend] = []
    slot: Any = Backend.__dict__["load"]

    def load(self: Backend) -> int:
        looked.append(self)
        return int(slot.__get__(self))

    server = world.server(shared=True, route="least-connections")
    links = await shared_links(world, server, 20)
    monkeypatch.setattr(Backend, "load", property(load, slot.__set__))
    for link in links:
        looked.clear()
        await world.visitor(port_of(server.shared))
        await link.take(NEW_CONN)
        assert len(looked) <= 2
    looked.clear()
    links[7].abort()
    await world.sessions(server, 19)
    assert {each.session.peer_name for each in looked} <= {links[7].name}


@BOTH_PLANES
@ensureDeferred
async def test_visitors_of_one_name_are_counted_over_its_links(world: World, tmp_path: Any) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 3}\nphone: {token: 8765-4321, streams: 3}\n")
    server, service = world.server(admission=AdmissionSettings(clients)), await world.echo()
    ports = [free_port() for _ in range(3)]
    for number, (port, token) in enumerate(zip(ports, ["1234-5678", "1234-5678", "8765-4321"], strict=True), 1):
        world.client(server, (port, service.port), token=token)
        await world.reachable(number)

    async def is_served(port: int) -> Any:
        visitor = await world.visitor(port)
        if not visitor.over:
            visitor.send(b"x")
        await until(lambda: visitor.over or visitor.received)
        return None if visitor.over else visitor

    def is_right(session: Any) -> bool:
        same = [each for each in server.sessions if each.client_name == session.client_name]
        return server.sessions.visitors_of(session) == sum(each.link.stream_count for each in same)

    async def check() -> None:
        # A visitor that is leaving counts until its connection is gone.
        await until(lambda: all(map(is_right, server.sessions)))

    laptops = [await is_served(ports[number]) for number in (0, 0, 1)]
    assert all(laptops)
    await check()
    assert await is_served(ports[0]) is None
    assert await is_served(ports[1]) is None
    assert world.lines("this client may serve 3 visitors at once")
    assert await is_served(ports[2])
    laptops[0].abort()
    laptop = next(each for each in server.sessions if each.client_name == "laptop")
    await until(lambda: server.sessions.visitors_of(laptop) == 2)
    laptops.append(await is_served(ports[1]))
    assert laptops[-1]
    assert await is_served(ports[1]) is None
    await check()
    if world.plane == "direct":
        return  # they outlive it
    # With its link a client's visitors are gone.
    (lost, _) = sorted(
        (each for each in server.sessions if each.client_name == "laptop"), key=lambda each: each.link.stream_count
    )
    assert lost.link.stream_count == 1
    lost.drop()
    await world.sessions(server, 2)
    await check()
    assert [server.sessions.visitors_of(each) for each in server.sessions if each.client_name == "laptop"] == [2]


@AUTO
@ensureDeferred
async def test_visitors_that_outlive_their_link_still_count(world: World, tmp_path: Any) -> None:
    """A client leaves in good order, and comes back while its visitors get their last bytes."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 2}\n")
    server, port = world.server(admission=AdmissionSettings(clients)), free_port()

    async def come() -> tuple[RawLink, list[Any]]:
        link = await world.raw_extended(server, port, token="1234-5678", capabilities=CAPABILITIES)
        return link, [await attach(world, server, ticket) for ticket in (await tickets_of(link))[:2]]

    link, before = await come()
    await pool_of(world, server, 2)
    visitors = [await world.visitor(port) for _ in range(2)]
    for each in before:
        await each.is_used()
    link.put(ERROR, 0, b'{"scope": "link", "code": "shutting-down", "message": ""}')
    await world.sessions(server, 0)
    assert not any(visitor.over for visitor in visitors)
    link, data = await come()
    await pool_of(world, server, 2)
    await (await world.visitor(port)).ends()
    await world.logged("this client may serve 2 visitors at once")
    (session,) = server.sessions
    assert server.sessions.visitors_of(session) == 2
    for each in before:
        each.abort()
    await until(lambda: len(server.visitors) == 0)
    assert server.sessions.visitors_of(session) == 0
    await world.visitor(port)
    await until(lambda: any(each.visitor for each in data), "a visitor on a data connection")


@ensureDeferred
async def test_visitors_that_outlive_their_stream_still_count(world: World, tmp_path: Any) -> None:
    """They do not read what came before the reset, and get half a minute for it."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: 1234-5678, streams: 2}\n")
    server, port = world.server(admission=AdmissionSettings(clients)), free_port()
    link = await world.raw_extended(server, port, token="1234-5678")
    (session,) = server.sessions
    with ExitStack() as stack:
        for _ in range(2):
            visitor = stack.enter_context(socket.socket())
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            visitor.connect((HOST, port))
            number, _payload = await link.take(NEW_CONN)
            link.put(DATA, number, bytes(60_000))
            link.put(ERROR, number, b'{"scope": "stream", "code": "connection-lost", "message": ""}')
        await link.is_alive()
        assert not session.link.streams
        assert len(server.visitors) == server.sessions.visitors_of(session) == 2
        await (await world.visitor(port)).ends()
        await world.logged("this client may serve 2 visitors at once")
    await until(lambda: not len(server.visitors))
    assert server.sessions.visitors_of(session) == 0
