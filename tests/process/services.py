"""Local services and visitors for tests of the whole tunnel: what stands at its two ends.

A :class:`Service` is a private service in this process, with a thread for each connection. A visitor's first line names
what it wants (``get 1000 7``, or an HTTP request line), and so one service can have several talents::

    service = serve(get=get, count=count)
    tunnel = start_tunnel(service.address)
    with tunnel.visit(b"get 1000 7") as visitor:
        assert read_all(visitor) == expected(1000, 7)

Bytes are made from a seed and compared by length and SHA-256.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from types import TracebackType

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistd, Twistds, need, poll

LOOPBACK = "127.0.0.1"
ANY_PORT = f"tcp:0:interface={LOOPBACK}"

BLOCK = 1024 * 1024 - 1
"""An odd number, so that a piece that is lost or out of its order cannot be hidden by the repetition."""

Digest = tuple[int, str]
"""How many bytes, and their SHA-256."""

Talent = Callable[..., None]
"""Serves one connection: called with the socket and the words of the visitor's line behind the first."""


@cache
def _block(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)


def pieces(total: int, seed: int) -> Iterator[memoryview]:
    """*total* bytes that the *seed* decides, in pieces."""
    block = memoryview(_block(seed))
    for start in range(0, total, BLOCK):
        yield block[: min(BLOCK, total - start)]


def expected(total: int, seed: int) -> Digest:
    """What :func:`read_all` returns of what :func:`send_bytes` sends."""
    digest = hashlib.sha256()
    for piece in pieces(total, seed):
        digest.update(piece)
    return total, digest.hexdigest()


def send_bytes(connection: socket.socket, total: int, seed: int) -> None:
    """Send *total* bytes that the *seed* decides."""
    for piece in pieces(total, seed):
        connection.sendall(piece)


def read_bytes(connection: socket.socket, total: int) -> Digest:
    """Read *total* bytes; fewer if the end comes first."""
    digest = hashlib.sha256()
    count = 0
    while count < total and (data := connection.recv(min(total - count, 256 * 1024))):
        digest.update(data)
        count += len(data)
    return count, digest.hexdigest()


def read_all(connection: socket.socket) -> Digest:
    """Read to the end."""
    return read_bytes(connection, 2**62)


def read_line(connection: socket.socket) -> bytes:
    """Read one line, and nothing behind it; without its end. Empty if there is none."""
    line = b""
    while not line.endswith(b"\n") and len(line) < 1000 and (byte := connection.recv(1)):
        line += byte
    return line.strip()


# What a service can do


def get(connection: socket.socket, total: str, seed: str) -> None:
    """Sends so many bytes and the end."""
    send_bytes(connection, int(total), int(seed))


def count(connection: socket.socket) -> None:
    """Reads to the end, and only then answers: how many bytes, and their SHA-256."""
    total, digest = read_all(connection)
    connection.sendall(f"{total} {digest}".encode())


def page(text: str) -> Talent:
    """An HTTP server of one page."""
    content = text.encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()

    def answer(connection: socket.socket, *_: str) -> None:
        while read_line(connection):
            pass
        connection.sendall(head + content)

    return answer


class Flood:
    """A talent: sends without end, for as long as somebody takes it. Here one sees how much was taken."""

    def __init__(self) -> None:
        self.sent = 0

    def __call__(self, connection: socket.socket) -> None:
        # Somebody who takes nothing for a while is what this is made for.
        connection.settimeout(None)
        block = bytes(64 * 1024)
        while True:
            self.sent += connection.send(block)


class Hold:
    """A talent: reads nothing, until it is told to."""

    def __init__(self) -> None:
        self.read_now = threading.Event()
        self.read: list[Digest] = []

    def __call__(self, connection: socket.socket) -> None:
        assert self.read_now.wait(PATIENCE)
        self.read.append(read_all(connection))


class Service:
    """A private service.

    :param talents: by the first word of the visitor's line.
    :ivar errors: what the talents raised, except for connections that broke.
    """

    def __init__(self, talents: dict[str, Talent]) -> None:
        self._talents = talents
        # Not one of the system's choice: it may have been another test's, whose wrk still asks for pages there.
        self._listener = socket.create_server((LOOPBACK, free_port()), backlog=1024)
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = False
        self.errors: list[BaseException] = []
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="service", daemon=True)
        self._accepting.start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @property
    def busy(self) -> int:
        """Connections that are being served."""
        with self._lock:
            return len(self._connections)

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            with self._lock:
                self._connections.add(connection)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            words = read_line(connection).decode().split()
            if words:
                self._talents[words[0]](connection, *words[1:])
        except ConnectionError:
            pass  # The visitor has gone, which is its right.
        except BaseException as error:
            if not self._closing:
                self.errors.append(error)
        finally:
            with self._lock:
                self._connections.discard(connection)
                connection.close()

    def close(self) -> None:
        """Accept no more, break every connection, and fail if one of them met an error."""
        self._closing = True
        # A thread that accepts is not woken by close alone.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # It is over already.
        for thread in [self._accepting, *self._threads]:
            thread.join(PATIENCE)
        assert not self.errors, f"a service failed: {self.errors!r}"


