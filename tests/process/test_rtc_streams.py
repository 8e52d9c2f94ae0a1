"""Bytes of many and of large streams come out of data channels as they went in, each direction with its own end."""

from __future__ import annotations

import hashlib
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from queue import Queue

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.proc import descriptors
from tests.process.rtc import RtcTunnel, lines_with
from tests.process.services import (
    LOOPBACK,
    Background,
    Digest,
    Service,
    Visitor,
    count,
    expected,
    fetch,
    get,
    page,
    read_all,
    read_bytes,
    read_line,
    send_bytes,
)
from tests.process.silent import Silent

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

MIB = 1024 * 1024

VISITORS, ON_THE_WAY = 200, 8
"""How many are there, and how many come at once."""
LEFTOVERS = 2
"""File descriptors that may stay when visitors are gone, such as one that was opened for the log meanwhile."""

RESET_ON_CLOSE = b"\1\0\0\0\0\0\0\0"
"""The value of SO_LINGER with which close sends a reset."""


def test_20_megabytes_each_way_at_once(serve: Serve, start_rtc: StartRtc) -> None:
    total = 20 * 1000 * 1000
    received: Queue[Digest] = Queue()

    def duplex(connection: socket.socket) -> None:
        with Background(lambda: received.put(read_all(connection))):
            send_bytes(connection, total, 1)
            connection.shutdown(socket.SHUT_WR)

    tunnel = start_rtc(serve(duplex=duplex).address)
    with tunnel.visit(b"duplex") as visitor:

        def send() -> None:
            send_bytes(visitor, total, 2)
            visitor.shutdown(socket.SHUT_WR)

        with Background(send):
            assert read_all(visitor) == expected(total, 1)
        assert received.get(timeout=PATIENCE) == expected(total, 2)


def test_visitor_who_goes_away_behind_his_end(serve: Serve, start_rtc: StartRtc) -> None:
    silent = Silent()
    tunnel = start_rtc(serve(silent=silent).address)
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


@pytest.mark.usefixtures("many_descriptors")
def test_200_visitors_at_once(serve: Serve, start_rtc: StartRtc) -> None:
    """Nobody is answered before all are there; each gets the answer to what it sent itself. Nothing is left of them."""
    all_there, answer_now = threading.Barrier(VISITORS + 1), threading.Event()

    def answer(connection: socket.socket, size: str) -> None:
        sent = read_bytes(connection, int(size))
        all_there.wait(PATIENCE)
        assert answer_now.wait(PATIENCE)
        connection.sendall(sent[1].encode())

    service = serve(answer=answer, GET=page("here"))
    tunnel = start_rtc(service.address)
    assert fetch(tunnel.local) == "here"
    ends = [tunnel.host.pid, tunnel.client.pid]
    before = [descriptors(pid) for pid in ends]
    with ExitStack() as stack:
        visitors = []
        for number in range(VISITORS):
            visitors.append(visitor := stack.enter_context(tunnel.visit()))
            content = f"{number} ".encode() * 1000
            visitor.sendall(f"answer {len(content)}\n".encode() + content)
            # An end that does nothing but work on visitors for seven seconds of a slow machine counts as dead.
            poll(lambda seen=number - ON_THE_WAY: service.busy > seen, PATIENCE, "those who came before are served")  # type: ignore[misc]
        all_there.wait(PATIENCE)
        while_open = [descriptors(pid) for pid in ends]
        answer_now.set()
        for number, visitor in enumerate(visitors):
            content = f"{number} ".encode() * 1000
            answered = b"".join(iter(lambda visitor=visitor: visitor.recv(1000), b""))  # type: ignore[misc]
            assert answered.decode() == hashlib.sha256(content).hexdigest(), f"visitor {number}"
    assert all(count >= VISITORS for count in while_open)

    def gone() -> bool:
        return all(descriptors(pid) <= most + LEFTOVERS for pid, most in zip(ends, before, strict=True))

    poll(gone, PATIENCE, f"descriptors are {before} again")
    assert fetch(tunnel.local) == "here"


