"""Senders that keep to a window and a pace, and one bottleneck with a queue: simulated, packet by packet.

Losses are known as soon as three later packets have arrived, or after a time-out. Only what concerns congestion is
here; the whole association has its own bed.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from heapq import heappop, heappush
from itertools import takewhile
from typing import Any

from rtunnel.wire.sctp.path.congestion import Congestion
from rtunnel.wire.sctp.path.pacing import Pacer

PACKET = 1200
TIMEOUT = 0.4


class Sender:
    """Sends for ever, or for as long as there is data."""

    def __init__(self, path: Bottleneck, packet: int) -> None:
        self.path = path
        self.packet = packet
        self.congestion = Congestion(packet)
        self.pacer = Pacer(packet)
        self.in_flight: OrderedDict[int, float] = OrderedDict()
        self.sent = self.acked = -1
        self.delivered = self.lost = 0
        self.smoothed = 0.0
        self.newest = 0.0
        self.repaired_at = -1
        self.limited = False
        self.timer: float | None = None
        self.wanted: float = float("inf")
        self.windows: list[tuple[float, int]] = []

    def send(self) -> None:
        """Send what window and pace allow."""
        now, packet = self.path.now, self.packet
        rate = self.congestion.pacing_rate(self.smoothed)
        while self.wanted >= packet:
            if len(self.in_flight) * packet + packet > self.congestion.window and self.in_flight:
                self.limited = True
                return
            if self.pacer.allowance(rate, now) <= 0:
                self.limited = True
                at = self.pacer.next_time(rate, now)
                if self.timer is None or self.timer > at or self.timer <= now:
                    self.timer = at
                    self.path.at(at, self.send)
                return
            self.sent += 1
            self.in_flight[self.sent] = now
            self.pacer.sent(packet, now)
            self.wanted -= packet
            self.path.carry(self, self.sent, packet)
            number = self.sent
            self.path.at(now + TIMEOUT + self.smoothed, lambda number=number: self.expire(number))

    def arrived(self, numbers: list[int]) -> None:
        """Take an acknowledgement."""
        now = self.path.now
        before = len(self.in_flight) * self.packet
        count = 0
        for number in numbers:
            sent_at = self.in_flight.pop(number, None)
            if sent_at is not None:
                count += self.packet
                self.newest = now - sent_at
                self.acked = max(self.acked, number)
        if not count:
            return
        self.delivered += count
        self.smoothed = self.smoothed + (self.newest - self.smoothed) / 8 if self.smoothed else self.newest
        missing = list(takewhile(lambda number: number + 3 <= self.acked, self.in_flight))
        for number in missing:
            del self.in_flight[number]
            self.lost += 1
            self.wanted += self.packet
        if missing and missing[-1] > self.repaired_at:
            self.congestion.congested(before, now)
            self.repaired_at = self.sent
        elif self.acked > self.repaired_at:
            self.congestion.acked(count, before, self.acked, self.sent, self.newest, self.smoothed, self.limited, now)
        self.limited = False
        self.windows.append((now, self.congestion.window))
        self.send()

    def expire(self, number: int) -> None:
        """Take a time-out, if the packet is still in flight."""
        if number in self.in_flight:
            self.congestion.timed_out(len(self.in_flight) * self.packet, self.path.now)
            self.wanted += len(self.in_flight) * self.packet
            self.in_flight.clear()
            self.repaired_at = -1
            self.send()


class Bottleneck:
    """A path: a rate in bytes a second, a delay in seconds there and back, a queue in bytes."""

    def __init__(self, rate: float, delay: float, queue: float, loss: float = 0.0, seed: int = 1) -> None:
        self.rate, self.delay, self.queue, self.loss = rate, delay, queue, loss
        self.now = 0.0
        self.free_at = 0.0
        self.random = random.Random(seed)
        self.dropped = 0
        self.longest_queue = 0.0
        self._events: list[tuple[float, int, Any]] = []
        self._order = 0
        self._unacknowledged: dict[Sender, list[int]] = {}

    def at(self, when: float, call: Any) -> None:
        self._order += 1
        heappush(self._events, (when, self._order, call))

    def carry(self, sender: Sender, number: int, size: int) -> None:
        """Take a packet."""
        waiting = max(0.0, self.free_at - self.now) * self.rate
        if waiting + size > self.queue or self.random.random() < self.loss:
            self.dropped += 1
            return
        self.longest_queue = max(self.longest_queue, waiting / self.rate)
        self.free_at = max(self.free_at, self.now) + size / self.rate
        self.at(self.free_at + self.delay / 2, lambda: self._receive(sender, number))

    def _receive(self, sender: Sender, number: int) -> None:
        waiting = self._unacknowledged.setdefault(sender, [])
        waiting.append(number)
        if len(waiting) == 2:
            self._acknowledge(sender)
        else:
            self.at(self.now + 0.02, lambda: self._acknowledge(sender))

    def _acknowledge(self, sender: Sender) -> None:
        numbers = self._unacknowledged.pop(sender, [])
        if numbers:
            self.at(self.now + self.delay / 2, lambda: sender.arrived(numbers))

    def run(self, until: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, call = heappop(events)
            call()
        self.now = until
