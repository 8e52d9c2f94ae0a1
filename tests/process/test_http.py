"""HTTP by host name through real processes: curl and others in front, nginx and others behind."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, need
from tests.process.http_load import Load
from tests.process.services import LOOPBACK, curl, expected
from tests.process.web_services import APP, OTHER, WILD, LoggingNginx, Site, web_service
from tests.tls.parts import Authority

PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])
SIZE = 60_000_000

StartSite = Callable[..., Site]


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
def test_connections_are_kept(start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], plane: str) -> None:
    """Many requests, and few connections to the service. On streams of the link each request has its own, as a kept
    one would never get a data connection.
    """
    site, nginx = start_site(plane), start_nginx("app")
    site.publish({APP: nginx.address})
    site.get(APP)
    with Load(site.port, 8, host=APP) as load:
        load.wait_for(200)
    assert set(load.answers) == {200}
    used = nginx.connections()
    print(f"{len(used)} requests over {len(set(used))} connections")
    if plane == "direct":
        assert len(set(used)) <= 16


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


def ask(port: int, *lines: bytes) -> bytes:
    """What comes behind a request with these lines in front."""
    with socket.create_connection((LOOPBACK, port), timeout=PATIENCE) as visitor:
        visitor.sendall(b"".join(lines) + b"Connection: close\r\n\r\n")
        answer = b""
        while data := visitor.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), answer
    return answer.partition(b"\r\n\r\n")[2]


def test_visitors_by_way_of_proxies(start_site: StartSite, start_nginx: Callable[[str], LoggingNginx]) -> None:
    """A PROXY header tells whose connection it is, and a trusted proxy whose request."""
    nginx = start_nginx("app")
    first = b"GET /who HTTP/1.1\r\nHost: %b\r\n" % APP.encode()
    said = b"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\n"
    site = start_site(kind="haproxy:tcp")
    site.publish({APP: nginx.address})
    header = b"PROXY TCP4 192.0.2.7 192.0.2.1 1024 80\r\n"
    assert ask(site.port, header, first, said) == f"192.0.2.7 http {APP}".encode()
    trusting = start_site(server=["--trusted-proxies=127.0.0.0/24"])
    trusting.publish({APP: nginx.address})
    assert ask(trusting.port, first, said) == f"198.51.100.1, {LOOPBACK} https {APP}".encode()


def test_many_at_once(start_site: StartSite, start_nginx: Callable[[str], LoggingNginx], twistd: Twistds) -> None:
    site = start_site()
    site.publish({APP: start_nginx("app").address})
    wrk = twistd.program(
        need("wrk"),
        "--connections=500",
        "--threads=1",
        "--duration=3s",
        "--timeout=60s",
        "-H",
        f"Host: {APP}",
        site.url(),
    )
    assert wrk.wait() == 0, wrk
    print(wrk.output)
    assert "Socket errors" not in wrk.output, wrk
    assert "Non-2xx" not in wrk.output, wrk
    assert site.get(APP) == b"page of app"
    assert site.server.terminate() == 0
    assert "Traceback" not in site.server.output
