"""A client is away, visitors wait for it, and one address wants all of the waiting."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

from tests.hostile.harness import LOOPBACK, connect, gauge, is_closed, limit_descriptors
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.services import Tunnel
from tests.wire.web.hellos import hello

LIMIT = 256
"""Descriptors that the server may have."""
FLOOD = 300
HOSTILE = "127.6.6.6"
MIB = 1024 * 1024


def lose_client(tunnel: Tunnel) -> None:
    tunnel.client.kill()
    tunnel.server.wait_for(r"client \S+ gone; visitors wait \d+ s for it")


def test_a_flood_of_visitors_who_wait(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    """It costs those who flood their own places: another address is served when the client is back."""
    tunnel = start_tunnel(echo, server=[f"--hold={PATIENCE}"])
    limit_descriptors(tunnel.server, LIMIT)
    lose_client(tunnel)
    with ExitStack() as stack:
        used = stack.enter_context(gauge(tunnel.server))
        early = stack.enter_context(connect(tunnel.public, "127.0.0.2", data=b"early"))
        flood = []
        for number in range(FLOOD):
            with suppress(ConnectionError):
                flood.append(stack.enter_context(connect(tunnel.public, HOSTILE, data=b"x")))
            if number % 20 == 0:
                used.look()
        late = stack.enter_context(connect(tunnel.public, "127.0.0.3", data=b"late"))
        tunnel.start_client()
        for honest, said in ((early, b"early"), (late, b"late")):
            honest.settimeout(PATIENCE)
            assert honest.recv(100) == said
        used.look()
        print(f"{sum(not is_closed(each) for each in flood)} of {FLOOD} have waited")
        assert used.most_descriptors <= LIMIT - 16
        assert used.log_bytes < 5000
    assert tunnel.server.terminate() == 0
    assert "Traceback" not in tunnel.server.output


def test_visitors_who_come_and_go(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    """Nothing of them waits: not of those who reset, and not of those who close."""
    port = free_port()
    where = f"--http-listen=tcp:{port}:interface={LOOPBACK}"
    name = f"--publish=http:app.example.org={echo}"
    tunnel = start_tunnel(echo, server=[f"--hold={PATIENCE}", where], client=[name])
    tunnel.client.wait_for("http://.* is published")
    lose_client(tunnel)
    asked = b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n"
    with gauge(tunnel.server) as used:
        for number in range(3000):
            with connect((tunnel.public, port)[number % 2], HOSTILE, data=asked) as visitor:
                if number % 3:
                    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            used.look()
    # A third have only closed, and may still read the answer.
    assert used.most_descriptors < 1500
    assert used.rss_bytes < 40 * MIB
    assert used.log_bytes < 5000
    with connect(tunnel.public, "127.0.0.2", data=b"honest") as honest:
        tunnel.start_client()
        honest.settimeout(PATIENCE)
        assert honest.recv(100) == b"honest"
    assert tunnel.server.terminate() == 0


def test_hellos_of_those_who_wait_are_bounded(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    """What was read counts as memory of the address, and the address that holds most loses some."""
    port = free_port()
    where = f"--https-listen=tcp:{port}:interface={LOOPBACK}"
    name = f"--publish=https:app.example.org={echo}"
    tunnel = start_tunnel(echo, server=[f"--hold={PATIENCE}", where, "--memory=16M"], client=[name])
    tunnel.client.wait_for("https://.* is published")
    lose_client(tunnel)
    large, small = hello("app.example.org", (21, bytes(30_000))), hello("app.example.org")
    with ExitStack() as stack:
        used = stack.enter_context(gauge(tunnel.server))
        honest = stack.enter_context(connect(port, "127.0.0.2", data=small))
        for _ in range(3000):
            stack.enter_context(connect(port, HOSTILE, data=large))
        tunnel.server.wait_for(f"memory is used up: {HOSTILE} held")
        assert used.rss_bytes < 72 * MIB  # all of them together have sent 90 MB
        tunnel.start_client()
        honest.settimeout(PATIENCE)
        assert honest.recv(100_000) == small
    assert tunnel.server.terminate() == 0
