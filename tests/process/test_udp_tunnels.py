"""UDP through the reverse tunnel, as programs use it: DNS, iperf3, sizes of WireGuard, a bulk stream beside."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.ports import free_port
from tests.process.harness import Twistds, need, poll
from tests.process.rtc import Asker, UdpService
from tests.process.services import LOOPBACK, Background, Flood, Service, Tunnel
from tests.process.tls_services import UnderTls
from tests.tls.parts import Authority

Serve = Callable[..., Service]
Start = Callable[..., Tunnel]

MIB = 1024 * 1024

DNS_NAME = "large.example.org"
DNS_TEXTS = [f"{number:02} {'x' * 196}" for number in range(15)]
"""Fifteen records of some 200 bytes: an answer of more than 3,000, which fits into two packets of Ethernet and more."""

#: Of a handshake of WireGuard, the message and the answer; of a full packet in its tunnel; and what Ethernet carries.
SIZES = [148, 92, 1452, 1472]


@pytest.fixture(params=["plain", "tls"])
def start(request: pytest.FixtureRequest, twistd: Twistds, start_tunnel: Start, tmp_path: Path) -> Start:
    """``start(local, client=[...])``: a server and a client that work, without TLS and with it."""
    if request.param == "plain":
        return start_tunnel
    authority = Authority(tmp_path / "pki")
    authority.server()
    authority.client("laptop", file="client")
    return UnderTls(twistd, authority.directory).tunnel


def publish(start: Start, *published: str, local: str = f"{LOOPBACK}:9") -> Tunnel:
    """Start a tunnel that publishes services by ``--publish``, beside a TCP service."""
    # iperf3 serves one client at a time, and would take the check for one.
    tunnel = start(local, client=["--check-services=no", *(f"--publish={one}" for one in published)])
    for one in published:
        kind, port, *_ = one.replace("=", ":").split(":")
        tunnel.client.wait_for(rf":{port} is published{' for UDP' if kind == 'udp' else ''}")
    tunnel.server.wait_for("datagrams go by UDP$")
    return tunnel


def start_dns(twistd: Twistds) -> int:
    """Start a name server with one large name. Return its port."""
    port = free_port()
    server = twistd.program(
        *(need("dnsmasq"), "--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--user=", "--group="),
        *("--no-resolv", "--no-hosts", "--no-poll", "--pid-file=", f"--port={port}", f"--listen-address={LOOPBACK}"),
        *("--bind-interfaces", "--edns-packet-max=4096", *(f"--txt-record={DNS_NAME},{text}" for text in DNS_TEXTS)),
    )
    server.wait_for("started, version")
    return port


def dig(port: int, *options: str) -> str:
    """What ``dig`` prints."""
    argv = [need("dig"), f"@{LOOPBACK}", "-p", str(port), "+tries=1", f"+timeout={PATIENCE:.0f}", "+noall", "+answer"]
    done = subprocess.run(
        [*argv, "+comments", "+stats", *options], capture_output=True, text=True, check=False, timeout=2 * PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_dig_gets_a_large_answer_by_udp(start: Start, twistd: Twistds) -> None:
    port = free_port()
    tunnel = publish(start, f"udp:{port}={LOOPBACK}:{start_dns(twistd)}")
    for _ in range(3):
        answer = dig(port, "+notcp", "+ignore", "+bufsize=4096", DNS_NAME, "TXT")
        assert "status: NOERROR" in answer
        assert "flags: qr aa rd" in answer, "it is cut (tc)"
        assert all(f'"{text}"' in answer for text in DNS_TEXTS)
        size = int(answer.partition("MSG SIZE  rcvd: ")[2].split()[0])
        assert size > 3000
        assert "(UDP)" in answer
    assert "Traceback" not in tunnel.server.output + tunnel.client.output


def iperf3(port: int, *options: str) -> dict[str, Any]:
    """What a client of ``iperf3`` has measured with UDP."""
    argv = [need("iperf3"), "--client", LOOPBACK, "--port", str(port), "--udp", "--json", "--time", "1", *options]

    def measured() -> dict[str, Any] | None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=PATIENCE)
        result: dict[str, Any] = json.loads(done.stdout)
        # The end of the last test may not have reached the server yet, or it does not listen again yet.
        if "error" in result and not result["start"].get("connected"):
            return None
        assert "error" not in result, done.stdout
        return result

    return poll(measured, PATIENCE, "a server that is ready")


def full_buffers() -> int:
    """How many datagrams the kernel has dropped on this machine since a program was too slow to read them."""
    names, values = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line[:4] == "Udp:"]
    return int(values[names.index("RcvbufErrors")])


def test_iperf3_loses_nothing(start: Start, twistd: Twistds) -> None:
    """Its control connection is TCP, at the same port. What the kernel drops for want of time is not our loss."""
    service, port = free_port(), free_port()
    server = twistd.program(need("iperf3"), "--server", "--bind", LOOPBACK, "--port", str(service), "--forceflush")
    server.wait_for("Server listening")
    publish(start, f"tcp:{port}={LOOPBACK}:{service}", f"udp:{port}={LOOPBACK}:{service}")
    for size, rate in (200, "1M"), (1200, "5M"), (1472, "5M"), (8192, "5M"):
        for direction in [], ["--reverse"]:
            before = full_buffers()
            result = iperf3(port, "--length", str(size), "--bitrate", rate, "--window", "200K", *direction)["end"]
            lost, packets = result["sum"]["lost_packets"], result["sum"]["packets"]
            print(f"{size} bytes {direction}: {lost} of {packets} lost")
            assert packets > 20
            assert lost <= full_buffers() - before, f"{size} bytes, {direction}: {lost} of {packets} lost"


def test_sizes_that_programs_send(start: Start, udp_service: UdpService) -> None:
    port = free_port()
    publish(start, f"udp:{port}={udp_service.address}")
    with Asker(port, timeout=PATIENCE) as asker:
        for size in 0, *SIZES, 8000, 65507:
            asker.ask(bytes(size // 2) + b"x" * (size - size // 2), attempts=1)
    assert len(udp_service.sources) == 1


def test_datagrams_beside_bulk_streams(start: Start, serve: Serve, udp_service: UdpService) -> None:
    """All of them arrive, while a download takes all there is."""
    flood = Flood()
    port = free_port()
    tunnel = publish(start, f"udp:{port}={udp_service.address}", local=serve(flood=flood).address)
    downloading = tunnel.visit(b"flood")
    taken = [0]

    def download() -> None:
        try:
            while data := downloading.recv(MIB):
                taken[0] += len(data)
        except ConnectionError:
            pass

    with ExitStack() as stack:
        stack.enter_context(downloading)
        reading = Background(download)
        askers = [stack.enter_context(Asker(port, timeout=PATIENCE)) for _ in range(4)]
        poll(lambda: taken[0] > 16 * MIB, PATIENCE, "a download that runs")

        def ask_all(number: int) -> None:
            for question in range(100):
                askers[number].ask(b"%d of %d " % (question, number) * 100, attempts=1)

        before = taken[0]
        asking = [Background(lambda number=number: ask_all(number)) for number in range(4)]  # type: ignore[misc]
        for one in asking:
            one.join()
        assert reading.running
        assert taken[0] > before
        downloading.shutdown(socket.SHUT_RDWR)
        reading.join()
    assert len(udp_service.sources) == 4
