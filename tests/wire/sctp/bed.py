"""Associations, the paths between them, and a clock that jumps from one event to the next.

Nothing here waits and nothing is random but by a seed: a minute on a slow path takes as long as the packets in it take
to be computed, and an example that failed fails again.

A path has two links, one each way. A link is, in this order: what a test drops, loss, the largest packet, a bottleneck
with a queue in front of it, a delay, jitter, by which packets overtake each other, and copies.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

#: How many bursts an association may send without an event in between.
MOST_BURSTS = 10_000
#: How often in a row an association may ask for a time that is there already, and then send nothing.
MOST_SPINS = 10
#: How late a timer of the event loop is at least, in seconds.
TICK = 1e-6


class Driven(Protocol):
    """What the bed needs of an association; see :class:`rtunnel.wire.sctp.association.Association`."""

    messages: list[tuple[int, int, bytes]]
    events: list[Any]

    def connect(self, now: float) -> None: ...

    def receive(self, packets: Iterable[bytes], now: float) -> None: ...

    def transmit(self, now: float) -> list[bytes]: ...

    def take_oversized(self) -> list[bytes]: ...

    def next_time(self) -> float | None: ...


#: Makes an association: a source of random bytes, what it calls when there is room, the time.
Make = Callable[[Callable[[int], bytes], Callable[[], None], float], Any]


@dataclass
class Link:
    """One direction of a path. All may be changed while it is in use.

    :ivar delay: seconds that every packet takes.
    :ivar jitter: up to so many seconds more.
    :ivar loss: the share that is lost, 0 to 1.
    :ivar copies: the share that comes twice.
    :ivar rate: bytes/s of the bottleneck.
    :ivar queue: bytes that wait in front of it; what does not fit is dropped.
    :ivar mtu: the largest packet that passes, in bytes; larger ones vanish.
    :ivar drops: decides about each packet, by how many were sent before it, and by its content.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    copies: float = 0.0
    rate: float = float("inf")
    queue: int = 1 << 30
    mtu: int = 1 << 16
    drops: Callable[[int, bytes], bool] = lambda number, packet: False

    def __post_init__(self) -> None:
        self.sent = self.sent_bytes = self.lost = self.arrived_bytes = 0
        self.longest_queue = 0.0
        self._free_at = 0.0

    def carry(self, packet: bytes, now: float, random: Random, *, fragments: bool = False) -> list[float]:
        """Return when the packet arrives: never, once or twice.

        :param fragments: whether routers may cut it up if it is too large.
        """
        size, number = len(packet), self.sent
        self.sent += 1
        self.sent_bytes += size
        waiting = max(0.0, self._free_at - now)
        if (
            self.drops(number, packet)
            or (self.loss and random.random() < self.loss)
            or (size > self.mtu and not fragments)
            or waiting * self.rate + size > self.queue
        ):
            self.lost += 1
            return []
        self.longest_queue = max(self.longest_queue, waiting)
        self._free_at = now + waiting + size / self.rate
        times = 2 if self.copies and random.random() < self.copies else 1
        self.arrived_bytes += size * times
        return [
            self._free_at + self.delay + (random.random() * self.jitter if self.jitter else 0) for _ in "12"[:times]
        ]


