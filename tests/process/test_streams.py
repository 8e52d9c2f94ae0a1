"""Bytes of many and of large streams arrive as they were sent, in both directions, each with its own end."""

from __future__ import annotations

import hashlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from operator import le
from queue import Queue

import pytest

from tests.patience import PATIENCE
from tests.process.harness import poll
from tests.process.proc import descriptors
from tests.process.services import (
    BOTH_PLANES,
    Background,
    Digest,
    Service,
    Tunnel,
    count,
    expected,
    read_all,
    read_bytes,
    read_line,
    send_bytes,
)
from tests.process.silent import Silent

Serve = Callable[..., Service]
StartTunnel = Callable[..., Tunnel]

MIB = 1024 * 1024

VISITORS = 500
POOL = 8


@BOTH_PLANES
def test_200_megabytes_each_way_at_once(serve: Serve, start_tunnel: StartTunnel) -> None:
    total = 200 * 1000 * 1000
    received: Queue[Digest] = Queue()

    def duplex(connection: socket.socket) -> None:
        with Background(lambda: received.put(read_all(connection))):
            send_bytes(connection, total, 1)
            connection.shutdown(socket.SHUT_WR)

    tunnel = start_tunnel(serve(duplex=duplex).address)
    with tunnel.visit(b"duplex") as visitor:

        def send() -> None:
            send_bytes(visitor, total, 2)
            visitor.shutdown(socket.SHUT_WR)

        with Background(send):
            assert read_all(visitor) == expected(total, 1)
        assert received.get(timeout=PATIENCE) == expected(total, 2)


@BOTH_PLANES
def test_visitor_who_goes_away_behind_his_end(serve: Serve, start_tunnel: StartTunnel) -> None:
    """The service learns of it as if there were no tunnel, and a drain does not wait for him."""
    silent = Silent()
    tunnel = start_tunnel(serve(silent=silent).address)
    with tunnel.visit(b"silent") as visitor:
        assert silent.learns_of(visitor)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """This process has both ends of every visitor."""
    needed = 4 * VISITORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        pytest.skip(f"a process may have {hard} descriptors only, and {needed} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@BOTH_PLANES
@pytest.mark.usefixtures("many_descriptors")
def test_500_visitors_at_once(serve: Serve, start_tunnel: StartTunnel) -> None:
    """Nobody is answered before all are there; each gets the answer to what it sent itself."""
    all_there, answer_now = threading.Barrier(VISITORS + 1), threading.Event()

    def answer(connection: socket.socket, size: str) -> None:
        sent = read_bytes(connection, int(size))
        all_there.wait(PATIENCE)
        assert answer_now.wait(PATIENCE)
        connection.sendall(sent[1].encode())

    pool, service = [f"--pool={POOL}"], serve(answer=answer)
    tunnel = start_tunnel(service.address, server=pool, client=pool)
    ends = [tunnel.server.pid, tunnel.client.pid]
    before = [descriptors(pid) for pid in ends]
    with ExitStack() as stack:
        visitors = []
        for number in range(VISITORS):
            visitors.append(visitor := stack.enter_context(tunnel.visit()))
            content = f"{number} ".encode() * 1000
            visitor.sendall(f"answer {len(content)}\n".encode() + content)
            # Each waits five seconds for a data connection: they come no faster than a slow machine makes some.
            poll(lambda seen=number - POOL: service.busy > seen, PATIENCE, "those who came before are served")  # type: ignore[misc]
        all_there.wait(PATIENCE)
        while_open = [descriptors(pid) for pid in ends]
        answer_now.set()
        for number, visitor in enumerate(visitors):
            content = f"{number} ".encode() * 1000
            answered = b"".join(iter(lambda visitor=visitor: visitor.recv(1000), b""))  # type: ignore[misc]
            assert answered.decode() == hashlib.sha256(content).hexdigest(), f"visitor {number}"
    assert all(count >= VISITORS for count in while_open)
    # More data connections may wait now.
    most = [count + POOL for count in before]
    poll(lambda: all(map(le, [descriptors(pid) for pid in ends], most)), PATIENCE, f"descriptors are {before} again")


class TestHalfClose:
    """One direction is at its end, and the other goes on."""

    @BOTH_PLANES
    @pytest.mark.parametrize("total", [0, 1, 20 * MIB])
    def test_answer_comes_after_the_end_of_the_request(
        self, total: int, serve: Serve, start_tunnel: StartTunnel
    ) -> None:
        service = serve(count=count)
        tunnel = start_tunnel(service.address)
        with tunnel.visit(b"count") as visitor:
            send_bytes(visitor, total, 3)
            visitor.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: visitor.recv(1000), b""))
        length, digest = answer.decode().split()
        assert (int(length), digest) == expected(total, 3)
        poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")

    @BOTH_PLANES
    def test_service_ends_first_and_the_visitor_goes_on(self, serve: Serve, start_tunnel: StartTunnel) -> None:
        total = 20 * MIB
        received: Queue[Digest] = Queue()

        def early(connection: socket.socket) -> None:
            connection.sendall(b"that is all from me\n")
            connection.shutdown(socket.SHUT_WR)
            received.put(read_all(connection))

        service = serve(early=early)
        tunnel = start_tunnel(service.address)
        with tunnel.visit(b"early") as visitor:
            assert read_line(visitor) == b"that is all from me"
            assert visitor.recv(1) == b""
            send_bytes(visitor, total, 4)
        assert received.get(timeout=PATIENCE) == expected(total, 4)
        poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")

    @BOTH_PLANES
    def test_broken_visitor_does_not_look_like_a_finished_one(self, serve: Serve, start_tunnel: StartTunnel) -> None:
        """A connection that is reset is reset at the other end too, that nobody takes a part for the whole."""
        ends: Queue[str] = Queue()

        def upload(connection: socket.socket) -> None:
            connection.sendall(b"ready\n")
            try:
                read_all(connection)
            except ConnectionResetError:
                ends.put("reset")
            else:
                ends.put("end")

        tunnel = start_tunnel(serve(upload=upload).address)
        with tunnel.visit(b"upload") as visitor:
            assert read_line(visitor) == b"ready"
            visitor.sendall(b"the first half")
            # With this, close sends a reset.
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        assert ends.get(timeout=PATIENCE) == "reset"
