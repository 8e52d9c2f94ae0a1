"""UDP tunnels from behind a NAT that forgets, through links with a small MTU, with loss, and where UDP is blocked.

visitor, server (in ``servers``) --- wan --- nat1 --- client, service (in ``lan1``)
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.nat.lab import SERVER, Lab
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, poll
from tests.process.rtc import Asker, UdpService

CONTROL_PORT, PUBLIC_PORT = 7000, 8001
BY_UDP = "datagrams (go|to and from .* go) by UDP"
BY_CONNECTION = "datagrams .*by a data connection"

BLOCK_UDP = f"""
table ip block {{
    chain forward {{
        type filter hook forward priority filter
        udp dport {CONTROL_PORT} drop
        udp sport {CONTROL_PORT} drop
    }}
}}
"""


#: A datagram that makes a packet of nearly 1,472 bytes, and such packets: none of them is a probe.
LARGE = 1425
COUNT_LARGE = """
table ip count {
    counter large {
    }
    chain forward {
        type filter hook forward priority filter
        udp length 1461-1479 counter name large
    }
}
"""


def large_packets(lab: Lab) -> int:
    """How many have passed."""
    return int(lab.wan.run(need("nft"), "list", "counter", "ip", "count", "large").partition("packets ")[2].split()[0])


class UdpTunnel:
    """A client in lan1 with a UDP service, and a server in ``servers``."""

    def __init__(self, lab: Lab, twistd: Twistds) -> None:
        self.lab = lab
        with lab.lan1.inside():
            self.service = UdpService()
        with lab.servers.inside():
            self.server = twistd("rtunnel-server", "--control-listen", f"{SERVER}:{CONTROL_PORT}")
            self.server.wait_for("control port listening")
        with lab.lan1.inside():
            publish = f"--publish=udp:{PUBLIC_PORT}={self.service.address}"
            self.client = twistd("rtunnel-client", "--server", f"{SERVER}:{CONTROL_PORT}", publish)
        self.client.wait_for(f"{PUBLIC_PORT} is published for UDP")

    def asker(self) -> Asker:
        """A visitor."""
        with self.lab.servers.inside():
            return Asker(PUBLIC_PORT)

    def wait_for(self, regex: str, *, after: tuple[int, int] = (0, 0)) -> None:
        """Wait until both ends have said something."""
        for process, seen in zip((self.server, self.client), after, strict=True):
            process.wait_for(regex, after=seen)

    @property
    def seen(self) -> tuple[int, int]:
        """How much both have logged."""
        return len(self.server.output), len(self.client.output)

    def close(self) -> None:
        for process in self.client, self.server:
            assert process.terminate() == 0, process
            assert "Traceback" not in process.output, process
        with self.lab.lan1.inside():
            self.service.close()


@pytest.fixture
def start(lab: Lab, twistd: Twistds) -> Iterator[Callable[[], UdpTunnel]]:
    """Starts a tunnel; it ends as it should."""
    with ExitStack() as stack:

        def start_one() -> UdpTunnel:
            made = UdpTunnel(lab, twistd)
            stack.callback(made.close)
            return made

        yield start_one


def test_nat_does_not_forget_an_idle_path(lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    """After a silence that is longer than the NAT's memory, it is the server that has something to say."""
    memory = 20
    with lab.nat1.inside():
        for name in "nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream":
            (Path("/proc/sys/net/netfilter") / name).write_text(str(memory))
    tunnel = start()
    with tunnel.asker() as asker:
        asker.ask(b"the first")
        tunnel.wait_for(BY_UDP)
        # What is looked at is whether a time of silence does any harm.
        time.sleep(memory + 3)
        asker.settimeout(PATIENCE)
        asker.ask(b"still there?", attempts=1)
    assert "by a data connection" not in tunnel.server.output + tunnel.client.output


