"""Visitors who find no data connection: they begin on the link, and go on on data connections as these come."""

from __future__ import annotations

import random
import re
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll
from tests.process.services import Flood, Service, Tunnel, count, expected, get, read_all, read_bytes, send_bytes
from tests.process.test_data_connections import connections
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

Serve = Callable[..., Service]
Start = Callable[..., Tunnel]

KIB = 1024
#: Visitors who come at once, many more than connections wait.
CROWD = 24
DEBUG = ["--log-level=debug"]
MOVED = r"goes on on a connection of its own$"
ON_LINK = r"visitor \S+ of .*: stream \d+$"


def echo(connection: socket.socket) -> None:
    while data := connection.recv(64 * KIB):
        connection.sendall(data)


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, twistd: Twistds, tmp_path: Path) -> Start:
    """Start a tunnel, plain or under TLS."""
    if request.param == "plain":
        return lambda local, *server: Tunnel(twistd, local, server=[*DEBUG, *server])
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return lambda local, *server: UnderTls(twistd, authority.directory).tunnel(local, [*DEBUG, *server])


def moves(tunnel: Tunnel) -> int:
    return len(re.findall(MOVED, tunnel.server.output, re.MULTILINE))


def has_own(tunnel: Tunnel, visitor: socket.socket) -> bool:
    """Whether a visitor is on a connection of its own, from the beginning or by now."""
    output, name = tunnel.server.output, ":".join(map(str, visitor.getsockname()))
    stream = re.search(rf"visitor {name} of .*: stream (\d+)$", output, re.MULTILINE)
    what = f"stream {stream[1]} goes on on" if stream is not None else f"visitor {name} of .* has"
    return re.search(f"{what} a connection of its own$", output, re.MULTILINE) is not None


def test_crowd_that_comes_at_once(serve: Serve, start: Start) -> None:
    """Every byte arrives once and in order, and all who stay have connections of their own in the end."""
    service = serve(echo=echo, get=get, count=count)
    tunnel = start(service.address)
    together = threading.Barrier(CROWD)

    def visit(number: int) -> socket.socket | None:
        rnd = random.Random(number)
        size = rnd.randrange(200 * KIB, 4000 * KIB)
        together.wait(PATIENCE)
        if number % 3 == 0:
            visitor = tunnel.visit(b"echo")
            said = rnd.randbytes(100 * KIB)
            heard = b""
            for start in range(0, len(said), 5000):
                visitor.sendall(said[start : start + 5000])
                while len(heard) < min(start + 5000, len(said)) and (data := visitor.recv(64 * KIB)):
                    heard += data
                time.sleep(rnd.random() * 0.03)
            assert heard == said
            return visitor
        if number % 3 == 1:
            with tunnel.visit(b"get %d 7" % size) as visitor:
                assert read_all(visitor) == expected(size, 7)
            return None
        with tunnel.visit(b"count") as visitor:
            send_bytes(visitor, size, 3)
            visitor.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: visitor.recv(KIB), b""))
            total, digest = answer.decode().split()
            assert (int(total), digest) == expected(size, 3)
        return None

    with ThreadPoolExecutor(CROWD) as pool, ExitStack() as stack:
        there = [stack.enter_context(visitor) for visitor in pool.map(visit, range(CROWD)) if visitor is not None]
        assert moves(tunnel)
        for visitor in there:
            poll(lambda: has_own(tunnel, visitor), PATIENCE, "a connection for each")  # noqa: B023
            visitor.sendall(b"still there")
            assert read_bytes(visitor, 11)[0] == 11
            visitor.shutdown(socket.SHUT_WR)
            assert read_all(visitor)[0] == 0
    poll(lambda: service.busy == 0, PATIENCE, "the end of all")
    for end in (tunnel.server, tunnel.client):
        assert end.terminate() == 0
        assert "Traceback" not in end.output
        assert "waiting up to" not in end.output


@pytest.mark.parametrize("who", ["server", "client"])
def test_killed_end_is_no_end_of_a_stream(serve: Serve, start: Start, who: str) -> None:
    """Some of the crowd are on the link, some on data connections, some on both."""
    seen: list[str] = []

    def store(connection: socket.socket) -> None:
        try:
            while connection.recv(256 * KIB):
                pass
        except ConnectionResetError:
            seen.append("reset")
        else:
            seen.append("end")

    tunnel = start(serve(store=store, flood=Flood()).address)

    def come(number: int) -> str:
        with tunnel.visit(b"flood" if number % 2 else b"store") as visitor:
            try:
                if not number % 2:
                    while True:
                        visitor.sendall(bytes(64 * KIB))
                return f"an end after {read_all(visitor)[0]} bytes"
            except (ConnectionResetError, BrokenPipeError):
                return "reset"

    with ThreadPoolExecutor(CROWD) as pool:
        # While the client makes no connections, the crowd begins on the link.
        tunnel.client.send_signal(signal.SIGSTOP)
        crowd = [pool.submit(come, number) for number in range(CROWD)]
        poll(lambda: len(re.findall(ON_LINK, tunnel.server.output, re.MULTILINE)) > CROWD / 2, PATIENCE, "the crowd")
        tunnel.client.send_signal(signal.SIGCONT)
        poll(lambda: moves(tunnel) > 2, PATIENCE, "the first who move")
        getattr(tunnel, who).kill()
        if who == "server":
            # Nobody keeps what was cut for a server that comes back.
            tunnel.client.terminate()
        assert {visit.result(PATIENCE) for visit in crowd} == {"reset"}
    assert set(seen) <= {"reset"}


def test_visitors_who_abort_at_every_moment(serve: Serve, start: Start) -> None:
    """Afterwards nothing of them is left."""
    service = serve(echo=echo, flood=Flood(), count=count)
    # Most of a crowd find none, and move later.
    tunnel = start(service.address, "--pool=4")

    def come(number: int) -> None:
        rnd = random.Random(number)
        try:
            what = rnd.choice([b"echo", b"echo", b"flood", b"count"])
            with tunnel.visit(what) as visitor:
                # A flood reads nothing, and what it has not read would hold up its reset.
                visitor.sendall(rnd.randbytes(10 if what == b"flood" else rnd.choice([10, 30_000, 200_000])))
                if what != b"count" and rnd.random() < 0.5:
                    visitor.recv(1)
                time.sleep(rnd.random() * 0.3)
                if rnd.random() < 0.2:
                    visitor.shutdown(socket.SHUT_WR)
                else:
                    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except ConnectionError:
            pass

    with ThreadPoolExecutor(CROWD) as pool:
        list(pool.map(come, range(200)))
    # Whether any of them has moved is a matter of chance; of these, most do.
    with ExitStack() as stack:
        for _ in range(CROWD):
            visitor = stack.enter_context(tunnel.visit(b"echo"))
            visitor.sendall(b"here")
            assert visitor.recv(4)
        poll(lambda: moves(tunnel), PATIENCE, "somebody who moves")
    poll(lambda: service.busy == 0, PATIENCE, "the services are told")
    with tunnel.visit(b"echo") as visitor:
        visitor.sendall(b"here")
        assert visitor.recv(4) == b"here"
    # The link, and data connections that wait.
    for end in (tunnel.server, tunnel.client):
        poll(lambda: connections(end.pid) <= 1 + 4, PATIENCE, "the visitors' connections are closed")  # noqa: B023
        assert end.terminate() == 0
        assert "Traceback" not in end.output
        assert "waiting up to" not in end.output
