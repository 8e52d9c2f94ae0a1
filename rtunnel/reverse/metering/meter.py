"""What is limited: a tunnel, a client with all its tunnels, and each visitor of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from rtunnel.reverse.metering.quotas import Count
from rtunnel.shaping.shaper import Lane, Shaper, piece_for

#: Bytes a second where there is no limit any more.
ANY = 1e12


class Allowance:
    """What a tunnel or a client may use.

    :param rate: bytes a second in each direction; None: as many as there are.
    :param count: what it has used of its quota; None: it has none.
    """

    def __init__(self, clock: Any, rate: float | None, count: Count | None) -> None:
        self._clock = clock
        self.up: Shaper | None = None
        self.down: Shaper | None = None
        self.count: Count | None = None
        self.change(rate, count)

    def change(self, rate: float | None, count: Count | None) -> None:
        """Change it, also for those who have been there and are measured."""
        if self.count is not None and count is None:
            self.count.set_limit(math.inf)
        self.count = count
        if self.up is None or self.down is None:
            if rate is not None:
                self.up, self.down = Shaper(self._clock, rate), Shaper(self._clock, rate)
        elif self.up.rate != (rate or ANY):
            self.up.set_rate(rate or ANY)
            self.down.set_rate(rate or ANY)


class Budget:
    """What the visitors of one client's tunnel may use.

    :param allowances: the tunnel's and the client's.
    :param visitor_rate: bytes a second of one visitor in each direction; None: as many as there are.
    """

    def __init__(self, clock: Any, allowances: Sequence[Allowance], visitor_rate: float | None) -> None:
        self._clock = clock
        self.allowances = tuple(allowances)
        self.visitor_rate = visitor_rate
        # Those who come with several requests.
        self._visitors: WeakKeyDictionary[Any, tuple[Shaper, Shaper]] = WeakKeyDictionary()

    @property
    def counts(self) -> tuple[Count, ...]:
        """The quotas that its visitors use."""
        return tuple(each.count for each in self.allowances if each.count is not None)

    @property
    def used_up(self) -> Count | None:
        """The quota that is used up; None: there is none, so that visitors may come."""
        return next((count for count in self.counts if count.is_used_up), None)

    def meter(self, visitor: Any = None) -> Meter:
        """Return what is to measure the bytes of a visitor.

        :param visitor: by which he is known when he comes with another request; None: he does not.
        """
        up = [each.up for each in self.allowances if each.up is not None]
        down = [each.down for each in self.allowances if each.down is not None]
        if self.visitor_rate is not None:
            pair = self._visitors.get(visitor) if visitor is not None else None
            if pair is None:
                pair = Shaper(self._clock, self.visitor_rate), Shaper(self._clock, self.visitor_rate)
                if visitor is not None:
                    self._visitors[visitor] = pair
            up, down = [pair[0], *up], [pair[1], *down]
        return Meter(self, up, down)


class Meter:
    """Measures what passes of one visitor, and stops him where he is limited.

    :ivar up: from the visitor.
    :ivar down: to the visitor.
    :ivar piece: how many bytes are to pass at a time.
    """

    __slots__ = ("_abort", "_budget", "_counts", "down", "piece", "up")

    def __init__(self, budget: Budget, up: Sequence[Shaper], down: Sequence[Shaper]) -> None:
        counts = budget.counts
        self.up = Lane(up, counts)
        self.down = Lane(down, counts)
        # Whoever comes later shares them, although the tunnel was lost meanwhile.
        self._budget = budget
        self.piece = piece_for(min((each.rate for each in up), default=None))
        self._counts = counts
        self._abort: Callable[[], object] | None = None

    def attach(self, go_up: Callable[[], bool], go_down: Callable[[], bool], abort: Callable[[], object]) -> None:
        """Measure from now on.

        :param go_up: see :attr:`Lane.go`.
        :param abort: ends the visitor, as a quota is used up.
        """
        self.up.go, self.down.go = go_up, go_down
        self._abort = abort
        for count in self._counts:
            count.meters[self] = None

    def abort(self) -> None:
        """End the visitor."""
        if self._abort is not None:
            self._abort()

    def close(self) -> None:
        """Let go: the visitor is gone. What still passes is charged all the same. May be called twice."""
        self._abort = None
        self.up.close()
        self.down.close()
        for count in self._counts:
            count.meters.pop(self, None)