class TestHalfClose:
    """One direction is at its end, and the other goes on."""

    def test_answer_comes_after_the_end_of_the_request(self, serve: Serve, start_rtc: StartRtc) -> None:
        service = serve(count=count)
        tunnel = start_rtc(service.address)
        for total in (0, 1, 3 * MIB):
            with tunnel.visit(b"count") as visitor:
                send_bytes(visitor, total, 3)
                visitor.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda visitor=visitor: visitor.recv(1000), b""))  # type: ignore[misc]
            length, digest = answer.decode().split()
            assert (int(length), digest) == expected(total, 3)
            poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")

    def test_service_ends_first_and_the_visitor_goes_on(self, serve: Serve, start_rtc: StartRtc) -> None:
        total = 3 * MIB
        received: Queue[Digest] = Queue()

        def early(connection: socket.socket) -> None:
            connection.sendall(b"that is all from me\n")
            connection.shutdown(socket.SHUT_WR)
            received.put(read_all(connection))

        service = serve(early=early)
        tunnel = start_rtc(service.address)
        with tunnel.visit(b"early") as visitor:
            assert read_line(visitor) == b"that is all from me"
            assert visitor.recv(1) == b""
            send_bytes(visitor, total, 4)
        assert received.get(timeout=PATIENCE) == expected(total, 4)
        poll(lambda: service.busy == 0, PATIENCE, "the connection to the service is over")


class TestReset:
    """What is broken does not look like what is finished, that nobody takes a part for the whole."""

    def test_either_end(self, serve: Serve, start_rtc: StartRtc) -> None:
        ends: Queue[str] = Queue()

        def upload(connection: socket.socket) -> None:
            connection.sendall(b"ready\n")
            try:
                read_all(connection)
            except ConnectionResetError:
                ends.put("reset")
            else:
                ends.put("end")

        def half(connection: socket.socket) -> None:
            connection.sendall(b"the first half\n")
            # Everything has arrived when the visitor says so.
            connection.recv(1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)

        tunnel = start_rtc(serve(upload=upload, half=half, GET=page("here")).address)
        with tunnel.visit(b"upload") as visitor:
            assert read_line(visitor) == b"ready"
            visitor.sendall(b"the first half")
            visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        assert ends.get(timeout=PATIENCE) == "reset"
        with tunnel.visit(b"half") as visitor:
            assert read_line(visitor) == b"the first half"
            visitor.sendall(b"!")
            with pytest.raises(ConnectionResetError):
                visitor.recv(1)
        # Others were not broken by it.
        assert fetch(tunnel.local) == "here"

    def test_service_that_refuses(self, serve: Serve, start_rtc: StartRtc) -> None:
        """Visitors are reset; the log has one line for all of them, and another when the service is back."""
        port = free_port()
        tunnel = start_rtc(f"{LOOPBACK}:{port}")
        for _ in range(5):
            with tunnel.visit() as visitor, pytest.raises(ConnectionResetError):
                visitor.recv(1)
        (line,) = lines_with(tunnel.host, "does not answer")
        assert f"offers tcp {LOOPBACK}:{port}; it does not answer (connection refused): visitors get a reset" in line
        with socket.create_server((LOOPBACK, port)) as service, tunnel.visit():
            service.settimeout(PATIENCE)
            service.accept()[0].close()
        tunnel.host.wait_for(f"offers tcp {LOOPBACK}:{port}; it answers$")


class TestServices:
    """Several services of one host, and several forwards of one client."""

    def test_each_forward_reaches_its_service(self, serve: Serve, start_rtc: StartRtc) -> None:
        services = [serve(GET=page("default"), get=get), serve(GET=page("blue")), serve(GET=page("green"))]
        ports = {name: free_port() for name in ("blue", "green", "red")}
        tunnel = start_rtc(
            services[0].address,
            host=[f"--service=blue={services[1].address}", f"--service=green={services[2].address}"],
            client=[f"--forward={LOOPBACK}:{port}={name}" for name, port in ports.items()],
        )
        for _ in range(2):
            assert fetch(tunnel.local) == "default"
            assert fetch(ports["blue"]) == "blue"
            assert fetch(ports["green"]) == "green"
        # The host offers no red one: whoever wants it is reset, and both ends say so.
        with tunnel.visit(b"get 1000000 1") as other:
            with Visitor(ports["red"]) as visitor, pytest.raises(ConnectionResetError):
                visitor.recv(1)
            assert read_all(other) == expected(1_000_000, 1)
        assert (
            "host 'myhost' refuses a connection: it does not offer the service 'red' over tcp" in tunnel.client.output
        )
        (line,) = lines_with(tunnel.host, "red")
        assert "asks for the service 'red' over tcp, which is not offered" in line
        assert "#warn" in line
        assert fetch(tunnel.local) == "default"
