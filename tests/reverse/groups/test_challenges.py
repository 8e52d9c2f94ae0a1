"""A CA that comes by TLS to a name of a group is taken to the member that does not refuse it."""

from __future__ import annotations

import json
from struct import pack
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.fronts import challenges
from rtunnel.reverse.server.service import TunnelServer
from tests.reverse.groups.parts import group_of, visitors
from tests.reverse.groups.test_requests import refuse, which
from tests.reverse.https import visit
from tests.reverse.net import DATA, ERROR, FIN, Peer, RawLink, until
from tests.reverse.world import World
from tests.wire.web.hellos import by_python

NAME = "app"
CA = by_python(NAME, ["acme-tls/1"])
ALERT = bytes.fromhex("15030300020278")
ANSWER = b"\x16\x03\x03 the certificate of the challenge"
PLACE = f"https/{NAME}"


@pytest.fixture(params=["bare socket", "transport"])
def _connections(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "transport":
        monkeypatch.setattr("rtunnel.upkeep.listening.give_sockets", lambda _port, _factory: None)


async def come(world: World, server: TunnelServer, *pieces: bytes) -> Peer:
    return await visit(world, server, *(pieces or (CA,)))


async def hello_at(links: list[RawLink]) -> tuple[int, int]:
    """Wait until a member has the hello."""
    content = next((c for link in links for kind, _, c in link.frames if kind == DATA), CA)
    assert content == CA
    return await which(links)


@pytest.mark.usefixtures("_connections")
@pytest.mark.parametrize("pieces", [[CA], [CA[:50], CA[50:]]], ids=["whole", "in two pieces"])
@pytest.mark.parametrize("way", ["alert", "reset"])
@ensureDeferred
async def test_members_without_an_order_refuse(
    world: World, server: TunnelServer, way: str, pieces: list[bytes]
) -> None:
    links = await group_of(world, server, 3, PLACE)
    ca = await come(world, server, *pieces)
    asked = []
    for _ in range(2):
        number, conn_id = await hello_at(links)
        asked.append(number)
        if way == "alert":
            links[number].put(DATA, conn_id, ALERT)
            await links[number].take(ERROR, conn_id)
        else:
            refuse(links[number], conn_id)
    number, conn_id = await hello_at(links)
    assert {*asked, number} == {0, 1, 2}
    links[number].put(DATA, conn_id, ANSWER)
    await ca.has(ANSWER)
    # From now on it is his: whatever comes is passed on.
    links[number].put(DATA, conn_id, ALERT)
    await ca.has(ANSWER + ALERT)
    ca.send(b"finished")
    assert (await links[number].take(DATA, conn_id))[1] == b"finished"
    ca.half_close()
    await links[number].take(FIN, conn_id)
    links[number].put(FIN, conn_id, pack("!Q", len(ANSWER + ALERT)))
    await ca.ends()
    assert not ca.was_reset
    assert [visitors(link) for link in links] == [1, 1, 1]
    await until(lambda: not server.visitors)


@pytest.mark.parametrize("way", ["alert", "reset"])
@ensureDeferred
async def test_nobody_has_an_order(world: World, server: TunnelServer, way: str) -> None:
    """The answer of the last one is the CA's."""
    links = await group_of(world, server, 2, PLACE)
    ca = await come(world, server)
    for _ in range(2):
        number, conn_id = await hello_at(links)
        if way == "alert":
            links[number].put(DATA, conn_id, ALERT)
            links[number].put(FIN, conn_id, pack("!Q", len(ALERT)))
        else:
            refuse(links[number], conn_id)
    await ca.ends()
    assert (bytes(ca.received), ca.was_reset) == ((ALERT, False) if way == "alert" else (b"", True))
    ca.close()
    await until(lambda: not server.visitors)


@ensureDeferred
async def test_other_visitors_are_not_taken_elsewhere(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, PLACE)
    for protocols in ([], ["http/1.1"], ["acme-tls/1", "http/1.1"]):
        visitor = await visit(world, server, by_python(NAME, protocols))
        number, conn_id = await which(links)
        links[number].put(DATA, conn_id, ALERT)
        await visitor.has(ALERT)
    assert sum(map(visitors, links)) == 3


@ensureDeferred
async def test_a_member_is_lost_before_it_answers(world: World, server: TunnelServer) -> None:
    """Whether it had an order is unknown; the CA comes again."""
    links = await group_of(world, server, 2, PLACE)
    ca = await come(world, server)
    number, _ = await hello_at(links)
    links[number].transport.abortConnection()
    await ca.ends()
    await until(lambda: not server.visitors)


@ensureDeferred
async def test_the_ca_leaves(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, PLACE)
    ca = await come(world, server)
    number, conn_id = await hello_at(links)
    ca.abort()
    assert json.loads(await error_of(links[number], conn_id))["code"] == "connection-lost"
    await until(lambda: not server.visitors)


async def error_of(link: RawLink, conn_id: int) -> Any:
    return (await link.take(ERROR, conn_id))[1]


@pytest.mark.parametrize("by", ["visitor", "member"])
@ensureDeferred
async def test_more_than_a_handshake(
    world: World, server: TunnelServer, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody gets a tunnel by what is for CAs."""
    monkeypatch.setattr(challenges, "MOST", 10_000)
    links = await group_of(world, server, 2, PLACE)
    ca = await come(world, server)
    number, conn_id = await hello_at(links)
    links[number].put(DATA, conn_id, ANSWER)
    await ca.has(ANSWER)
    if by == "visitor":
        ca.send(bytes(10_001))
    else:
        links[number].put(DATA, conn_id, bytes(10_001))
    assert json.loads(await error_of(links[number], conn_id))["code"] == "limit"
    await ca.ends()
    assert ca.was_reset
    await until(lambda: not server.visitors)
