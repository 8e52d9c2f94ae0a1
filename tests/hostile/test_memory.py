"""Visitors and peers that make a process hold as much as they can, beside honest ones."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest

from rtunnel.wire import frames
from tests.hostile.harness import LOOPBACK, Honest, connect, gauge
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import RtcTunnel
from tests.process.services import Tunnel

MIB = 1 << 20
BUDGET = 16 * MIB
"""The smallest that there is."""
VISITORS = 800
"""Each makes an end hold 64 KiB and more."""
CROWD = 50
"""So many come at once."""
HOSTILE = "127.0.0.3"


@contextmanager
def busy_service() -> Iterator[str]:
    """The address of a service that accepts nobody, however long one waits."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((LOOPBACK, 0), backlog=0))
        address = listener.getsockname()
        for _ in range(2):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(address)
        yield f"{LOOPBACK}:{address[1]}"


def talkers(stack: ExitStack, port: int, honest: Honest) -> None:
    """Visitors that send as much as they can.

    An end reads from all of them in one turn, and on a busy machine that takes so long that its peer takes it for dead.
    So they come in crowds, and an honest one is served in between.
    """
    for number in range(VISITORS):
        if number % CROWD == 0:
            honest.go_on(1)
        talker = stack.enter_context(connect(port, HOSTILE))
        talker.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):
            for _ in range(4):
                talker.send(bytes(1 << 16))


def client_without_credit(stack: ExitStack, control: int) -> int:
    """A client that lets the server send it nothing; return its public port."""
    public = free_port()
    client = stack.enter_context(connect(control, HOSTILE))
    hello = {"version": 1, "session": "5" * 32, "initial_credit": 0}
    client.sendall(
        frames.encode_frame(frames.HELLO, 0, json.dumps(hello).encode())
        + frames.encode_frame(frames.INIT, 0, f"{public}:nowhere".encode())
    )
    decoder = frames.FrameDecoder(1 << 16)
    received: set[int] = set()
    while frames.READY not in received:
        received.update(kind for kind, _, _ in decoder.feed(client.recv(1 << 16)))
    return public


def test_a_client_that_grants_no_credit(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    tunnel = start_tunnel(echo, server=[f"--memory={BUDGET}"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        talkers(stack, client_without_credit(stack, tunnel.control), honest)
        tunnel.server.wait_for(f"memory is used up: {HOSTILE} held ")
        honest.go_on()
    assert used.rss_bytes < 2 * BUDGET


def test_heads_of_requests_that_do_not_end(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    port = free_port()
    tunnel = start_tunnel(echo, server=[f"--memory={BUDGET}", f"--http-listen={LOOPBACK}:{port}"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        for number in range(VISITORS):
            if number % CROWD == 0:
                honest.go_on(1)
            talker = stack.enter_context(connect(port, HOSTILE))
            with suppress(ConnectionError):
                talker.sendall(b"GET / HTTP/1.1\r\nA: " + b"a" * 60_000)
        tunnel.server.wait_for(f"memory is used up: {HOSTILE} held ")
        honest.go_on()
    assert used.rss_bytes < 2 * BUDGET


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_a_crowd_at_a_service_that_does_not_answer(echo: str, start_tunnel: Callable[..., Tunnel], plane: str) -> None:
    """Both ends keep what the crowd sends. Visitors of another service of the same client are served."""
    with ExitStack() as stack:
        busy, other = stack.enter_context(busy_service()), free_port()
        own = [f"--tunnel={other}:{echo}", "--check-services=no", "--dial-timeout=60"]
        memory = f"--memory={BUDGET}"
        tunnel = start_tunnel(busy, server=[memory], client=[memory, *own], data_plane=plane)
        tunnel.client.wait_for(f"{other} is published")
        honest = stack.enter_context(Honest(other))
        at_server = stack.enter_context(gauge(tunnel.server))
        at_client = stack.enter_context(gauge(tunnel.client))
        talkers(stack, tunnel.public, honest)
        poll(
            lambda: "memory is used up" in tunnel.client.output + tunnel.server.output,
            PATIENCE,
            "room is made",
        )
        honest.go_on()
    assert at_server.rss_bytes < 2 * BUDGET
    assert at_client.rss_bytes < 2 * BUDGET


def test_a_crowd_at_a_service_of_a_host(echo: str, start_rtc: Callable[..., RtcTunnel]) -> None:
    with ExitStack() as stack:
        busy, other = stack.enter_context(busy_service()), free_port()
        memory = f"--memory={BUDGET}"
        own = [f"--service=echo={echo}", "--check-services=no", "--dial-timeout=60", "--initial-credit=16K"]
        tunnel = start_rtc(busy, host=[memory, *own], client=[memory, f"--forward={LOOPBACK}:{other}=echo"])
        honest = stack.enter_context(Honest(other))
        at_host = stack.enter_context(gauge(tunnel.host))
        at_client = stack.enter_context(gauge(tunnel.client))
        talkers(stack, tunnel.local, honest)
        tunnel.client.wait_for("memory is used up")
        honest.go_on()
    # Without a budget it is 55 MiB.
    assert at_host.rss_bytes < 2 * BUDGET
    assert at_client.rss_bytes < 2 * BUDGET
