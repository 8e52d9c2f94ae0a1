"""Groups: who of the members gets a visitor or a request, and what becomes of one that is refused."""

from __future__ import annotations

from collections import Counter
from ipaddress import ip_network

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint

from rtunnel.addresses import ListenAddress
from rtunnel.reverse.server import groups
from rtunnel.reverse.server.service import TunnelServer
from rtunnel.upkeep.log_limiter import MOST_ADMITTED
from rtunnel.wire.limits import LinkLimits
from tests.ports import free_port
from tests.reverse.net import (
    CLOSE_CONN,
    DATA,
    ERROR,
    FIN,
    HOST,
    NEW_CONN,
    Peer,
    QuietFactory,
    RawLink,
    reactor,
    until,
)
from tests.reverse.test_groups import GROUP, WITHDRAWAL, join, publish
from tests.reverse.world import World, port_of
from tests.wire.web.hellos import by_python

LOCAL = ListenAddress.parse(f"{HOST}:0")
STATE = 0x1C
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
DOWN = b'{"ready": false, "why": "connection refused"}'
UP = b'{"ready": true}'


@pytest.fixture
def server(world: World) -> TunnelServer:
    return world.server(http_listen=LOCAL, https_listen=LOCAL, hold=0, trusted_proxies=(ip_network("127.0.0.1/32"),))


async def group_of(world: World, server: TunnelServer, count: int, what: object, **rules: object) -> list[RawLink]:
    """Members by hand."""
    links = [await join(world, server) for _ in range(count)]
    for link in links:
        await publish(link, what, {**GROUP, **rules})
    return links


def visitors(link: RawLink) -> int:
    """How many visitors came to it."""
    return link.seen.count(NEW_CONN)


async def come(world: World, port: int, links: list[RawLink], count: int = 1) -> list[int]:
    """Let visitors come one after the other; return whom they have got, as indices."""
    found = []
    for _ in range(count):
        before = [visitors(link) for link in links]
        await world.visitor(port)
        await until(lambda before=before: [visitors(link) for link in links] != before)  # type: ignore[misc]
        found += [number for number, link in enumerate(links) if visitors(link) > before[number]]
    return found


async def come_from(world: World, port: int, address: str) -> Peer:
    """A visitor from another address of this machine."""
    peer = Peer()
    world._peers.append(peer)
    endpoint = TCP4ClientEndpoint(reactor, HOST, port, bindAddress=(address, 0))
    await endpoint.connect(QuietFactory.forProtocol(lambda: peer))
    return peer


def close(link: RawLink, conn_id: int) -> None:
    link.put(CLOSE_CONN, conn_id)


# Ports


@ensureDeferred
async def test_in_turns(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port)
    assert await come(world, port, links, 9) == [0, 1, 2] * 3


@ensureDeferred
async def test_least_connections_counts_those_of_the_tunnel(world: World, server: TunnelServer) -> None:
    """A busy SSH port of one member does not keep web visitors from it."""
    port, other = free_port(), free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    await publish(links[0], other, {}, 1)
    for _ in range(20):
        await world.visitor(other)
    await until(lambda: visitors(links[0]) == 20)
    assert Counter(await come(world, port, links, 12)) == {0: 6, 1: 6}
    # Those that go make room.
    gone = [conn_id for kind, conn_id, payload in links[1].frames if kind == NEW_CONN][:4]
    for conn_id in gone:
        close(links[1], conn_id)
    await links[1].is_alive()
    await come(world, port, links, 8)
    (held,) = (held for public, held in server.ports._held.items() if public.port == port)
    assert sorted(backend.load for backend in held.group) == [8, 8]


@ensureDeferred
async def test_a_new_member_is_not_run_over(world: World, server: TunnelServer) -> None:
    """It has no visitors, so all would be its."""
    port = free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    await come(world, port, links, 40)
    links.append(await join(world, server))
    await publish(links[2], port, {**GROUP, "balance": "least-connections"})
    found = Counter(await come(world, port, links, 24))
    assert 10 <= found[2] <= 14, "its share is 8, and it may have half as much again"


