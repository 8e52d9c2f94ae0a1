"""The simplest association that loses nothing, to test the bed with: it has one message on its way."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

AGAIN = 0.2
"""Seconds until a message is sent again."""
_HEADER = struct.Struct("!BIHI")
_DATA, _ACK = 0, 1


class Toy:
    """See above. Every message takes one packet, and its acknowledgement another one."""

    def __init__(self, entropy: Callable[[int], bytes], more: Callable[[], None], now: float) -> None:
        self.messages: list[tuple[int, int, bytes]] = []
        self.events: list[Any] = []
        self._waiting: deque[bytes] = deque()
        self._number = self._expected = 0
        self._acks: list[bytes] = []
        self._next: float | None = None

    def connect(self, now: float) -> None:
        pass

    def send(self, stream: int, kind: int, data: bytes, ordered: bool, most_sends: int | None, now: float) -> None:
        self._waiting.append(_HEADER.pack(_DATA, self._number + len(self._waiting), stream, kind) + data)
        if self._next is None:
            self._next = now

    def receive(self, packets: Iterable[bytes], now: float) -> None:
        for packet in packets:
            type_, number, stream, kind = _HEADER.unpack_from(packet)
            if type_ == _ACK:
                if self._waiting and number == self._number:
                    self._waiting.popleft()
                    self._number += 1
                    self._next = now if self._waiting else None
                continue
            if number == self._expected:
                self._expected += 1
                self.messages.append((stream, kind, packet[_HEADER.size :]))
            if number < self._expected:
                self._acks.append(_HEADER.pack(_ACK, number, 0, 0))

    def transmit(self, now: float) -> list[bytes]:
        packets, self._acks = self._acks, []
        if self._next is not None and now >= self._next:
            packets.append(self._waiting[0])
            self._next = now + AGAIN
        return packets

    def take_oversized(self) -> list[bytes]:
        return []

    def next_time(self) -> float | None:
        return self._next
