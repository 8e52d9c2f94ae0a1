"""Floods of datagrams at public UDP ports, and at the port of the paths, beside visitors who are served."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import pytest

from tests.hostile.harness import LOOPBACK, Honest, gauge, limit_descriptors
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import UdpService
from tests.process.services import Tunnel

#: Seconds of processor time for a datagram that begins a flow, for one that an address sends again, and for garbage.
PER_FLOW, PER_DATAGRAM, PER_GARBAGE = 0.003, 0.0008, 0.0001


class UdpTunnel:
    """A tunnel for TCP, and two for UDP.

    :ivar ports: the public ports for UDP.
    """

    def __init__(self, start: Callable[..., Tunnel], echo: str, *services: str, client: tuple[str, ...] = ()) -> None:
        self.ports = [free_port() for _ in services]
        published = [f"--publish=udp:{port}={service}" for port, service in zip(self.ports, services, strict=True)]
        self.tunnel = start(echo, client=[*published, *client])
        for port in self.ports:
            self.tunnel.client.wait_for(rf":{port} is published for UDP$")
        self.server, self.client = self.tunnel.server, self.tunnel.client


class Visitor:
    """Somebody who asks all the time, from one port, in a thread.

    :param timeout: seconds after which the next question is asked.
    :ivar answers: how often the answer came.
    :ivar lost: how often it did not come in time.
    """

    def __init__(self, port: int, timeout: float = PATIENCE, source: str = "127.0.0.2") -> None:
        self.answers = self.lost = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((source, 0))
        self._socket.connect((LOOPBACK, port))
        self._socket.settimeout(timeout)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.01):
            question = f"question {self.answers + self.lost}".encode()
            try:
                self._socket.send(question)
                while self._socket.recv(1024) != question[::-1]:
                    pass  # a late answer
                self.answers += 1
            except OSError:
                self.lost += 1

    def go_on(self, times: int = 5) -> None:
        """Wait for more answers."""
        answers = self.answers + times
        poll(lambda: self.lost or self.answers >= answers, PATIENCE, f"answer {answers} of one who had {self.answers}")

    def close(self) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
        self._socket.close()


@contextmanager
def visitor(port: int) -> Iterator[Visitor]:
    """A visitor who loses nothing, or the test fails."""
    made = Visitor(port)
    try:
        made.go_on()
        yield made
        made.go_on()
        assert made.lost == 0
    finally:
        made.close()


@contextmanager
def visitor_at_a_flooded_port(port: int) -> Iterator[None]:
    """The system drops some of what comes there, whoever it is from. So this visitor asks again."""
    made = Visitor(port, timeout=2.0)
    try:
        poll(lambda: made.answers >= 5, PATIENCE, "answers before the flood")
        yield
        answers = made.answers + 5
        poll(lambda: made.answers >= answers, PATIENCE, "answers after the flood")
    finally:
        made.close()


def flood(port: int, sources: list[str], *datagrams: bytes) -> int:
    """Send the datagrams from a new port of each of the *sources*, and take no answers. Return how many were sent."""
    for source in sources:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((source, 0))
            for data in datagrams:
                one.sendto(data, (LOOPBACK, port))
    return len(sources) * len(datagrams)


@pytest.fixture
def silent() -> Iterator[str]:
    """A service that takes datagrams, and answers none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        service.bind((LOOPBACK, 0))
        yield f"{LOOPBACK}:{service.getsockname()[1]}"


@pytest.fixture
def other_service() -> Iterator[UdpService]:
    service = UdpService()
    yield service
    service.close()


EVERYWHERE = [f"127.{number >> 8 & 255}.{number & 255}.9" for number in range(256, 256 + 6000)]
ONE = ["127.0.7.7"] * 6000


@pytest.mark.parametrize("sources", [EVERYWHERE, ONE], ids=["many addresses", "many ports of one address"])
@pytest.mark.parametrize("answers", [True, False], ids=["answered", "silent"])
def test_many_new_flows(
    echo: str,
    start_tunnel: Callable[..., Tunnel],
    udp_service: UdpService,
    other_service: UdpService,
    silent: str,
    sources: list[str],
    answers: bool,
) -> None:
    """A visitor who gets answers keeps the flow, also at the port that is flooded; descriptors are few."""
    flooded = udp_service.address if answers else silent
    tunnel = UdpTunnel(start_tunnel, echo, flooded, other_service.address)
    limit = 600
    limit_descriptors(tunnel.client, limit)
    with (
        Honest(tunnel.tunnel.public) as honest,
        visitor(tunnel.ports[1]) as elsewhere,
        gauge(tunnel.server) as server,
        gauge(tunnel.client) as client,
    ):
        with visitor_at_a_flooded_port(tunnel.ports[0]) if answers else nullcontext():
            sent = flood(tunnel.ports[0], sources, b"x", b"y")
            client.look()
            honest.go_on()
            elsewhere.go_on()
        assert len(other_service.sources) == 1, "it has the same socket at the service"
        assert tunnel.client.descriptors() < limit
    for used in (server, client):
        assert used.cpu_seconds < 1 + sent * PER_FLOW
        assert used.log_bytes < 10_000
        assert used.rss_bytes < 64 * 1024 * 1024
    assert "out of file descriptors" not in tunnel.client.output
    assert tunnel.client.output.count("Too many open files") == 0


