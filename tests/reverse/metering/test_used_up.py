"""What happens when a monthly quota is used up: at the server, for all kinds of tunnels, until the next month."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred

from rtunnel.access.admission import AdmissionSettings
from rtunnel.access.rules import read_rules
from rtunnel.addresses import DialAddress
from rtunnel.reverse.settings import TunnelSettings
from tests.ports import free_port
from tests.reverse.metering.parts import NAME, WAYS, Limited, Source
from tests.reverse.net import BOTH_PLANES, ERROR, HOST, INIT, until
from tests.reverse.world import World
from tests.rtc.udp.parts import Echo, Program

MB = 1_000_000
#: The first second of the next month.
DECEMBER = 1_796_083_200.0
CUT = "all of the quota of 1 MB of this month is used; it begins anew on 2026-12-01, 00:00 UTC"


async def soon(limited: Limited, condition: Any) -> None:
    """Let the buckets' clock run until something is so."""

    def look() -> object:
        limited.clock.advance(0.01)
        return condition()

    await until(look)


async def refused(limited: Limited, way: str) -> None:
    """Another visitor gets nothing."""
    visitor = await limited.visit(way)
    if way == "http":
        await soon(limited, lambda: visitor.count)
    else:
        await soon(limited, lambda: visitor.over)
        assert visitor.count < 10  # an alert of TLS


@BOTH_PLANES
@pytest.mark.parametrize("way", WAYS)
@ensureDeferred
async def test_visitors_are_cut_and_refused(world: World, way: str, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    size = 600_000
    sizes = [size, 10 * size, size]  # of visitors; or of requests, which come on one connection
    service = await world.service(lambda: Source(way, *sizes) if way == "http" else Source(way, sizes.pop(0)))
    await limited.publish(way, service.port, quota="1MB", bandwidth="80Mbit")
    first = await limited.visit(way)
    await soon(limited, lambda: first.count >= size)
    assert not world.lines("of the quota")
    running = await limited.visit(way)
    await soon(limited, lambda: running.lost if way != "http" else running.over)
    assert running.count < 10 * size
    if way != "http":
        await soon(limited, lambda: first.lost)
    where = f"port {limited.public}" if way == "tcp" else f"{way}://{NAME}"
    await world.logged(f"{where} of the client '127.0.0.1': {CUT}")
    await world.logged(f"the server says: {CUT}")
    peers = len(service.peers)
    await refused(limited, way)
    assert len(service.peers) == peers
    # The month is over.
    limited.date = DECEMBER
    limited.metering.quotas.tick()
    again = await limited.visit(way)  # by HTTP, on another connection
    await soon(limited, lambda: again.count >= size)


@ensureDeferred
async def test_the_page_says_when(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source("http", 10 * MB))
    await limited.publish("http", service.port, quota="1MB", bandwidth="80Mbit")
    first = await limited.visit("http")
    await soon(limited, lambda: first.over)
    limited.date = DECEMBER - 3600
    answer = limited.server.metering.answer(f"http://{NAME}")
    assert answer.status == 503
    assert "is used up; it is back on 2026-12-01, 00:00 UTC" in answer.why
    assert answer.fields == [("Retry-After", "3600")]
    second = await limited.visit("http")
    await soon(limited, lambda: second.count >= len(answer.encode(is_head=False, is_old=False, keeps_alive=True)))


@ensureDeferred
async def test_a_warning_comes_first(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source("tcp", 850_000))
    await limited.publish("tcp", service.port, quota="1MB")
    visitor = await limited.visit("tcp")
    await soon(limited, lambda: world.lines("the server says: 8"))
    [line] = world.lines("the server says: 8")
    assert "of the quota of 1 MB of this month is used; it begins anew on 2026-12-01, 00:00 UTC" in line
    await soon(limited, lambda: visitor.count == 850_000)
    assert visitor.lost is None
    assert len(world.lines("of the quota of 1 MB")) == 2  # the server's and the client's


@ensureDeferred
async def test_whoever_comes_back_is_told(world: World, tmp_path: Path) -> None:
    """Also after a restart of the server."""
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source("tcp", 2 * MB))
    await limited.publish("tcp", service.port, quota="1MB")
    visitor = await limited.visit("tcp")
    await soon(limited, lambda: visitor.lost)
    limited.server.stop_now()
    await limited.server.stopService()
    again = Limited(world, tmp_path)
    again.public = limited.public
    before = len(world.lines("the server says: all"))
    await again.publish("tcp", service.port, quota="1MB")
    await soon(again, lambda: len(world.lines("the server says: all")) == before + 1)
    await refused(again, "tcp")
    # A larger one leaves room.
    assert again.metering.quotas.count(next(iter(again.metering.quotas._counts)), 2 * MB).is_used_up is False


