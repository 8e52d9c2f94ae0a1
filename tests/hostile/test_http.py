"""What strangers send to the HTTP port, and what services answer, beside a visitor who works."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.hostile.harness import Honest, Used, connect, gauge, is_closed
from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll
from tests.process.services import Service
from tests.process.web_services import APP, OTHER, LoggingNginx, Site

MANY = 200
GET = b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n"
MIB = 1024 * 1024


class HonestVisitor(Honest):
    """Asks for a page all the time, over a connection that stays and over new ones."""

    def _ask(self, connection: socket.socket) -> None:
        connection.sendall(GET % APP.encode())
        answer = b""
        while not answer.endswith(b"page of app"):
            data = connection.recv(65536)
            assert data, f"the end after {answer!r}, {self.answers} answers and {self.visits} visits"
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer


class Attack:
    """A server with two clients, somebody honest, and what the server uses.

    :ivar connections: of the attacker, all from one address; they are closed at the end.
    """

    def __init__(self, site: Site, honest: HonestVisitor, used: Used, stack: ExitStack) -> None:
        self.site, self.honest, self.used = site, honest, used
        self._stack = stack
        self.connections: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket:
        connection = self._stack.enter_context(connect(self.site.port, "127.0.1.1"))
        self.connections.append(connection)
        try:
            connection.sendall(data)
        except OSError:
            pass  # It has been thrown out.
        return connection

    def wait_until_gone(self, what: str) -> None:
        """Wait until the server has closed all connections of the attacker."""
        poll(lambda: all(map(is_over, self.connections)), PATIENCE, what)


def is_over(connection: socket.socket) -> bool:
    """Read all that there is; return whether it has ended."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def send_until_closed(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send pieces until the other end has had enough, or takes no more; return how many bytes it has taken."""
    connection.settimeout(2)
    sent = 0
    try:
        while sent < most:
            sent += connection.send(piece)
    except OSError:
        pass
    return sent


@pytest.fixture
def attack(twistd: Twistds, tmp_path: Path) -> Iterator[Callable[..., Attack]]:
    """``attack(ADDRESS)``: everything is there; the address is that of the service of the other name."""
    stack = ExitStack()

    def start(other: str = "", *server: str) -> Attack:
        nginx = LoggingNginx(twistd, tmp_path / "nginx")
        site = Site(twistd, server=["--handshake-timeout=2", *server])
        site.publish({APP: nginx.address})
        site.publish({OTHER: other or nginx.address})
        honest = HonestVisitor(site.port)
        stack.enter_context(honest)
        used = stack.enter_context(gauge(site.server))
        return Attack(site, honest, used, stack)

    with stack:
        yield start


