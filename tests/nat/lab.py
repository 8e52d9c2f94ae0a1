"""A small internet for tests of the WebRTC tunnel: two home networks behind NATs, and servers outside.

    lan1 --- nat1 --- wan --- nat2 --- lan2
                       |
                    servers      (signaling, STUN, TURN)

Each name is a network namespace of the Linux kernel. They have no entry in ``ip netns list``: a namespace lives for as
long as something refers to it, here a file descriptor of this process, and the processes and sockets inside. So nothing
is left behind even when the tests are killed, and two runs cannot meet.

A thread enters a namespace with :meth:`Namespace.inside`. Processes that it starts there and sockets that it makes
there stay in that network for good, so that all the helpers of ``tests.process`` work as they are::

    with lab.lan2.inside():
        client = twistd("rtc-client", ...)
        visitor = Visitor(port)

To look around in one while a test runs: ``nsenter --net=/proc/<pid>/ns/net``.

Addresses are those that RFC 5737 keeps for documents. What has no address here is lost without an answer, as on the
internet: ICMP errors would tell ICE too much.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Process, Twistds, need, wait_until_open

NatKind = Literal["home", "symmetric"]

SERVER = "192.0.2.2"
SECOND_SERVER = "192.0.2.3"
"""The servers have two addresses, as it takes two to tell the kinds of NATs apart."""
STUN_PORT = 3478

_CLONE_NEWNET = 0x40000000
_HERE = "/proc/thread-self/ns/net"
_libc = ctypes.CDLL(None, use_errno=True)


def need_root() -> None:
    """Skips the test where this process may not make network namespaces, or has not what the lab is built with."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    need("ip")
    need("nft")
    try:
        Namespace().close()
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error.strerror}")


