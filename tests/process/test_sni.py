"""HTTPS by name through real processes: each service has its certificate and its TLS, and the server has neither."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile.harness import is_closed
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, need, poll
from tests.process.services import LOOPBACK, curl, expected, get, read_all, read_line, send_bytes
from tests.process.tls_services import TlsService, authority_at, certificate, page_or_bytes, take, visit_by_name
from tests.tls.parts import Authority
from tests.wire.web.hellos import by_python

APP, WILD, OTHER = "app.example.org", "*.dev.example.org", "other.example.net"
SIZE = 60_000_000
GRPC_ENDS = Path(__file__).with_name("grpc_ends.py")
PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])


class Site:
    """A server with an HTTPS port, and its clients.

    :ivar port: the HTTPS port.
    """

    def __init__(self, twistd: Twistds, plane: str) -> None:
        self._twistd = twistd
        self._plane = plane
        self.control, self.port = free_port(), free_port()
        self.server = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{self.control}:interface={LOOPBACK}",
            f"--https-listen=tcp:{self.port}:interface={LOOPBACK}",
            f"--data-plane={plane}",
            "--log-level=debug",
        )
        self.server.wait_for(rf"HTTPS port listening on {LOOPBACK}:{self.port}$")

    def publish(self, local: str, *names: str) -> Twistd:
        """Start a client that publishes these names."""
        wanted = [f"--publish=https:{name}={local}" for name in names]
        where = f"--server={LOOPBACK}:{self.control}"
        client = self._twistd("rtunnel-client", where, *wanted, f"--data-plane={self._plane}", "--log-level=debug")
        for name in names:
            client.wait_for(rf"https://{re.escape(name)}:{self.port} is published")
        return client


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return authority_at(tmp_path / "ca")


@pytest.fixture
def start_site(twistd: Twistds) -> Callable[[str], Site]:
    return lambda plane: Site(twistd, plane)


@pytest.fixture
def serve_tls(authority: Authority) -> Iterator[Callable[..., TlsService]]:
    """``serve_tls(NAME, ...)``: a service with a certificate for these names."""
    services = []

    def start(*names: str) -> TlsService:
        services.append(TlsService(certificate(authority, *names), {"GET": page_or_bytes, "get": get, "take": take}))
        return services[-1]

    yield start
    for service in services:
        service.close()


def browse(site: Site, authority: Authority, name: str, path: str, *more: str) -> bytes:
    to = f"{name}:{site.port}:{LOOPBACK}"
    return curl(f"https://{name}:{site.port}/{path}", "--resolve", to, "--cacert", str(authority.cert), *more)


@PLANES
def test_two_clients_and_their_names(
    start_site: Callable[[str], Site], serve_tls: Callable[..., TlsService], authority: Authority, plane: str
) -> None:
    site = start_site(plane)
    client = site.publish(serve_tls(APP, WILD).address, APP, WILD)
    site.publish(serve_tls(OTHER).address, OTHER)
    for name in (APP, "one.dev.example.org", OTHER):
        assert browse(site, authority, name, f"at-{name}") == f"at-{name}".encode()
    # curl asks by another address than the name's.
    to = f"{OTHER}:443:{LOOPBACK}:{site.port}"
    assert curl(f"https://{OTHER}/x", "--connect-to", to, "--cacert", str(authority.cert)) == b"x"
    with visit_by_name(site.port, APP, authority, b"get 10 1") as visitor:
        address = "{}:{}".format(*visitor.getsockname())
        assert read_all(visitor) == expected(10, 1)
    for process in (site.server, client):
        process.wait_for(rf"visitor {re.escape(address)} of ")


@PLANES
def test_much_in_both_directions(
    start_site: Callable[[str], Site], serve_tls: Callable[..., TlsService], authority: Authority, plane: str
) -> None:
    site = start_site(plane)
    site.publish(serve_tls(APP).address, APP)
    with visit_by_name(site.port, APP, authority, b"get %d 7" % SIZE) as visitor:
        assert read_all(visitor) == expected(SIZE, 7)
    with visit_by_name(site.port, APP, authority, b"take %d" % SIZE) as visitor:
        send_bytes(visitor, SIZE, 8)
        assert read_line(visitor).decode() == "{} {}".format(*expected(SIZE, 8))


@PLANES
def test_hello_in_single_bytes(
    start_site: Callable[[str], Site], serve_tls: Callable[..., TlsService], authority: Authority, plane: str
) -> None:
    site = start_site(plane)
    site.publish(serve_tls(APP).address, APP)
    context = ssl.create_default_context(cafile=authority.cert)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=APP)
    with socket.create_connection((LOOPBACK, site.port), timeout=PATIENCE) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def until_done(step: Callable[[], object]) -> None:
            while True:
                try:
                    step()
                except ssl.SSLWantReadError:
                    for byte in outgoing.read():
                        connection.sendall(bytes([byte]))
                    data = connection.recv(65536)
                    assert data
                    incoming.write(data)
                else:
                    return

        until_done(tls.do_handshake)
        tls.write(b"get 100000 3\n")
        received = bytearray()
        while len(received) < 100_000:
            until_done(lambda: received.extend(tls.read(65536)))
    assert (len(received), hashlib.sha256(received).hexdigest()) == expected(100_000, 3)


def test_openssl_and_curl_understand_a_refusal(start_site: Callable[[str], Site], authority: Authority) -> None:
    site = start_site("auto")
    argv = [need("curl"), "--silent", "--show-error", "--insecure", "--resolve", f"{APP}:{site.port}:{LOOPBACK}"]
    for scheme, said in (("https", r"unrecognized name"), ("http", r"speaks HTTPS")):
        done = subprocess.run(
            [*argv, f"{scheme}://{APP}:{site.port}/"], capture_output=True, check=False, timeout=PATIENCE
        )
        assert re.search(said, (done.stdout + done.stderr).decode())
    site.server.wait_for(rf"HTTPS connection from {LOOPBACK}:\d+ closed: nobody publishes https://{APP}$")
    site.server.wait_for(rf"HTTPS connection from {LOOPBACK}:\d+ closed: that is HTTP, and the port speaks HTTPS$")


def test_server_that_stops_lets_its_visitors_finish(
    start_site: Callable[[str], Site], serve_tls: Callable[..., TlsService], authority: Authority
) -> None:
    site = start_site("auto")
    site.publish(serve_tls(APP).address, APP)
    with (
        visit_by_name(site.port, APP, authority, b"take 1000") as visitor,
        socket.create_connection((LOOPBACK, site.port), timeout=PATIENCE) as half,
    ):
        half.sendall(by_python(APP)[:100])
        send_bytes(visitor, 500, 9)
        site.server.wait_for(r"visitor .* of tunnel 0")
        site.server.send_signal(signal.SIGTERM)
        site.server.wait_for("waiting up to")
        poll(lambda: is_closed(half), PATIENCE, "who has named no host is cut")
        visitor.sendall(bytes(500))
        assert read_line(visitor).startswith(b"1000 ")
    assert site.server.wait() == 0


@PLANES
def test_grpc(start_site: Callable[[str], Site], twistd: Twistds, authority: Authority, plane: str) -> None:
    holder = certificate(authority, APP)
    program = sys.executable, str(GRPC_ENDS)
    service = twistd.program(*program, "serve", str(holder.cert), str(holder.key))
    site = start_site(plane)
    site.publish(service.wait_for(r"serving at (\S+)$")[1], APP)
    visitor = twistd.program(*program, "visit", str(site.port), APP, str(authority.cert))
    visitor.wait_for("^200 answers$")
    assert visitor.wait() == 0
