"""TCP through one end of ours and one of Chrome's that speaks only the reference protocol.

It knows no half-close, so the services of these tests are told lengths.
"""

from __future__ import annotations

import hashlib
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from queue import Queue

import pytest

from tests.chrome.ends import Ends, wait_until_settled
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.nginx import Nginx
from tests.process.services import (
    LOOPBACK,
    Background,
    Digest,
    Service,
    curl,
    expected,
    get,
    pieces,
    read_all,
    read_bytes,
    send_bytes,
)

Serve = Callable[..., Service]

MIB = 1024 * 1024

CHROME_CLIENT = ("chrome", "ours")
CHROME_HOST = ("ours", "chrome")
BOTH = ("chrome", "chrome")

either = pytest.mark.parametrize(
    ("client", "host"),
    [pytest.param(*CHROME_CLIENT, id="our-host"), pytest.param(*CHROME_HOST, id="our-client")],
)

SLOW_TOTAL = 24 * MIB
"""More than all the buffers of the way hold."""

MEMORY = 8 * MIB
"""By how much the memory of an end of ours may grow when bytes wait in it: the buffers of one stream, and what Python
and the connection itself take when they first do anything."""


@pytest.mark.parametrize("options", [(), ("--like-pion",)], ids=["like-a-browser", "like-pion"])
@pytest.mark.parametrize(
    ("client", "host"),
    [
        pytest.param(*CHROME_CLIENT, id="our-host"),
        pytest.param(*CHROME_HOST, id="our-client"),
        pytest.param(*BOTH, id="our-signaling"),
    ],
)
def test_curl_sees_the_page(ends: Ends, nginx: Nginx, client: str, host: str, options: tuple[str, ...]) -> None:
    """With candidates that follow the description, and with candidates that come before it."""
    nginx.put("page.html", b"a page behind a tunnel")
    ends.start(client, host, nginx.address, *options)
    assert curl(f"{ends.url}/page.html") == b"a page behind a tunnel"


@either
def test_text_messages_are_bytes_too(ends: Ends, serve: Serve, client: str, host: str) -> None:
    """A reference end makes no difference, and control messages exist only between ends that agreed on them."""

    def repeat(connection: socket.socket) -> None:
        connection.sendall(connection.recv(1000))

    ends.start(client, host, serve(repeat=repeat).address, "--text")
    with ends.visit(b"repeat") as visitor:
        visitor.sendall(b'{"reset": "limit"}')
        assert visitor.makefile("rb").read() == b'{"reset": "limit"}'


def duplex(connection: socket.socket, total: str, seed: str) -> None:
    """Sends so many bytes and reads as many, at once; then it answers with the SHA-256 of what it read."""
    with Background(lambda: send_bytes(connection, int(total), int(seed))):
        read = read_bytes(connection, int(total))
    connection.sendall(read[1].encode())


def exchange(ends: Ends, total: int, seed: int) -> None:
    """Both directions get what was sent, and the end comes behind the last byte."""
    with ends.visit(f"duplex {total} {seed}".encode()) as visitor:
        with Background(lambda: send_bytes(visitor, total, seed + 1)):
            assert read_bytes(visitor, total) == expected(total, seed)
        digest = expected(total, seed + 1)[1].encode()
        assert read_all(visitor) == (len(digest), hashlib.sha256(digest).hexdigest())


@pytest.mark.parametrize(
    ("client", "host", "message_size"),
    [
        pytest.param(*CHROME_CLIENT, 1000, id="our-host-small-messages"),
        pytest.param(*CHROME_HOST, 65536, id="our-client-large-messages"),
    ],
)
def test_megabytes_each_way_at_once(ends: Ends, serve: Serve, client: str, host: str, message_size: int) -> None:
    """Also when Chrome's messages are small, or as large as we take them."""
    ends.start(client, host, serve(duplex=duplex).address, f"--message-size={message_size}")
    exchange(ends, 2_000_000, 1)


@either
def test_many_channels_at_once(ends: Ends, serve: Serve, client: str, host: str) -> None:
    ends.start(client, host, serve(duplex=duplex).address)
    visits = [Background(partial(exchange, ends, 100_000 + seed, seed)) for seed in range(24)]
    for visit in visits:
        visit.join()