def _call(result: int, what: str) -> None:
    """What a call of libc returned; there is no ``os.setns`` before Python 3.12."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


class Namespace:
    """A network of its own, with nothing in it but a loopback interface."""

    def __init__(self) -> None:
        before = os.open(_HERE, os.O_RDONLY)
        try:
            _call(_libc.unshare(_CLONE_NEWNET), "unshare")
            try:
                self._fd = os.open(_HERE, os.O_RDONLY)
            finally:
                _call(_libc.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """How other programs may refer to it."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextmanager
    def inside(self) -> Iterator[None]:
        """For this thread, and for what it starts, this is the network."""
        before = os.open(_HERE, os.O_RDONLY)
        try:
            _call(_libc.setns(self._fd, _CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _call(_libc.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a program to its end, and return what it prints."""
        with self.inside():
            done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}\n{stdin}"
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Several commands of ``ip``."""
        self.run(need("ip"), "-batch", "-", stdin="\n".join(commands))

    def nft(self, rules: str) -> None:
        """Rules for ``nft``."""
        self.run(need("nft"), "-f", "-", stdin=rules)

    def cable(self, name: str, other: Namespace, other_name: str) -> None:
        """Connect a new interface here to a new one there.

        As on a real cable, packets travel one by one. Else a batch of a system call (UDP_SEGMENT) would be passed on in
        one piece, and be lost in one piece.
        """
        self.ip(
            f"link add name {name} type veth peer name {other_name} netns {other.path}",
            f"link set {name} gso_max_segs 1 up",
        )
        other.ip(f"link set {other_name} gso_max_segs 1 up")

    def forward(self) -> None:
        """Be a router."""
        with self.inside():
            # What is below /proc/sys/net is that of the namespace of the thread that opens it.
            Path("/proc/sys/net/ipv4/ip_forward").write_text("1")

    def udp_socket(self) -> socket.socket:
        """A UDP socket inside, at a port that is free."""
        with self.inside():
            made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.settimeout(PATIENCE)
        made.bind(("0.0.0.0", 0))
        return made

    def close(self) -> None:
        """Let go of it: it is gone when the processes inside are."""
        os.close(self._fd)


NAT_RULES = """
flush ruleset
table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat
        oifname "outside" masquerade {mode}
    }}
}}
table ip firewall {{
    chain input {{
        type filter hook input priority filter
        iifname "outside" drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop
        iifname "inside" accept
        ct state established,related accept
    }}
}}
"""
"""What comes unasked is dropped, and so leaves no trace in the connection tracking: were it let in, it would take the
port that the first packet in the other direction wants, and no hole could be punched."""

CUT_RULES = """
flush ruleset
table ip firewall {
    chain forward {
        type filter hook forward priority filter; policy drop
    }
}
"""


class Nat(Namespace):
    """A router with a home network.

    ``home`` keeps a source port for all destinations, as far as it is free, as most routers do; ``symmetric`` takes
    another one for each destination. Both let in answers only.
    """

    def __init__(self, net: str, address: str, gateway: str) -> None:
        super().__init__()
        self._net = net
        self._gateway = gateway
        self.address = address
        self._machines: list[Namespace] = []
        self.forward()
        self.ip("link add name inside type bridge", f"addr add {net}.1/24 dev inside", "link set inside up")
        self.behave("home")

    def connect(self, wan: Namespace, name: str) -> None:
        """Connect it to its provider."""
        wan.cable(name, self, "outside")
        wan.ip(f"addr add {self._gateway}/24 dev {name}")
        self._take_address()

    def _take_address(self) -> None:
        self.ip(f"addr add {self.address}/24 dev outside", f"route add default via {self._gateway}")

    def add_machine(self) -> Namespace:
        """One more machine at home."""
        machine = Namespace()
        self._machines.append(machine)
        number = len(self._machines)
        port = f"port{number}"
        self.cable(port, machine, "eth0")
        self.ip(f"link set {port} master inside")
        machine.ip(f"addr add {self._net}.{number + 9}/24 dev eth0", f"route add default via {self._net}.1")
        return machine

    def behave(self, kind: NatKind) -> None:
        """Be of this kind, for what begins from now on."""
        self.nft(NAT_RULES.format(mode="random,fully-random" if kind == "symmetric" else ""))

    def cut(self) -> None:
        """Let nothing through, without a word to anybody."""
        self.nft(CUT_RULES)

    def change_address(self, address: str) -> None:
        """Get another public address, as at night from a provider. With the old one its mappings are gone."""
        self.ip(f"addr del {self.address}/24 dev outside")
        self.address = address
        self._take_address()

    def move_machine(self, machine: Namespace, last: int) -> None:
        """Give a machine another address at home, as when it leaves one access point for another."""
        number = self._machines.index(machine)
        machine.ip(
            f"addr del {self._net}.{number + 10}/24 dev eth0",
            f"addr add {self._net}.{last}/24 dev eth0",
            f"route add default via {self._net}.1",
        )

    def close(self) -> None:
        for machine in self._machines:
            machine.close()
        super().close()


class Lab:
    """Everything, connected."""

    def __init__(self) -> None:
        self.wan = Namespace()
        self.servers = Namespace()
        self.nat1 = Nat("10.1.0", "198.51.100.2", "198.51.100.1")
        self.nat2 = Nat("10.2.0", "203.0.113.2", "203.0.113.1")
        self.lan1 = self.nat1.add_machine()
        self.lan2 = self.nat2.add_machine()
        self.wan.forward()
        self.wan.ip("route add blackhole default")
        self.wan.cable("servers", self.servers, "eth0")
        self.wan.ip("addr add 192.0.2.1/24 dev servers")
        self.servers.ip(
            f"addr add {SERVER}/24 dev eth0", f"addr add {SECOND_SERVER}/24 dev eth0", "route add default via 192.0.2.1"
        )
        self.nat1.connect(self.wan, "nat1")
        self.nat2.connect(self.wan, "nat2")

    def lose_udp(self, percent: int) -> None:
        """From now on, so many of a hundred datagrams are lost on their way, in each direction."""
        self.wan.run(
            *(need("iptables"), "-A", "FORWARD", "-p", "udp"),
            *("-m", "statistic", "--mode", "random", "--probability", f"{percent / 100}", "-j", "DROP"),
        )

    def lose_resets(self) -> None:
        """Tell nobody that a TCP connection is unknown, as many routers do: it is lost without a word."""
        self.wan.run(need("iptables"), "-I", "FORWARD", "-p", "tcp", "--tcp-flags", "RST", "RST", "-j", "DROP")

    def set_mtu(self, mtu: int) -> None:
        """Let the line between nat1 and its provider carry packets of this size."""
        self.wan.ip(f"link set nat1 mtu {mtu}")
        self.nat1.ip(f"link set outside mtu {mtu}")

    def part(self) -> None:
        """Let no datagram pass between the two homes: they reach the servers only."""
        self.wan.run(
            *(need("iptables"), "-I", "FORWARD", "-p", "udp"),
            *("-s", self.nat1.address, "-d", self.nat2.address, "-j", "DROP"),
        )
        self.wan.run(
            *(need("iptables"), "-I", "FORWARD", "-p", "udp"),
            *("-s", self.nat2.address, "-d", self.nat1.address, "-j", "DROP"),
        )

    def join(self) -> None:
        """Let datagrams pass again."""
        self.wan.run(need("iptables"), "-F", "FORWARD")

    def start_turn(self, twistd: Twistds, *credentials: str) -> Process:
        """A STUN and TURN server at both addresses of ``servers``, on :data:`STUN_PORT`, for UDP and TCP.

        :param credentials: options of ``turnserver`` that say whom it serves; none: it is for STUN only.
        """
        directory = twistd.directory
        addresses = [option for address in (SERVER, SECOND_SERVER) for option in ("-L", address, "-E", address)]
        with self.servers.inside():
            turn = twistd.program(
                *(need("turnserver"), "-n", "--no-cli", "--no-tls", "--no-dtls", "-m", "1"),
                *("-l", "stdout", "--simple-log", "--pidfile", f"{directory}/turn.pid", "--db", f"{directory}/turn.db"),
                *("-p", str(STUN_PORT), "--min-port", "50000", "--max-port", "50999", "-r", "example.org", *addresses),
                *(credentials or ("--stun-only",)),
            )
            wait_until_open(STUN_PORT, host=SERVER)
        return turn

    def close(self) -> None:
        """Let go of everything."""
        for namespace in (self.wan, self.servers, self.nat1, self.nat2):
            namespace.close()


def long_term(user: str, password: str) -> Sequence[str]:
    """Options of ``turnserver``: one user with this password."""
    return "--lt-cred-mech", "-u", f"{user}:{password}"


def shared_secret(secret: str) -> Sequence[str]:
    """Options of ``turnserver``: users with passwords that are made from this secret and a time."""
    return "--use-auth-secret", "--static-auth-secret", secret
