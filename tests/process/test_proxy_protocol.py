"""Local services that read the PROXY header of the client: haproxy, nginx, and one that takes datagrams."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.needs import needs_ipv6
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, poll, wait_until_open
from tests.process.nginx import NGINX_FOLDERS, NGINX_PROCESS, Nginx
from tests.process.services import LOOPBACK, curl
from tests.process.test_balancers import STREAM_MODULE
from tests.process.test_udp_tunnels import dig
from tests.process.tls_services import authority_at, certificate

PLANES = pytest.mark.parametrize("plane", ["mux", "direct"])
VERSIONS = pytest.mark.parametrize("version", ["v1", "v2"])
VISITOR = "127.0.0.9"
APP, WILD = "app.example.org", "*.dev.example.org"

HAPROXY_CONF = """
global
    maxconn 200
    log stdout format raw local0
defaults
    mode http
    log global
    timeout connect 10s
    timeout client 1m
    timeout server 1m
listen page
    bind {bind} accept-proxy {ssl}
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst_port] %[fc_pp_authority]"
"""
NGINX_CONF = (
    """load_module {module};
"""
    + NGINX_PROCESS
    + """
http {{
    access_log off;
"""
    + NGINX_FOLDERS
    + """    server {{
        listen {http} proxy_protocol;
        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port "; }}
    }}
}}
stream {{
    server {{
        listen {stream} proxy_protocol;
        return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port ";
    }}
}}
"""
)
UNBOUND_CONF = """
server:
    interface: 127.0.0.1@{port}
    proxy-protocol-port: {port}
    access-control: {visitor}/32 refuse
    do-daemonize: no
    use-syslog: no
    logfile: ""
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    module-config: "iterator"
    local-zone: "example." static
    local-data: "a.example. IN A 192.0.2.55"