class End:
    """An association at its end of a path.

    :ivar events: what happened to it, with the time of each.
    :ivar take_message: is called with each message: its stream, its kind and its content.
    :ivar take_event: is called with each event.
    :ivar more: is called when the association has room.
    :ivar sending: is called with each packet that leaves.
    :ivar largest: bytes of the largest packet that its socket takes; of a larger one it is told.
    :ivar batching: seconds for which what arrives is kept, and handed over at once, as a busy event loop does.
    :ivar wakes: how often it was woken by its timer, and had nothing to send.
    """

    def __init__(self, bed: Bed, make: Make, link: Link) -> None:
        self.bed, self.link = bed, link
        self.peer: End
        self.events: list[tuple[float, Any]] = []
        self.take_message: Callable[[int, int, bytes], None] = lambda stream, kind, data: None
        self.take_event: Callable[[Any], None] = lambda event: None
        self.more: Callable[[], None] = lambda: None
        self.sending: Callable[[bytes], None] = lambda packet: None
        self.largest, self.batching = 1 << 16, 0.0
        self.wakes = self.packets = 0
        self._inbox: list[bytes] = []
        self._timer: float | None = None
        self._spins = 0
        self._is_stopped = False
        self.association = make(bed.random.randbytes, self._has_room, bed.now)

    def _has_room(self) -> None:
        self.more()

    def stop(self) -> None:
        """End as a process that is killed: it neither sends nor receives any more."""
        self._is_stopped = True

    def turn(self) -> None:
        """Take the association's events, and send what it has to send. Do this after all that a test does with it."""
        if self._is_stopped:
            return
        association = self.association
        for _ in range(MOST_BURSTS):
            self._take()
            packets = association.transmit(self.bed.now)
            oversized = association.take_oversized()
            if not packets and not oversized:
                break
            for packet in oversized:
                self._send(packet, fragments=True)
            for packet in packets:
                self._send(packet)
        else:
            raise AssertionError("it sends without end")
        self._take()
        self._set_timer(association.next_time())

    def _take(self) -> None:
        association = self.association
        messages, association.messages[:] = [*association.messages], []
        events, association.events[:] = [*association.events], []
        for message in messages:
            self.take_message(*message)
        for event in events:
            self.events.append((self.bed.now, event))
            self.take_event(event)

    def _send(self, packet: bytes, *, fragments: bool = False) -> None:
        if len(packet) > self.largest and not fragments:
            self.association.path.too_big(len(packet), self.bed.now)
            return
        self.packets += 1
        self.sending(packet)
        self.bed.heard()
        arrivals = self.link.carry(packet, self.bed.now, self.bed.random, fragments=fragments)
        if not arrivals:
            self.bed.lost_lately += 1
        for when in arrivals:
            self.bed.at(when, lambda: self.peer._arrived(packet))

    def _arrived(self, packet: bytes) -> None:
        self.bed.heard()
        self.bed.lost_lately = 0
        if not self._inbox:
            self.bed.at(self.bed.now + self.batching, self._receive)
        self._inbox.append(packet)

    def _receive(self) -> None:
        packets, self._inbox = self._inbox, []
        if not self._is_stopped:
            self.association.receive(packets, self.bed.now)
            self.turn()

    def _set_timer(self, when: float | None) -> None:
        if when is not None and when <= self.bed.now:
            when = self.bed.now + TICK
        if when is not None and when != self._timer:
            self.bed.at(when, lambda: self._woken(when))
        self._timer = when

    def _woken(self, when: float) -> None:
        # Another turn may have set another time since.
        if self._timer != when:
            return
        self._timer = None
        sent = self.packets
        self.turn()
        if sent == self.packets:
            self.wakes += 1
            self._spins = self._spins + 1 if self._is_due() else 0
            assert self._spins < MOST_SPINS, "it wants to be woken now, again and again, and has nothing to send"

    def _is_due(self) -> bool:
        return self._timer is not None and self._timer <= self.bed.now + TICK


class Bed:
    """The clock, and all ends.

    :ivar now: the time in seconds.
    :ivar owed: whether anything is on its way; while nothing is, silence is right.
    :ivar silences: how long nothing was sent and nothing arrived although something was owed, in seconds, and how many
        packets in a row had been lost when that began.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        # Not 0: what takes a time for a flag would not be seen.
        self.now = 1000.0
        self.ends: list[End] = []
        self.owed: Callable[[], bool] = lambda: False
        self.silences: list[tuple[float, int]] = []
        self.lost_lately = 0
        self._heard_at, self._was_owed = self.now, False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def pair(self, make: Make, there: Link, back: Link) -> tuple[End, End]:
        """Put two ends at a path. Paths may have links in common."""
        one, two = End(self, make, there), End(self, make, back)
        one.peer, two.peer = two, one
        self.ends += (one, two)
        return one, two

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Do something at a time."""
        self._count += 1
        heapq.heappush(self._queue, (when, self._count, do))

    def heard(self) -> None:
        """Something has happened on a path, or a user has sent something."""
        if self._was_owed and self.now > self._heard_at:
            self.silences.append((self.now - self._heard_at, self.lost_lately))
        self._heard_at, self._was_owed = self.now, self.owed()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let so much time pass, or less if *until* is true before. Return whether it is."""
        end = self.now + seconds
        for each in self.ends:
            each.turn()
        while not until():
            if not self._queue or self._queue[0][0] > end:
                self.now = end
                return until()
            when, _, do = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            do()
        return True

    def connect(self, *ends: End) -> None:
        """Begin with the handshakes; nothing waits for them."""
        for end in ends or self.ends:
            end.association.connect(self.now)
            end.turn()


def both_ways(**settings: Any) -> tuple[Link, Link]:
    """Two links with the same settings."""
    return Link(**settings), Link(**settings)


def share(part: Iterable[float]) -> float:
    """How fair some rates are to each other, by Jain's index: 1 is equal, 1 / their count is one alone."""
    rates = list(part)
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))