@ensureDeferred
async def test_datagrams_are_dropped(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    service = Echo()
    await limited.publish("udp", service.address[1], quota="1MB")
    visitor, other = Program(), Program()
    count = 0
    while not world.lines("all of the quota"):
        visitor.send(bytes(30_000), (HOST, limited.public))
        limited.clock.advance(0)
        await until(lambda: visitor.poll() or world.lines("all of the quota"))
        count += 1
    assert count <= 18
    other.send(b"hello", (HOST, limited.public))
    await world.logged("are dropped: its quota is used up")
    limited.date = DECEMBER
    limited.metering.quotas.tick()
    other.send(b"hello", (HOST, limited.public))
    assert (await other.gets())[0] == b"hello"
    for each in (visitor, other):
        each.close()
    await service.close()


def member(local: int, public: int, quota: str = "1MB") -> TunnelSettings:
    rules = read_rules({"group": "web", "group-key": "0123456789abcdef", "quota": quota}, "tcp")
    return TunnelSettings(public, DialAddress.parse(f"{HOST}:{local}"), rules=rules)


@BOTH_PLANES
@ensureDeferred
async def test_members_of_a_group_are_counted_together(world: World, tmp_path: Path) -> None:
    limited = Limited(world, tmp_path)
    services = [await world.service(lambda: Source("tcp", 600_000)) for _ in range(2)]
    for number, service in enumerate(services):
        await limited.client(member(service.port, limited.public), before=number)
    visitors = [await limited.visit("tcp") for _ in range(2)]
    await soon(limited, lambda: all(visitor.lost for visitor in visitors))
    assert [len(service.peers) for service in services] == [1, 1]
    await world.logged(f"port {limited.public} of the group 'web': {CUT}")
    assert len(world.lines(f"the server says: {CUT}")) == 2
    await refused(limited, "tcp")


@BOTH_PLANES
@ensureDeferred
async def test_of_a_client(world: World, tmp_path: Path) -> None:
    """All its tunnels together, by the clients file; other clients go on."""
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: token-of-laptop, quota: 1MB}\nphone: {token: token-of-phone}\n")
    limited = Limited(world, tmp_path, admission=AdmissionSettings(clients=clients))
    service = await world.service(lambda: Source("tcp", 600_000))

    def tunnel(port: int) -> TunnelSettings:
        return TunnelSettings(port, DialAddress.parse(f"{HOST}:{service.port}"))

    other, third = free_port(), free_port()
    await limited.client(tunnel(limited.public), tunnel(other), token="token-of-laptop")
    await limited.client(tunnel(third), token="token-of-phone", before=2)
    visitors = [await limited.visit("tcp"), await limited.visit("tcp", port=other)]
    await soon(limited, lambda: all(visitor.lost for visitor in visitors))
    await world.logged(f"the client 'laptop': {CUT}")
    assert len(world.lines(f"the server says: {CUT}")) == 1
    for port in (limited.public, other):
        refused_one = await limited.visit("tcp", port=port)
        await soon(limited, lambda visitor=refused_one: visitor.lost)
    lucky = await limited.visit("tcp", port=third)
    await soon(limited, lambda: lucky.count == 600_000)


@ensureDeferred
async def test_who_is_not_let_in_changes_nothing(world: World, tmp_path: Path) -> None:
    """Another client that asks for the group's place, with a wrong key or another quota."""
    limited = Limited(world, tmp_path)
    service = await world.service(lambda: Source("tcp", 600_000))
    await limited.client(member(service.port, limited.public))
    [count] = limited.metering.quotas._counts.values()
    link = await world.raw_extended(limited.server, capabilities=["withdraw", "rules"])
    for number, key in enumerate(("0123456789abcdef", "another-key-of-16")):
        rules = {"group": "web", "group-key": key, "quota": 900 * MB}
        link.put(INIT, number, f"{limited.public}:local\n{json.dumps(rules)}".encode())
        await link.take_json(ERROR, number)
    assert count.limit == MB
    assert list(limited.metering.quotas._counts.values()) == [count]
