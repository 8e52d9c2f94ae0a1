"""etc/haproxy/rtunnel.cfg: Debian's haproxy in front of three nodes of a cluster, as docs/operations.rst shows it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.redis_server import RedisServer, a_redis
from tests.documents import ROOT
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.cluster import APP, HOSTS, Cluster, has_no_error, wrk
from tests.process.harness import Twistds, need, poll, wait_until_open
from tests.process.rtc import ID
from tests.process.services import LOOPBACK, Service, curl, fetch, page
from tests.process.tls_services import TlsService, authority_at, certificate

SAMPLE = ROOT / "etc" / "haproxy" / "rtunnel.cfg"
TOKEN = "the-token-of-the-status-port"
NODES = "10.0.0.11", "10.0.0.12", "10.0.0.13"


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of these tests are where nobody else's are."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis that runs."""
    with a_redis() as server:
        yield server


class Haproxy:
    """haproxy with the sample as its settings, but for addresses and ports.

    :param behind: ports of the nodes, by those of the sample.
    :ivar ports: its own ports, by those of the sample.
    """

    def __init__(self, twistd: Twistds, behind: dict[int, int]) -> None:
        text = SAMPLE.read_text().replace("Bearer TOKEN", f"Bearer {TOKEN}")
        for theirs, ours in zip(NODES, HOSTS, strict=True):
            text = text.replace(f" {theirs}:", f" {ours}:")
        where = r"(server node\d 127\.0\.0\.\d:|check port )(\d+)"
        text = re.sub(where, lambda found: f"{found[1]}{behind[int(found[2])]}", text)
        self.ports = {int(port): free_port() for port in re.findall(r"^ +bind :(\d+)$", text, re.MULTILINE)}
        text = re.sub(r"bind :(\d+)", lambda found: f"bind {LOOPBACK}:{self.ports[int(found[1])]}", text)
        assert "10.0.0." not in text
        conf = twistd.directory / "haproxy.cfg"
        conf.write_text("global\n    maxconn 1000\n" + text)
        self.process = twistd.program(need("haproxy"), "-db", "-f", str(conf))
        for port in self.ports.values():
            wait_until_open(port)

    def is_down(self, name: str, node: int) -> None:
        """Wait until it has seen that a node is not ready."""
        self.process.wait_for(rf"Server {name}/node{node} is DOWN")


def who(connection: socket.socket, *_: str) -> None:
    """A talent: a web server that says where its visitors come from, and keeps their connections."""
    with connection.makefile("rb") as reader:
        while True:
            address = b""
            while head := reader.readline().strip():
                name, value = head.split(b": ", 1)
                address = value if name.lower() == b"x-forwarded-for" else address
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(address), address))
            # The next request, or the end.
            if not reader.readline():
                return


def test_servers_behind_the_sample(
    twistd: Twistds, serve: Callable[..., Service], redis: RedisServer, tmp_path: Path
) -> None:
    need("wrk")
    cluster = Cluster(twistd, redis, options=[f"--status-token={TOKEN}"], with_header=True)
    cluster.meet()
    behind = {80: cluster.http, 443: cluster.https, 7000: cluster.control, 7070: cluster.status}
    haproxy = Haproxy(twistd, behind | {8080: free_port(), 7071: free_port()})
    http, https = haproxy.ports[80], haproxy.ports[443]
    secure = TlsService(certificate(authority_at(tmp_path / "web"), APP), {"GET": page("secure")})
    service = serve(GET=who)
    cluster.start_client(f"http:{APP}={service.address}", f"https:{APP}={secure.address}")
    cluster.published()

    def ask() -> bytes:
        return curl(f"http://{LOOPBACK}:{http}/", "-H", f"Host: {APP}", "--interface", "127.0.0.77")

    # Each node in turn, and each knows the visitor.
    assert [ask() for _ in range(6)] == [b"127.0.0.77"] * 6
    at = f"{APP}:{https}:{LOOPBACK}"
    for _ in range(3):
        assert curl(f"https://{APP}:{https}/", "--resolve", at, "--insecure") == b"secure"
    # A client that names the balancer: its link and its data connections are at one node.
    public = free_port()
    by_balancer = twistd(
        "rtunnel-client",
        f"--server={LOOPBACK}:{haproxy.ports[7000]}",
        f"--publish=tcp:{public}={service.address}",
        "--data-plane=direct",
    )
    by_balancer.wait_for("is published")
    for node in cluster.nodes:
        assert curl(f"http://{node.host}:{public}/") == b"", node.host
    by_balancer.terminate()
    # A node that drains: nobody notices.
    drains, dies, stays = cluster.nodes
    load = wrk(twistd, f"http://{LOOPBACK}:{http}/", "-H", f"Host: {APP}")
    assert twistd.rtunnel("drain", str(drains.process.pid)).wait() == 0
    haproxy.is_down("http", 1)
    assert drains.process.wait() == 0
    has_no_error(load)
    # One that is killed: those who come then go to another one at once.
    cluster.wait_for_links()
    cluster.published()
    dies.process.kill()
    assert [ask() for _ in range(4)] == [b"127.0.0.77"] * 4
    haproxy.is_down("http", 2)
    assert [ask() for _ in range(4)] == [b"127.0.0.77"] * 4
    # Without its directory, the last one is not ready.
    redis.freeze()
    haproxy.is_down("http", 3)
    assert not stays.look()["ready"]
    secure.close()


def test_signaling_behind_the_sample(twistd: Twistds, serve: Callable[..., Service], redis: RedisServer) -> None:
    """Host and client know one address, that of the balancer, and are at two nodes."""
    service = serve(GET=page("here"))
    port, status, local = free_port(), free_port(), free_port()
    nodes = [
        twistd(
            "rtc-signal",
            f"--addr=haproxy:tcp:{port}:interface={host}",
            f"--status-listen={host}:{status}",
            f"--status-token={TOKEN}",
            f"--cluster=redis+unix://{redis.socket}",
        )
        for host in HOSTS
    ]
    for node in nodes:
        node.wait_for("the directory of the cluster is there")
    others = {each: free_port() for each in (80, 443, 7000, 7070)}
    haproxy = Haproxy(twistd, {8080: port, 7071: status, **others})
    url = f"--signal=ws://{LOOPBACK}:{haproxy.ports[8080]}"
    ends = [f"--id={ID}", url, "--stun-server=", f"--ice-interface={LOOPBACK}"]
    host = twistd("rtc-host", *ends, f"--remote={service.address}", "--drain=1")
    host.wait_for(f"host '{ID}' offers ")
    client = twistd("rtc-client", *ends, f"--local=:{local}", "--drain=1")
    client.wait_for(f"connected to host '{ID}'")
    assert fetch(local) == "here"

    def at() -> int:
        """Which node the host has come to last."""
        found = [len(re.findall(f"host '{ID}' at 127.0.0.1:.* registered", node.output)) for node in nodes]
        return found.index(max(found))

    poll(lambda: any("registered" in node.output for node in nodes), PATIENCE, "the host is somewhere")
    killed = nodes[at()]
    lives = [node for node in nodes if node is not killed]
    seen = {node: len(node.output) for node in lives}
    killed.kill()
    poll(
        lambda: any(f"host '{ID}'" in node.output[seen[node] :] for node in lives),
        PATIENCE,
        "the host comes to another one",
    )
    again = free_port()
    twistd("rtc-client", *ends, f"--local=:{again}", "--drain=1").wait_for(f"connected to host '{ID}'")
    assert fetch(again) == "here"
