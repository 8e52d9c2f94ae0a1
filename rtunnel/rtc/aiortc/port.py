"""One socket of an ICE agent, or one relayed address: tells STUN from DTLS, and drops what is not the peer's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from aioice.ice import StunProtocol
from aioice.stun import Class, Message

from rtunnel.rtc.aiortc.checks import PatientConnection

#: The largest STUN message that is looked at, in bytes. They fit into an Ethernet frame.
MAX_STUN = 2048
#: The largest packet of DTLS records that is looked at, in bytes: what OpenSSL reads at once.
MAX_RECORDS = 16_640


class Port(StunProtocol):
    """A socket to which strangers may send anything, and from which a peer may want anything sent to strangers.

    What is not the peer's is dropped before it is parsed.
    """

    receiver: PatientConnection

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        """Tell STUN from DTLS by the first byte (RFC 7983)."""
        assert isinstance(data, bytes)
        kind = data[0] if data else 255
        if 19 < kind < 64:
            self.records_received(memoryview(data), len(data), addr)
            self.all_received()
        elif kind < 4 and len(data) <= MAX_STUN and self._is_expected(data):
            with suppress(Exception):
                # aioice's parser raises many kinds of exceptions.
                super().datagram_received(data, addr)

    def records_received(self, data: memoryview, segment: int, addr: tuple[Any, ...]) -> None:
        """Take DTLS records, from proved addresses only. Until the handshake is over, aiortc reads them."""
        agent = self.receiver
        if segment > MAX_RECORDS or not agent.is_proved(addr):
            return
        agent.packets += -(-len(data) // segment)
        if agent.reader is not None:
            agent.reader.take(data, segment)
            return
        for start in range(0, len(data), segment):
            agent.data_received(bytes(data[start : start + segment]), 1)

    def all_received(self) -> None:
        """See :class:`rtunnel.rtc.aiortc.udp_socket.IPort`."""
        reader = self.receiver.reader
        if reader is not None:
            reader.deliver()

    def send_records(self, data: bytes, segment: int, addr: tuple[Any, ...], *, fragments: bool = False) -> bool:
        """Send packets; see :meth:`rtunnel.rtc.aiortc.udp_socket.UdpTransport.send_batch`."""
        if not self.is_relayed:
            transport: Any = self.transport
            return bool(transport.send_batch(data, segment, addr, fragments=fragments))
        for start in range(0, len(data), segment):
            self.transport.sendto(data[start : start + segment], addr)
        return True

    @property
    def is_relayed(self) -> bool:
        """Whether packets go through a TURN server."""
        return self.local_candidate.type == "relay"

    def _is_expected(self, message: bytes) -> bool:
        """Return whether it may be a check of the peer, which names us, or the answer to a request of ours."""
        return message[8:20] in self.transactions or self.receiver.check_name in message

    def send_stun(self, message: Message, addr: tuple[str, int]) -> None:
        """Send it if it may be sent. Whoever gets a success response has sent an authenticated check."""
        if message.message_class == Class.RESPONSE:
            self.receiver.prove(addr)
        if self.receiver.may_send(self, message, addr[0]):
            super().send_stun(message, addr)
