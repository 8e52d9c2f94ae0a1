"""Web services for tests of host names: what they are asked for, they tell or do."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, need, wait_until_open
from tests.process.nginx import NGINX_FOLDERS, NGINX_PROCESS
from tests.process.services import LOOPBACK, curl, pieces

APP, WILD, OTHER = "app.example.org", "*.dev.example.org", "other.example.net"

NGINX_CONF = (
    NGINX_PROCESS
    + """
http {{
    log_format connections '$connection $request_uri';
    access_log {directory}/access.log connections;
"""
    + NGINX_FOLDERS
    + """    keepalive_requests 100000;
    server {{
        listen {host}:{port};
        root {directory};
        location / {{ return 200 "page of {name}"; }}
        location /who {{ return 200 "$http_x_forwarded_for $http_x_forwarded_proto $host"; }}
        location /files/ {{ }}
    }}
}}
"""
)


class Site:
    """A server with an HTTP port, and its clients.

    :param more: options of both ends.
    :param kind: of the HTTP port's endpoint.
    :ivar port: the HTTP port.
    """

    def __init__(
        self,
        twistd: Twistds,
        plane: str = "auto",
        *,
        server: Sequence[str] = (),
        more: Sequence[str] = (),
        env: dict[str, str] | None = None,
        kind: str = "tcp",
    ) -> None:
        self._twistd = twistd
        self._env = env
        self._kind = kind
        self._more = [f"--data-plane={plane}", *more]
        self._server_options = server
        self.control, self.port = free_port(), free_port()
        self.start_server()

    def start_server(self) -> None:
        self.server = self._twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{self.control}:interface={LOOPBACK}",
            f"--http-listen={self._kind}:{self.port}:interface={LOOPBACK}",
            *self._more,
            *self._server_options,
            env=self._env,
        )
        self.server.wait_for(rf"HTTP port listening on {LOOPBACK}:{self.port}$")

    def publish(self, local: dict[str, str], *more: str) -> Twistd:
        """Start a client that publishes a service for each host name, perhaps with a path."""
        wanted = [f"--publish=http:{name}={address}" for name, address in local.items()]
        where = f"--server={LOOPBACK}:{self.control}"
        client = self._twistd("rtunnel-client", where, *wanted, *self._more, *more, env=self._env)
        for name in local:
            host, slash, path = name.partition("/")
            client.wait_for(rf"http://{re.escape(host)}:{self.port}{re.escape(slash + path)} is published")
        return client

    def url(self, path: str = "/") -> str:
        return f"http://{LOOPBACK}:{self.port}{path}"

    def get(self, name: str, path: str = "/", *more: str) -> bytes:
        """What curl gets."""
        return curl(self.url(path), "-H", f"Host: {name}", *more)

    def status(self, name: str, path: str = "/", *more: str) -> int:
        """The status that curl gets."""
        return int(self.get(name, path, "--no-fail", "-o", "/dev/null", "-w", "%{http_code}", *more))


class LoggingNginx:
    """nginx, whose log tells over which connection each request came.

    :ivar address: where it listens.
    """

    def __init__(self, twistd: Twistds, directory: Path, name: str = "app") -> None:
        self._twistd = twistd
        self._directory = directory
        (directory / "files").mkdir(parents=True)
        self.port = free_port()
        self._conf = directory / "nginx.conf"
        self._conf.write_text(NGINX_CONF.format(directory=directory, host=LOOPBACK, port=self.port, name=name))
        self.process = self.start()

    def start(self) -> Process:
        self.process = self._twistd.program(
            need("nginx"), "-e", "stderr", "-p", str(self._directory), "-c", str(self._conf)
        )
        wait_until_open(self.port)
        return self.process

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def connections(self) -> list[str]:
        """The connection of each request so far, by its number."""
        lines = (self._directory / "access.log").read_text().splitlines()
        return [line.split()[0] for line in lines]

    def put(self, name: str, total: int, seed: int) -> None:
        """Serve ``/files/NAME``, of bytes that the seed decides."""
        with (self._directory / "files" / name).open("wb") as file:
            for piece in pieces(total, seed):
                file.write(piece)


class Handler(BaseHTTPRequestHandler):
    """What the service of :func:`web_service` does."""

    protocol_version = "HTTP/1.1"
    next_event: threading.Semaphore

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, content: bytes, **fields: str) -> None:
        self.send_response(200)
        for name, value in fields.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        if self.path == "/events":
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            for number in range(3):
                assert self.next_event.acquire(timeout=PATIENCE)
                self.wfile.write(b"data: %d\n\n" % number)
        else:
            fields = [[name, value] for name, value in self.headers.items()]
            self.answer(json.dumps(fields).encode(), Server="secret")

    def do_POST(self) -> None:
        """Tell how many bytes came, and their SHA-256."""
        digest = hashlib.sha256()
        total = 0
        for piece in self._body():
            digest.update(piece)
            total += len(piece)
        self.answer(f"{total} {digest.hexdigest()}".encode())

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (piece := self.rfile.read(min(left, 256 * 1024))):
            left -= len(piece)
            yield piece


@contextmanager
def web_service() -> Iterator[tuple[str, Callable[[], None]]]:
    """A service on HTTP/1.1: its address, and a function that lets it send one more event of ``/events``."""
    events = threading.Semaphore(0)
    handler = type("Bound", (Handler,), {"next_event": events})
    server = ThreadingHTTPServer((LOOPBACK, 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"{LOOPBACK}:{server.server_address[1]}", events.release
    finally:
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
