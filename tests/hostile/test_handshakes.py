"""Floods of TLS handshakes, beside visitors and somebody new who wants to come in."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.policy import Role
from tests.hostile.harness import Honest, connect, gauge, is_closed
from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.services import Tunnel
from tests.tls.parts import Authority

FLOOD = 300
#: What an answer takes of the server's time, with five times slack.
SECONDS = 5 * 0.004


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hello(authority: Authority) -> bytes:
    """What a client says first: 1.4 kB that anybody can send again and again."""
    settings = authority.trusts(authority.client("phone"))
    engine = TlsEngine(Credentials(settings, Role.CLIENT), server_name="localhost")
    engine.start()
    return engine.output()


def answered(connections: list[socket.socket]) -> int:
    """How many have had an answer by now."""
    poller = select.poll()
    for connection in connections:
        poller.register(connection, select.POLLIN)
    return len(poller.poll(0))


def test_a_flood_holds_up_only_its_own_address(
    echo: str, start_tls: Callable[..., Tunnel], stack: ExitStack, hello: bytes
) -> None:
    tunnel = start_tls(echo, server=["--max-handshakes=1000"])
    honest = stack.enter_context(Honest(tunnel.public))
    used = stack.enter_context(gauge(tunnel.server))
    flood = [stack.enter_context(connect(tunnel.control, "127.0.1.1")) for _ in range(FLOOD)]
    newcomer = stack.enter_context(connect(tunnel.control, "127.0.2.1"))
    before = honest.answers
    # The kernel keeps those that have an answer in the order in which it came, however late we look.
    order = stack.enter_context(select.epoll())
    for connection in (*flood, newcomer):
        order.register(connection, select.EPOLLIN | select.EPOLLET)
    for connection in flood:
        connection.sendall(hello)
    newcomer.sendall(hello)
    # Nobody is refused: a thousand clients may come back from one address.
    poll(lambda: answered([newcomer, *flood]) == FLOOD + 1, PATIENCE, "answers for all")
    before_it = [number for number, _ in order.poll(0, FLOOD + 1)].index(newcomer.fileno())
    assert before_it < FLOOD / 2, "somebody from another address had not to wait for all of them"
    # The reactor goes round between handshakes, and does not do all that have come at once.
    assert honest.answers - before > FLOOD / 20
    honest.go_on()
    used.stop()
    assert used.cpu_seconds < FLOOD * SECONDS
    assert used.log_bytes < 10_000


def test_whoever_holds_most_handshakes_gives_way(
    echo: str, start_tls: Callable[..., Tunnel], stack: ExitStack, hello: bytes
) -> None:
    tunnel = start_tls(echo, server=["--max-handshakes=50"])
    honest = stack.enter_context(Honest(tunnel.public))
    used = stack.enter_context(gauge(tunnel.server))
    # Slow, but honest: it says nothing for as long as the others come.
    slow = stack.enter_context(connect(tunnel.control, "127.0.2.1"))
    silent = [stack.enter_context(connect(tunnel.control, "127.0.1.1")) for _ in range(200)]
    poll(lambda: sum(map(is_closed, silent)) >= 140, PATIENCE, "all but 50 are closed")
    slow.sendall(hello)
    poll(lambda: answered([slow]), PATIENCE, "an answer")
    assert not is_closed(slow)
    honest.go_on()
    used.stop()
    assert used.cpu_seconds < 200 * SECONDS
    assert used.log_bytes < 10_000
    assert used.most_descriptors < tunnel.server.descriptors() + 60
