"""Whether UDP gets through to a server, by the UDP path that it offers to each link."""

from __future__ import annotations

from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import deferLater

from rtunnel.wire.data.keys import Root, path_secrets
from rtunnel.wire.datagrams.packets import Opener, Sealer, packet_id
from rtunnel.wire.datagrams.path import Path

#: Seconds that an answer may take, and seconds between two looks.
PATIENCE, EVERY = 3.0, 0.05
_ANY = {4: "0.0.0.0", 6: "::"}


class _Probe(DatagramProtocol):
    def __init__(self, path: Path[str], id: int, host: str, clock: Any) -> None:
        self._path = path
        self._id = id
        self._host = host
        self._clock = clock

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        """Take what may be the server's answer."""
        if addr[0] == self._host and packet_id(datagram) == self._id:
            self._path.receive(datagram, "server", self._clock.seconds())

    def connectionRefused(self) -> None:
        """Do nothing: the next probe may get through."""


async def probe(reactor: Any, root: Root, id: int, host: str, port: int) -> bool:
    """Return whether a packet gets to the server, and its answer back.

    :param root: what both ends of the link have agreed on.
    :param id: of the path.
    :param host: an IP address.
    """
    client, server, cipher = path_secrets(root)
    path: Path[str] = Path(
        Sealer(id, client, cipher),
        Opener(id, server, cipher),
        reactor.seconds(),
        is_server=False,
        address="server",
    )
    protocol = _Probe(path, id, host, reactor)
    listening = reactor.listenUDP(0, protocol, interface=_ANY[6 if ":" in host else 4])
    until = reactor.seconds() + PATIENCE
    try:
        while not path.is_open and reactor.seconds() < until:
            path.tick(reactor.seconds())
            for packet, _ in path.take():
                try:
                    protocol.transport.write(packet, (host, port))  # type: ignore[union-attr]
                except OSError:
                    return False
            await deferLater(reactor, EVERY)
    finally:
        listening.stopListening()
    return path.is_open
