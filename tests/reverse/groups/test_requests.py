"""Groups: which member gets a request by host name, and what becomes of one that is refused."""

from __future__ import annotations

from collections import Counter

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.reverse.server import groups
from rtunnel.reverse.server.service import TunnelServer
from tests.reverse.groups.parts import DOWN, OK, STATE, WITHDRAWAL, group_of, visitors
from tests.reverse.net import DATA, ERROR, FIN, Peer, RawLink, until
from tests.reverse.world import World, port_of
from tests.wire.web.hellos import by_python


async def request(world: World, server: TunnelServer, head: str = "", method: str = "GET", body: bytes = b"") -> Peer:
    visitor = await world.visitor(port_of(server.named.listeners["http"]))
    visitor.send(f"{method} / HTTP/1.1\r\nHost: app\r\n{head}\r\n".encode() + body)
    return visitor


async def which(links: list[RawLink]) -> tuple[int, int]:
    """Wait for a request on a new stream of any member; return its index, and the stream."""
    await until(lambda: any(kind == DATA for link in links for kind, _, _ in link.frames), "a request")
    for number, link in enumerate(links):
        for index, (kind, conn_id, _) in enumerate(link.frames):
            if kind == DATA:
                del link.frames[index]
                return number, conn_id
    raise AssertionError


def refuse(link: RawLink, conn_id: int, code: str = "local-unreachable") -> None:
    link.put(ERROR, conn_id, f'{{"scope": "stream", "code": "{code}", "message": "refused"}}'.encode())


@ensureDeferred
async def test_each_request_has_its_turn(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server)
    found = []
    for _ in range(4):
        number, conn_id = await which(links)
        found.append(number)
        links[number].put(DATA, conn_id, OK)
        await until(lambda: visitor.received.endswith(OK))
        visitor.received.clear()
        visitor.send(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
    assert found == [0, 1, 0, 1]
    assert [visitors(link) for link in links] == [1, 1], "streams are kept"


@ensureDeferred
async def test_least_connections_counts_requests(world: World, server: TunnelServer) -> None:
    """Streams that wait for the next request are no work."""
    links = await group_of(world, server, 2, "http/app", balance="least-connections")
    # So both have streams that wait, the first one many more.
    pending = []
    for _ in range(8):
        await request(world, server)
        pending.append(await which(links))
    for number, conn_id in pending[1:]:
        links[number].put(DATA, conn_id, OK)
    await links[0].is_alive()
    await links[1].is_alive()
    group = server.names.http("app", "/")
    assert group is not None
    await until(lambda: sum(backend.load for backend in group) == 1)
    found = Counter[int]()
    for _ in range(20):
        visitor = await request(world, server)
        number, conn_id = await which(links)
        found[number] += 1
        links[number].put(DATA, conn_id, OK)
        await visitor.has(OK)
        await until(lambda: sum(backend.load for backend in group) == 1)
    assert min(found.values()) >= 5
    assert [visitors(link) for link in links] == [4, 4]


@ensureDeferred
async def test_sticky_by_what_a_trusted_proxy_says(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 3, "http/app", balance="sticky")
    homes: dict[str, int] = {}
    for turn in range(36):
        address = f"198.51.100.{turn % 12}"
        visitor = await request(world, server, f"X-Forwarded-For: {address}\r\n")
        number, conn_id = await which(links)
        links[number].put(DATA, conn_id, OK)
        await visitor.has(OK)
        assert homes.setdefault(address, number) == number
    assert len(set(homes.values())) == 3


@pytest.mark.parametrize("code", ["local-unreachable", "local-timeout", "unknown-tunnel", "limit", "shutting-down"])
@ensureDeferred
async def test_a_request_that_has_not_reached_a_service_goes_to_the_next_member(
    world: World, server: TunnelServer, code: str
) -> None:
    links = await group_of(world, server, 3, "http/app")
    visitor = await request(world, server, method="POST", head="Content-Length: 0\r\n")
    tried = []
    for _ in range(2):
        number, conn_id = await which(links)
        tried.append(number)
        refuse(links[number], conn_id, code)
    number, conn_id = await which(links)
    assert sorted([*tried, number]) == [0, 1, 2]
    links[number].put(DATA, conn_id, OK)
    await visitor.has(OK)
    assert [visitors(link) for link in links] == [1, 1, 1]


@ensureDeferred
async def test_each_member_gets_it_once(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server)
    for _ in range(2):
        number, conn_id = await which(links)
        refuse(links[number], conn_id)
    await until(lambda: visitor.received.endswith(b"\n"))
    assert visitor.received.startswith(b"HTTP/1.1 502 ")
    assert b"the service of http://app cannot be reached" in visitor.received
    assert [visitors(link) for link in links] == [1, 1]


@ensureDeferred
async def test_who_has_refused_comes_last_for_a_moment(
    world: World, server: TunnelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "AVOID", 1000.0)
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server)
    refused, conn_id = await which(links)
    refuse(links[refused], conn_id)
    for _ in range(5):
        number, conn_id = await which(links)
        assert number != refused
        links[number].put(DATA, conn_id, OK)
        await until(lambda: visitor.received.endswith(OK))
        visitor.received.clear()
        visitor.send(b"GET / HTTP/1.1\r\nHost: app\r\n\r\n")
    number, conn_id = await which(links)
    # And then it is better than nobody.
    refuse(links[number], conn_id)


