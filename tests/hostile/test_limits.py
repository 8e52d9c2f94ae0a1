"""Visitors who are refused by rules, in any number, beside one who is served."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.hostile.harness import LOOPBACK, Honest, connect, gauge, is_closed
from tests.hostile.test_udp import UdpTunnel, flood, visitor_at_a_flooded_port
from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.rtc import UdpService
from tests.process.services import BOTH_PLANES, Tunnel

#: Seconds of processor time for a connection that is refused, and for a datagram: five times what it is alone here.
PER_CONNECTION, PER_DATAGRAM = 0.001, 0.0002
RESET = struct.pack("ii", 1, 0)
#: Whoever comes from there is refused.
DENIED = "127.64.0.0/10"
EVERYWHERE = [f"127.{64 + (number >> 8)}.{number & 255}.9" for number in range(6000)]
ONE = ["127.64.0.9"] * 6000


@pytest.fixture
def clients(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the clients file, which limits the client ``laptop``."""

    def write(limits: str) -> Path:
        path = tmp_path / "clients.yaml"
        path.write_text(f"laptop: {{token: laptop-token, {limits}}}\n")
        return path

    return write


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def knock(port: int, source: str) -> bool:
    """Connect; return whether the connection is reset."""
    try:
        with connect(port, source) as connection:
            return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sources", [EVERYWHERE, ONE], ids=["many addresses", "one address"])
def test_flood_of_connections(
    echo: str, start_tunnel: Callable[..., Tunnel], clients: Callable[[str], Path], sources: list[str]
) -> None:
    """The client never hears of them but in a notice or two, and the log keeps its bounds."""
    tunnel = start_tunnel(echo, server=[f"--clients={clients(f'deny: {DENIED}')}"], client=["--token=laptop-token"])
    with Honest(tunnel.public) as honest:
        with honest.rests(), gauge(tunnel.server) as server, gauge(tunnel.client) as client:
            for source in sources:
                assert knock(tunnel.public, source)
            server.look()
        honest.go_on()
    assert server.cpu_seconds < 1 + len(sources) * PER_CONNECTION
    assert server.log_bytes < 1_000_000
    assert server.rss_bytes < 16 * 1024 * 1024
    assert server.most_descriptors < 100
    assert client.cpu_seconds < 3
    assert client.log_bytes < 1000
    lines = tunnel.server.output.count("refused: its address may not come")
    assert 1 <= lines <= len(set(sources)) + 60


@pytest.mark.parametrize("sources", [EVERYWHERE, ONE], ids=["many addresses", "one address"])
def test_flood_of_datagrams(
    echo: str,
    start_tunnel: Callable[..., Tunnel],
    udp_service: UdpService,
    clients: Callable[[str], Path],
    sources: list[str],
) -> None:
    def start(local: str, client: list[str]) -> Tunnel:
        path = clients(f"deny: {DENIED}")
        return start_tunnel(local, server=[f"--clients={path}"], client=["--token=laptop-token", *client])

    tunnel = UdpTunnel(start, echo, udp_service.address)
    with visitor_at_a_flooded_port(tunnel.ports[0]), gauge(tunnel.server) as server, gauge(tunnel.client) as client:
        sent = flood(tunnel.ports[0], sources, *[b"x"] * 5)
    assert server.cpu_seconds < 1 + sent * PER_DATAGRAM
    assert server.log_bytes < 1_000_000
    assert server.rss_bytes < 16 * 1024 * 1024
    assert client.cpu_seconds < 3
    assert len(udp_service.sources) == 1


@BOTH_PLANES
def test_the_count_of_connections_never_leaks(
    echo: str, start_tunnel: Callable[..., Tunnel], clients: Callable[[str], Path], stack: ExitStack
) -> None:
    """However visitors vanish: at once, behind some bytes, by a reset, half closed, or refused."""
    most = 20
    path = clients(f"max-connections: {most}")
    tunnel = start_tunnel(echo, server=[f"--clients={path}"], client=["--token=laptop-token"])
    chance = random.Random(16)
    some: list[socket.socket] = []
    with Honest(tunnel.public):
        for _ in range(1500):
            with suppress(ConnectionResetError):
                some.append(connect(tunnel.public))
            chance.shuffle(some)
            while len(some) > chance.randrange(2 * most):
                one = some.pop()
                with suppress(OSError):
                    how = chance.randrange(4)
                    if how in (1, 2):
                        one.sendall(b"x" * chance.choice((1, 1000, 100_000)))
                    if how == 3:
                        one.shutdown(socket.SHUT_WR)
                    if how in (0, 2):
                        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                one.close()
        while some:
            some.pop().close()

        def all_are_served() -> bool:
            """As many as may come are served at once, and one more is not."""
            with ExitStack() as held:
                try:
                    visitors = [held.enter_context(connect(tunnel.public, data=b"hello")) for _ in range(most)]
                    if any(each.recv(5) != b"hello" for each in visitors):
                        return False
                except ConnectionResetError:
                    return False
                return knock(tunnel.public, LOOPBACK) and not any(map(is_closed, visitors))

        poll(all_are_served, PATIENCE, "the whole number of connections again")
