"""Handshakes of browsers take turns too."""

from __future__ import annotations

import ssl
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from rtunnel.tls.web_server import WebCredentials, WebTlsFactory
from tests.tls.parts import Authority


def test_a_flood_waits_and_others_do_not(authority: Authority) -> None:
    clock = Clock()
    holder = authority.server(kind="ECDSA")
    factory = WebTlsFactory(WebCredentials(holder.cert, holder.key), Factory.forProtocol(Protocol), clock)
    # No time passes for a handshake on this clock.
    factory.turns._budget = -1.0
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    class Client:
        def __init__(self, host: str) -> None:
            self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = context.wrap_bio(self.incoming, self.outgoing)
            self.transport: Any = StringTransport(peerAddress=IPv4Address("TCP", host, 1234))
            self.server: Any = factory.buildProtocol(self.transport.getPeer())
            self.server.makeConnection(self.transport)
            self.turn()

        def turn(self) -> bool:
            """Pass on what there is; return whether the handshake is over."""
            self.incoming.write(self.transport.value())
            self.transport.clear()
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            finally:
                if data := self.outgoing.read():
                    self.server.dataReceived(data)
            return True

    flood = [Client("192.0.2.1") for _ in range(5)]
    other = Client("192.0.2.2")
    gone = Client("192.0.2.3")
    gone.server.connectionLost()
    assert not any(client.transport.value() for client in (*flood, other))
    clock.advance(2)
    assert all(client.transport.value() for client in (*flood, other))
    assert not gone.transport.value().startswith(b"\x16"), "no handshake goes on with somebody who has left"
    while not other.turn():
        pass
    other.tls.write(b"hello")
    other.server.dataReceived(other.outgoing.read())
    assert other.server._handshakeDone
