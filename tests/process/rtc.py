"""The WebRTC tunnel for tests: its three processes on loopback, and who sends datagrams through it.

Every process that a :class:`RtcTunnel` starts is looked at once more when its test is over: it ends with exit code 0
when it is asked to (unless the test has ended it), and has logged no traceback.
"""

from __future__ import annotations

import re
import signal
import socket
import threading
from collections.abc import Sequence

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Process, Twistd, Twistds
from tests.process.services import LOOPBACK, Visitor

ID = "myhost"


class RtcTunnel:
    """A signaling server, a host, a client, and one local port.

    Options that are given come last, where they win over those that are given here.

    :param remote: where the service is, as for ``--remote``.
    :param start: which of ``signal``, ``host``, ``client`` to start and to wait for; those that are left out can be
        started later.
    :ivar port: of the signaling server.
    :ivar local: the client's port for visitors.
    """

    def __init__(
        self,
        twistd: Twistds,
        remote: str,
        *,
        signal: Sequence[str] = (),
        host: Sequence[str] = (),
        client: Sequence[str] = (),
        start: Sequence[str] = ("signal", "host", "client"),
    ) -> None:
        self._twistd = twistd
        self._remote = remote
        self._signal_options = signal
        self._host_options = host
        self._client_options = client
        self._started: list[Twistd] = []
        self.port = free_port()
        self.local = free_port()
        if "signal" in start:
            self.start_signal()
            self.wait_for_signal()
        if "host" in start:
            self.start_host()
            self.wait_for_host()
        if "client" in start:
            self.start_client()
            self.wait_for_client()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.local}"

    def _start(self, *arguments: str) -> Twistd:
        self._started.append(self._twistd(*arguments))
        return self._started[-1]

    def _end_options(self) -> list[str]:
        """What both ends need."""
        return [
            f"--id={ID}",
            f"--signal=ws://{LOOPBACK}:{self.port}",
            "--stun-server=",
            f"--ice-interface={LOOPBACK}",
            # Where a test leaves streams open, nobody has to wait for them.
            "--drain=1",
        ]

    def start_signal(self) -> Twistd:
        """Start a signaling server on the same port; :attr:`signal` from now on."""
        self.signal = self._start("rtc-signal", f"--addr={LOOPBACK}:{self.port}", *self._signal_options)
        return self.signal

    def wait_for_signal(self) -> None:
        self.signal.wait_for(rf"signaling port listening on {re.escape(LOOPBACK)}:{self.port}$")

    def start_host(self, remote: str = "", *more: str) -> Twistd:
        """Start a host with the same ID; :attr:`host` from now on.

        :param remote: another service than before.
        """
        options = [*self._end_options(), f"--remote={remote or self._remote}", *self._host_options, *more]
        self.host = self._start("rtc-host", *options)
        return self.host

    def wait_for_host(self, *, after: int = 0) -> None:
        self.host.wait_for(rf"host '{ID}' offers ", after=after)

    def start_client(self, *more: str) -> Twistd:
        """Start a client with the same local port; :attr:`client` from now on."""
        options = [*self._end_options(), f"--local={LOOPBACK}:{self.local}", *self._client_options, *more]
        self.client = self._start("rtc-client", *options)
        return self.client

    def wait_for_client(self, *, after: int = 0, timeout: float = PATIENCE) -> None:
        self.client.wait_for(rf"connected to host '{ID}': direct, ", timeout, after=after)

    def visit(self, line: bytes = b"") -> Visitor:
        """Connect as a visitor, and say what is wanted."""
        return Visitor(self.local, line)

    def end(self) -> None:
        """Ask what still runs to end, last started first, and look at what all of them logged."""
        for process in reversed(self._started):
            if process.running:
                # One that the test has stopped does not hear us otherwise.
                process.send_signal(signal.SIGCONT)
                assert process.terminate() == 0, process
        for process in self._started:
            check_log(process)


def check_log(process: Process) -> None:
    """Nothing went wrong that an operator would be asked to report."""
    assert "Traceback" not in process.output, process


def lines_with(process: Process, text: str) -> list[str]:
    """The lines of a process's log that have this text."""
    return [line for line in process.output.splitlines() if text in line]


class UdpService:
    """Answers each datagram by its bytes in reverse, which nothing but this does.

    :ivar sources: where datagrams came from.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.sources: set[object] = set()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    def _serve(self) -> None:
        while True:
            data, source = self._socket.recvfrom(65536)
            if data == b"end":
                return
            self.sources.add(source)
            self._socket.sendto(data[::-1], source)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"end", (LOOPBACK, self.port))
        self._thread.join(PATIENCE)
        self._socket.close()


class Asker(socket.socket):
    """A program that asks a UDP service, from a port of its own."""

    def __init__(self, port: int, timeout: float = 2.0) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.settimeout(timeout)
        self.connect((LOOPBACK, port))

    def ask(self, question: bytes, attempts: int = 10) -> int:
        """Ask again and again, as resolvers do, until the answer comes.

        :returns: how many times it had to be asked.
        """
        for attempt in range(1, attempts + 1):
            self.send(question)
            try:
                # The answer to an earlier question may come late.
                while self.recv(65536) != question[::-1]:
                    pass
            except TimeoutError:
                continue
            return attempt
        raise AssertionError(f"no answer to {question!r} in {attempts} attempts")
