"""Three servers of the reverse tunnel that share a Redis, as processes, at three addresses of this machine."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.cluster.redis_server import RedisServer
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.commands import run_rtunnel
from tests.process.harness import Process, Twistds, need, poll
from tests.process.services import Visitor, curl

HOSTS = "127.0.0.1", "127.0.0.2", "127.0.0.3"
APP = "app.example.org"


def status_of(process: Process) -> dict[str, Any]:
    """What ``rtunnel status`` says of a process, which may have just been started."""

    def look() -> list[dict[str, Any]]:
        _, out, _ = run_rtunnel("status", str(process.pid), "--json")
        return list(json.loads(out))

    [found] = poll(look, PATIENCE, "the process tells its status")
    return found


class Node:
    """One of the servers.

    :ivar process: the one that runs now, or that ran last.
    """

    process: Process

    def __init__(self, cluster: Cluster, host: str) -> None:
        self._cluster = cluster
        self.host = host
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self.process = self._cluster.twistd(*self.arguments, env=self.env)
        self.process.wait_for("control port listening on")

    @property
    def arguments(self) -> list[str]:
        """Those of ``twistd``."""
        cluster = self._cluster
        return [
            "rtunnel-server",
            f"--control-listen={self.host}:{cluster.control}",
            f"--public-interface={self.host}",
            *(f"--{scheme}-listen={cluster.visitors(self.host, port)}" for scheme, port in cluster.web.items()),
            f"--status-listen={self.host}:{cluster.status}",
            *cluster.options,
        ]

    @property
    def env(self) -> dict[str, str]:
        """What is in the environment."""
        return {"RTUNNEL_CLUSTER": self._cluster.url, **self._cluster.env}

    def look(self) -> dict[str, Any]:
        """What ``rtunnel status`` says of it."""
        return status_of(self.process)

    def ready(self) -> int:
        """The status of ``/readyz``; 0 if nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.host}:{self._cluster.status}/readyz", timeout=PATIENCE) as got:
                return int(got.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def visit(self, line: bytes) -> Visitor:
        """Connect to the port of the tunnel here, and say what is wanted."""
        return Visitor(self._cluster.public, line, host=self.host)

    def by_port(self) -> bytes:
        return curl(f"http://{self.host}:{self._cluster.public}/")

    def by_host(self) -> bytes:
        return curl(f"http://{self.host}:{self._cluster.http}/", "-H", f"Host: {APP}")

    def by_name(self) -> bytes:
        at = f"{APP}:{self._cluster.https}:{self.host}"
        return curl(f"https://{APP}:{self._cluster.https}/", "--resolve", at, "--insecure")

    def by_udp(self, question: bytes = b"question") -> bytes:
        """What the UDP service answers here. A datagram may be lost, so it is asked again."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(1)
            asking.connect((self.host, self._cluster.udp))

            def ask() -> bytes:
                try:
                    asking.send(question)
                    return asking.recv(1000)
                except (TimeoutError, ConnectionRefusedError):
                    return b""

            return poll(ask, PATIENCE, f"an answer at {self.host}")


class Cluster:
    """Redis, three nodes, and what clients of theirs publish.

    :param options: of each node.
    :param env: of each node.
    :param client_env: of the client.
    :param url: of the directory; that of *redis* by default.
    :param with_header: visitors of host names come by a load balancer, which names them.
    """

    def __init__(
        self,
        twistd: Twistds,
        redis: RedisServer,
        *,
        options: Sequence[str] = (),
        client_options: Sequence[str] = (),
        env: dict[str, str] | None = None,
        client_env: dict[str, str] | None = None,
        url: str = "",
        with_header: bool = False,
    ) -> None:
        self.twistd, self.redis, self.options, self.env = twistd, redis, options, env or {}
        self._client_env = client_env or {}
        self._client_options = client_options
        self._with_header = with_header
        self.url = url or f"redis+unix://{redis.socket}"
        self.control, self.public, self.http, self.https, self.status, self.udp = (free_port() for _ in range(6))
        self.web = {"http": self.http, "https": self.https}
        self.nodes = [Node(self, host) for host in HOSTS]

    def visitors(self, host: str, port: int) -> str:
        """Where a node listens for visitors of host names."""
        return f"haproxy:tcp:{port}:interface={host}" if self._with_header else f"{host}:{port}"

    def meet(self, *nodes: Node) -> None:
        """Wait until these nodes, or all, have their links to each other."""
        there = nodes or tuple(self.nodes)

        def have_met() -> bool:
            return all(
                len(found := [link for link in node.look()["nodes"] if not link["why"]]) == len(there) - 1
                and {link["address"] for link in found}
                == {f"{other.host}:{self.control}" for other in there if other is not node}
                for node in there
            )

        poll(have_met, PATIENCE, "the nodes have met")

    def start_client(self, *publish: str, links: int = 2, nodes: Sequence[Node] = ()) -> Process:
        """Start a client that publishes this at all nodes."""
        servers = [f"--server={node.host}:{self.control}" for node in nodes or self.nodes]
        options = [f"--publish={each}" for each in publish]
        client = self.twistd(
            "rtunnel-client", *servers, f"--links={links}", *options, *self._client_options, env=self._client_env
        )
        self.client = client
        return client

    def look(self) -> dict[str, Any]:
        """What ``rtunnel status`` says of the client."""
        return status_of(self.client)

    def published(self, links: int = 2) -> None:
        """Wait until all tunnels of the client are published by so many links."""
        self.client.wait_for("is published")

        def are_all() -> bool:
            tunnels = self.look()["tunnels"]
            return all(sum(each["published"] for each in tunnel["links"]) == links for tunnel in tunnels)

        poll(are_all, PATIENCE, f"all is published by {links} links")

    def linked(self) -> list[Node]:
        """The nodes to which the client has a link now."""
        links = self.look()["links"]
        hosts = {link["server"].rpartition(":")[0] for link in links if link["connected_seconds"] is not None}
        return [node for node in self.nodes if node.host in hosts]

    def wait_for_links(self, count: int = 2) -> list[Node]:
        """Wait until the client has so many links to different nodes."""
        return poll(lambda: found if len(found := self.linked()) == count else None, PATIENCE, f"{count} links")


def wrk(twistd: Twistds, url: str, *options: str) -> Process:
    """Start wrk against this URL, until :func:`has_no_error`."""
    return twistd.program(need("wrk"), "-t1", "-c4", "-d1h", "--timeout", "60s", *options, url)


def has_no_error(load: Process) -> None:
    """End wrk, which makes it tell what it has seen; all its answers were good."""
    assert load.terminate(number=signal.SIGINT) == 0, load
    assert re.search("[1-9][0-9]* requests in", load.output), load
    assert not re.search("Socket errors|Non-2xx", load.output), load


def pki(directory: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Make the files of TLS with ``rtunnel pki``: one certificate for all nodes, and a client's.

    :returns: the environment of the nodes, and that of the client.
    """
    nodes = {"RTUNNEL_PKI_DIR": str(directory / "pki")}
    client = {"RTUNNEL_PKI_DIR": str(directory / "client-pki")}
    file = str(directory / "laptop.pem")
    for env, arguments in (
        (nodes, ["init", "--name", *HOSTS]),
        (nodes, ["client", "laptop", "-o", file]),
        (client, ["import", file]),
    ):
        code, out, errors = run_rtunnel("pki", *arguments, env=env)
        assert code == 0, out + errors
    return nodes, client
