"""Two machines behind one port and two names, under load: one is stopped, or dies, and the other serves on."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, poll, wait_until_open
from tests.process.nginx import NGINX_FOLDERS, NGINX_PROCESS
from tests.process.services import LOOPBACK
from tests.process.tls_services import authority_at, certificate

#: What wrk asks for by SNI, too: it has no option for another name than that of the URL.
NAME = "localhost"
NGINX_CONF = (
    NGINX_PROCESS
    + """
http {{
    log_format short '$server_port $status $bytes_sent';
    access_log {directory}/access.log short;
"""
    + NGINX_FOLDERS
    + """    server {{
        listen {host}:{http};
        listen {host}:{https} ssl;
        ssl_certificate {cert};
        ssl_certificate_key {key};
        location / {{ return 200 "page of {name}"; }}
    }}
}}
"""
)
KEY = "0123456789abcdef0123456789abcdef"


class Machine:
    """nginx, and the client that publishes it.

    :param group: what is the same for all.
    """

    def __init__(self, twistd: Twistds, directory: Path, name: str, group: dict[str, Any]) -> None:
        directory.mkdir()
        self._twistd, self._directory = twistd, directory
        self.http, self.https = free_port(), free_port()
        holder = certificate(authority_at(directory / "ca"), NAME)
        values = {**group, "directory": directory, "host": LOOPBACK, "http": self.http, "https": self.https}
        conf = directory / "nginx.conf"
        conf.write_text(NGINX_CONF.format(**values, cert=holder.cert, key=holder.key, name=name))
        self.nginx = twistd.program(need("nginx"), "-e", "stderr", "-p", str(directory), "-c", str(conf))
        wait_until_open(self.http)
        places = {f"tcp:{group['port']}": self.http, f"http:{NAME}": self.http, f"https:{NAME}": self.https}
        tunnels = [
            {"publish": f"{place}={LOOPBACK}:{local}", "group": "web", "group-key": KEY}
            for place, local in places.items()
        ]
        settings = {"server": f"{LOOPBACK}:{group['control']}", "data-plane": group["plane"], "tunnels": tunnels}
        (directory / "client.json").write_text(json.dumps(settings))
        self.client = self.start()

    def start(self) -> Twistd:
        client = self._twistd("rtunnel-client", f"--config={self._directory / 'client.json'}")
        client.wait_for(r"( is published[\s\S]*){3}")
        return client

    def requests(self, port: int) -> list[str]:
        """The statuses of the requests that it has answered at one of its ports."""
        lines = (self._directory / "access.log").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith(f"{port} ")]

    def serves(self, http: int = 100, https: int = 20) -> None:
        """Wait until it has answered so many more. Requests by port and by name come to the same port of nginx."""
        for port, more in ((self.http, http), (self.https, https)):
            wanted = len(self.requests(port)) + more
            poll(lambda port=port, wanted=wanted: len(self.requests(port)) >= wanted, PATIENCE, "it serves")  # type: ignore[misc]


class Load:
    """wrk at the port, and at both names, each request on a connection of its own, until somebody asks for errors."""

    def __init__(self, twistd: Twistds, urls: list[str]) -> None:
        self._runs: list[Process] = [
            twistd.program(
                need("wrk"), "--connections=8", "--threads=1", "--duration=1h", "-H", "Connection: close", url
            )
            for url in urls
        ]

    def errors(self) -> list[int]:
        """How many requests failed at each so far. No more are made."""
        counts = []
        for run in self._runs:
            # With what it has found.
            assert run.terminate(number=signal.SIGINT) == 0, run
            print(run.output)
            found = re.findall(r"(?:connect|read|write|timeout) (\d+)|Non-2xx or 3xx responses: (\d+)", run.output)
            counts.append(sum(int(socket or status) for socket, status in found))
        return counts


@pytest.mark.parametrize("plane", ["mux", "auto"])
def test_two_machines_under_load(twistd: Twistds, tmp_path: Path, plane: str) -> None:
    control, port, http, https = (free_port() for _ in range(4))
    server = twistd(
        "rtunnel-server",
        f"--control-listen=tcp:{control}:interface={LOOPBACK}",
        f"--http-listen=tcp:{http}:interface={LOOPBACK}",
        f"--https-listen=tcp:{https}:interface={LOOPBACK}",
        f"--public-interface={LOOPBACK}",
        "--hold=0",
    )
    server.wait_for(rf"HTTPS port listening on {LOOPBACK}:{https}$")
    group = {"control": control, "port": port, "plane": plane}
    first, second = (Machine(twistd, tmp_path / name, name, group) for name in ("first", "second"))
    urls = [f"http://{LOOPBACK}:{port}/", f"http://{NAME}:{http}/", f"https://{NAME}:{https}/"]

    # One that stops says so first: nobody notices.
    load = Load(twistd, urls)
    for machine in (first, second):
        machine.serves()
    second.client.send_signal(signal.SIGTERM)
    first.serves()
    assert second.client.wait() == 0
    assert "did not finish" not in second.client.output
    assert load.errors() == [0, 0, 0]

    # One that dies takes what it had in hand with it. Whoever comes again at once may lose once or twice more, until
    # the server has read that the link is gone: its data connections may have ended first.
    second.client = second.start()
    load = Load(twistd, urls)
    second.serves()
    at = len(server.output)
    second.client.kill()
    server.wait_for(r"client \S+ gone", after=at)
    first.serves()
    lost = load.errors()
    assert all(count <= 3 * 8 for count in lost), f"{lost}: more than its visitors, who came again"
    assert set(first.requests(first.http)) == set(first.requests(first.https)) == {"200"}
    load = Load(twistd, urls)
    first.serves()
    assert load.errors() == [0, 0, 0]

    # Its service dies and the client does not: by name, requests go to the other one.
    second.client = second.start()
    second.nginx.kill()
    load = Load(twistd, urls[1:2])
    first.serves(100, 0)
    assert load.errors() == [0]
    for machine in (first, second):
        assert machine.client.terminate() == 0
    assert server.terminate() == 0
    for each in (server, first.client, second.client):
        assert "Traceback" not in each.output
