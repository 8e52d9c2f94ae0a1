"""Whoever comes to the HTTPS port with something else than a whole hello for a name that is there."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.hostile.harness import LOOPBACK, Honest, connect, gauge, is_closed, limit_descriptors
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, poll
from tests.wire.web.hellos import by_python, hello

NAME = "app.example.org"
HELLO = by_python(NAME)
BITE = 1 << 20


class NamedVisitor(Honest):
    """An honest peer who begins each connection with a hello."""

    def _ask(self, connection: socket.socket) -> None:
        if connection is not self._stays or not self.answers:
            connection.sendall(HELLO)
            answer = b""
            while len(answer) < len(HELLO):
                data = connection.recv(len(HELLO) - len(answer))
                assert data, "the end before the service's answer"
                answer += data
            assert answer == HELLO
        super()._ask(connection)


class Site:
    """A server with an HTTPS port and a client, whose service echoes.

    :ivar port: the HTTPS port.
    """

    def __init__(self, twistd: Twistds, echo: str, *options: str) -> None:
        control, self.port = free_port(), free_port()
        self.server: Twistd = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{control}:interface={LOOPBACK}",
            f"--https-listen=tcp:{self.port}:interface={LOOPBACK}",
            *options,
        )
        self.server.wait_for("HTTPS port listening")
        twistd("rtunnel-client", f"--server={LOOPBACK}:{control}", f"--publish=https:{NAME}={echo}").wait_for(
            "is published"
        )


@pytest.fixture
def silent_flood() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_flood_of_silence(echo: str, twistd: Twistds, silent_flood: ExitStack) -> None:
    """Fewer places than strangers, who wait in them for as long as they are let."""
    site = Site(twistd, echo, "--handshake-timeout=1000")
    limit_descriptors(site.server, 400)
    with NamedVisitor(site.port) as honest, gauge(site.server) as used:
        strangers = [
            silent_flood.enter_context(connect(site.port, "127.0.1.1", data=HELLO[: number % 3 * 100]))
            for number in range(300)
        ]
        honest.go_on()
        used.look()
        poll(lambda: sum(map(is_closed, strangers)) >= 250, PATIENCE, "most strangers have given way")
        honest.go_on()
    assert sum(map(is_closed, strangers)) < 300
    assert used.cpu_seconds < 1.0 + len(strangers) * 0.01
    assert used.log_bytes < 8 * 1024
    assert used.most_descriptors < 200


def test_silence_ends(echo: str, twistd: Twistds, silent_flood: ExitStack) -> None:
    site = Site(twistd, echo, "--handshake-timeout=2")
    with NamedVisitor(site.port) as honest, gauge(site.server) as used:
        strangers = [silent_flood.enter_context(connect(site.port, "127.0.1.1", data=HELLO[:100])) for _ in range(100)]
        poll(lambda: all(map(is_closed, strangers)), PATIENCE, "all are closed")
        honest.go_on()
    assert used.log_bytes < 2 * 1024


def test_slow_single_bytes(echo: str, twistd: Twistds, silent_flood: ExitStack) -> None:
    site = Site(twistd, echo, "--handshake-timeout=2")
    with NamedVisitor(site.port) as honest:
        slow = [silent_flood.enter_context(connect(site.port, "127.0.1.1")) for _ in range(20)]
        began = time.monotonic()
        for byte in HELLO:
            if all(map(is_closed, slow)):
                break
            for stranger in slow:
                with suppress(OSError):
                    stranger.send(bytes([byte]))
            time.sleep(0.05)  # at this speed a hello takes longer than they have
        assert time.monotonic() - began < len(HELLO) * 0.05
        honest.go_on()


def test_megabytes_of_hello(echo: str, twistd: Twistds) -> None:
    """In records as large as can be, as small as can be, and of a length that no record has."""
    site = Site(twistd, echo)
    floods = [hello(NAME, (21, bytes(60_000)), size=size) for size in (1 << 14, 1)]
    floods.append(b"\x16\x03\x01\xff\xff" + bytes(60_000))
    with NamedVisitor(site.port) as honest, gauge(site.server) as used:
        for number in range(60):
            with connect(site.port, "127.0.1.1") as stranger, suppress(ConnectionError):
                data = floods[number % 3]
                for _ in range(BITE // len(data) + 1):
                    stranger.sendall(data)
        honest.go_on()
    assert used.cpu_seconds < 5.0
    assert used.rss_bytes < 16 * BITE
    assert used.log_bytes < 4 * 1024


def test_garbage(echo: str, twistd: Twistds) -> None:
    site = Site(twistd, echo)
    noise = random.Random(5)
    with NamedVisitor(site.port) as honest, gauge(site.server) as used:
        for number in range(300):
            data = bytearray(HELLO)
            if number % 2:
                data[noise.randrange(len(data))] = noise.randrange(256)
            else:
                data = bytearray(noise.randbytes(noise.randrange(1, 2000)))
            with connect(site.port, "127.0.1.1") as stranger, suppress(ConnectionError):
                stranger.sendall(data)
        honest.go_on()
        poll(lambda: site.server.descriptors() < 100, PATIENCE, "nothing is left of them")
    assert used.cpu_seconds < 5.0
    assert used.log_bytes < 300 * 200


def test_names_that_nobody_has(echo: str, twistd: Twistds) -> None:
    """Another one each time, and long."""
    site = Site(twistd, echo)
    with NamedVisitor(site.port) as honest, gauge(site.server) as used:
        for number in range(300):
            with connect(site.port, "127.0.1.1", data=hello(f"{number}.{'x' * 60}.{'y' * 60}.example")) as stranger:
                assert stranger.recv(7) == b"\x15\x03\x03\x00\x02\x02\x70"
        honest.go_on()
    assert used.log_bytes < 4 * 1024
