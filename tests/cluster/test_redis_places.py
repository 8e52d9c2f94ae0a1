"""Which Redis: that of a failover, one that Sentinels name, one with TLS, and what its user may do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from pytest_twisted import ensureDeferred

from rtunnel.cluster.interface import Taken
from rtunnel.cluster.redis import RedisDirectory
from rtunnel.cluster.settings import ClusterUrl
from rtunnel.cluster.times import Times
from tests.cluster.redis_server import RedisServer
from tests.cluster.world import HASTY, KEY, LONG, claimed, lines, not_lost
from tests.documents import block
from tests.leftovers import TestLog
from tests.ports import free_port
from tests.process.harness import Process, clean_environment
from tests.reverse.net import reactor, until
from tests.tls.parts import Authority

#: The keys of certificates, of a kind that the OpenSSL of any Redis has.
KIND = "ECDSA"


class Failover:
    """A master and a replica, which is promoted while the master goes on for a while, as after a partition."""

    def __init__(self, directory: Path) -> None:
        self.ports = free_port(), free_port()
        self.old, self.new = (RedisServer(directory, "--port", str(port), name=f"r{port}") for port in self.ports)
        self.old.start()
        self.new.start("--replicaof", "127.0.0.1", str(self.ports[0]))

    def url(self, *ports: int) -> ClusterUrl:
        return ClusterUrl("redis", tuple(("127.0.0.1", port) for port in ports))

    def promote(self) -> None:
        self.new.cli("REPLICAOF", "NO", "ONE")


@pytest.fixture
def failover(short_path: Path) -> Iterator[Failover]:
    found = Failover(short_path)
    yield found
    found.old.kill()
    found.new.kill()


@pytest_twisted.async_yield_fixture
async def started() -> Any:
    nodes: list[RedisDirectory] = []

    def start(url: ClusterUrl, times: Times = LONG) -> RedisDirectory:
        node = RedisDirectory(reactor, url, times)
        nodes.append(node)
        node.startService()
        return node

    yield start
    for node in nodes:
        await node.stopService()


@pytest.mark.process
@ensureDeferred
async def test_a_failover_that_loses_writes(failover: Failover, started: Any) -> None:
    """Two owners have one key until the old master's node notices; then only one has it."""
    a = started(failover.url(*failover.ports))
    await until(lambda: not a.why_away)
    reasons: list[str] = []
    kept = await a.claim("kept", "me", not_lost)
    await until(lambda: "kept" in failover.new.cli("KEYS", "*"))
    failover.promote()
    lost = await a.claim(KEY, "me", reasons.append)
    b = started(failover.url(failover.ports[1]))
    await until(lambda: not b.why_away)
    with pytest.raises(Taken):
        await b.claim("kept", "you", not_lost)
    second = await b.claim(KEY, "you", not_lost)
    assert second.number > lost.number
    failover.old.kill()
    await until(lambda: reasons)
    assert lost.is_lost
    await until(lambda: not a.why_away)
    assert kept.is_good
    assert second.is_good
    assert await a.find(KEY) == (b.node,)


@pytest.mark.process
@ensureDeferred
async def test_only_a_master_will_do(failover: Failover, started: Any, log: TestLog) -> None:
    await until(lambda: "up" in failover.new.cli("INFO", "replication").partition("master_link_status:")[2][:3])
    node = started(failover.url(failover.ports[1]))
    await until(lambda: node.why_away == f"127.0.0.1:{failover.ports[1]}: it is a replica")
    failover.promote()
    await until(lambda: not node.why_away)
    # It becomes a replica again, without a word to those who are connected.
    failover.new.cli("REPLICAOF", "127.0.0.1", str(failover.ports[0]))
    await until(lambda: "it is a replica" in node.why_away)