def test_nat_that_forgets(lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    """The client comes from another port; the service sees no difference."""
    tunnel = start()
    tunnel.wait_for(BY_UDP)
    with tunnel.asker() as asker:
        asker.ask(b"the first")
        lab.nat1.behave("symmetric")
        lab.nat1.run(need("conntrack"), "-D", "-p", "udp")
        asker.ask(b"the second")
        # Not for long by a data connection, if at all.
        server = tunnel.server.output
        if "by a data connection" in server:
            tunnel.server.wait_for(BY_UDP, after=server.index("by a data connection"))
    assert len(tunnel.service.sources) == 1


def test_udp_is_blocked_and_let_through(lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    lab.wan.nft(BLOCK_UDP)
    tunnel = start()
    with tunnel.asker() as asker:
        asker.ask(b"by a data connection")
        tunnel.wait_for(f"{BY_CONNECTION}: UDP does not get through")
        seen = tunnel.seen
        lab.wan.nft("flush table ip block")
        tunnel.wait_for(BY_UDP, after=seen)
        asker.ask(b"by UDP")
        seen = tunnel.seen
        lab.wan.nft(BLOCK_UDP)
        asker.ask(b"by a data connection again")
        tunnel.wait_for(BY_CONNECTION, after=seen)
        asker.ask(bytes(8000))
    assert len(tunnel.service.sources) == 1


@pytest.mark.parametrize("mtu", [1280, 1400])
def test_mtu(mtu: int, lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    lab.set_mtu(mtu)
    tunnel = start()
    tunnel.wait_for(BY_UDP)
    with tunnel.asker() as asker:
        for size in 1452, 8000:
            asker.ask(bytes(size))
    assert "by a data connection" not in tunnel.server.output + tunnel.client.output


@pytest.mark.parametrize("mtu", [1000, 1280, 1400])
def test_mtu_that_shrinks(mtu: int, lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    lab.wan.nft(COUNT_LARGE)
    tunnel = start()
    tunnel.wait_for(BY_UDP)
    with tunnel.asker() as asker:

        def goes_whole() -> bool:
            """Whether a datagram and its answer, of the size of hardly any probe, are a packet each."""
            before = large_packets(lab)
            asker.ask(bytes(LARGE))
            return large_packets(lab) >= before + 2

        poll(goes_whole, PATIENCE, "both ends have found the MTU")
        lab.set_mtu(mtu)
        began = time.monotonic()
        for size in 1100, LARGE, 1452, 8000:
            asker.ask(bytes(size), attempts=30)
        print(f"both ends know the new MTU after {time.monotonic() - began:.1f} s")
    assert "by a data connection" not in tunnel.server.output + tunnel.client.output


def test_datagrams_that_must_not_be_fragmented(lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    """Visitors of Ethernet find that all of its packets get through, and that they stay one datagram."""
    start()
    with lab.lan2.inside():
        visitor = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with visitor:
        visitor.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_MTU_DISCOVER", 10), 2)
        visitor.settimeout(PATIENCE)
        visitor.connect((SERVER, PUBLIC_PORT))
        for size in 148, 92, 1200, 1452, 1472:
            question = bytes(size - 1) + b"x"
            visitor.send(question)
            assert visitor.recv(2000) == question[::-1]


@pytest.mark.parametrize("percent", [1, 5])
def test_loss_stays_loss(percent: int, lab: Lab, start: Callable[[], UdpTunnel]) -> None:
    """As much is lost as on the path, or a little more, and what arrives has waited for nothing: it is in order."""
    count = 2000
    tunnel = start()
    tunnel.wait_for(BY_UDP)
    with tunnel.asker() as asker:
        asker.ask(b"the first")
        # What leaves in one batch is lost in one here, where no network card cuts it into packets.
        for machine in lab.servers, lab.lan1:
            machine.ip("link set eth0 gso_max_segs 1")
        lab.lose_udp(percent)
        answers: list[int] = []

        def take(timeout: float) -> None:
            asker.settimeout(timeout)
            while True:
                try:
                    answers.append(int(asker.recv(100)[::-1]))
                except (TimeoutError, BlockingIOError):
                    return

        for number in range(count):
            asker.send(b"%08d" % number)
            take(0.001)
        take(3.0)
    lost = count - len(answers)
    print(f"{lost} of {count} answers lost")
    assert answers == sorted(set(answers))
    # Each datagram and its answer are lost by chance.
    assert 0 < lost <= count * 2 * 3 * percent / 100
    assert "by a data connection" not in tunnel.server.output + tunnel.client.output
