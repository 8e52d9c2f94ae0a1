"""Clients of the shared port that want all of its visitors, beside one that serves them."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from rtunnel.wire.frames import DATA, ERROR, HEADER, HELLO, INIT, NEW_CONN, PING, PONG, READY, encode_frame
from tests.hostile.harness import connect, gauge
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.services import Tunnel

VISITORS = 40


class Thief:
    """A link that takes each visitor, and ends its stream at once.

    :ivar taken: how many it had.
    """

    def __init__(self, control: int, token: str, says: bytes) -> None:
        self.taken = 0
        self._says = says
        self._link = connect(control)
        values = {
            "version": 1,
            "session": f"{random.getrandbits(128):032x}",
            "initial_credit": 65536,
            "token": token,
        }
        self._link.sendall(encode_frame(HELLO, 0, json.dumps(values).encode()) + encode_frame(INIT, 0, b"0:x"))
        self._link.settimeout(None)
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._is_ready.wait(PATIENCE)

    def _run(self) -> None:
        with suppress(OSError), self._link.makefile("rb") as frames:
            while header := frames.read(HEADER.size):
                kind, stream, length = HEADER.unpack(header)
                payload = frames.read(length)
                if kind == PING:
                    self._link.sendall(encode_frame(PONG, 0, payload))
                if kind == READY:
                    self._is_ready.set()
                if kind == NEW_CONN:
                    self.taken += 1
                    reset = json.dumps({"scope": "stream", "code": "connection-lost", "message": ""}).encode()
                    said = encode_frame(DATA, stream, self._says) if self._says else b""
                    self._link.sendall(said + encode_frame(ERROR, stream, reset))

    def leave(self) -> None:
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._link.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"], ids=["nothing", "something"])
@pytest.mark.parametrize(("route", "links"), [("round-robin", 10), ("least-connections", 1), ("least-connections", 5)])
def test_one_client_takes_no_more_than_its_turns(
    echo: str,
    start_tunnel: Callable[..., Tunnel],
    stack: ExitStack,
    tmp_path: Path,
    route: str,
    links: int,
    says: bytes,
) -> None:
    clients = tmp_path / "clients.yaml"
    clients.write_text("laptop: {token: laptop-token}\nthief: {token: thief-token}\n")
    port = free_port()
    tunnel = start_tunnel(
        echo,
        server=[f"--public-listen=tcp:{port}:interface=127.0.0.1", f"--route={route}", f"--clients={clients}"],
        client=["--token=laptop-token", f"--tunnel=0:{echo}"],
        data_plane="mux",
    )
    tunnel.client.wait_for(rf"127.0.0.1:{port} is published")
    thieves = []
    for _ in range(links):
        thieves.append(Thief(tunnel.control, "thief-token", says))
        stack.callback(thieves[-1].leave)
    used = stack.enter_context(gauge(tunnel.server))
    served = 0
    for _ in range(VISITORS):
        with suppress(ConnectionError):
            visitor = stack.enter_context(connect(port, data=b"hello"))
            served += visitor.recv(5) == b"hello"
    assert sum(thief.taken for thief in thieves) == VISITORS - served
    # A half of them with turns; with least connections a quarter, for it has the fewest always.
    assert served >= VISITORS * (0.5 if route == "round-robin" else 0.25) - 1
    used.stop()
    assert used.cpu_seconds < VISITORS * 0.05
