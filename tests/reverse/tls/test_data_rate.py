"""How many data connections there are under TLS, where a visitor may go by the link as well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred
from twisted.internet.defer import Deferred, gatherResults

from rtunnel.reverse.carriers import data_connections as data_server
from rtunnel.reverse.server import service as server_module
from rtunnel.tls.policy import TlsSettings
from rtunnel.upkeep.token_bucket import TokenBucket
from tests.ports import free_port
from tests.reverse.net import LocalService, Peer, connect, turns, until
from tests.tls.parts import Authority, Ends

#: Nothing is added in the time of a test.
NEVER = 1e-6


class Crowd:
    """Ends on one machine, and the visitors of a port."""

    def __init__(self, ends: Ends, authority: Authority) -> None:
        self.ends = ends
        self.authority = authority
        self.service = LocalService(lambda: Peer(echo=True))
        self.visitors: list[Peer] = []
        self.server: Any = None

    async def start(self, plane: str = "auto", *, tls: bool = True, clients: int = 1) -> list[Any]:
        """The pools of the clients, once nothing more is on its way."""
        await self.service.listen()
        authority = self.authority
        settings: TlsSettings | None = authority.trusts(authority.server()) if tls else None
        self.server = self.ends.start_server(settings, data_plane=plane)
        self.ports = [free_port() for _ in range(clients)]
        for number, port in enumerate(self.ports):
            settings = authority.trusts(authority.client(f"client{number}")) if tls else None
            self.ends.start_client(settings, remote_port=port, local=self.service.port)
        await self.ends.lines.wait_for("is published", count=clients)
        await until(lambda: sum(len(session.carriers) > 1 for session in self.server.sessions) == clients)
        await self.settle()
        return self.pools

    @property
    def pools(self) -> list[Any]:
        return [session.carriers[0] for session in self.server.sessions if len(session.carriers) > 1]

    async def settle(self) -> None:
        """Wait until no data connection is on its way."""
        await until(lambda: not any(self.server.tickets.outstanding(pool, 0.0) for pool in self.pools))
        await until(lambda: all(not pool._asked for pool in self.pools))

    async def come(self, count: int, port: int = 0) -> None:
        """So many visitors, each of whom is served; they stay."""
        for _ in range(count):
            visitor = Peer()
            self.visitors.append(visitor)
            await connect(port or self.ports[0], visitor)
            visitor.send(b"hello")
            await visitor.has(b"hello")

    async def come_at_once(self, count: int) -> None:
        """So many at the same time; one by one each might find a connection that was made for it."""
        await gatherResults([Deferred.fromCoroutine(self.come(1)) for _ in range(count)])

    def direct(self) -> int:
        return sum(len(pool._used) for pool in self.pools)

    def by_link(self) -> int:
        return sum(len(session.link.streams) for session in self.server.sessions)

    async def stop(self) -> None:
        for peer in (*self.service.peers, *self.visitors):
            if peer.connected:
                peer.abort()
        if self.service.listening is not None:
            await self.service.stop()


@pytest_twisted.async_yield_fixture
async def crowd(ends: Ends, authority: Authority) -> AsyncIterator[Crowd]:
    crowd = Crowd(ends, authority)
    yield crowd
    await crowd.stop()


@ensureDeferred
async def test_crowd_goes_by_the_link(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "PER_SECOND", NEVER)
    monkeypatch.setattr(data_server, "WAITING", 10)
    (pool,) = await crowd.start()
    assert len(pool._idle) == data_server.FEW_AT_FIRST
    await crowd.come(30)
    await until(lambda: crowd.direct() + len(pool._idle) == 10)
    await turns(100)
    assert crowd.direct() + len(pool._idle) == 10
    assert crowd.by_link() == 30 - crowd.direct()
    assert crowd.by_link() >= 20


@ensureDeferred
async def test_there_are_more_as_time_goes_by(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "PER_SECOND", NEVER)
    monkeypatch.setattr(data_server, "WAITING", 6)
    (pool,) = await crowd.start()
    await crowd.come(12)
    before = crowd.direct() + len(pool._idle)
    pool._buckets[1].rate = 10
    await until(lambda: crowd.direct() + len(pool._idle) >= before + 4)
    by_link = crowd.by_link()
    await crowd.come(1)
    assert crowd.by_link() == by_link


@ensureDeferred
async def test_what_waits_is_bounded(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "PER_SECOND", 1000)
    monkeypatch.setattr(data_server, "WAITING", 6)
    (pool,) = await crowd.start()
    while crowd.by_link() < 5:
        await crowd.come_at_once(10)
    await until(lambda: len(pool._idle) == 6)
    await turns(50)
    await crowd.settle()
    assert len(pool._idle) == 6


@ensureDeferred
async def test_what_is_in_use_is_bounded(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "IN_USE", 3)
    (pool,) = await crowd.start()
    for _ in range(3):
        await until(lambda: pool._idle)
        await crowd.come(1)
    assert crowd.direct() == 3
    await until(lambda: pool._idle)
    await crowd.come(2)
    assert crowd.direct() == 3
    assert crowd.by_link() == 2
    crowd.visitors[0].close()
    await until(lambda: crowd.direct() == 2)
    await crowd.come(1)
    assert crowd.direct() == 3


@ensureDeferred
async def test_all_links_together(crowd: Crowd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_server, "PER_SECOND", NEVER)
    monkeypatch.setattr(server_module, "TokenBucket", lambda _rate, _most, now: TokenBucket(NEVER, 9, now))
    await crowd.start(clients=3)
    for port in crowd.ports:
        await crowd.come(8, port)
    await until(lambda: crowd.direct() + sum(len(pool._idle) for pool in crowd.pools) == 9)
    assert crowd.direct() + crowd.by_link() == 24


@pytest.mark.parametrize(("plane", "tls"), [("direct", True), ("auto", False)])
@ensureDeferred
async def test_not_where_they_are_asked_for_or_cost_little(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, plane: str, tls: bool
) -> None:
    monkeypatch.setattr(data_server, "PER_SECOND", NEVER)
    monkeypatch.setattr(data_server, "WAITING", 1)
    monkeypatch.setattr(data_server, "IN_USE", 1)
    (pool,) = await crowd.start(plane, tls=tls)
    for _ in range(12):
        await until(lambda: pool._idle)
        await crowd.come(1)
    assert crowd.direct() == 12
    assert not crowd.by_link()
