"""Either end of a UDP tunnel is killed, or does not answer, while a visitor sends datagrams: the flow comes back."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import UdpService
from tests.process.services import LOOPBACK, Tunnel

Start = Callable[..., Tunnel]


class Stream:
    """A visitor who sends 50 numbered datagrams a second, and never anything else, whatever becomes of them."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((LOOPBACK, port))
        self._socket.settimeout(0.02)
        self._stop = threading.Event()
        self.sent = self.newest_answer = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.sent += 1
            # While nobody listens, the system says so.
            with suppress(ConnectionRefusedError):
                self._socket.send(b"%08d" % self.sent)
            with suppress(ConnectionRefusedError, TimeoutError):
                while True:
                    answer = self._socket.recv(100)
                    self.newest_answer = max(self.newest_answer, int(answer[::-1]))

    def wait_for_answers(self) -> None:
        """Wait until something that is sent from now on is answered, and then something more."""
        for _ in range(2):
            now = self.sent
            poll(lambda now=now: self.newest_answer > now, PATIENCE, "an answer")  # type: ignore[misc]

    def close(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._socket.close()


class Flowing:
    """A tunnel through which datagrams flow."""

    def __init__(self, start: Start, service: UdpService) -> None:
        self.service = service
        port = free_port()
        impatient = ["--keepalive-interval=1", "--dead-after=3"]
        self.tunnel = start(f"{LOOPBACK}:9", client=[f"--publish=udp:{port}={service.address}", *impatient])
        self.stream = Stream(port)
        self.stream.wait_for_answers()
        assert len(service.sources) == 1

    def close(self) -> None:
        self.stream.close()
        for process in self.tunnel.client, self.tunnel.server:
            assert process.terminate() == 0, process
            assert "Traceback" not in process.output, process


@pytest.fixture
def flowing(start_tunnel: Start, udp_service: UdpService) -> Iterator[Flowing]:
    made = Flowing(start_tunnel, udp_service)
    yield made
    made.close()


def test_killed_server(flowing: Flowing) -> None:
    """To the service nothing has happened: datagrams come from the same port."""
    for _ in range(2):
        flowing.tunnel.server.kill()
        flowing.tunnel.client.wait_for("next attempt in")
        flowing.tunnel.start_server()
        flowing.stream.wait_for_answers()
    assert len(flowing.service.sources) == 1


def test_killed_client(flowing: Flowing) -> None:
    """The new client is another one to the service."""
    for number in range(2):
        flowing.tunnel.client.kill()
        flowing.tunnel.start_client()
        flowing.stream.wait_for_answers()
        assert len(flowing.service.sources) == 2 + number


def test_service_that_is_away(start_tunnel: Start) -> None:
    """The system reports that nobody listens there; when somebody does again, he gets what is sent from then on."""
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first:
        first.bind((LOOPBACK, 0))
        service = first.getsockname()
        tunnel = start_tunnel(f"{LOOPBACK}:9", client=[f"--publish=udp:{port}={LOOPBACK}:{service[1]}"])
        stream = Stream(port)
        try:
            first.settimeout(PATIENCE)
            _, source = first.recvfrom(100)
            first.close()
            tunnel.client.wait_for(f"UDP datagrams for {LOOPBACK}:{service[1]} are dropped: Connection refused")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
                second.bind(service)
                second.settimeout(PATIENCE)
                assert second.recvfrom(100)[1] == source
        finally:
            stream.close()


def test_link_that_is_lost(flowing: Flowing) -> None:
    """A stopped server is one that cannot be reached: the client drops the link, and makes another."""
    seen = len(flowing.tunnel.client.output)
    flowing.tunnel.server.send_signal(signal.SIGSTOP)
    flowing.tunnel.client.wait_for("next attempt in", after=seen)
    flowing.tunnel.server.send_signal(signal.SIGCONT)
    flowing.stream.wait_for_answers()
    assert len(flowing.service.sources) == 1
