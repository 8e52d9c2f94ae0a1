"""By WebRTC, too: one side says all it has to say and closes, while the other still sends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.rtc import RtcTunnel
from tests.process.services import Service, Visitor

TIMES = 20
"""How often each case is tried, as some of them are races."""
REQUEST = b"early " + bytes(53) + b"\n"
ANSWER = b"HTTP/1.1 413 Content Too Large\r\n\r\n" + bytes(20_000)
LITTLE_CREDIT = ["--initial-credit=1K"]
"""So that most of an answer waits in its stream when the service has closed."""


def read_what_comes(connection: socket.socket) -> bytes:
    """Read to the end, or to a reset."""
    received = b""
    with suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            received += data
    return received


def send_what_goes(connection: socket.socket, size: int) -> None:
    """Send *size* bytes, or as many as the other end takes."""
    connection.settimeout(PATIENCE)
    with suppress(ConnectionError):
        connection.sendall(bytes(size))


@pytest.mark.parametrize("size", [2 << 10, 64 << 10, 8 << 20])
def test_answer_to_a_request_that_is_not_read(
    start_rtc: Callable[..., RtcTunnel], serve: Callable[..., Service], size: int
) -> None:
    """The service reads 60 bytes, answers and closes. The visitor reads once it has sent what it can."""

    def early(connection: socket.socket, *_: Any) -> None:
        connection.sendall(ANSWER)

    tunnel = start_rtc(serve(early=early).address, host=LITTLE_CREDIT, client=LITTLE_CREDIT)
    arrived = 0
    for _ in range(TIMES):
        with Visitor(tunnel.local) as visitor:
            visitor.sendall(REQUEST)
            send_what_goes(visitor, size)
            arrived += read_what_comes(visitor) == ANSWER
    assert arrived == TIMES


def test_last_words_of_a_visitor_that_does_not_read(
    start_rtc: Callable[..., RtcTunnel], serve: Callable[..., Service]
) -> None:
    """The visitor says what it has to say and closes, while the service still sends."""
    heard: Queue[bytes] = Queue()

    def talk(connection: socket.socket, *_: Any) -> None:
        send_what_goes(connection, 8 << 20)
        heard.put(read_what_comes(connection))

    tunnel = start_rtc(serve(talk=talk).address, host=LITTLE_CREDIT, client=LITTLE_CREDIT)
    arrived = 0
    for _ in range(TIMES):
        with Visitor(tunnel.local, b"talk") as visitor:
            visitor.recv(1)
            visitor.sendall(ANSWER)
        arrived += heard.get(timeout=PATIENCE) == ANSWER
    assert arrived == TIMES
