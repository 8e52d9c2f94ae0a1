"""HTTP by host name when something fails: services, clients and servers that go and come back, and slow visitors."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from tests.process.harness import need, poll
from tests.process.http_load import Load
from tests.process.services import LOOPBACK, Service, expected, pieces, read_bytes, read_line, send_bytes
from tests.process.web_services import APP, LoggingNginx, Site, web_service

PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])

StartSite = Callable[..., Site]


def test_service_that_is_down(start_site: StartSite, start_nginx: Callable[[str], LoggingNginx]) -> None:
    site, nginx = start_site(), start_nginx("app")
    site.publish({APP: nginx.address})
    assert site.get(APP) == b"page of app"
    nginx.process.kill()
    page = site.get(APP, "/", "--no-fail", "-i")
    assert page.startswith(b"HTTP/1.1 502 ")
    assert APP.encode() in page
    nginx.start()
    poll(lambda: site.status(APP) == 200, PATIENCE, "the service is there again")


def test_client_that_is_killed_and_comes_back(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx]
) -> None:
    site, nginx = start_site(), start_nginx("app")
    client = site.publish({APP: nginx.address})
    assert site.get(APP) == b"page of app"
    client.kill()
    poll(lambda: site.status(APP) == 404, PATIENCE, "the name is free")
    site.publish({APP: nginx.address})
    assert site.get(APP) == b"page of app"


def test_server_that_is_killed_and_comes_back(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx]
) -> None:
    site, nginx = start_site(), start_nginx("app")
    client = site.publish({APP: nginx.address})
    assert site.get(APP) == b"page of app"
    before = len(client.output)
    site.server.kill()
    site.start_server()
    client.wait_for(" is published", after=before)
    assert site.get(APP) == b"page of app"


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_a_service_that_restarts_loses_no_request(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], plane: str
) -> None:
    """It closes its kept connections between requests. Nobody sees more than 502 while it is down."""
    site, nginx = start_site(plane), start_nginx("app")
    site.publish({APP: nginx.address})
    with Load(site.port, 16, host=APP) as load:
        load.wait_for(500)
        # nginx finishes what it has begun.
        nginx.process.terminate(number=signal.SIGQUIT)
        nginx.start()
        load.wait_for(500)
    assert set(load.answers) <= {200, 502}
    assert site.get(APP) == b"page of app"
    assert "Traceback" not in site.server.output


@PLANES
def test_a_service_that_closes_kept_connections_unannounced(
    start_site: StartSite, serve: Callable[..., Service], plane: str
) -> None:
    """The next request is on its way already. It is sent once more over another connection."""

    def closes(connection: socket.socket, *_: str) -> None:
        for number in range(20):
            while read_line(connection):
                pass
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if number < 19 and not read_line(connection):
                return

    site = start_site(plane)
    site.publish({APP: serve(GET=closes).address})
    with Load(site.port, 16, host=APP) as load:
        load.wait_for(1000)
    assert set(load.answers) == {200}
    assert "Traceback" not in site.server.output


def test_server_that_stops(start_site: StartSite) -> None:
    """An answer that has begun comes to its end."""
    site = start_site(server=["--drain=60"])
    with web_service() as (address, next_event):
        site.publish({APP: address})
        with socket.create_connection((LOOPBACK, site.port), timeout=PATIENCE) as visitor:
            visitor.sendall(b"GET /events HTTP/1.1\r\nHost: %b\r\n\r\n" % APP.encode())
            next_event()
            received = visitor.recv(100)
            site.server.send_signal(signal.SIGTERM)
            site.server.wait_for("HTTP port .*closed|stopp|drain")
            next_event()
            next_event()
            while data := visitor.recv(65536):
                received += data
            assert received.endswith(b"0\r\n\r\n")
            assert b"data: 2\n\n" in received
        assert site.server.wait() == 0


def test_a_cut_off_answer_is_seen_as_such(start_site: StartSite, serve: Callable[..., Service]) -> None:
    def broken(connection: socket.socket, *_: str) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for piece in pieces(1_000_000, 1):
            connection.sendall(piece)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    site = start_site()
    site.publish({APP: serve(GET=broken).address})
    argv = [need("curl"), "--silent", "--show-error", "--noproxy", "*", "-o", "/dev/null", "-H", f"Host: {APP}"]
    done = subprocess.run([*argv, site.url()], capture_output=True, check=False, timeout=PATIENCE)
    assert done.returncode in (18, 56), done.stderr
    assert re.search(rb"reset|transfer closed|Recv failure", done.stderr)


@pytest.mark.parametrize("closes", [True, False], ids=["whole", "broken off"])
def test_a_slow_visitor_gets_all_that_there_is(
    start_site: StartSite, serve: Callable[..., Service], closes: bool
) -> None:
    """The last answer of a connection, or a part of one, waits in the system when the connection is over for us."""
    total = 3_000_000
    is_sent = threading.Event()

    def answer(connection: socket.socket, *_: str) -> None:
        while read_line(connection):
            pass
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (total + (not closes)))
        send_bytes(connection, total, 3)
        connection.shutdown(socket.SHUT_WR)
        is_sent.set()

    site = start_site()
    site.publish({APP: serve(GET=answer).address})
    with socket.socket() as visitor:
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        visitor.settimeout(PATIENCE)
        visitor.connect((LOOPBACK, site.port))
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % APP.encode())
        assert is_sent.wait(PATIENCE)
        while read_line(visitor):
            pass
        assert read_bytes(visitor, total) == expected(total, 3)
        if closes:
            assert visitor.recv(1) == b""
        else:
            with pytest.raises(ConnectionResetError):
                visitor.recv(1)


@pytest.mark.parametrize("begun", [False, True], ids=["before the answer", "in the middle of it"])
def test_client_that_is_killed_during_a_request(start_site: StartSite, begun: bool) -> None:
    site = start_site()
    with web_service() as (address, next_event):
        client = site.publish({APP: address})
        with socket.create_connection((LOOPBACK, site.port), timeout=PATIENCE) as visitor:
            if begun:
                visitor.sendall(b"GET /events HTTP/1.1\r\nHost: %b\r\n\r\n" % APP.encode())
                next_event()
                received = b""
                while b"data: 0" not in received:
                    received += visitor.recv(65536)
                client.kill()
                with pytest.raises(ConnectionResetError):
                    visitor.recv(65536)
            else:
                visitor.sendall(b"POST / HTTP/1.1\r\nHost: %b\r\nContent-Length: 10\r\n\r\nabc" % APP.encode())
                client.wait_for("published")
                client.kill()
                assert visitor.recv(65536).startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 "))