@pytest.mark.parametrize(
    ("head", "body", "answer"),
    [
        ("Content-Length: 2\r\n", b"hi", b""),
        ("Transfer-Encoding: chunked\r\n", b"2\r\nhi\r\n", b""),
        ("Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b""),
        ("", b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        ("", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"),
    ],
)
@ensureDeferred
async def test_what_may_have_reached_a_service_is_not_sent_twice(
    world: World, server: TunnelServer, head: str, body: bytes, answer: bytes
) -> None:
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server, head, "POST", body)
    number, conn_id = await which(links)
    await links[number].is_alive()
    if answer:
        links[number].put(DATA, conn_id, answer)
    refuse(links[number], conn_id)
    await until(lambda: b" 502 " in visitor.received or visitor.over)
    assert sum(map(visitors, links)) == 1


@ensureDeferred
async def test_a_body_that_has_not_come_yet_goes_to_the_next_member(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server, "Content-Length: 2\r\nExpect: 100-continue\r\n", "POST")
    number, conn_id = await which(links)
    refuse(links[number], conn_id)
    number, conn_id = await which(links)
    visitor.send(b"hi")
    await links[number].has_data(conn_id, b"hi")
    links[number].put(DATA, conn_id, OK)
    await visitor.has(OK)


@ensureDeferred
async def test_a_connection_that_a_service_had_kept_is_no_refusal(world: World, server: TunnelServer) -> None:
    """A POST on a stream that was used before may have reached the service, whatever the code says."""
    links = await group_of(world, server, 2, "http/app")
    visitor = await request(world, server)
    number, conn_id = await which(links)
    links[number].put(DATA, conn_id, OK)
    await visitor.has(OK)
    links[1 - number].put(STATE, 0, DOWN)
    await links[1 - number].is_alive()
    visitor.received.clear()
    visitor.send(b"POST / HTTP/1.1\r\nHost: app\r\nContent-Length: 0\r\n\r\n")
    assert await which(links) == (number, conn_id)
    refuse(links[number], conn_id)
    await until(lambda: b" 502 " in visitor.received)
    assert visitors(links[1 - number]) == 0


@ensureDeferred
async def test_a_member_that_is_gone_leaves_no_streams(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, "http/app", balance="least-connections")
    visitor = await request(world, server)
    number, conn_id = await which(links)
    links[number].put(DATA, conn_id, OK)
    await visitor.has(OK)
    links[number].put(ERROR, 0, WITHDRAWAL)
    await links[number].take(FIN, conn_id)
    links[number].put(FIN, conn_id, len(OK).to_bytes(8, "big"))
    (known,) = server.http._targets.values()
    await until(lambda: not len(known.balanced))
    assert len(known.balanced._of) <= 1


@ensureDeferred
async def test_https_by_name(world: World, server: TunnelServer) -> None:
    links = await group_of(world, server, 2, "https/app")
    for _ in range(4):
        visitor = await world.visitor(port_of(server.named.listeners["https"]))
        visitor.send(by_python("app"))
    await until(lambda: [visitors(link) for link in links] == [2, 2])
    links[0].put(STATE, 0, DOWN)
    await links[0].is_alive()
    for _ in range(2):
        visitor = await world.visitor(port_of(server.named.listeners["https"]))
        visitor.send(by_python("app"))
    await until(lambda: [visitors(link) for link in links] == [2, 4])


@ensureDeferred
async def test_the_only_member(world: World, server: TunnelServer) -> None:
    """It is known without a look at all, whoever comes and goes."""
    links = await group_of(world, server, 3, "http/app")
    group = server.names.http("app", "/")
    assert group is not None
    last = list(group)[2]
    for link in (links[1], links[0]):
        assert (group.only, group.is_plain) == (None, False)
        count = len(group)
        link.put(ERROR, 0, WITHDRAWAL)
        await until(lambda: len(group) < count)  # noqa: B023
    assert (group.only, group.is_plain) == (last, True)
    await request(world, server)
    assert (await which(links))[0] == 2
    links[2].put(ERROR, 0, WITHDRAWAL)
    await until(lambda: not len(group))
    assert (group.only, group.is_plain) == (None, False)
