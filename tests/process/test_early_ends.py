"""Connections that end early: what was said before arrives all the same, and a part is not taken for the whole."""

from __future__ import annotations

import socket
from collections.abc import Callable
from queue import Queue
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.rtc import RtcTunnel
from tests.process.services import Service, Tunnel, Visitor
from tests.process.test_tls import (  # noqa: F401 (fixtures)
    authority,
    client_holder,
    server_holder,
    start_tls,
)

#: How often each case is tried, as some of them are races.
TIMES = 20
REQUEST = b"early " + bytes(53) + b"\n"
ANSWER = b"HTTP/1.1 413 Content Too Large\r\n\r\n" + bytes(1000)


@pytest.fixture(params=["direct", "mux", "direct-tls", "mux-tls"])
def start(request: pytest.FixtureRequest) -> Callable[[str], Tunnel]:
    """Start a tunnel of this kind."""
    plane, _, tls = request.param.partition("-")
    begin = request.getfixturevalue("start_tls" if tls else "start_tunnel")
    return lambda local: begin(local, data_plane=plane)


def read_what_comes(connection: socket.socket) -> bytes:
    """Read to the end, or to a reset."""
    received = b""
    try:
        while data := connection.recv(1 << 16):
            received += data
    except ConnectionError:
        pass
    return received


def send_what_goes(connection: socket.socket, size: int) -> None:
    """Send *size* bytes, or as many as the other end takes."""
    try:
        connection.sendall(bytes(size))
    except ConnectionError:
        pass


def cut(connection: socket.socket) -> str:
    """Read to the end, and return what that was."""
    try:
        while connection.recv(1 << 16):
            pass
    except ConnectionResetError:
        return "reset"
    return "end"


def test_killed_server_is_no_end_of_a_download(start: Callable[[str], Tunnel], serve: Callable[..., Service]) -> None:
    def half(connection: socket.socket) -> None:
        connection.sendall(b"half of it")
        cut(connection)

    tunnel = start(serve(half=half).address)
    with Visitor(tunnel.public, b"half") as visitor:
        assert visitor.recv(100) == b"half of it"
        tunnel.server.kill()
        assert cut(visitor) == "reset"


def test_killed_client_is_no_end_of_an_upload(start: Callable[[str], Tunnel], serve: Callable[..., Service]) -> None:
    seen: Queue[str] = Queue()

    def store(connection: socket.socket) -> None:
        connection.sendall(b"go on")
        seen.put(cut(connection))

    tunnel = start(serve(store=store).address)
    with Visitor(tunnel.public, b"store") as visitor:
        assert visitor.recv(100) == b"go on"
        visitor.sendall(b"half of it")
        tunnel.client.kill()
        assert seen.get(timeout=PATIENCE) == "reset"


def test_killed_ends_of_a_webrtc_tunnel(start_rtc: Callable[..., RtcTunnel], serve: Callable[..., Service]) -> None:
    seen: Queue[str] = Queue()

    def store(connection: socket.socket) -> None:
        connection.sendall(b"go on")
        seen.put(cut(connection))

    tunnel = start_rtc(serve(store=store).address)
    with tunnel.visit(b"store") as visitor:
        assert visitor.recv(100) == b"go on"
        tunnel.host.kill()
        assert seen.get(timeout=PATIENCE) == "reset"
        tunnel.client.kill()
        assert cut(visitor) == "reset"


@pytest.mark.parametrize("size", [2 << 10, 64 << 10, 8 << 20])
def test_answer_to_a_request_that_is_not_read(
    start: Callable[[str], Tunnel], serve: Callable[..., Service], size: int
) -> None:
    """The service reads 60 bytes, answers and closes. The visitor reads once it has sent what it can."""

    def early(connection: socket.socket, *_: Any) -> None:
        connection.sendall(ANSWER)

    tunnel = start(serve(early=early).address)
    arrived = 0
    for _ in range(TIMES):
        with Visitor(tunnel.public) as visitor:
            visitor.sendall(REQUEST)
            send_what_goes(visitor, size)
            arrived += read_what_comes(visitor) == ANSWER
    assert arrived == TIMES


@pytest.mark.parametrize("size", [2 << 10, 64 << 10, 8 << 20])
def test_last_words_of_a_visitor_that_does_not_read(
    start: Callable[[str], Tunnel], serve: Callable[..., Service], size: int
) -> None:
    """The visitor says what it has to say and closes, while the service still sends."""
    heard: Queue[bytes] = Queue()

    def talk(connection: socket.socket, *_: Any) -> None:
        send_what_goes(connection, size)
        heard.put(read_what_comes(connection))

    tunnel = start(serve(talk=talk).address)
    arrived = 0
    for _ in range(TIMES):
        with Visitor(tunnel.public, b"talk") as visitor:
            visitor.recv(1)
            visitor.sendall(ANSWER)
        arrived += heard.get(timeout=PATIENCE) == ANSWER
    assert arrived == TIMES
