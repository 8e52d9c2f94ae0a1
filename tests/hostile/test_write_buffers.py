"""Peers that make us answer, and do not read the answers."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress

import pytest
from OpenSSL import SSL

from rtunnel.tls.credentials import Credentials
from rtunnel.tls.policy import Role
from tests.hostile.harness import LOOPBACK, Honest, gauge
from tests.patience import PATIENCE
from tests.process.harness import Twistds
from tests.process.services import Tunnel
from tests.reverse.net import INIT, frame, hello
from tests.tls.key_updates import Hand
from tests.tls.parts import Authority

#: How many of them there are.
GREEDY = 4
#: How often one asks for new keys.
ASKS = 5000
#: Bytes of an answer.
ANSWER = 27


def deaf(port: int) -> socket.socket:
    """A connection whose owner reads nothing, so that little fits into the kernel."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect((LOOPBACK, port))
    return sock


def shake_hands(sock: socket.socket, context: SSL.Context) -> None:
    client = SSL.Connection(context, None)
    client.set_connect_state()
    is_over = False
    while not is_over:
        try:
            client.do_handshake()
            is_over = True
        except SSL.WantReadError:
            pass
        with suppress(SSL.WantReadError):
            sock.sendall(client.bio_read(1 << 16))
        if not is_over:
            client.bio_write(sock.recv(1 << 16))


def ask_for_keys(sock: socket.socket, hand: Hand) -> int:
    """Ask for new keys far too often, and wait until the other end has closed; return how many bytes it answered."""
    answered = 0
    with suppress(ConnectionError):
        for _ in range(ASKS // 500):
            sock.sendall(b"".join(hand.update() for _ in range(500)))
        while data := sock.recv(1 << 16):
            answered += len(data)
    return answered


def test_new_keys_again_and_again(echo: str, start_tls: Callable[..., Tunnel], authority: Authority) -> None:
    """The greedy ones have certificates, and say nothing else."""
    tunnel = start_tls(echo)
    greedy = authority.client("greedy")
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        for _ in range(GREEDY):
            context = Credentials(authority.trusts(greedy), Role.CLIENT).now.context
            context.set_verify(SSL.VERIFY_NONE)
            hand = Hand(context)
            sock = stack.enter_context(deaf(tunnel.control))
            shake_hands(sock, context)
            ask_for_keys(sock, hand)
        honest.go_on()
    # Each was heard for 4096 steps, and what one read brings.
    assert used.cpu_seconds < 5 * GREEDY * 0.1
    assert used.rss_bytes < GREEDY * 1_000_000


@pytest.mark.parametrize("port_of", ["signaling", "status"])
def test_new_keys_of_a_web_server(twistd: Twistds, authority: Authority, port_of: str) -> None:
    cert, key = authority.directory / "server.crt", authority.directory / "server.key"
    signal = twistd(
        "rtc-signal",
        f"--addr=tcp:0:interface={LOOPBACK}",
        *(f"--tls-cert-file={cert}", f"--tls-key-file={key}"),
        f"--status-listen=tcp:0:interface={LOOPBACK}",
        *(f"--status-tls-cert={cert}", f"--status-tls-key={key}"),
    )
    port = int(signal.wait_for(rf"{port_of} port listening on \S+:(\d+)")[1])
    with gauge(signal) as used:
        for _ in range(GREEDY):
            context = SSL.Context(SSL.TLS_METHOD)
            hand = Hand(context)
            with deaf(port) as sock:
                shake_hands(sock, context)
                answered = ask_for_keys(sock, hand)
            print(f"{answered} bytes of answers")
            # It closes for that, and not only because there is no request.
            assert answered < ASKS * ANSWER / 2
    assert used.cpu_seconds < 5 * GREEDY * 0.1


def test_tunnels_asked_for_again_and_again(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    # The server answers all of them before it says anything to the client: on a slow machine that takes its time.
    tunnel = start_tunnel(echo, client=[f"--dead-after={PATIENCE}"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        for _ in range(GREEDY):
            greedy = stack.enter_context(deaf(tunnel.control))
            greedy.sendall(hello())
            greedy.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                for _ in range(70):
                    greedy.sendall(frame(INIT, 1, b"nonsense") * 600)
        honest.go_on()
    # They are heard no more. Otherwise 5 MiB would wait for each, which is --dead-after's to end.
    assert used.rss_bytes < GREEDY * 2_500_000
    assert used.cpu_seconds < 5 * GREEDY * 0.2
