"""The server's UDP port for all links: hands each packet to the path that it names."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.logger import Logger

from rtunnel.addresses import UdpAddress
from rtunnel.reasons import why_not_listening
from rtunnel.relay.inheritance import Handed, inheritance
from rtunnel.relay.polled_socket import SHORT_TURNS
from rtunnel.relay.sockets import format_address, format_host_port
from rtunnel.relay.udp.batches import BatchSocket
from rtunnel.relay.udp.sockets import Address
from rtunnel.reverse.datagrams.carrier import Datagrams
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.datagrams.packets import packet_id
from rtunnel.wire.datagrams.path_mtu import BASE


class PathPort(Service):
    """One UDP socket. If it cannot be bound, datagrams go by data connections.

    :param poller: moves bulk in short turns while datagrams come.
    :param address: where to listen; None: where the control port is.
    :param control: returns the address of the control port; None if there is none yet.
    :ivar refused: how many packets belonged to no path.
    :ivar problem: why it could not be bound; empty if it could.
    :ivar on_left: called when no path is left.
    """

    log = Logger()

    def __init__(self, reactor: Any, poller: Any, address: UdpAddress | None, control: Callable[[], Any]) -> None:
        self._poller = poller
        self._address = address
        self._control = control
        self._socket = BatchSocket(reactor, self._received, self._lost, self._done, BASE)
        self._paths: dict[int, Datagrams] = {}
        self._touched: dict[Datagrams, None] = {}
        self._limiter = LogLimiter(self.log, reactor, most=1)
        self.refused = 0
        self.problem = ""
        self.on_left: Callable[[PathPort], None] = lambda _port: None
        self.setName("UDP path")
        self.send_all = self._socket.send_all

    def privilegedStartService(self) -> None:
        """Bind the socket."""
        super().privilegedStartService()
        self._listen()

    def startService(self) -> None:
        """Bind the socket, unless :meth:`privilegedStartService` has done so."""
        super().startService()
        self._listen()

    def _listen(self) -> None:
        if self._socket.address is not None or self.problem:
            return
        asked = self.asked
        if asked is None:
            return
        host, port = asked
        inherited = inheritance.take(f"UDP path {host}:{port}")
        try:
            if inherited is not None:
                self._socket.adopt(inherited)
            else:
                self._socket.bind(host, port)
        except OSError as error:
            self.problem = why_not_listening(error)
            self.log.warn(
                "UDP at {address}: {why}; datagrams of UDP tunnels go by data connections (--udp-listen)",
                address=format_host_port(host or "0.0.0.0", port),
                why=self.problem,
            )
        else:
            self.log.info("UDP paths of clients at {address}", address=self.local_address)

    def handed(self) -> Iterator[Handed]:
        """Yield what a successor gets."""
        if self.asked is not None and self._socket.fileno() >= 0:
            host, port = self.asked
            yield Handed(f"UDP path {host}:{port}", self._socket.fileno())

    def close(self) -> None:
        """Take no more packets."""
        self._socket.close()

    @property
    def asked(self) -> tuple[str, int] | None:
        """Host and port where it is to listen; None: nowhere, as the control port has neither."""
        if self._address is not None:
            return self._address.host or "0.0.0.0", self._address.port
        control = self._control()
        return (control.host, control.port) if isinstance(control, IPv4Address | IPv6Address) else None

    @property
    def bound(self) -> tuple[str, int] | None:
        """Host and port where it listens; None: nowhere."""
        address: Any = self._socket.address
        return (address.host, address.port) if address is not None else None

    @property
    def local_address(self) -> str:
        """``host:port`` where it listens; empty if it does not."""
        address = self._socket.address
        return format_address(address) if address is not None else ""

    @property
    def port(self) -> int | None:
        """The port as PATH names it, 0 for that of the control port; None if the socket is not bound."""
        address, control = self._socket.address, self._control()
        if address is None:
            return None
        number: int = address.port  # type: ignore[attr-defined]
        is_same = isinstance(control, IPv4Address | IPv6Address) and control.port == number
        return 0 if is_same else number

    def stopService(self) -> None:
        """Close the socket."""
        super().stopService()
        self.close()

    # Paths

    def __len__(self) -> int:
        return len(self._paths)

    def join(self, datagrams: Datagrams) -> int:
        """Hand the packets of a new path to *datagrams*. Return the id of the path."""
        while (id := secrets.randbits(32)) in self._paths:
            pass
        self._paths[id] = datagrams
        return id

    def leave(self, id: int) -> None:
        """Take no more packets of a path."""
        if self._paths.pop(id, None) is not None and not self._paths:
            self.on_left(self)

    # From the socket

    def _received(self, packet: bytes, source: Address) -> None:
        datagrams = self._paths.get(packet_id(packet))  # type: ignore[arg-type]
        if datagrams is None:
            self.refused += 1
            return
        self._touched[datagrams] = None
        datagrams.receive_packet(packet, source)

    def _done(self) -> None:
        self._poller.short_turns = SHORT_TURNS
        touched, self._touched = self._touched, {}
        for datagrams in touched:
            datagrams.flush()

    def _lost(self, why: str) -> None:
        self._limiter.warn("packets to clients are lost: {why}", why=why)
