"""Data connections of whoever likes: strangers at the control port, and an admitted client that keeps to no rule."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from rtunnel.wire import frames
from rtunnel.wire.data import records
from rtunnel.wire.data.keys import Ratchet
from tests.hostile.harness import Honest, connect, gauge, is_closed
from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.services import Tunnel

HOSTILE = "127.0.0.3"
EACH = 20
ATTACH = frames.encode_frame(frames.ATTACH, 0, os.urandom(48))
FIRST_BYTES = (
    ATTACH[:1],
    ATTACH[:12],
    ATTACH[:-1],
    ATTACH,
    ATTACH + bytes(100),
    frames.encode_frame(frames.ATTACH, 0, os.urandom(16)),
    frames.HEADER.pack(frames.ATTACH, 0, 1 << 24),
    b"\x16\x03\x01\x00\x05" + ATTACH,
)


@pytest.mark.parametrize("plane", ["plain", "tls"])
def test_strangers_that_begin_like_data_connections(
    echo: str, start_tunnel: Callable[..., Tunnel], start_tls: Callable[..., Tunnel], plane: str
) -> None:
    """Under TLS they take part in no handshake; they have their time all the same, and are closed."""
    start = start_tunnel if plane == "plain" else start_tls
    tunnel = start(echo, server=["--handshake-timeout=1"])
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        before = tunnel.server.descriptors()
        strangers = []
        for said in FIRST_BYTES * EACH:
            with suppress(ConnectionError):
                strangers.append(stack.enter_context(connect(tunnel.control, HOSTILE, data=said)))
        poll(lambda: all(map(is_closed, strangers)), PATIENCE, "the end of all strangers")
        poll(lambda: tunnel.server.descriptors() < before + EACH, PATIENCE, "their descriptors")
        honest.go_on()
        used.stop()
    assert used.cpu_seconds < len(FIRST_BYTES) * EACH * 0.02
    # For each kind, a line for each of the first 20, and a sum.
    assert used.log_bytes < 6 * 20 * 300


class _Client:
    """A client by hand, which has one tunnel.

    :ivar tickets: those that have come and are not used.
    """

    def __init__(self, stack: ExitStack, control: int, public: int) -> None:
        self._stack = stack
        self._control = control
        self._link = stack.enter_context(connect(control, HOSTILE))
        hello = {"version": 1, "session": "5" * 32, "initial_credit": 65536, "capabilities": ["direct", "withdraw"]}
        self._link.sendall(
            frames.encode_frame(frames.HELLO, 0, json.dumps(hello).encode())
            + frames.encode_frame(frames.INIT, 0, f"{public}:nowhere".encode())
        )
        self._decoder = frames.FrameDecoder(1 << 16)
        self._ratchet: Ratchet | None = None
        self.tickets: list[bytes] = []

    def read(self) -> None:
        """Read the link until there is a ticket."""
        while not self.tickets:
            for kind, _, payload in self._decoder.feed(self._link.recv(1 << 16)):
                if kind == frames.KEYS:
                    self._ratchet = Ratchet(payload[1:])
                elif kind == frames.PING:
                    self._link.sendall(frames.encode_frame(frames.PONG, 0, payload))
                elif kind == frames.TICKETS:
                    assert self._ratchet is not None
                    self.tickets += [self._ratchet.next().id for _ in range(json.loads(payload)["count"])]

    def attach(self) -> socket.socket:
        """A data connection that the server has taken."""
        self.read()
        attach = frames.encode_frame(frames.ATTACH, 0, self.tickets.pop(0))
        data = self._stack.enter_context(connect(self._control, HOSTILE, data=attach))
        assert data.recv(8) == records.HEADER.pack(records.ALIVE << 24, 0)
        return data


def _record(kind: int, number: int, payload: bytes = b"") -> bytes:
    return records.HEADER.pack(kind << 24 | len(payload), number) + payload


BREACHES = [
    *(_record(kind, number) for kind in (records.END, records.DONE, records.RESET) for number in (0, 1, 2)),
    _record(records.DATA, 1, b"x"),
    _record(records.OPEN, 1, bytes(8)),
    _record(0x33, 0),
    records.HEADER.pack(records.DATA << 24 | 0xFFFFFF, 1),
    records.HEADER.pack(records.ALIVE << 24 | 1, 0),
]


def test_a_client_that_keeps_to_no_rule(echo: str, start_tunnel: Callable[..., Tunnel]) -> None:
    """Each breach costs it the data connection, its visitor's connection, and nobody else anything."""
    tunnel, public = start_tunnel(echo), free_port()
    with ExitStack() as stack:
        honest = stack.enter_context(Honest(tunnel.public))
        used = stack.enter_context(gauge(tunnel.server))
        before = tunnel.server.descriptors()
        client = _Client(stack, tunnel.control, public)
        for breach in BREACHES:
            data = client.attach()
            data.sendall(breach)
            poll(partial(is_closed, data), PATIENCE, f"the end after {breach[:16]!r}")
        honest.go_on()
        poll(lambda: tunnel.server.descriptors() < before + 20, PATIENCE, "their descriptors")
        used.stop()
    assert used.cpu_seconds < len(BREACHES) * 0.2
    assert used.log_bytes < 20_000
