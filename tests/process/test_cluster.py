"""Three servers as one cluster, with a real Redis: where visitors come, and what a node that ends costs."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.cluster.redis_server import a_redis
from tests.patience import PATIENCE
from tests.process.cluster import APP, Cluster, Node, has_no_error, pki, wrk
from tests.process.harness import Process, Twistds, need, poll, wait_until_closed
from tests.process.rtc import UdpService
from tests.process.services import Service, count, expected, get, page, pieces, read_all, read_bytes
from tests.process.systemd import Systemd
from tests.process.tls_services import TlsService, authority_at, certificate
from tests.process.upgrades import Successors, ended

Serve = Callable[..., Service]
Start = Callable[..., Cluster]

#: What visitors download: one of them all of it, and the others a part.
ALL, PART = 1_000_000_000, 120_000_000
BEGINNING = 1000


@cache
def rest(amount: int) -> tuple[int, str]:
    """What a download has after its beginning."""
    digest = hashlib.sha256()
    begins = True
    for piece in pieces(amount, 7):
        digest.update(piece[BEGINNING:] if begins else piece)
        begins = False
    return amount - BEGINNING, digest.hexdigest()


@pytest.fixture(autouse=True)
def _sockets(control_sockets: Path) -> None:
    """The control sockets of these tests are where nobody else's are."""


@pytest.fixture
def start(twistd: Twistds) -> Iterator[Start]:
    """``start(tls)``: three nodes that know each other, and a Redis."""
    with a_redis() as redis:

        def begin(tls: bool = False) -> Cluster:
            env, client_env = pki(twistd.directory) if tls else ({}, {})
            options = ["--tls"] if tls else []
            cluster = Cluster(twistd, redis, options=options, client_options=options, env=env, client_env=client_env)
            cluster.meet()
            return cluster

        yield begin


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_visitor_comes_to_any_node(
    start: Start, serve: Serve, udp_service: UdpService, tmp_path: Path, tls: bool
) -> None:
    need("curl")
    cluster = start(tls)
    service = serve(GET=page("here"), get=get)
    secure = TlsService(certificate(authority_at(tmp_path / "web"), APP), {"GET": page("secure")})
    cluster.start_client(
        f"tcp:{cluster.public}={service.address}",
        f"http:{APP}={service.address}",
        f"https:{APP}={secure.address}",
        f"udp:{cluster.udp}={udp_service.address}",
    )
    cluster.published()
    assert len(cluster.wait_for_links()) == 2
    for node in cluster.nodes:
        assert node.by_port() == node.by_host() == b"here", node.host
        assert node.by_name() == b"secure", node.host
        assert node.by_udp() == b"noitseuq", node.host
        with node.visit(b"get 3000000 7") as visitor:
            assert read_all(visitor) == expected(3_000_000, 7)
    secure.close()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_node_is_killed(start: Start, serve: Serve, tls: bool) -> None:
    """Visitors of other nodes notice nothing, and new ones are served there at once."""
    cluster = start(tls)
    service = serve(GET=page("here"), count=count)
    client = cluster.start_client(f"tcp:{cluster.public}={service.address}")
    cluster.published()
    dies, lives = cluster.wait_for_links()
    (third,) = (node for node in cluster.nodes if node not in (dies, lives))
    assert [node.by_port() for node in cluster.nodes] == [b"here"] * 3
    with lives.visit(b"count") as stays:
        stays.sendall(b"some")
        dies.process.kill()
        # Nothing has to be noticed first at the node that has a link of its own.
        assert lives.by_port() == b"here"
        assert third.by_port() == b"here"
        # The client goes to the third.
        poll(lambda: {node.host for node in cluster.linked()} == {lives.host, third.host}, PATIENCE, "two links")
        assert third.by_port() == b"here"
        stays.sendall(b" more")
        stays.shutdown(socket.SHUT_WR)
        assert stays.recv(100) == b"9 " + hashlib.sha256(b"some more").hexdigest().encode()
    dies.start()
    cluster.meet()
    poll(lambda: serves(dies), PATIENCE, "the node that is back serves")
    assert client.terminate() == 0
    for node in cluster.nodes:
        assert "Traceback" not in node.process.output


def test_a_node_is_upgraded(start: Start, serve: Serve, successors: Successors) -> None:
    """Its visitors and those who cross to it stay, and others are served at all nodes while its successor comes."""
    cluster = start(True)
    service = serve(GET=page("here"), count=count)
    cluster.start_client(f"tcp:{cluster.public}={service.address}", f"http:{APP}={service.address}")
    cluster.published()
    with ExitStack() as stack:
        visitors = [stack.enter_context(node.visit(b"count")) for node in cluster.nodes]
        for visitor in visitors:
            visitor.sendall(b"some")
        upgraded, *_ = cluster.wait_for_links()
        successors.upgrade(upgraded.process.pid)
        assert [node.by_port() for node in cluster.nodes] == [b"here"] * 3
        assert [node.by_host() for node in cluster.nodes] == [b"here"] * 3
        for visitor in visitors:
            visitor.sendall(b" more")
            visitor.shutdown(socket.SHUT_WR)
            assert visitor.recv(100) == b"9 " + hashlib.sha256(b"some more").hexdigest().encode()
    assert ended(upgraded.process) == 0
    assert [node.by_port() for node in cluster.nodes] == [b"here"] * 3


