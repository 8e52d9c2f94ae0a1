"""The reverse tunnel from behind a NAT that soon forgets a connection on which nothing passes."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

from tests.nat.lab import SERVER, Lab
from tests.patience import PATIENCE
from tests.process.harness import Twistds, need, poll
from tests.process.services import Service, Visitor, expected, read_bytes, send_bytes

CONTROL_PORT, PUBLIC_PORT = 7000, 8001
#: Seconds of silence after which the NAT forgets a connection.
MEMORY = 4
#: More bytes than pass on any other connection, so that the NAT's table shows which one is the visitor's.
MUCH = 1_000_000


def remember_for(lab: Lab, seconds: int) -> None:
    """Let the NAT of lan1 forget silent connections, and count what passes on each."""
    with lab.nat1.inside():
        settings = Path("/proc/sys/net/netfilter")
        (settings / "nf_conntrack_tcp_timeout_established").write_text(str(seconds))
        (settings / "nf_conntrack_acct").write_text("1")


def packets_of_visitor(lab: Lab) -> int | None:
    """Return how many packets from the server have passed on the visitor's connection; None: it is forgotten."""
    table = lab.nat1.run(need("conntrack"), "-L", "-p", "tcp", "--orig-port-dst", str(CONTROL_PORT))
    for line in table.splitlines():
        counts = re.findall(r"packets=(\d+) bytes=(\d+)", line)
        if counts and int(counts[1][1]) > MUCH:
            return int(counts[1][0])
    return None


def test_nat_does_not_forget_the_connection_of_an_idle_visitor(
    lab: Lab, twistd: Twistds, serve: Callable[..., Service]
) -> None:
    def echo(connection: socket.socket) -> None:
        connection.sendall(b"%d" % read_bytes(connection, MUCH)[0])
        while data := connection.recv(100):
            connection.sendall(data)

    remember_for(lab, MEMORY)
    options = ("--data-plane=direct", "--keepalive-interval=1", "--dead-after=60")
    with lab.servers.inside():
        server = twistd("rtunnel-server", "--control-listen", f"{SERVER}:{CONTROL_PORT}", *options)
        server.wait_for("control port listening")
    with lab.lan1.inside():
        local = serve(echo=echo).address
        client = twistd(
            *("rtunnel-client", "--server", f"{SERVER}:{CONTROL_PORT}", "--tunnel", f"{PUBLIC_PORT}:{local}"), *options
        )
    client.wait_for(rf"{PUBLIC_PORT} is published")
    with lab.servers.inside():
        visitor = Visitor(PUBLIC_PORT, b"echo")
    with visitor:
        send_bytes(visitor, MUCH, 1)
        assert visitor.recv(100) == b"%d" % expected(MUCH, 1)[0]
        before = packets_of_visitor(lab)
        assert before is not None

        def is_settled() -> bool:
            """The NAT has forgotten the connection, or signs of life have passed for twice as long as it remembers.

            Two packets a second, as both ends send them.
            """
            packets = packets_of_visitor(lab)
            return packets is None or packets >= before + 2 * 2 * MEMORY

        poll(is_settled, PATIENCE, "the visitor's connection is forgotten or kept")
        assert packets_of_visitor(lab) is not None, "the NAT has forgotten the visitor's connection"
        visitor.sendall(b"still there?")
        assert visitor.recv(100) == b"still there?"
