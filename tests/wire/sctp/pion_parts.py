"""Our end of an association with Pion, as it was when the packets in ``pion-sctp.json`` were recorded."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable

from rtunnel.wire.sctp.association import Association
from rtunnel.wire.sctp.events import AssociationLimits, Event, StreamsReset
from rtunnel.wire.webrtc.channel_open import ACK, OPEN
from tests.wire.sctp.by_hand import DCEP, PORT

#: Types of channels (RFC 8832, section 5.1).
ORDERED, UNORDERED, ONCE = 0x00, 0x80, 0x81
#: A command: its name, and its arguments.
Command = list[str | int]


def text(size: int, seed: int) -> bytes:
    """A message."""
    return (b"%04d " % seed * (size // 5 + 1))[:size]


class OurEnd:
    """An association that carries out commands, and answers a peer that opens or closes channels.

    :ivar sent: its packets, and when they were sent.
    :ivar messages: what came, and when: stream, payload protocol identifier, message.
    :ivar events: what else happened.
    """

    def __init__(self, seed: int, now: float) -> None:
        limits = AssociationLimits()
        self.association = Association(PORT, PORT, limits, random.Random(seed).randbytes, lambda: None, now)
        self.sent: list[tuple[float, bytes]] = []
        self.messages: list[tuple[float, int, int, bytes]] = []
        self.events: list[tuple[float, Event]] = []
        self._kinds: dict[int, int] = {}
        self._closing: set[int] = set()

    def do(self, command: Command, now: float) -> None:
        """Carry out a command."""
        match command:
            case ["connect"]:
                self.association.connect(now)
            case ["open", int(stream), str(label), int(kind)]:
                self._kinds[stream] = kind
                head = struct.pack("!BBHLHH", OPEN[0], kind, 0, 0, len(label), 0)
                self.association.send(stream, DCEP, head + label.encode(), True, None, now)
            case ["send", int(stream), int(size), int(seed), int(kind)]:
                self._send(stream, kind, text(size, seed), now)
            case ["close", int(stream)]:
                self._close(stream)
            case ["abort"]:
                self.association.abort()
            case _:
                raise AssertionError(command)

    def _send(self, stream: int, kind: int, data: bytes, now: float) -> None:
        how = self._kinds[stream]
        self.association.send(stream, kind, data, how == ORDERED, 1 if how == ONCE else None, now)

    def _close(self, stream: int) -> None:
        if stream not in self._closing:
            self._closing.add(stream)
            self.association.reset(stream)

    def receive(self, packets: Iterable[bytes], now: float) -> None:
        """Take packets."""
        association = self.association
        association.receive(packets, now)
        for stream, kind, data in association.messages:
            self.messages.append((now, stream, kind, data))
            if kind == DCEP and data[:1] == OPEN:
                self._kinds[stream] = data[1]
                self._closing.discard(stream)
                association.send(stream, DCEP, ACK, True, None, now)
        association.messages.clear()
        for event in association.events:
            self.events.append((now, event))
            if isinstance(event, StreamsReset):
                for stream in event.streams or ():
                    self._close(stream)
        association.events.clear()

    def transmit(self, now: float) -> list[bytes]:
        """Return what is to be sent now."""
        packets: list[bytes] = []
        while some := self.association.transmit(now):
            packets += some
        self.sent += [(now, packet) for packet in packets]
        return packets
