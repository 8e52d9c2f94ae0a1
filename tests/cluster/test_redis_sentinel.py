"""Three real Sentinels elect a new master when the old one dies."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol

from rtunnel.cluster.interface import Away, Taken
from rtunnel.cluster.redis_sentinels import find_master
from rtunnel.cluster.settings import ClusterUrl
from tests.cluster.redis_server import RedisServer
from tests.cluster.test_redis_places import KIND, started
from tests.cluster.world import HASTY, KEY, not_lost
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.reverse.net import until
from tests.tls.parts import Authority

__all__ = ["started"]

HOST = "127.0.0.1"
MASTER, PASSWORD, SENTINEL_PASSWORD = "mymaster", "s3cret", "wat(h"
COUNT = 3


class Watched:
    """A master, a replica, and three Sentinels, of which two must agree.

    :param authority: issues a certificate for all of them; None: no TLS, and no passwords.
    :ivar other_ca: has issued none.
    """

    other_ca: Path

    def __init__(self, directory: Path, authority: Authority | None) -> None:
        self._directory = directory
        self._tls: dict[str, str] = {}
        self._passwords = {"requirepass": PASSWORD, "masterauth": PASSWORD} if authority else {}
        if authority is not None:
            holder = authority.server(hosts=[HOST], kind=KIND)
            self._tls = {
                "tls-cert-file": str(holder.cert),
                "tls-key-file": str(holder.key),
                "tls-ca-cert-file": str(authority.cert),
                "tls-auth-clients": "no",
                "tls-replication": "yes",
            }
        self.ports = free_port(), free_port()
        self.old, self.new = (self._redis(port) for port in self.ports)
        self.old.start()
        self.new.start("--replicaof", HOST, str(self.ports[0]))
        poll(lambda: "master_link_status:up" in self.new.cli("INFO", "replication"), PATIENCE, "a replica")
        self.sentinel_ports = [free_port() for _ in range(COUNT)]
        self.sentinels = [RedisServer(directory, name=f"s{number}") for number in range(COUNT)]
        for number in range(COUNT):
            self._start_sentinel(number)
        others = f"num-other-sentinels\n{COUNT - 1}\n"
        for sentinel in self.sentinels:
            poll(lambda sentinel=sentinel: self._knows(sentinel, others), PATIENCE, "all Sentinels know all")  # type: ignore[misc]

    def _redis(self, port: int) -> RedisServer:
        options = {("tls-port" if self._tls else "port"): str(port)} | self._tls | self._passwords
        found = RedisServer(
            self._directory, *(part for key, value in options.items() for part in (f"--{key}", value)), name=f"r{port}"
        )
        found.login = ("-a", PASSWORD, "--no-auth-warning") if self._passwords else ()
        return found

    def _start_sentinel(self, number: int) -> None:
        port, sentinel = self.sentinel_ports[number], self.sentinels[number]
        lines = [
            f"unixsocket {sentinel.socket}",
            *(("port 0", f"tls-port {port}") if self._tls else (f"port {port}",)),
            *(f"{key} {value}" for key, value in self._tls.items()),
            f"dir {self._directory}",
            f"sentinel monitor {MASTER} {HOST} {self.ports[0]} 2",
            f"sentinel down-after-milliseconds {MASTER} 300",
            f"sentinel failover-timeout {MASTER} 3000",
        ]
        if self._passwords:
            lines += [
                f"sentinel auth-pass {MASTER} {PASSWORD}",
                f"requirepass {SENTINEL_PASSWORD}",
                f"sentinel sentinel-pass {SENTINEL_PASSWORD}",
            ]
            sentinel.login = ("-a", SENTINEL_PASSWORD, "--no-auth-warning")
        config = self._directory / f"s{number}.conf"
        config.write_text("\n".join(lines) + "\n")
        sentinel.start_as(str(config), "--sentinel")

    @staticmethod
    def _knows(sentinel: RedisServer, others: str) -> bool:
        told = sentinel.cli("SENTINEL", "MASTER", MASTER)
        return others in told and "num-slaves\n1\n" in told and "flags\nmaster\n" in told

    def kill(self) -> None:
        for each in (*self.sentinels, self.old, self.new):
            each.kill()


@pytest.fixture(params=["redis+sentinel", "rediss+sentinel"])
def watched(request: pytest.FixtureRequest, short_path: Path, tmp_path: Path) -> Iterator[tuple[Watched, ClusterUrl]]:
    """All that, and the URL for it, which names a Sentinel first that is not there."""
    authority = Authority(tmp_path / "pki", kind=KIND) if request.param == "rediss+sentinel" else None
    found = Watched(short_path, authority)
    found.other_ca = Authority(tmp_path / "other", "other CA", kind=KIND).cert
    addresses = tuple((HOST, port) for port in (free_port(), *found.sentinel_ports))
    url = ClusterUrl(request.param, addresses, master=MASTER)
    if authority is not None:
        url = replace(url, password=PASSWORD, sentinel_password=SENTINEL_PASSWORD, ca=authority.cert)
    yield found, url
    found.kill()


@pytest.mark.process
@ensureDeferred
async def test_an_election(watched: tuple[Watched, ClusterUrl], started: Any) -> None:
    """A master that dies is replaced, nodes follow, and claims are still whose they were."""
    redis, url = watched
    node = started(url, HASTY)
    await until(lambda: not node.why_away, "a directory")
    assert node._link.place == f"{HOST}:{redis.ports[0]}"
    claim = await node.claim(KEY, "me", not_lost)
    redis.old.kill()
    await until(lambda: node.why_away, "the node's notice of that")
    # The Sentinel that is asked first tells nothing.
    redis.sentinels[0].freeze()
    await until(
        lambda: node._link is not None and node._link.place == f"{HOST}:{redis.ports[1]}" and not node.why_away,
        "the new master",
    )
    assert claim.is_good
    # What comes back still says that it is a master, and so does the Sentinel that was stopped. Nobody goes there.
    redis.old.start()
    redis.sentinels[0].thaw()
    other = started(url, HASTY)
    await until(lambda: not other.why_away, "a directory of another node")
    assert other._link.place == f"{HOST}:{redis.ports[1]}"
    with pytest.raises(Taken):
        await other.claim(KEY, "you", not_lost)


def sentinel(stopping: ExitStack, *reply: bytes) -> tuple[str, int]:
    """The address of something that says *reply* whatever it is asked."""
    wire = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in reply)

    class Saying(Protocol):
        transport: Any

        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"*%d\r\n%s" % (len(reply), wire))

    factory: Any = Factory.forProtocol(Saying)
    listening: Any = reactor.listenTCP(0, factory, interface=HOST)
    stopping.callback(listening.stopListening)
    return HOST, listening.getHost().port


def master(name: bytes, epoch: int) -> tuple[bytes, ...]:
    return b"name", b"mymaster", b"ip", name, b"port", b"6379", b"flags", b"master", b"config-epoch", b"%d" % epoch


@pytest.mark.parametrize("place", range(3))
@ensureDeferred
async def test_a_sentinel_that_has_not_seen_the_election(place: int) -> None:
    """It is not believed, wherever it stands in the URL."""
    with ExitStack() as stopping:
        addresses = [sentinel(stopping, *master(b"new", 7)) for _ in range(2)]
        addresses.insert(place, sentinel(stopping, *master(b"old", 6)))
        url = ClusterUrl("redis+sentinel", tuple(addresses), master=MASTER)
        assert await find_master(reactor, url, PATIENCE) == ("new", 6379)


@ensureDeferred
async def test_most_sentinels_are_enough() -> None:
    """One that is silent costs no time."""
    with ExitStack() as stopping, socket.create_server((HOST, 0)) as silent:
        addresses = [silent.getsockname(), *(sentinel(stopping, *master(b"here", 1)) for _ in range(2))]
        url = ClusterUrl("redis+sentinel", tuple(addresses), master=MASTER)
        assert await find_master(reactor, url, 2 * PATIENCE) == ("here", 6379)


@ensureDeferred
async def test_a_sentinel_that_is_named_twice() -> None:
    url = ClusterUrl("redis+sentinel", ((HOST, free_port()),) * 2, master=MASTER)
    with pytest.raises(Away, match=r"^Sentinel 127\.0\.0\.1:\d+: [^;]*$"):
        await find_master(reactor, url, PATIENCE)


@pytest.mark.parametrize("reply", [(), (b"ip",), (b"ip", b"host"), (b"ip", b"a", b"port", b"x", b"config-epoch", b"1")])
@ensureDeferred
async def test_an_odd_reply(reply: tuple[bytes, ...]) -> None:
    with ExitStack() as stopping:
        url = ClusterUrl("redis+sentinel", (sentinel(stopping, *reply),), master=MASTER)
        with pytest.raises(Away, match=r"^Sentinel 127\.0\.0\.1:\d+: it does not say where the master is$"):
            await find_master(reactor, url, PATIENCE)


@pytest.mark.process
@ensureDeferred
async def test_sentinels_that_are_of_no_use(watched: tuple[Watched, ClusterUrl], started: Any) -> None:
    """What is wrong is said, of each Sentinel by its address."""
    redis, url = watched
    ports = redis.sentinel_ports

    async def says(text: str, **changed: Any) -> None:
        node = started(replace(url, **changed), HASTY)
        await until(lambda: all(f"Sentinel {HOST}:{port}: {text}" in node.why_away for port in ports), text)
        node.stopService()

    await says("knows no master 'another'", master="another")
    if url.is_secured:
        await says("it asks for a password of its own; write ?sentinel_password=", sentinel_password="")
        await says("it refuses ?sentinel_password=", sentinel_password="another")
        await says("its certificate is refused", ca=redis.other_ca)
        await says("it has closed the connection", kind="redis+sentinel", ca=None)
    else:
        await says("it has no password; leave out ?sentinel_password=", sentinel_password="x")
        await says("it does not answer", kind="rediss+sentinel")
