"""Two machines in a group, one of which is ill or dies under load: visitors go to the other after its health check."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, poll, wait_until_open
from tests.process.nginx import NGINX_FOLDERS, NGINX_PROCESS
from tests.process.services import LOOPBACK, curl

APP = "app.example.org"
CONF = (
    NGINX_PROCESS
    + """
http {{
    log_format pages '$request_uri';
    access_log {directory}/access.log pages;
"""
    + NGINX_FOLDERS
    + """    keepalive_requests 100000;
    server {{
        listen {port};
        location / {{ return 200 "page of {name}"; }}
        location /healthz {{
            if (-f {directory}/ill) {{ return 503; }}
            return 204;
        }}
    }}
}}
"""
)


class Machine:
    """A client and its nginx. It is ill while there is a file of that name."""

    def __init__(self, twistd: Twistds, name: str, control: int, entry: dict[str, Any], publish: str) -> None:
        self.name = name
        self._twistd = twistd
        self._directory: Path = twistd.directory / name
        self._directory.mkdir()
        self.ill = self._directory / "ill"
        self.port = free_port()
        self.nginx: Process = self.start_nginx()
        conf = twistd.directory / f"{name}.json"
        tunnel = entry | {"name": name, "publish": f"{publish}={LOOPBACK}:{self.port}"}
        conf.write_text(json.dumps({"server": f"{LOOPBACK}:{control}", "tunnels": [tunnel]}))
        self.client: Twistd = twistd("rtunnel-client", f"--config={conf}")
        self.client.wait_for(r"is published; the service at \S+ passes its health check$")

    def start_nginx(self) -> Process:
        conf = self._directory / "nginx.conf"
        conf.write_text(CONF.format(directory=self._directory, port=f"{LOOPBACK}:{self.port}", name=self.name))
        nginx = self._twistd.program(need("nginx"), "-e", "stderr", "-p", str(self._directory), "-c", str(conf))
        wait_until_open(self.port)
        return nginx

    @property
    def visits(self) -> int:
        """Requests that are no checks."""
        return sum(line != "/healthz" for line in (self._directory / "access.log").read_text().split())

    def says(self, what: str, after: int = 0) -> int:
        """Wait until the client's log has this about its service; return the offset behind it."""
        found = self.client.wait_for(rf"{self.name}: the service at {LOOPBACK}:{self.port} {what}$", after=after)
        return found.end()


class Group:
    """A server, and two machines."""

    def __init__(self, twistd: Twistds, kind: str) -> None:
        control, http, port = free_port(), free_port(), free_port()
        self._twistd = twistd
        self.server: Twistd = twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{control}:interface={LOOPBACK}",
            f"--http-listen=tcp:{http}:interface={LOOPBACK}",
            f"--public-interface={LOOPBACK}",
        )
        self.server.wait_for("HTTP port listening")
        entry = {
            "group": "web",
            "group-key": "5f0e7c1b22d94a10",
            "health-check": "/healthz",
            "health-status": 204,
            "health-interval": "200ms",
        }
        publish = f"http:{APP}" if kind == "http" else f"tcp:{port}"
        self.url = f"http://{LOOPBACK}:{http if kind == 'http' else port}/"
        self.first, self.second = [Machine(twistd, name, control, entry, publish) for name in ("first", "second")]

    def told(self, what: str, after: int = 0) -> int:
        """Wait until the server knows."""
        return self.server.wait_for(rf"its service of \S+( \d+)? {what}$", after=after).end()

    def pages(self, count: int = 8) -> set[str]:
        return {curl(self.url, "-H", f"Host: {APP}").decode() for _ in range(count)}

    def wrk(self, seconds: int) -> Process:
        options = ["--connections=16", "--threads=1", f"--duration={seconds}s", "-H", f"Host: {APP}"]
        return self._twistd.program(need("wrk"), *options, self.url)


def without_an_error(wrk: Process) -> None:
    assert wrk.wait() == 0, wrk
    print(wrk.output)
    done = re.search(r"(\d+) requests in", wrk.output)
    assert done is not None
    assert int(done[1]) > 0
    assert "Socket errors" not in wrk.output, wrk
    assert "Non-2xx" not in wrk.output, wrk


PROXIED = (
    NGINX_PROCESS
    + """
error_log stderr info;
http {{
    access_log off;
"""
    + NGINX_FOLDERS
    + """    server {{
        listen {port} proxy_protocol;
        listen unix:{directory}/nginx.sock;
        location / {{ return 200 "page"; }}
    }}
}}
"""
)


def test_a_service_that_wants_a_proxy_header_and_one_behind_a_unix_socket(twistd: Twistds) -> None:
    control, port = free_port(), free_port()
    conf = twistd.directory / "nginx.conf"
    conf.write_text(PROXIED.format(directory=twistd.directory, port=f"{LOOPBACK}:{port}"))
    nginx = twistd.program(need("nginx"), "-e", "stderr", "-p", str(twistd.directory), "-c", str(conf))
    wait_until_open(port)
    quick = {"health-interval": "100ms"}
    tunnels: list[dict[str, Any]] = [
        {"local": str(port), "proxy-protocol": version, "health-check": check, **quick}
        for version in ("v1", "v2")
        for check in ("/", "tcp")
    ]
    tunnels.append({"local": f"unix:{twistd.directory}/nginx.sock", "health-check": "/", **quick})
    for tunnel in tunnels:
        tunnel["remote-port"] = free_port()
    twistd(
        "rtunnel-server",
        f"--control-listen=tcp:{control}:interface={LOOPBACK}",
        f"--public-interface={LOOPBACK}",
    )
    client_conf = twistd.directory / "client.json"
    client_conf.write_text(json.dumps({"server": f"{LOOPBACK}:{control}", "tunnels": tunnels}))
    client = twistd("rtunnel-client", f"--config={client_conf}")
    for tunnel in tunnels:
        client.wait_for(
            rf"{LOOPBACK}:{tunnel['remote-port']} is published; the service at \S+ passes its health check$"
        )
    assert "fails" not in client.output
    assert "broken header" not in nginx.output


BOTH = {"page of first", "page of second"}


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_one_that_is_ill(twistd: Twistds, kind: str) -> None:
    group = Group(twistd, kind)
    assert group.pages() == BOTH
    ill = group.second
    ill.ill.touch()
    said = ill.says(r"fails its health check \(status 503\): out of its group until it passes 2 in a row")
    told = group.told(r"fails its health check \(status 503\)")
    before = ill.visits
    without_an_error(group.wrk(1))
    assert group.pages() == {"page of first"}
    assert ill.visits == before
    ill.ill.unlink()
    ill.says("passes its health check again", said)
    group.told("passes its health check again", told)
    assert group.pages() == BOTH


@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_one_that_dies_under_load(twistd: Twistds, kind: str) -> None:
    group = Group(twistd, kind)
    dead = group.second
    load = group.wrk(3)
    poll(lambda: dead.visits > 100, 60.0, "wrk at work")
    dead.nginx.terminate()
    said = dead.says(r"fails its health check \(.*\): out of its group until it passes 2 in a row")
    told = group.told(r"fails its health check \(.*\)")
    without_an_error(group.wrk(2))
    assert load.wait() == 0, load
    print(load.output)
    dead.start_nginx()
    dead.says("passes its health check again", said)
    group.told("passes its health check again", told)
    without_an_error(group.wrk(1))
    assert group.pages() == BOTH
