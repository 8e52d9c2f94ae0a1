"""Peers that begin a handshake and do not end it disturb nobody."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from rtunnel.upkeep import log_limiter
from tests.ports import free_port
from tests.tls.parts import Authority, EchoService, Ends, visit


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def stall(sockets: ExitStack, port: int, first_bytes: bytes = b"") -> socket.socket:
    """Connect, and say no more than *first_bytes*."""
    peer = socket.socket()
    sockets.enter_context(peer)
    peer.connect(("127.0.0.1", port))
    if first_bytes:
        peer.sendall(first_bytes)
    return peer


@pytest_twisted.ensureDeferred
async def test_500_stalled_peers(authority: Authority, ends: Ends, sockets: ExitStack) -> None:
    echo = EchoService(ends.reactor)
    ends.start(echo)
    server = ends.start_server(
        authority.trusts(authority.server()), max_links=2, max_handshakes=100, handshake_timeout=2.0
    )
    tls = authority.trusts(authority.client())
    port = free_port()
    ends.start_client(tls, remote_port=port, local=echo.port)
    await ends.lines.wait_for(rf"127.0.0.1:{port} is published")
    listener = server.door.tls
    assert listener is not None
    for number in range(500):
        # Half of them begin, with the header of a record that never comes.
        stall(sockets, ends.control, b"\x16\x03\x01\x02\x00" if number % 2 else b"")
        if number % 50 == 0:
            assert await visit(ends.reactor, port, bytes(100_000)) == bytes(100_000)
    await ends.lines.wait_for(r"closed in its TLS handshake: there are more than 100 \(--max-handshakes\)")
    assert len(listener) <= 100
    assert len(server.sessions) == 1
    # Somebody new gets in, in the midst of them: there is room for a second link, and for its handshake.
    other = free_port()
    ends.start_client(authority.trusts(authority.client("phone")), remote_port=other, local=echo.port)
    await ends.lines.wait_for(rf"127.0.0.1:{other} is published")
    assert await visit(ends.reactor, other) == b"hello"
    await ends.lines.wait_for("closed: no TLS handshake within 2 s")
    await ends.lines.until(lambda: not len(listener), "none is left")
    # The log stays short.
    assert ends.lines.text.count("connection from") < 100


@pytest_twisted.ensureDeferred
async def test_what_was_left_out_is_counted(
    authority: Authority, ends: Ends, sockets: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_limiter, "PERIOD", 1.0)
    ends.start_server(authority.trusts(authority.server()), handshake_timeout=0.2)
    for _ in range(30):
        stall(sockets, ends.control)
    await ends.lines.wait_for("closed: no TLS handshake within 0.2 s", count=20)
    await ends.lines.wait_for(r"\d+ more times in \d+ s, the last one: connection from 127.0.0.1:\d+ closed: ")


@pytest_twisted.ensureDeferred
async def test_a_peer_that_does_not_read(authority: Authority, ends: Ends, sockets: ExitStack) -> None:
    """It is told why it is refused, and dropped when it does not listen."""
    server = ends.start_server(authority.trusts(authority.server()), handshake_timeout=0.5)
    peer = stall(sockets, ends.control, b"GET / HTTP/1.0\r\n\r\n")
    await ends.lines.wait_for("closed: that is HTTP: visitors use the public port")
    await ends.lines.until(lambda: not server.door.tls, "it is gone", 6)
    peer.settimeout(1)
    assert peer.recv(100) == b"\x15\x03\x03\x00\x02\x02\x0a"


@pytest_twisted.ensureDeferred
async def test_too_many_links(authority: Authority, ends: Ends) -> None:
    server = ends.start_server(authority.trusts(authority.server()), max_links=1)
    ends.start_client(authority.trusts(authority.client()))
    await ends.lines.wait_for(r"\(laptop\) connected")
    ends.start_client(authority.trusts(authority.client("phone")))
    await ends.lines.wait_for(r"1 links, the limit \(--max-links\): others are closed")
    await ends.lines.wait_for("link to server .* lost")
    assert len(server.sessions) == 1


@pytest_twisted.ensureDeferred
async def test_a_server_that_never_answers(authority: Authority, ends: Ends, sockets: ExitStack) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    sockets.enter_context(listening)
    ends.start_client(authority.trusts(authority.client()), port=listening.getsockname()[1], connect_timeout=0.3)
    await ends.lines.wait_for("cannot reach server .*: no TLS handshake within 0.3 s; next attempt")


@pytest_twisted.ensureDeferred
async def test_a_server_that_closes_at_once(authority: Authority, ends: Ends, sockets: ExitStack) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    sockets.enter_context(listening)
    ends.start_client(authority.trusts(authority.client()), port=listening.getsockname()[1])
    await deferLater(ends.reactor, 0.05)
    listening.accept()[0].close()
    await ends.lines.wait_for("cannot reach server .*: the server closed the connection in the TLS handshake")


@pytest_twisted.ensureDeferred
async def test_stopping_in_the_handshake(authority: Authority, ends: Ends, sockets: ExitStack) -> None:
    """Neither end waits for it."""
    server = ends.start_server(authority.trusts(authority.server()))
    stall(sockets, ends.control)
    await ends.lines.until(lambda: server.door.tls is not None and len(server.door.tls) == 1, "it is there")
    await ends.stop(server)
    listening = socket.create_server(("127.0.0.1", 0))
    sockets.enter_context(listening)
    client = ends.start_client(authority.trusts(authority.client()), port=listening.getsockname()[1])
    await deferLater(ends.reactor, 0.05)
    await ends.stop(client)
