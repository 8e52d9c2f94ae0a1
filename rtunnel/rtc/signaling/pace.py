"""How fast what peers send is handled: strangers and registered peers have a share of the processor's time each.

A few bytes can cost much (a WebSocket handshake, JSON of nothing but brackets, an empty frame), and a message of any
size is another's download. So what the handling of bytes has cost is measured, and their number counts too. A peer that
has used up what its address has is not read for a while: TCP holds it back, and nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from time import thread_time
from typing import Any

from twisted.internet.interfaces import IReactorTime

from rtunnel.upkeep.periodic import do_all
from rtunnel.upkeep.token_bucket import KeyedBuckets

#: Seconds of processor time a second, and in a burst: of one address, and of all. An upgrade takes 0.4 ms, all messages
#: of an attempt to connect together 2 ms. So a thousand clients that come from one address are no burst.
ADDRESS_SHARE, ADDRESS_BURST = 0.1, 2.0
SHARE, BURST = 0.4, 8.0
#: Bytes that count as much as a second.
BYTES = 16 * 1024 * 1024
#: Seconds that making and closing a connection takes.
CONNECTION = 0.0005
#: Bytes that are handled before the measure is taken.
PIECE = 16384


class Paces:
    """The budgets of all connections. Strangers, however many, take nothing from those who are registered.

    :param cost: the clock that measures what handling bytes costs, in seconds.
    """

    def __init__(self, clock: IReactorTime, cost: Callable[[], float] = thread_time) -> None:
        now = clock.seconds()
        self.clock = clock
        self.cost = cost
        self.strangers = KeyedBuckets(ADDRESS_SHARE, ADDRESS_BURST, SHARE, BURST, now)
        self.registered = KeyedBuckets(ADDRESS_SHARE, ADDRESS_BURST, SHARE, BURST, now)
        #: The connections that wait for their budget, in the order of their turns.
        self.waiting: dict[Pace, None] = {}

    def go_on(self) -> None:
        """Handle what waits, as far as the budgets allow. Call this regularly."""
        do_all([pace.go_on for pace in self.waiting])


class Pace:
    """The bytes of one connection that are not handled yet.

    :param key: whose budget it is.
    :param transport: the connection's.
    :param handle: is given the bytes.
    :ivar is_registered: whether the peer is.
    """

    def __init__(self, paces: Paces, key: Hashable, transport: Any, handle: Callable[[bytes], None]) -> None:
        self.is_registered = False
        self._paces = paces
        self._key = key
        self._transport = transport
        self._handle = handle
        self._held = b""
        self._is_busy = False
        paces.strangers.spend(key, CONNECTION, paces.clock.seconds())

    def __len__(self) -> int:
        return len(self._held)

    @property
    def is_waiting(self) -> bool:
        """Whether there are bytes that wait for the budget."""
        return self in self._paces.waiting

    def received(self, data: bytes) -> None:
        """Handle bytes, now or later. After those of one read nothing more is read until they are handled."""
        self._held += data
        self.go_on()

    def go_on(self) -> None:
        """Handle what waits, as far as the budget allows. Then read on, and wait behind the others."""
        now = self._paces.clock.seconds()
        while self._held and not self._is_busy:
            budget = self._paces.registered if self.is_registered else self._paces.strangers
            if not budget.has(self._key, 0, now):
                self._wait(True)
                return
            piece, self._held = self._held[:PIECE], self._held[PIECE:]
            began = self._paces.cost()
            self._is_busy = True
            try:
                self._handle(piece)
            finally:
                self._is_busy = False
                budget.spend(self._key, self._paces.cost() - began + len(piece) / BYTES, now)
        self._wait(False)

    def leave(self) -> None:
        """Forget the bytes that wait: the connection is lost."""
        self._held = b""
        self._paces.waiting.pop(self, None)

    def _wait(self, is_waiting: bool) -> None:
        if is_waiting == self.is_waiting:
            return
        if is_waiting:
            self._paces.waiting[self] = None
            self._transport.pauseProducing()
        else:
            del self._paces.waiting[self]
            self._transport.resumeProducing()
