"""What the tests of UDP hold in their hands: programs with a real socket, and data channels that are only in memory."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from zope.interface import implementer

from rtunnel.addresses import UdpAddress
from rtunnel.rtc.interfaces import IChannel, IPeerConnection
from rtunnel.rtc.traffic import Traffic
from tests.reverse.net import HOST, reactor, until

MAX_MESSAGE = 65536


def udp_address(host: str, port: int) -> UdpAddress:
    return UdpAddress(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", host, port)


class ReactorByHand:
    """The reactor, but that time passes when the test says so.

    :ivar clock: its time.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = self.clock.seconds
        self.callLater = self.clock.callLater

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class Program:
    """A program with a UDP socket of its own.

    :ivar address: host and port of it.
    """

    def __init__(self, host: str = HOST, port: int = 0) -> None:
        self.socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind((host, port))
        self.address = self.socket.getsockname()[:2]

    def send(self, data: bytes, to: tuple[str, int]) -> None:
        self.socket.sendto(data, to)

    def poll(self) -> tuple[bytes, Any] | None:
        try:
            return self.socket.recvfrom(65536)
        except BlockingIOError:
            return None

    async def gets(self) -> tuple[bytes, Any]:
        """The next datagram, and who sent it."""
        got: list[tuple[bytes, Any]] = []

        def polled() -> bool:
            datagram = self.poll()
            if datagram is not None:
                got.append(datagram)
            return bool(got)

        await until(polled, f"a datagram at {self.address}")
        return got[0]

    def close(self) -> None:
        self.socket.close()


class Echo(DatagramProtocol):
    """A service that answers each datagram with *prefix* and the datagram, until it is stopped."""

    noisy = False
    transport: Any

    def __init__(self, host: str = HOST, port: int = 0, prefix: bytes = b"") -> None:
        self.sources: set[Any] = set()
        self._prefix = prefix
        self._port: Any = reactor.listenUDP(port, self, host, 65536)
        self.address: tuple[str, int] = (host, self._port.getHost().port)

    def datagramReceived(self, data: bytes, source: Any) -> None:
        self.sources.add(source)
        self.transport.write(self._prefix + data, source)

    async def close(self) -> None:
        await self._port.stopListening()


@implementer(IChannel)
class MemoryChannel:
    """One end of a data channel."""

    def __init__(self, connection: MemoryConnection, label: str, protocol: str, reliable: bool) -> None:
        self.connection = connection
        self.label = label
        self.protocol = protocol
        self.reliable = reliable
        self.is_open = False
        self.closed = False
        self.user: Any = None
        self.other: MemoryChannel

    @property
    def can_send(self) -> bool:
        return self.is_open

    def use(self, user: object) -> None:
        self.user = user

    def send(self, data: bytes) -> None:
        if self.is_open:
            reactor.callLater(0, self.other.deliver, "message_received", data)

    def send_text(self, text: str) -> None:
        if self.is_open:
            reactor.callLater(0, self.other.deliver, "text_received", text.encode())

    def deliver(self, what: str, *data: bytes) -> None:
        if not self.closed:
            getattr(self.user, what)(*data)

    def close(self) -> None:
        if not self.closed:
            self.is_open = False
            reactor.callLater(0, self.other.gone)
            reactor.callLater(0, self.gone)

    def gone(self) -> None:
        self.is_open = False
        if not self.closed:
            self.closed = True
            if self.user is not None:
                self.user.channel_closed()


@implementer(IPeerConnection)
class MemoryConnection:
    """One end of a peer connection; :meth:`pair` makes both.

    :ivar channels: those that were opened at this end.
    :ivar accepted: those that the other end opened.
    :ivar accept: is told the channels that the other end opens.
    :ivar opens: a channel that this end opens is acknowledged; see :meth:`open_now`.
    """

    def __init__(self) -> None:
        self.channels: list[MemoryChannel] = []
        self.accepted: list[MemoryChannel] = []
        self.accept: Callable[[Any], None] = lambda channel: None
        self.opens = True
        self.max_message = MAX_MESSAGE
        self.buffered = self.kept = 0
        self.round_trip = 0.0
        self.datagrams_dropped = 0
        self.traffic = Traffic()
        self.stage = "path"
        self.path = "direct"
        self.heard_from = ""
        self.other: MemoryConnection

    @classmethod
    def pair(cls) -> tuple[MemoryConnection, MemoryConnection]:
        one, other = cls(), cls()
        one.other, other.other = other, one
        return one, other

    @property
    def open_channels(self) -> list[MemoryChannel]:
        return [channel for channel in self.channels if not channel.closed]

    def open_channel(self, label: str, protocol: str = "", reliable: bool = True) -> MemoryChannel:
        near = MemoryChannel(self, label, protocol, reliable)
        far = MemoryChannel(self.other, label, protocol, reliable)
        near.other, far.other = far, near
        self.channels.append(near)
        if self.opens:
            reactor.callLater(0, self.open_now, near)
        return near

    def open_now(self, channel: MemoryChannel) -> None:
        """The other end acknowledges *channel*."""
        if channel.closed or channel.other.closed:
            return
        channel.other.is_open = True
        self.other.accepted.append(channel.other)
        self.other.accept(channel.other)
        channel.is_open = True
        channel.user.channel_opened()

    def lose(self) -> None:
        """All channels are closed at once at this end."""
        for channel in (*self.channels, *self.accepted):
            channel.gone()

    def offer(self) -> None:
        raise NotImplementedError

    take_offer: Any = offer
    take_answer: Any = offer
    take_candidate: Any = offer
    hold: Any = offer
    release: Any = offer
    wants_restart = False
    fingerprints = bytes(32), bytes(32)
    restart: Any = offer
    continues: Any = offer
    addresses_changed: Any = offer
    close: Any = offer
