"""The ends of a tunnel, ours and Chrome's, for the tests of this folder: each is a process of its own."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds, poll, wait_until_open
from tests.process.services import LOOPBACK, Visitor

PEER = Path(__file__).with_name("peer.py")
ID = "myhost"

SETTLED = 1.5
"""Seconds in which a number must not have changed to count as one that stays."""


class Ends:
    """Starts signaling, hosts and clients, ours and Chrome's.

    :ivar signal: the address of the signaling server.
    :ivar local: the port of the client.
    """

    def __init__(self, twistd: Twistds) -> None:
        self._twistd = twistd
        self._signal_port = free_port()
        self.signal = f"ws://{LOOPBACK}:{self._signal_port}"
        self.local = 0
        self.signaling: Process
        self.host: Process
        self.client: Process

    def start_signaling(self, *options: str) -> None:
        self.signaling = self._twistd("rtc-signal", f"--addr={LOOPBACK}:{self._signal_port}", *options)
        wait_until_open(self._signal_port)

    def start(self, client: str, host: str, remote: str, *chrome_options: str, protocol: str = "tcp") -> None:
        """Start signaling, a host and a client, and wait until the client can be used.

        :param client: ``ours`` or ``chrome``; *host* likewise.
        """
        self.start_signaling()
        options = {"ours": [f"--protocol={protocol}"], "chrome": [f"--protocol={protocol}", *chrome_options]}
        self.host = self.start_host(host, remote, *options[host])
        self.client = self.start_client(client, *options[client])

    def start_host(self, maker: str, remote: str, *options: str) -> Process:
        """A host, registered at the signaling server."""
        after = len(self.signaling.output)
        host = self._start(maker, "host", f"--remote={remote}", *options)
        self.signaling.wait_for(rf"host '{ID}' at \S+ registered$", after=after)
        return host

    def start_client(self, maker: str, *options: str) -> Process:
        """A client, connected to the host."""
        self.local = free_port()
        client = self._start(maker, "client", f"--local={LOOPBACK}:{self.local}", *options)
        client.wait_for(
            "^listening$" if maker == "chrome" else rf"connected to host '{ID}': .* \(reference protocol\)$"
        )
        return client

    def _start(self, maker: str, kind: str, *options: str) -> Process:
        options = (f"--signal={self.signal}", f"--id={ID}", *options)
        if maker == "ours":
            return self._twistd(f"rtc-{kind}", "--stun-server=", f"--ice-interface={LOOPBACK}", *options)
        if find_spec("wrtc") is None:
            pytest.skip("wrtc is not installed")
        return self._twistd.program(sys.executable, str(PEER), kind, *options)

    def offer_and_vanish(self) -> None:
        """A client with Chrome's stack that is gone when it has sent its offer."""
        client = self._start("chrome", "client", "--vanish")
        assert client.wait() == 0

    @property
    def ours(self) -> Process:
        """That one of the two ends that is ours."""
        return self.host if isinstance(self.host, Twistd) else self.client

    @property
    def chrome(self) -> Process:
        """That one of the two ends that is Chrome's."""
        return self.client if isinstance(self.host, Twistd) else self.host

    # Visitors

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.local}"

    def visit(self, line: bytes = b"") -> Visitor:
        """Connect to the client's port, and say what is wanted."""
        return Visitor(self.local, line)


def wait_until_settled(look: Callable[[], int], timeout: float, what: str) -> int:
    """Wait until a number that grows does so no longer, and return it."""
    last, since = look(), time.monotonic()

    def settled() -> bool:
        nonlocal last, since
        now = look()
        if now != last:
            last, since = now, time.monotonic()
        return time.monotonic() - since > SETTLED

    poll(settled, timeout, f"{what} no longer changes")
    return last


class UdpService:
    """Answers each datagram with the same in capitals, to whom it came from.

    :ivar sources: from where it was asked.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._socket.getsockname()[1]}"
        self.sources: set[tuple[str, int]] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._serve, name="UDP service", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            question, source = self._socket.recvfrom(65536)
            if self._closing:
                return
            self.sources.add(source)
            self._socket.sendto(question.upper(), source)

    def close(self) -> None:
        self._closing = True
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        self._thread.join(10)
        self._socket.close()


class UdpVisitor(socket.socket):
    """Asks a :class:`UdpService` through the tunnel."""

    def __init__(self, port: int) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.settimeout(0.5)
        self.connect((LOOPBACK, port))

    def ask(self, question: bytes) -> None:
        """Ask, again if need be (a datagram may be lost), until the answer to this question comes."""

        def answered() -> bool:
            try:
                self.send(question)
                # Late answers to what was asked again come before it.
                while (answer := self.recv(65536)) != question.upper():
                    assert answer == answer.upper()
            except (TimeoutError, ConnectionRefusedError):
                return False
            return True

        poll(answered, PATIENCE, f"the answer to {len(question)} bytes")
