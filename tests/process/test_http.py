"""HTTP by host name through real processes: curl and others in front, nginx and others behind."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, poll
from tests.process.services import LOOPBACK, Service, curl, expected, pieces, read_bytes, read_line, send_bytes
from tests.process.web_services import APP, OTHER, WILD, LoggingNginx, Site, web_service
from tests.tls.parts import Authority

PLANES = pytest.mark.parametrize("plane", ["auto", "mux", "direct"])
SIZE = 200_000_000

StartSite = Callable[..., Site]


@pytest.fixture
def start_site(twistd: Twistds) -> StartSite:
    return lambda plane="auto", **more: Site(twistd, plane, **more)


@pytest.fixture
def start_nginx(twistd: Twistds, tmp_path: Path) -> Callable[[str], LoggingNginx]:
    return lambda name: LoggingNginx(twistd, tmp_path / name, name)


@PLANES
def test_names_paths_and_visitors(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], plane: str
) -> None:
    site = start_site(plane)
    app, api, wild, other = (start_nginx(name) for name in ("app", "api", "wild", "other"))
    site.publish({APP: app.address, f"{APP}/api": api.address, WILD: wild.address})
    site.publish({OTHER: other.address})
    for name, path, page in [
        (APP, "/", "app"),
        (f"{APP}:8080", "/x", "app"),
        ("APP.example.ORG", "/apis", "app"),
        (f"{APP}.", "/api/x", "api"),
        (APP, "/api?x=/", "api"),
        (APP, "/x/../api", "api"),
        (APP, "/%61pi", "api"),
        ("one.dev.example.org", "/", "wild"),
        ("two.one.dev.example.org", "/", "wild"),
        (OTHER, "/", "other"),
    ]:
        assert site.get(name, path, "--path-as-is") == f"page of {page}".encode(), (name, path)
    # One connection, and each request by itself.
    both = ["-H", f"Host: {APP}", site.url(), "--next", "--silent", "--noproxy", "*", "-H", f"Host: {OTHER}"]
    assert curl(site.url(), *both) == b"page of apppage of other"
    assert site.get(APP, "/who") == f"{LOOPBACK} http {APP}".encode()
    assert site.get(APP, "/who", "-H", "X-Forwarded-For: 1.2.3.4", "--interface", "127.0.0.9") == (
        f"127.0.0.9 http {APP}".encode()
    )
    for nobody in ("example.org", "dev.example.org", "x.app.example.org", LOOPBACK):
        assert site.status(nobody) == 404
    assert site.server.terminate() == 0
    assert "Traceback" not in site.server.output


@PLANES
def test_much_in_both_directions(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], tmp_path: Path, plane: str
) -> None:
    site, nginx = start_site(plane), start_nginx("app")
    nginx.put("large", SIZE, 7)
    with web_service() as (address, _):
        site.publish({APP: nginx.address, OTHER: address})
        got = tmp_path / "got"
        site.get(APP, "/files/large", "-o", str(got))
        assert subprocess.check_output(["sha256sum", str(got)]).split()[0].decode() == expected(SIZE, 7)[1]
        large = str(tmp_path / "app" / "files" / "large")
        said = "{} {}".format(*expected(SIZE, 7)).encode()
        assert site.get(OTHER, "/", "-T", large, "-X", "POST") == said
        assert site.get(OTHER, "/", "-T", large, "-X", "POST", "-H", "Transfer-Encoding: chunked") == said


@PLANES
def test_websocket(start_site: StartSite, twistd: Twistds, plane: str) -> None:
    site = start_site(plane)
    run = (sys.executable, "-m", "tests.process.websocket_ends")
    here = {"PYTHONPATH": str(Path(__file__).parents[2])}
    service = twistd.program(*run, "serve", env=here)
    site.publish({APP: f"{LOOPBACK}:{service.wait_for(r'echo at ([0-9]+)')[1]}"})
    visitor = twistd.program(*run, "visit", str(site.port), APP, env=here)
    visitor.wait_for(r"closed clean=True 4000 as you wish; 0 left")
    # It is no stranger to what is no WebSocket.
    assert site.status(APP) in (200, 400, 426)


@PLANES
def test_events_come_one_by_one(start_site: StartSite, plane: str) -> None:
    site = start_site(plane)
    with web_service() as (address, next_event):
        site.publish({APP: address})
        with socket.create_connection((LOOPBACK, site.port), timeout=PATIENCE) as visitor:
            visitor.sendall(b"GET /events HTTP/1.1\r\nHost: %b\r\n\r\n" % APP.encode())
            received = b""
            for number in range(3):
                # The next one is sent when this one has come.
                next_event()
                while b"data: %d\n\n" % number not in received:
                    received += visitor.recv(65536)
            while not received.endswith(b"0\r\n\r\n"):
                received += visitor.recv(65536)


def test_fields_go_on(start_site: StartSite) -> None:
    site = start_site()
    with web_service() as (address, _):
        site.publish({APP: address})
        fields = json.loads(site.get(APP, "/", "-H", "X-Odd:  a  b", "-H", "Cookie: c=d", "-A", "curl"))
    assert ["X-Odd", "a  b"] in fields
    assert ["Cookie", "c=d"] in fields
    assert ["Host", APP] in fields


@PLANES
def test_connections_are_kept(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], twistd: Twistds, plane: str
) -> None:
    """Many requests, and few connections to the service. On streams of the link each request has its own, as a kept
    one would never get a data connection.
    """
    site, nginx = start_site(plane), start_nginx("app")
    site.publish({APP: nginx.address})
    site.get(APP)
    wrk = twistd.program(
        need("wrk"), "--connections=8", "--threads=1", "--duration=2s", "-H", f"Host: {APP}", site.url()
    )
    assert wrk.wait() == 0, wrk
    assert "Socket errors" not in wrk.output, wrk
    assert "Non-2xx" not in wrk.output, wrk
    used = nginx.connections()
    print(f"{len(used)} requests over {len(set(used))} connections")
    if plane == "direct":
        assert len(set(used)) <= 16
    assert len(used) > 8


def test_under_tls(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], tmp_path: Path, twistd: Twistds
) -> None:
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    nginx = start_nginx("app")
    site = start_site(more=["--tls"], env={"RTUNNEL_PKI_DIR": str(authority.directory)})
    site.publish({APP: nginx.address})
    assert site.get(APP) == b"page of app"
    assert site.get(APP, "/who") == f"{LOOPBACK} http {APP}".encode()


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
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], twistd: Twistds, plane: str
) -> None:
    """It closes its kept connections between requests. Nobody sees more than 502 while it is down."""
    site, nginx = start_site(plane), start_nginx("app")
    site.publish({APP: nginx.address})
    wrk = twistd.program(
        need("wrk"), "--connections=16", "--threads=1", "--duration=6s", "-H", f"Host: {APP}", site.url()
    )
    poll(lambda: len(nginx.connections()) > 1000, PATIENCE, "requests")
    # nginx finishes what it has begun.
    nginx.process.terminate(number=signal.SIGQUIT)
    nginx.start()
    before = len(nginx.connections())
    assert wrk.wait() == 0, wrk
    print(wrk.output)
    assert "Socket errors" not in wrk.output, wrk
    assert len(nginx.connections()) > before + 100
    assert site.get(APP) == b"page of app"
    assert "Traceback" not in site.server.output


@PLANES
def test_a_service_that_closes_kept_connections_unannounced(
    start_site: StartSite, serve: Callable[..., Service], twistd: Twistds, plane: str
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
    wrk = twistd.program(
        need("wrk"), "--connections=16", "--threads=1", "--duration=3s", "-H", f"Host: {APP}", site.url()
    )
    assert wrk.wait() == 0, wrk
    print(wrk.output)
    assert "Socket errors" not in wrk.output, wrk
    assert "Non-2xx" not in wrk.output, wrk
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


@PLANES
def test_streams_that_wait_take_nobody_s_place(
    start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], tmp_path: Path, plane: str
) -> None:
    """A client that may have one stream at once serves one request after another, of two names."""
    clients = tmp_path / "clients.yaml"
    clients.write_text(f"laptop: {{token: laptop-token, hosts: ['{APP}', '{OTHER}'], ports: none, streams: 1}}\n")
    site = start_site(plane, server=[f"--clients={clients}"])
    app, other = start_nginx("app"), start_nginx("other")
    site.publish({APP: app.address, OTHER: other.address}, "--token=laptop-token")
    for _ in range(3):
        assert site.get(APP) == b"page of app"
        assert site.get(OTHER) == b"page of other"
        assert site.get(OTHER, "/", "-d", "x") == b"page of other"