def serves(node: Node) -> bool:
    """Whether a visitor of the port gets the page there now."""
    try:
        return node.by_port() == b"here"
    except AssertionError:
        return False


def test_a_rolling_restart(start: Start, serve: Serve, udp_service: UdpService, twistd: Twistds) -> None:
    """Of all three, one by one: no visitor of the others sees an error, and no download is cut."""
    cluster = start(True)
    service = serve(GET=keeps("here"), get=get)
    cluster.start_client(
        f"tcp:{cluster.public}={service.address}",
        f"http:{APP}={service.address}",
        f"udp:{cluster.udp}={udp_service.address}",
    )
    cluster.published()
    for node in cluster.nodes:
        others = [other for other in cluster.nodes if other is not node]
        with ExitStack() as stack:
            loads = [wrk(twistd, f"http://{other.host}:{cluster.http}/", "-H", f"Host: {APP}") for other in others]
            # One is still under way when the first node has drained.
            amounts = [ALL if node is cluster.nodes[0] else PART, PART]
            downloads = [
                stack.enter_context(other.visit(b"get %d 7" % amount))
                for other, amount in zip(others, amounts, strict=True)
            ]
            began = [read_bytes(download, BEGINNING) for download in downloads]
            assert began == [expected(BEGINNING, 7)] * 2
            assert twistd.rtunnel("drain", str(node.process.pid)).wait() == 0
            # It ends its clients' links, but not what visitors have there.
            poll(lambda: node not in cluster.linked(), PATIENCE, "the client has left")  # noqa: B023
            wait_until_closed(cluster.public, host=node.host)
            for download, amount in zip(downloads, amounts, strict=True):
                with download:
                    assert read_all(download) == rest(amount)
            assert node.process.wait() == 0
            node.start()
            cluster.meet()
            for load in loads:
                has_no_error(load)
        poll(lambda: serves(node), PATIENCE, "the node that is back serves")  # noqa: B023
        cluster.published()
        assert [each.by_udp() for each in cluster.nodes] == [b"noitseuq"] * 3
    for node in cluster.nodes:
        assert "Traceback" not in node.process.output


def test_the_node_of_the_only_link_drains_without_visitors(start: Start, serve: Serve, twistd: Twistds) -> None:
    """It ends at once, but not before the others have heard that visitors may wait: no port of theirs closes."""
    cluster = start()
    service = serve(GET=page("here"))
    cluster.start_client(f"tcp:{cluster.public}={service.address}", links=1)
    cluster.published(1)
    for _ in range(2):
        (node,) = cluster.wait_for_links(1)
        others = [other for other in cluster.nodes if other is not node]
        for other in others:
            poll(lambda: serves(other), PATIENCE, "the port is open everywhere")  # noqa: B023
        assert twistd.rtunnel("drain", str(node.process.pid)).wait() == 0
        assert node.process.wait() == 0
        for other in others:
            other.process.wait_for(r"\(node [0-9a-f]+\) gone")
            assert other.by_port() == b"here"
            assert "freed" not in other.process.output
        node.start()
        cluster.meet()


def keeps(text: str) -> Callable[..., None]:
    """A talent: a web server of one page that keeps its connections."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()

    def serve(connection: socket.socket, *_: str) -> None:
        with connection.makefile("rb") as reader:
            while True:
                while reader.readline().strip():
                    pass
                connection.sendall(answer)
                # The next request, or the end.
                if not reader.readline():
                    return

    return serve


def test_a_node_that_systemd_starts_again(twistd: Twistds, serve: Serve, tmp_path: Path) -> None:
    """It lets its client go, as a node does, and its visitor stays."""
    with a_redis() as redis, Systemd(twistd, tmp_path) as systemd:
        cluster = Cluster(twistd, redis)
        first = cluster.nodes[0]
        assert first.process.terminate() == 0

        def begin() -> Process:
            process = systemd.run(*first.arguments, **first.env)
            systemd.hear("READY=1")
            return process

        first.process = begin()
        cluster.meet()
        publish = f"tcp:{cluster.public}={serve(count=count).address}"
        cluster.start_client(publish, links=1, nodes=[first])
        cluster.published(links=1)
        with first.visit(b"count") as visitor:
            visitor.sendall(b"before")
            poll(lambda: first.look()["visitors"] == 1, PATIENCE, "a visitor")
            before = first.process
            assert before.terminate() == 0
            systemd.hear("FDSTORE=1")
            before.wait_for("1 visitors are left for the process that follows")
            first.process = begin()
            first.process.wait_for("1 visitors of the last process go on")
            cluster.published(links=1)
            visitor.sendall(b"behind")
            visitor.shutdown(socket.SHUT_WR)
            total = len("beforebehind")
            assert visitor.recv(100) == b"%d %s" % (total, hashlib.sha256(b"beforebehind").hexdigest().encode())