class SecuredRedis(RedisServer):
    """A Redis with TLS at a port."""

    def __init__(self, directory: Path, authority: Authority, hosts: list[str]) -> None:
        holder = authority.server(hosts=hosts, kind=KIND)
        self.port = free_port()
        super().__init__(
            *(directory, "--tls-port", str(self.port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(holder.cert), "--tls-key-file", str(holder.key)),
            *("--tls-ca-cert-file", str(authority.cert)),
        )


@pytest.mark.process
@ensureDeferred
async def test_tls(short_path: Path, tmp_path: Path, started: Any, log: TestLog) -> None:
    authority = Authority(tmp_path / "pki", kind=KIND)
    other = Authority(tmp_path / "other", "other CA", kind=KIND)
    server = SecuredRedis(short_path, authority, ["127.0.0.1"])
    server.start()
    try:
        url = ClusterUrl("rediss", (("127.0.0.1", server.port),), ca=authority.cert)
        node = started(url)
        await until(lambda: not node.why_away)
        assert (await node.claim(KEY, "me", not_lost)).is_good
        wrong = started(replace(url, ca=other.cert))
        await until(lambda: "its certificate is refused" in wrong.why_away)
        assert "is not from a CA of ?ca=" in wrong.why_away
        misnamed = started(replace(url, addresses=(("localhost", server.port),)))
        await until(lambda: "is for 127.0.0.1, not for localhost" in misnamed.why_away)
        missing = started(replace(url, ca=tmp_path / "nothing"))
        await until(lambda: "cannot read" in missing.why_away)
        assert len(lines(log)) == 3
    finally:
        server.kill()


PROGRAM = """
import sys
from types import SimpleNamespace

from rtunnel.options.plugins.reactor import leave_out_tls, prepared_reactor

leave_out_tls(SimpleNamespace(parent=SimpleNamespace()))
assert "OpenSSL" not in sys.modules
reactor = prepared_reactor()

from rtunnel.cluster.engines import directory_for
from rtunnel.cluster.settings import cluster_url
from rtunnel.upkeep.periodic import Repeated

node = directory_for(reactor, cluster_url(sys.argv[1]))
node.startService()


def look():
    if node.is_sure:
        print("is sure", flush=True)
        node.stopService().addCallback(lambda _: reactor.callLater(0, reactor.stop))
        looks.stop()


looks = Repeated(reactor, "looks", look)
looks.start(0.01)
reactor.run()
"""


@pytest.mark.process
def test_tls_in_a_server_that_has_left_it_out(short_path: Path, tmp_path: Path) -> None:
    """``rtunnel-server`` imports Twisted without its TLS, and the directory brings its own."""
    authority = Authority(tmp_path / "pki", kind=KIND)
    server = SecuredRedis(short_path, authority, ["127.0.0.1"])
    server.start()
    url = f"rediss://127.0.0.1:{server.port}?ca={authority.cert}"
    try:
        with Process([sys.executable, "-c", PROGRAM, url], cwd=tmp_path, env=clean_environment()) as process:
            process.wait_for("is sure")
            assert process.wait() == 0
            assert "Traceback" not in process.output
    finally:
        server.kill()


@pytest.mark.process
@ensureDeferred
async def test_tls_where_there_is_none(failover: Failover, started: Any) -> None:
    node = started(replace(failover.url(failover.ports[0]), kind="rediss"), HASTY)
    await until(lambda: node.why_away.endswith("it does not answer; does it speak TLS at that port?"))


@ensureDeferred
async def test_the_user_of_the_documents(own_redis: RedisServer, short_path: Path) -> None:
    """The ACL that docs/cluster.rst prints is enough for a node, and not for more."""
    own_redis.start()
    line = " ".join(block("cluster.rst", "user rtunnel").split()).replace("PASSWORD", "right")
    _, name, *rules = line.split()
    assert own_redis.cli("ACL", "SETUSER", name, *rules).strip() == "OK"
    url = ClusterUrl("redis+unix", (), str(own_redis.socket), user=name, password="right")
    a, b = RedisDirectory(reactor, url, LONG), RedisDirectory(reactor, url, LONG)
    heard: list[object] = []
    b.listen("x", lambda sender, message: heard.append(message))
    for each in (a, b):
        each.announce({"at": 1})
        each.startService()
    await until(lambda: not a.why_away and not b.why_away, a.why_away)
    claim = await a.claim(KEY, "me", not_lost)
    with pytest.raises(Taken):
        await b.claim(KEY, "you", not_lost)
    assert await b.find(KEY) == (a.node,)
    assert (await a.tally("x", 1), await a.tally("x", 0)) == (1, 0)
    assert await a.send(b.node, "x", {"text": "hello"})
    await until(lambda: heard and a.nodes)
    a.release(claim)
    await claimed(b, KEY, "you")
    await a.stopService()
    await b.stopService()
    nobody = RedisDirectory(reactor, replace(url, prefix="another:"), LONG)
    nobody.startService()
    await until(lambda: "the user of --cluster may not do what is needed" in nobody.why_away)
    await nobody.stopService()
