"""Datagrams through data channels: answers go to who asked, and they do not wait behind streams."""

from __future__ import annotations

import socket
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import poll
from tests.process.rtc import Asker, RtcTunnel, UdpService
from tests.process.services import Background, Flood, Service

Serve = Callable[..., Service]
StartRtc = Callable[..., RtcTunnel]

KIB = 1024
MIB = 1024 * KIB

SOURCES = 20
QUESTIONS = 20

ECHOES = 60
QUEUE = MIB
"""Bytes of one stream that may pass while a datagram goes to the service and its answer comes back. A datagram that
waited behind what a stream has waiting would see up to the stream's own window of 4 MiB. Without the limit on queues
that is in force beside datagrams it is 0.5 to 1 MiB, with it 0.25 to 0.4 MiB: at 30 MB/s each way that is the turn of
one process, so what the limit does is tested by tests/wire/sctp/test_path_rates.py, where no machine is too busy."""


def test_20_sources_at_once(udp_service: UdpService, start_rtc: StartRtc) -> None:
    """Each gets the answers to its own questions, and the service tells the sources apart."""
    tunnel = start_rtc(udp_service.address, host=["--protocol=udp"], client=["--protocol=udp"])
    with ExitStack() as stack:
        askers = [stack.enter_context(Asker(tunnel.local)) for _ in range(SOURCES)]

        def ask_all(number: int) -> None:
            for question in range(QUESTIONS):
                askers[number].ask(f"question {question} of source {number} ".encode() * (1 + question))
            # A datagram may be empty.
            askers[number].ask(b"")

        with ThreadPoolExecutor(SOURCES) as pool:
            list(pool.map(ask_all, range(SOURCES)))
        assert len(udp_service.sources) == SOURCES
        # Nobody has got what was not for it.
        for asker in askers:
            asker.setblocking(False)
            try:
                extra = asker.recv(65536)
            except BlockingIOError:
                continue
            # An answer that came a second time is its own all the same.
            raise AssertionError(f"{extra[:100]!r} is left")


def test_datagrams_do_not_wait_behind_streams(serve: Serve, udp_service: UdpService, start_rtc: StartRtc) -> None:
    """While a download and an upload take all there is, in how many bytes of the download is a datagram answered?"""
    down, up = Flood(), Flood()
    taken = [0]

    def sink(connection: socket.socket) -> None:
        while data := connection.recv(256 * KIB):
            taken[0] += len(data)

    service = serve(flood=down, sink=sink)
    port = free_port()
    tunnel = start_rtc(
        service.address,
        host=[f"--service=dns=udp:{udp_service.address}"],
        client=[f"--forward=udp:127.0.0.1:{port}=dns"],
    )
    got = [0]
    passed: list[int] = []
    asked = 0
    downloading, uploading = tunnel.visit(b"flood"), tunnel.visit(b"sink")

    def download() -> None:
        try:
            while data := downloading.recv(256 * KIB):
                got[0] += len(data)
        except ConnectionError:
            pass

    def upload() -> None:
        try:
            up(uploading)
        except ConnectionError:
            pass

    with downloading, uploading, Asker(port) as asker:
        reading, writing = Background(download), Background(upload)
        asker.ask(b"the first opens the flow")
        # Both are at full speed, with windows that have grown.
        poll(lambda: got[0] > 6 * MIB and taken[0] > 6 * MIB, PATIENCE, "a download and an upload that run")
        for number in range(ECHOES):
            before = got[0], taken[0]
            asked += asker.ask(f"echo {number}".encode())
            passed.append(max(got[0] - before[0], taken[0] - before[1]))
        assert reading.running
        assert writing.running
        both = got[0], taken[0]
        poll(lambda: got[0] > both[0] and taken[0] > both[1], PATIENCE, "both go on")
        downloading.shutdown(socket.SHUT_RDWR)
        uploading.shutdown(socket.SHUT_RDWR)
        reading.join()
        writing.join()
    print(f"{asked} questions for {ECHOES} answers; KiB passed meanwhile: {sorted(count // KIB for count in passed)}")
    assert statistics.median(passed) < QUEUE
    assert asked < 1.2 * ECHOES
