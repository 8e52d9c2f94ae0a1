"""Three servers as one cluster while their Redis is away: what goes on, what waits, and who says so."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.redis_server import RedisServer, a_redis
from tests.patience import PATIENCE
from tests.process.cluster import APP, Cluster
from tests.process.commands import run_to_end
from tests.process.harness import Twistds, poll, wait_until_closed
from tests.process.services import Service, count, page

Serve = Callable[..., Service]

PROBLEM = "the directory of the cluster is away: "


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of these tests are where nobody else's are."""


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis for this test, to be started."""
    with a_redis(is_started=False) as server:
        yield server


def all_are(cluster: Cluster, status: int) -> None:
    """Wait until ``/readyz`` of each node has this status."""
    poll(lambda: all(node.ready() == status for node in cluster.nodes), PATIENCE, f"all nodes say {status}")


def say_so(cluster: Cluster, why: str = "") -> None:
    """Wait until ``rtunnel status`` names the problem of each node."""

    def is_named() -> bool:
        looks = [node.look() for node in cluster.nodes]
        return all(any(PROBLEM in each and why in each for each in look["problems"]) for look in looks)

    poll(is_named, PATIENCE, "status names the problem")


def are_well(cluster: Cluster) -> None:
    """Wait until all is as it should be."""
    all_are(cluster, 200)
    cluster.meet()
    poll(lambda: all(node.look()["problems"] == [] for node in cluster.nodes), PATIENCE, "no problems are left")


@pytest.mark.parametrize("how", ["killed", "paused"])
def test_redis_is_away_for_a_while(twistd: Twistds, serve: Serve, redis: RedisServer, how: str) -> None:
    redis.start()
    cluster = Cluster(twistd, redis)
    cluster.meet()
    service = serve(GET=page("here"), count=count)
    cluster.start_client(f"tcp:{cluster.public}={service.address}")
    cluster.published()
    all_are(cluster, 200)
    visitors = [node.visit(b"count") for node in cluster.nodes]
    for visitor in visitors:
        visitor.sendall(b"some")
    seen = [len(node.process.output) for node in cluster.nodes]
    if how == "killed":
        redis.kill()
    else:
        redis.freeze()
    say_so(cluster)
    all_are(cluster, 503)
    # Those who come now wait.
    waits = cluster.start_client(f"http:{APP}={service.address}")
    waits.wait_for(f"{APP}.*cluster-away")
    # Those that were there have noticed nothing.
    for visitor in visitors:
        visitor.sendall(b" more")
    if how == "killed":
        redis.start()
    else:
        redis.thaw()
    are_well(cluster)
    cluster.published()
    assert [node.by_host() for node in cluster.nodes] == [b"here"] * 3
    for visitor in visitors:
        with visitor:
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"9 " + hashlib.sha256(b"some more").hexdigest().encode()
    for node, begin in zip(cluster.nodes, seen, strict=True):
        assert node.by_port() == b"here"
        said = node.process.output[begin:]
        assert re.search(f"(?s){PROBLEM}.*the directory of the cluster is there", said), said
        assert "Traceback" not in said


def test_redis_comes_after_the_nodes(twistd: Twistds, serve: Serve, redis: RedisServer) -> None:
    cluster = Cluster(twistd, redis)
    say_so(cluster)
    all_are(cluster, 503)
    service = serve(GET=page("here"))
    client = cluster.start_client(f"tcp:{cluster.public}={service.address}")
    client.wait_for("cluster-away")
    for node in cluster.nodes:
        wait_until_closed(cluster.public, host=node.host)
    redis.start()
    are_well(cluster)
    cluster.published()
    assert [node.by_port() for node in cluster.nodes] == [b"here"] * 3


def test_the_password_is_wrong_until_it_is_right(twistd: Twistds, serve: Serve, redis: RedisServer) -> None:
    redis.login = ("-a", "right", "--no-auth-warning")
    redis.start("--requirepass", "right")
    cluster = Cluster(twistd, redis, url=f"redis+unix://in-the-way@{redis.socket}")
    for node in cluster.nodes:
        node.process.wait_for(f"{PROBLEM}.*password")
    say_so(cluster, "password")
    all_are(cluster, 503)
    service = serve(GET=page("here"))
    client = cluster.start_client(f"tcp:{cluster.public}={service.address}")
    client.wait_for("cluster-away")
    redis.cli("CONFIG", "SET", "requirepass", "in-the-way")
    are_well(cluster)
    cluster.published()
    assert [node.by_port() for node in cluster.nodes] == [b"here"] * 3
    for node in cluster.nodes:
        assert "in-the-way" not in node.process.output


@pytest.mark.parametrize("command", ["server", "signal"])
@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis//10.0.0.5", "has no redis:// in front"),
        ("redi://s3cret@10.0.0.5", "'redi' is no kind of directory; did you mean 'redis'"),
        ("redis://s3cret@10.0.0.5:0", "port 0 is out of range"),
    ],
)
def test_a_node_with_an_unusable_url(tmp_path: Path, command: str, url: str, why: str) -> None:
    done = run_to_end("rtunnel", command, env={"RTUNNEL_CLUSTER": url}, cwd=tmp_path)
    assert done.returncode == 1
    [line] = (done.stdout + done.stderr).splitlines()
    assert line.startswith(f"rtunnel {command}: environment variable RTUNNEL_CLUSTER: ")
    assert why in line
    assert "s3cret" not in line
