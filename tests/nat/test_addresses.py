"""A machine with several addresses of IPv6: an answer comes from the one that was asked."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack
from typing import Any

from rtunnel.relay.udp.sockets import UdpSocket
from tests.nat.lab import Namespace, need_root
from tests.patience import PATIENCE


class NoReactor:
    """The test reads the socket itself."""

    def addReader(self, reader: Any) -> None:
        pass

    removeReader = addReader


def test_ipv6_answers_come_from_the_address_that_was_asked() -> None:
    need_root()
    with ExitStack() as stack:
        server, client = Namespace(), Namespace()
        stack.callback(server.close)
        stack.callback(client.close)
        server.cable("there", client, "here")
        server.ip(
            *(f"addr add {address}/64 dev there nodad" for address in ("fd00::1", "fd00::2", "fe80::a", "fe80::b"))
        )
        client.ip(*(f"addr add {address}/64 dev here nodad" for address in ("fd00::3", "fe80::c")))
        received: list[tuple[bytes, Any]] = []
        lost: list[str] = []
        udp = UdpSocket(NoReactor(), lambda data, source: received.append((data, source)), lost.append)
        with server.inside():
            udp.bind("::", 0)
        stack.callback(udp.close)
        with client.inside():
            program = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
            scope = socket.if_nametoindex("here")
        program.settimeout(PATIENCE)
        local: Any = udp.address
        for host in ("fd00::1", "fd00::2", "fe80::a", "fe80::b"):
            where = (host, local.port, 0, scope if host.startswith("fe80") else 0)
            program.sendto(b"question", where)
            # The machines may have to find each other first.
            assert select.select([udp], [], [], PATIENCE)[0]
            udp.doRead()
            data, source = received.pop()
            udp.send(data, source)
            answer, (answered_by, *_) = program.recvfrom(100)
            assert (answer, answered_by.partition("%")[0]) == (b"question", host)
        assert lost == []