@either
def test_the_end_of_a_stream_goes_through_and_no_further(ends: Ends, serve: Serve, client: str, host: str) -> None:
    """A visitor that leaves, and a service that closes: each ends its own stream and no other."""
    left: Queue[Digest] = Queue()

    def watch(connection: socket.socket) -> None:
        connection.sendall(b"?")
        left.put(read_all(connection))

    ends.start(client, host, serve(watch=watch, get=get, duplex=duplex).address)
    with ends.visit(b"duplex 20000 5") as bystander:
        with ends.visit(b"watch") as visitor:
            assert read_bytes(visitor, 1)[0] == 1
            visitor.sendall(b"some last words")
        assert left.get(timeout=PATIENCE)[0] == len(b"some last words")
        with ends.visit(b"get 1000000 3") as visitor:
            assert read_all(visitor) == expected(1_000_000, 3)
        send_bytes(bystander, 20_000, 6)
        assert read_bytes(bystander, 20_000) == expected(20_000, 5)
        assert read_all(bystander)[0] == 64


@either
def test_a_service_that_is_not_there(ends: Ends, client: str, host: str) -> None:
    ends.start(client, host, f"{LOOPBACK}:{free_port()}")
    for _ in range(3):
        with ends.visit(b"hello?") as visitor:
            try:
                assert read_all(visitor)[0] == 0
            except ConnectionResetError:
                pass  # This says the same, a bit louder.


# Readers that are slow


class Sending:
    """Sends bytes that the seed decides, and counts those that were taken. Also a talent."""

    def __init__(self, total: int, seed: int) -> None:
        self.expected = expected(total, seed)
        self._pieces = partial(pieces, total, seed)
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        for piece in self._pieces():
            while piece:
                count = connection.send(piece[: 64 * 1024])
                self.sent += count
                piece = piece[count:]


class Reading:
    """A talent: reads so many bytes, but does not begin before it is told to; and answers with their SHA-256."""

    def __init__(self, total: int) -> None:
        self.begin = threading.Event()
        self._total = total

    def __call__(self, connection: socket.socket) -> None:
        assert self.begin.wait(PATIENCE)
        connection.sendall(read_bytes(connection, self._total)[1].encode())


def memory_while_waiting(ends: Ends, sending: Sending, before: int) -> None:
    """Nothing more is taken of what is sent, though there is more; and our end has not kept it all."""
    sent = wait_until_settled(lambda: sending.sent, PATIENCE, "what was taken")
    assert sent < SLOW_TOTAL
    grown = ends.ours.rss_bytes() - before
    print(f"{sent / MIB:.1f} MiB were taken, memory grew by {grown / MIB:.1f} MiB")
    assert grown < MEMORY


def test_a_slow_service_behind_our_host(ends: Ends, serve: Serve) -> None:
    reading, sending = Reading(SLOW_TOTAL), Sending(SLOW_TOTAL, 1)
    ends.start(*CHROME_CLIENT, serve(read=reading, duplex=duplex).address)
    exchange(ends, 1000, 1)
    before = ends.ours.rss_bytes()
    with ends.visit(b"read") as visitor, Background(lambda: sending(visitor)):
        try:
            memory_while_waiting(ends, sending, before)
        finally:
            reading.begin.set()
        assert visitor.makefile("rb").read().decode() == sending.expected[1]


def test_a_slow_visitor_of_our_client(ends: Ends, serve: Serve) -> None:
    sending = Sending(SLOW_TOTAL, 1)
    ends.start(*CHROME_HOST, serve(send=sending, duplex=duplex).address)
    exchange(ends, 1000, 1)
    before = ends.ours.rss_bytes()
    with ends.visit(b"send") as visitor:
        memory_while_waiting(ends, sending, before)
        assert read_all(visitor) == sending.expected


def test_our_host_sends_to_a_chrome_that_stops(ends: Ends, serve: Serve) -> None:
    sending = Sending(SLOW_TOTAL, 1)
    ends.start(*CHROME_CLIENT, serve(send=sending).address)
    with ends.visit(b"send") as visitor, Background(lambda: read_all(visitor)) as received:
        poll(lambda: sending.sent > MIB, PATIENCE, "the first bytes are on their way")
        before = ends.ours.rss_bytes()
        ends.chrome.send_signal(signal.SIGSTOP)
        memory_while_waiting(ends, sending, before)
        ends.chrome.send_signal(signal.SIGCONT)
        assert received.join() == sending.expected


def test_our_client_sends_to_a_chrome_that_stops(ends: Ends, serve: Serve) -> None:
    reading, sending = Reading(SLOW_TOTAL), Sending(SLOW_TOTAL, 1)
    reading.begin.set()
    ends.start(*CHROME_HOST, serve(read=reading).address)
    with ends.visit(b"read") as visitor, Background(lambda: sending(visitor)):
        poll(lambda: sending.sent > MIB, PATIENCE, "the first bytes are on their way")
        before = ends.ours.rss_bytes()
        ends.chrome.send_signal(signal.SIGSTOP)
        memory_while_waiting(ends, sending, before)
        ends.chrome.send_signal(signal.SIGCONT)
        assert visitor.makefile("rb").read().decode() == sending.expected[1]