# The tunnel between


class Visitor(socket.socket):
    """A connection to a public port."""

    def __init__(self, port: int, line: bytes = b"", timeout: float = PATIENCE, host: str = LOOPBACK) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.settimeout(timeout)
            self.connect((host, port))
            if line:
                self.sendall(line + b"\n")
        except BaseException:
            self.close()
            raise


def fetch(port: int, timeout: float = PATIENCE) -> str:
    """The page that is served at a port."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=timeout)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        content = answer.read().decode()
    finally:
        connection.close()
    assert answer.status == 200, f"{answer.status} {content}"
    return content


def fetch_or_none(port: int) -> str | None:
    """The page, if it comes soon."""
    try:
        return fetch(port, timeout=2)
    except (OSError, http.client.HTTPException):
        return None


def wait_for_page(port: int, text: str, timeout: float) -> float:
    """Ask again and again until this page comes; how many seconds that took."""
    asked = time.monotonic()
    poll(lambda: fetch_or_none(port) == text, timeout, f"the page {text!r} at port {port}")
    return time.monotonic() - asked


def curl(url: str, *options: str) -> bytes:
    """What ``curl`` gets."""
    argv = [need("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", f"{PATIENCE:.0f}"]
    done = subprocess.run([*argv, *options, url], capture_output=True, check=False, timeout=PATIENCE + 10)
    assert done.returncode == 0, f"curl {url}: exit code {done.returncode}: {done.stderr.decode(errors='replace')}"
    return done.stdout


#: No visitor on a data connection, or every one.
BOTH_PLANES = pytest.mark.parametrize("start_tunnel", ["mux", "direct"], indirect=True)


class Tunnel:
    """A server, a client, and one public port between them.

    :param local: where the service is, as for ``--local``.
    :param data_plane: of both ends.
    :ivar control: the server's control port.
    :ivar public: the port for visitors.
    """

    def __init__(
        self,
        twistd: Twistds,
        local: str,
        *,
        server: Sequence[str] = (),
        client: Sequence[str] = (),
        twistd_options: Sequence[str] = (),
        data_plane: str = "auto",
    ) -> None:
        self._twistd = twistd
        self._local = local
        # In front, so that the test's own options win.
        self._server_options = [f"--data-plane={data_plane}", *server]
        self._client_options = [f"--data-plane={data_plane}", *client]
        self._twistd_options = ["-n", "--pidfile=", *twistd_options]
        self.control = free_port()
        self.public = free_port()
        self.server = self.start_server()
        self.wait_for_server()
        self.client = self.start_client()
        self.wait_for_client()

    def start_server(self) -> Twistd:
        """Start a server on the same ports; :attr:`server` from now on."""
        self.server = self._twistd(
            "rtunnel-server",
            f"--control-listen=tcp:{self.control}:interface={LOOPBACK}",
            f"--public-interface={LOOPBACK}",
            *self._server_options,
            twistd_options=self._twistd_options,
        )
        return self.server

    def wait_for_server(self) -> None:
        self.server.wait_for(rf"control port listening on {re.escape(LOOPBACK)}:{self.control}$")

    def start_client(self, local: str = "") -> Twistd:
        """Start a client of the same server and the same public port; :attr:`client` from now on."""
        self.client = self._twistd(
            "rtunnel-client",
            f"--server={LOOPBACK}:{self.control}",
            f"--local={local or self._local}",
            f"--remote-port={self.public}",
            *self._client_options,
            twistd_options=self._twistd_options,
        )
        return self.client

    def wait_for_client(self, *, after: int = 0) -> None:
        self.client.wait_for(rf"{re.escape(LOOPBACK)}:{self.public} is published; ", after=after)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.public}"

    def visit(self, line: bytes = b"") -> Visitor:
        """Connect as a visitor, and say what is wanted."""
        return Visitor(self.public, line)


class Background:
    """Runs something in a thread; the end of the ``with`` block, or ``join``, gives its result or raises its error."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self.result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:
            self._error = error

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, timeout: float = 2 * PATIENCE) -> object:
        """Wait for its end."""
        self._thread.join(timeout)
        assert not self.running, f"still running after {timeout} s"
        if self._error is not None:
            raise self._error
        return self.result

    def __enter__(self) -> Background:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            self.join()