def test_one_visitor_sends_all_that_it_can(
    echo: str, start_tunnel: Callable[..., Tunnel], silent: str, udp_service: UdpService
) -> None:
    tunnel = UdpTunnel(start_tunnel, echo, silent, udp_service.address)
    with (
        Honest(tunnel.tunnel.public) as honest,
        visitor(tunnel.ports[1]) as elsewhere,
        gauge(tunnel.server) as server,
        gauge(tunnel.client) as client,
    ):
        sent = flood(tunnel.ports[0], ["127.0.7.7"], *[bytes(1000)] * 30_000)
        honest.go_on()
        elsewhere.go_on()
    for used in (server, client):
        assert used.cpu_seconds < 1 + sent * PER_DATAGRAM
        assert used.log_bytes < 10_000
        assert used.rss_bytes < 64 * 1024 * 1024


def test_garbage_at_the_port_of_the_paths(
    echo: str, start_tunnel: Callable[..., Tunnel], udp_service: UdpService
) -> None:
    tunnel = UdpTunnel(start_tunnel, echo, udp_service.address)
    chance = random.Random(14)
    garbage = [chance.randbytes(chance.choice((0, 1, 3, 4, 28, 29, 100, 1200, 9000))) for _ in range(20_000)]
    with visitor_at_a_flooded_port(tunnel.ports[0]), gauge(tunnel.server) as server:
        sent = flood(tunnel.tunnel.control, ["127.0.7.7"], *garbage)
        sent += flood(tunnel.tunnel.control, EVERYWHERE, *garbage[:3])
    assert server.cpu_seconds < 1 + sent * PER_GARBAGE
    assert server.log_bytes < 1000
    assert server.rss_bytes < 16 * 1024 * 1024
    assert "go by a data connection" not in tunnel.server.output


def test_service_that_is_not_there(echo: str, start_tunnel: Callable[..., Tunnel], udp_service: UdpService) -> None:
    """Each datagram brings an ICMP error at the client."""
    tunnel = UdpTunnel(start_tunnel, echo, f"{LOOPBACK}:{free_port()}", udp_service.address)
    with visitor(tunnel.ports[1]) as elsewhere, gauge(tunnel.client) as client:
        sent = flood(tunnel.ports[0], ["127.0.7.7"], *[b"anybody there?"] * 5000)
        # The system sends only so many ICMP errors in a second.
        while "are dropped: Connection refused" not in tunnel.client.output:
            sent += flood(tunnel.ports[0], ["127.0.7.7"], b"nobody there?", b"again")
            elsewhere.go_on(1)
        elsewhere.go_on()
    assert client.cpu_seconds < 1 + sent * PER_DATAGRAM
    assert client.log_bytes < 10_000


def test_tunnel_that_is_gone(echo: str, start_tunnel: Callable[..., Tunnel], udp_service: UdpService) -> None:
    """The client is stopped, as by SIGSTOP, and later killed: what its visitors send is not kept."""
    tunnel = UdpTunnel(start_tunnel, echo, udp_service.address)
    with gauge(tunnel.server) as server:
        sent = flood(tunnel.ports[0], EVERYWHERE[:10], b"x", b"y")
        tunnel.client.kill()
        tunnel.server.wait_for(" gone")
        sent += flood(tunnel.ports[0], EVERYWHERE, *[bytes(1000)] * 3)
        tunnel.tunnel.start_client()
        tunnel.client = tunnel.tunnel.client
        tunnel.client.wait_for(rf":{tunnel.ports[0]} is published for UDP$")
        with visitor(tunnel.ports[0]):
            pass
    assert server.cpu_seconds < 1 + sent * PER_DATAGRAM
    assert server.log_bytes < 10_000
    assert server.rss_bytes < 16 * 1024 * 1024
