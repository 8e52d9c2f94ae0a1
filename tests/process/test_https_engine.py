"""HTTP in TLS that ends at the client: large bodies, events, and a request for another host name."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.process.harness import Twistds, need
from tests.process.services import LOOPBACK, curl, expected
from tests.process.tls_services import authority_at, certificate, visit_by_name
from tests.process.web_services import APP, OTHER, LoggingNginx, web_service

SIZE = 40_000_000


class House:
    """A server with an HTTPS port, and a client that holds the certificate."""

    def __init__(self, twistd: Twistds, directory: Path, local: str, plane: str) -> None:
        self.authority = authority_at(directory / "ca")
        holder = certificate(self.authority, APP)
        control, self.port = free_port(), free_port()
        self.server = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{control}:interface={LOOPBACK}",
            f"--https-listen=tcp:{self.port}:interface={LOOPBACK}",
            f"--data-plane={plane}",
        )
        self.server.wait_for("HTTPS port listening")
        config = directory / "client.yaml"
        config.write_text(
            f"server: {LOOPBACK}:{control}\ndata_plane: {plane}\n"
            f"tunnels:\n- publish: https:{APP}={local}\n"
            f"  tls: {{certificate: {holder.cert}, private-key: {holder.key}}}\n"
        )
        self.client = twistd("rtunnel-client", "--config", str(config))
        self.client.wait_for("is published")

    def get(self, path: str, *more: str) -> bytes:
        to = f"{APP}:{self.port}:{LOOPBACK}"
        url = f"https://{APP}:{self.port}{path}"
        return curl(url, "--resolve", to, "--cacert", str(self.authority.cert), "--http1.1", *more)


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_large_bodies(twistd: Twistds, tmp_path: Path, plane: str) -> None:
    nginx = LoggingNginx(twistd, tmp_path / "app")
    nginx.put("large", SIZE, 7)
    house = House(twistd, tmp_path, nginx.address, plane)
    got = tmp_path / "got"
    house.get("/files/large", "-o", str(got))
    assert subprocess.check_output([need("sha256sum"), str(got)]).split()[0].decode() == expected(SIZE, 7)[1]
    assert house.get("/who") == f"{LOOPBACK} https {APP}".encode()


@pytest.mark.parametrize("plane", ["mux", "direct"])
def test_large_uploads_events_and_fields(twistd: Twistds, tmp_path: Path, plane: str) -> None:
    nginx = LoggingNginx(twistd, tmp_path / "app")
    nginx.put("large", SIZE, 7)
    large = tmp_path / "app" / "files" / "large"
    said = "{} {}".format(*expected(SIZE, 7)).encode()
    with web_service() as (address, next_event):
        house = House(twistd, tmp_path, address, plane)
        assert house.get("/", "-T", str(large), "-X", "POST") == said
        assert house.get("/", "-T", str(large), "-X", "POST", "-H", "Transfer-Encoding: chunked") == said
        assert ["X-Forwarded-Proto", "https"] in json.loads(house.get("/"))
        with visit_by_name(house.port, APP, house.authority) as visitor:
            visitor.sendall(b"GET /events HTTP/1.1\r\nHost: %b\r\n\r\n" % APP.encode())
            received = b""
            for number in range(3):
                next_event()
                while b"data: %d\n\n" % number not in received:
                    received += visitor.recv(65536)
    assert house.client.terminate() == 0
    assert "Traceback" not in house.client.output


def test_another_host_name(twistd: Twistds, tmp_path: Path) -> None:
    nginx = LoggingNginx(twistd, tmp_path / "app")
    house = House(twistd, tmp_path, nginx.address, "auto")
    page = house.get("/", "-H", f"Host: {OTHER}", "--no-fail", "-i").decode()
    assert re.match("HTTP/1.1 421 ", page)
    assert house.get("/") == b"page of app"