GARBAGE = {
    "nothing": b"",
    "zeros": bytes(10_000),
    "high bytes": b"\xff" * 10_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "SOCKS": b"\5\1\0",
    "two lengths": b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "length and chunks": b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: app.example.org\r\nHost: other.example.net\r\n\r\n",
    "half a head": b"GET / HTTP/1.1\r\nHost: app.ex",
    "CONNECT": b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(attack: Callable[..., Attack], name: str) -> None:
    run = attack()
    for _ in range(MANY):
        run.connect(GARBAGE[name])
    run.honest.go_on()
    for connection in run.connections:
        # Who is told off closes, in the end.
        try:
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
    run.wait_until_gone("the garbage is answered")
    run.used.stop()
    assert run.used.cpu_seconds < MANY * 0.005
    assert run.used.log_bytes < 60 * 250


def test_slow_heads(attack: Callable[..., Attack]) -> None:
    """A byte now and then of a head that has no end, over many connections of one address."""
    run = attack()
    for _ in range(MANY):
        run.connect(b"GET / HTTP/1.1\r\nHost: app.example.org\r\nX: ")

    def trickle() -> bool:
        for connection in run.connections:
            try:
                connection.send(b"y")
            except OSError:
                pass
        return all(map(is_over, run.connections))

    poll(trickle, PATIENCE, "nobody may take for ever")
    run.honest.go_on()
    assert run.used.log_bytes < 60 * 250


@pytest.mark.parametrize(
    "piece", [b"X" * 65536, b"X-Field: y\r\n" * 5000, b"\r\n" * 30_000], ids=["name", "fields", "lines"]
)
def test_a_megabyte_of_headers(attack: Callable[..., Attack], piece: bytes) -> None:
    run = attack()
    for _ in range(20):
        send_until_closed(run.connect(b"GET / HTTP/1.1\r\n" if piece[0] != 13 else b""), piece, MIB)
    run.honest.go_on()
    run.used.stop()
    assert run.used.rss_bytes < 20 * MIB
    assert run.used.cpu_seconds < 20 * 0.05
    assert run.used.log_bytes < 60 * 250


def test_requests_for_nobody(attack: Callable[..., Attack]) -> None:
    """Thousands of requests, each for another host name, cost no lines."""
    run = attack()
    for number in range(20):
        connection = run.connect()
        for again in range(100):
            connection.sendall(GET % (b"x%d.y%d.example" % (number, again)))
            answer = b""
            while not answer.endswith(b"\n"):
                answer += connection.recv(65536)
            assert answer.startswith(b"HTTP/1.1 404 ")
    run.honest.go_on()
    run.used.stop()
    assert run.used.cpu_seconds < 2000 * 0.001
    assert run.used.log_bytes < 60 * 250
    assert run.used.rss_bytes < 20 * MIB


def test_hosts_of_others_and_markup(attack: Callable[..., Attack]) -> None:
    run = attack()
    for host in (
        b"<script>alert(1)</script>",
        b"app.example.org/../other",
        b"a" * 5000,
        b"-",
        b"..",
        b"*",
    ):
        connection = run.connect(GET % host)
        answer = b""
        connection.settimeout(PATIENCE)
        while b"\n" not in answer.partition(b"\r\n\r\n")[2]:
            data = connection.recv(65536)
            if not data:
                break
            answer += data
        assert b"<script>" not in answer
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 404 ")), (host, answer)
    run.honest.go_on()


@pytest.mark.parametrize("host", ["nobody.example", OTHER])
def test_endless_bodies(attack: Callable[..., Attack], serve: Callable[..., Service], host: str) -> None:
    """To nobody, and to a service that has answered and does not read."""

    def answers(connection: socket.socket, *_: str) -> None:
        connection.sendall(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    run = attack(serve(POST=answers).address)
    head = f"POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    for _ in range(5):
        connection = run.connect(head)
        send_until_closed(connection, b"10000\r\n" + bytes(65536) + b"\r\n", 20 * MIB)
    run.honest.go_on()
    run.used.stop()
    assert run.used.rss_bytes < 30 * MIB
    assert run.used.cpu_seconds < 5 * 20 * 0.02


@pytest.mark.parametrize("host", ["nobody.example", APP])
def test_floods_of_pipelined_requests(attack: Callable[..., Attack], host: str) -> None:
    """From somebody who does not read the answers."""
    run = attack()
    requests = (GET % host.encode()) * 1000
    taken = [send_until_closed(run.connect(), requests, 20 * MIB) for _ in range(5)]
    run.honest.go_on()
    run.used.stop()
    print(taken)
    assert run.used.rss_bytes < 40 * MIB
    assert run.used.log_bytes < 60 * 250


def never(connection: socket.socket, *_: str) -> None:
    while connection.recv(65536):
        pass


def nonsense(connection: socket.socket, *_: str) -> None:
    connection.sendall(b"\0nonsense\r\n" * 1000)


def endless_head(connection: socket.socket, *_: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        connection.sendall(b"X-Field: y\r\n" * 1000)


def endless_line(connection: socket.socket, *_: str) -> None:
    connection.sendall(b"HTTP/1.1 200 ")
    while True:
        connection.sendall(b"y" * 65536)


def endless_notes(connection: socket.socket, *_: str) -> None:
    while True:
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 1000)


def endless_size(connection: socket.socket, *_: str) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"0" * 65536)


def too_much(connection: socket.socket, *_: str) -> None:
    connection.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx" + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison" * 1000
    )


@pytest.mark.parametrize(
    "talent",
    [never, nonsense, endless_head, endless_line, endless_notes, endless_size, too_much],
    ids=lambda each: each.__name__,
)
def test_services(attack: Callable[..., Attack], serve: Callable[..., Service], talent: Callable[..., None]) -> None:
    """A client whose service is hostile harms nobody else's visitors, and no later one of its own."""
    run = attack(serve(GET=talent).address)
    for _ in range(3 if talent is endless_notes else 20):
        connection = run.connect(GET % OTHER.encode())
        if talent is endless_notes:
            connection.settimeout(PATIENCE)
            assert connection.recv(1000)
        elif talent is not never:
            connection.settimeout(PATIENCE)
            answer = b""
            try:
                while (data := connection.recv(65536)) and not answer.endswith((b"HTTP\n", b"\r\n\r\nx")):
                    answer += data
                    if answer.endswith((b"HTTP\n", b"\r\n\r\nx")):
                        break
            except ConnectionError:
                assert talent is endless_size
            assert b"poison" not in answer
            if talent not in (endless_size, too_much):
                assert answer.startswith(b"HTTP/1.1 502 ")
    run.honest.go_on()
    run.used.stop()
    assert run.used.rss_bytes < 40 * MIB
    assert run.used.log_bytes < 60 * 250
    assert not is_closed(run.connections[-1]) or talent is not never