@ensureDeferred
async def test_sticky(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port, balance="sticky")
    homes: dict[str, int] = {}
    for number in range(2, 14):
        address = f"127.0.0.{number}"
        for _ in range(2):
            before = [visitors(link) for link in links]
            await come_from(world, port, address)
            await until(lambda before=before: [visitors(link) for link in links] != before)  # type: ignore[misc]
            (home,) = (index for index, link in enumerate(links) if visitors(link) > before[index])
            assert homes.setdefault(address, home) == home
    assert len(set(homes.values())) == 3, "twelve addresses that all have the same home, or two, is a chance of 0.01"


@ensureDeferred
async def test_a_service_that_does_not_answer_comes_last(world: World, server: TunnelServer) -> None:
    port = free_port()
    links = await group_of(world, server, 3, port)
    links[1].put(STATE, 0, DOWN)
    await links[1].is_alive()
    assert world.lines(f"its service of port {port} fails its health check (connection refused)")
    assert set(await come(world, port, links, 6)) == {0, 2}
    for link in (links[0], links[2]):
        link.put(STATE, 0, DOWN)
        await link.is_alive()
    # If none answers, all are tried: the news may be old.
    assert set(await come(world, port, links, 6)) == {0, 1, 2}
    links[1].put(STATE, 0, UP)
    await links[1].is_alive()
    assert world.lines(f"its service of port {port} passes its health check again")
    assert await come(world, port, links, 3) == [1, 1, 1]


@ensureDeferred
async def test_a_flood_of_news_fills_no_log(world: World, server: TunnelServer) -> None:
    port = free_port()
    (link,) = await group_of(world, server, 1, port)
    for _ in range(2000):
        link.put(STATE, 0, DOWN)
        link.put(STATE, 0, UP)
    await link.is_alive()
    assert len(world.lines("its service of")) <= MOST_ADMITTED, "as of all lines of one client"


@ensureDeferred
async def test_a_member_that_cannot_take_a_visitor_is_passed_over(world: World) -> None:
    server, port = world.server(limits=LinkLimits(max_streams=2)), free_port()
    links = await group_of(world, server, 3, port)
    assert Counter(await come(world, port, links, 6)) == {0: 2, 1: 2, 2: 2}
    await (await world.visitor(port)).ends()


@ensureDeferred
async def test_one_that_resets_everything_gets_no_more_than_its_share(world: World, server: TunnelServer) -> None:
    """It has always the fewest connections."""
    port = free_port()
    links = await group_of(world, server, 2, port, balance="least-connections")
    for _ in range(40):
        before = visitors(links[0]) + visitors(links[1])
        await world.visitor(port)
        await until(lambda before=before: visitors(links[0]) + visitors(links[1]) > before)  # type: ignore[misc]
        for conn_id in [conn_id for kind, conn_id, _ in links[0].frames if kind == NEW_CONN]:
            links[0].frames = [frame for frame in links[0].frames if frame[:2] != (NEW_CONN, conn_id)]
            links[0].put(ERROR, conn_id, b'{"scope": "stream", "code": "local-unreachable", "message": ""}')
            await links[0].is_alive()
    assert visitors(links[0]) <= 30


@ensureDeferred
async def test_one_that_hangs_costs_the_others_nothing(world: World, server: TunnelServer) -> None:
    """Its link is open, and nobody reads it: only its own visitors wait."""
    port = free_port()
    hanging, member = await join(world, server), await join(world, server)
    for link in (hanging, member):
        await publish(link, port)
    hanging.stop_reading()
    for _ in range(10):
        await world.visitor(port)
    await until(lambda: visitors(member) == 5)
    await member.is_alive()


# Host names


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