"""


class Ends:
    """A server and a client, whose tunnels stand in a file.

    :ivar https: the server's HTTPS port.
    """

    def __init__(self, twistd: Twistds, plane: str, *tunnels: dict[str, str], public: str = LOOPBACK) -> None:
        control, self.https = free_port(), free_port()
        self.server: Twistd = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{control}:interface={LOOPBACK}",
            f"--https-listen=tcp:{self.https}:interface={LOOPBACK}",
            f"--public-interface={public}",
            f"--data-plane={plane}",
        )
        self.server.wait_for(rf"HTTPS port listening on {LOOPBACK}:{self.https}$")
        conf = twistd.directory / "client.json"
        conf.write_text(json.dumps({"server": f"{LOOPBACK}:{control}", "data-plane": plane, "tunnels": tunnels}))
        self.client: Twistd = twistd("rtunnel-client", f"--config={conf}")
        for tunnel in tunnels:
            what, _, _ = tunnel["publish"].partition("=")
            self.client.wait_for(rf"{re.escape(what.partition(':')[2])}\S* is published")


def start_haproxy(twistd: Twistds, bind: str, ssl: str = "") -> Process:
    conf = twistd.directory / "haproxy.cfg"
    conf.write_text(HAPROXY_CONF.format(bind=bind, ssl=ssl))
    return twistd.program(need("haproxy"), "-db", "-f", str(conf))


def start_nginx(twistd: Twistds, http: object, stream: object) -> Process:
    program = need("nginx")
    if not STREAM_MODULE.exists():
        pytest.skip("nginx has no stream module")
    directory = twistd.directory
    conf = directory / "nginx.conf"
    conf.write_text(NGINX_CONF.format(module=STREAM_MODULE, directory=directory, http=http, stream=stream))
    return twistd.program(program, "-e", "stderr", "-p", str(directory), "-c", str(conf))


def ask(port: int, *options: str, host: str = LOOPBACK) -> list[str]:
    """The words that a page has for a visitor from :data:`VISITOR`, without the port that curl chose."""
    where = ["--interface", VISITOR] if host == LOOPBACK else []
    shown = f"[{host}]" if ":" in host else host
    page = curl(f"http://{shown}:{port}/", *where, *options, "-w", " %{local_port}").decode()
    address, source_port, *words, chosen = page.split()
    assert source_port == chosen
    return [address, *words]


@PLANES
@VERSIONS
def test_haproxy(twistd: Twistds, version: str, plane: str) -> None:
    service, public = free_port(), free_port()
    haproxy = start_haproxy(twistd, f"{LOOPBACK}:{service}")
    wait_until_open(service)
    before = haproxy.wait_for("Connection closed while waiting for PROXY protocol header").end()
    tunnel = {"publish": f"tcp:{public}={service}", "name": "web", "proxy-protocol": version}
    ends = Ends(twistd, plane, tunnel)
    for _ in range(3):
        assert ask(public) == [VISITOR, str(public)]
    ends.client.wait_for(" answers$")
    # Neither the check nor a visitor looked like somebody without a header.
    assert "PROXY" not in haproxy.output[before:]
    assert ends.client.terminate() == 0


@PLANES
@VERSIONS
def test_nginx(twistd: Twistds, version: str, plane: str) -> None:
    """As a web server and as a balancer of connections, whose visitors may say nothing first."""
    http, stream, public, public_stream = (free_port() for _ in range(4))
    nginx = start_nginx(twistd, f"{LOOPBACK}:{http}", f"{LOOPBACK}:{stream}")
    wait_until_open(http)
    # This is what the check is spared.
    wait_until_open(stream)
    nginx.wait_for(r'broken header: ""')
    before = len(nginx.output)
    ends = Ends(
        twistd,
        plane,
        {"publish": f"tcp:{public}={http}", "proxy-protocol": version},
        {"publish": f"tcp:{public_stream}={stream}", "name": "x" * 48, "proxy-protocol": version},
    )
    for _ in range(3):
        assert ask(public) == [VISITOR, str(public)]
    with closing(socket.create_connection((LOOPBACK, public_stream), PATIENCE, (VISITOR, 0))) as visitor:
        source = visitor.getsockname()[1]
        data = b""
        while piece := visitor.recv(1000):
            data += piece
    assert data.decode().split() == [VISITOR, str(source), str(public_stream)]
    for port in (http, stream):
        ends.client.wait_for(rf":{port} answers$")
    assert nginx.output[before:] == ""


@VERSIONS
def test_a_name_in_nginx_that_is_too_long(twistd: Twistds, version: str) -> None:
    """nginx 1.22 takes up to 107 bytes for ``stream``, newer ones more: the documents say so."""
    http, stream, public = (free_port() for _ in range(3))
    nginx = start_nginx(twistd, f"{LOOPBACK}:{http}", f"{LOOPBACK}:{stream}")
    wait_until_open(http)
    Ends(twistd, "auto", {"publish": f"tcp:{public}={stream}", "name": "\u00e9" * 64, "proxy-protocol": version})
    with closing(socket.create_connection((LOOPBACK, public), PATIENCE)) as visitor:
        try:
            assert visitor.recv(1000).startswith(LOOPBACK.encode())
        except ConnectionResetError:
            assert version == "v2"
            nginx.wait_for("header is too large")


@needs_ipv6
@PLANES
@VERSIONS
def test_visitors_with_ipv6_and_a_unix_socket(twistd: Twistds, version: str, plane: str) -> None:
    path, public, stream = twistd.directory / "s", free_port(), free_port()
    start_nginx(twistd, f"unix:{path}", f"{LOOPBACK}:{stream}")
    poll(path.exists, PATIENCE, "the socket of nginx")
    Ends(twistd, plane, {"publish": f"tcp:{public}=unix:{path}", "proxy-protocol": version}, public="::")
    for host, seen in (("::1", "::1"), (LOOPBACK, VISITOR)):
        assert ask(public, host=host) == [seen, str(public)]


@PLANES
def test_the_host_name_of_tls_that_passes_through(twistd: Twistds, tmp_path: Path, plane: str) -> None:
    service = free_port()
    authority = authority_at(tmp_path / "ca")
    holder = certificate(authority, APP, WILD)
    both = tmp_path / "both.pem"
    both.write_bytes(Path(holder.cert).read_bytes() + Path(holder.key).read_bytes())
    start_haproxy(twistd, f"{LOOPBACK}:{service}", f"ssl crt {both}")
    wait_until_open(service)
    both_names = [{"publish": f"https:{name}={service}", "proxy-protocol": "v2"} for name in (APP, WILD)]
    ends = Ends(twistd, plane, *both_names)
    # Who has published a wildcard has the name in the ClientHello alone.
    for name, authority_tlv in ((APP, [APP]), ("x.dev.example.org", [])):
        page = curl(
            f"https://{name}:{ends.https}/",
            *("--resolve", f"{name}:{ends.https}:{LOOPBACK}", "--cacert", str(authority.cert), "--interface", VISITOR),
        )
        address, _, port, *more = page.decode().split()
        assert [address, port, *more] == [VISITOR, str(ends.https), *authority_tlv]


def test_a_service_that_expects_no_header(twistd: Twistds, nginx: Nginx) -> None:
    """It takes the header for a request, or does not understand it."""
    public = free_port()
    Ends(twistd, "auto", {"publish": f"tcp:{public}={nginx.address}", "proxy-protocol": "v1"})
    assert b"400 Bad Request" in curl(f"http://{LOOPBACK}:{public}/", "--no-fail", "--http0.9")


class ProxiedUdp:
    """Answers each datagram by what its header says of it, read by the letter of the specification."""

    def __init__(self, family: int = socket.AF_INET) -> None:
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            data, source = self._socket.recvfrom(65536)
            if data == b"end":
                return
            self._socket.sendto(json.dumps(self.read(data)).encode(), source)

    @staticmethod
    def read(data: bytes) -> dict[str, Any]:
        assert data[:12].hex() == "0d0a0d0a000d0a515549540a"
        assert data[12] == 0x21
        family = {0x12: socket.AF_INET, 0x22: socket.AF_INET6}[data[13]]
        (length,) = struct.unpack_from("!H", data, 14)
        size = 4 if family == socket.AF_INET else 16
        block, payload = data[16 : 16 + length], data[16 + length :]
        ports = struct.unpack_from("!HH", block, 2 * size)
        addresses = [socket.inet_ntop(family, block[start : start + size]) for start in (0, size)]
        tlvs, rest = {}, block[2 * size + 4 :]
        while rest:
            kind, count = struct.unpack_from("!BH", rest)
            tlvs[hex(kind)] = rest[3 : 3 + count].decode()
            rest = rest[3 + count :]
        return {"ends": [addresses[0], ports[0], addresses[1], ports[1]], "tlvs": tlvs, "length": len(payload)}

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"end", (LOOPBACK, self.port))
        self._thread.join(PATIENCE)
        self._socket.close()


@pytest.fixture
def udp() -> Iterator[ProxiedUdp]:
    with closing(ProxiedUdp()) as service:
        yield service


def asked(visitor: socket.socket, data: bytes) -> dict[str, Any]:
    """The answer; what is lost is sent again."""
    visitor.settimeout(1)

    def answer() -> dict[str, Any] | None:
        visitor.send(data)
        try:
            found: dict[str, Any] = json.loads(visitor.recv(65536))
        except TimeoutError:
            return None
        return found if found["length"] == len(data) else None

    return poll(answer, PATIENCE, "an answer")


@pytest.mark.parametrize(
    ("public", "host", "destination"),
    [(LOOPBACK, LOOPBACK, LOOPBACK), pytest.param("::", "::1", "::", marks=needs_ipv6)],
)
def test_datagrams(twistd: Twistds, udp: ProxiedUdp, public: str, host: str, destination: str) -> None:
    port = free_port()
    tunnel = {"publish": f"udp:{port}={udp.port}", "name": "game", "proxy-protocol": "v2"}
    ends = Ends(twistd, "auto", tunnel, public=public)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as visitor:
        visitor.connect((host, port))
        source = visitor.getsockname()[1]
        # Each datagram has the header.
        for length in (1, 0, 1200, 8192):
            found = asked(visitor, bytes(length))
            assert found["ends"] == [host, source, destination, port]
            assert found["tlvs"] == {"0xe7": "game"}
        # With the header, this one is too long; it is dropped, and that is said.
        visitor.send(bytes(65507))
        ends.client.wait_for("UDP datagrams for .* are dropped: Message too long")
        assert asked(visitor, b"x")["length"] == 1


def test_a_name_server(twistd: Twistds) -> None:
    """unbound refuses one visitor and answers the others, by UDP and by TCP."""
    service, port = free_port(), free_port()
    conf = twistd.directory / "unbound.conf"
    conf.write_text(UNBOUND_CONF.format(port=service, visitor=VISITOR, directory=twistd.directory))
    unbound = twistd.program(need("unbound"), "-d", "-c", str(conf))
    unbound.wait_for("start of service")
    Ends(
        twistd,
        "auto",
        *({"publish": f"{kind}:{port}={service}", "proxy-protocol": "v2"} for kind in ("tcp", "udp")),
    )
    for way in ("+notcp", "+tcp"):
        for source, said in ((VISITOR, "REFUSED"), (LOOPBACK, "192.0.2.55")):
            answer = dig(port, way, "-b", source, "+tries=3", "+timeout=5", "a.example.", "A")
            assert said in answer, (way, source)
