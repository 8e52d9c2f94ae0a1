"""Bandwidth: one direction of a tunnel, a visitor or a client, and those who wait for their turn.

    what has passed --> Lane.passed --> Shaper (the visitor's) --> its bucket is below zero: the lane waits its turn
                                    --> Shaper (the tunnel's)
                                    --> Shaper (the client's)

A piece that was read is never cut: it may leave a bucket below zero, and then nothing more is read before that is made
good. Whoever waits gets one piece in turn, so visitors share a bandwidth in equal parts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from rtunnel.upkeep.token_bucket import TokenBucket

#: What a bucket holds, in seconds of its rate, and at least in bytes: a short rest does not lower the throughput.
BURST, LEAST_BURST = 0.1, 16 * 1024
#: Seconds between two looks at those who wait, at least: a timer costs as much as some pieces.
LEAST_WAIT = 0.004
#: Seconds of the rate that pass at a time, and in bytes at least and at most. More makes a slow rate jerky.
PIECE, LEAST_PIECE, MOST_PIECE = 0.02, 2048, 1 << 20

_log = Logger()


class ICount(Protocol):
    """What counts bytes; see :class:`~rtunnel.reverse.metering.quotas.Count`."""

    def add(self, count: int) -> None: ...


class Shaper:
    """A token bucket, and those who wait for it.

    :param rate: bytes a second.
    :ivar rate: the same.
    """

    def __init__(self, clock: Any, rate: float) -> None:
        self._clock = clock
        self._waiting: OrderedDict[Lane, None] = OrderedDict()
        self._call: IDelayedCall | None = None
        self.set_rate(rate)

    def set_rate(self, rate: float) -> None:
        """Let *rate* bytes a second pass from now on."""
        self.rate = rate
        self._bucket = TokenBucket(rate, max(LEAST_BURST, BURST * rate), self._clock.seconds())
        if self._call is not None:
            self._call.cancel()
            self._look_in(0)

    @property
    def is_open(self) -> bool:
        """Whether something may pass now."""
        return self._bucket.level(self._clock.seconds()) >= 0

    def spend(self, count: int) -> bool:
        """Take note that *count* bytes have passed; return whether more may pass now."""
        bucket = self._bucket
        level = bucket.level(self._clock.seconds())
        bucket.spend(count)
        return level >= count

    def wait(self, lane: Lane) -> None:
        """Let *lane* wait for its turn."""
        self._waiting[lane] = None
        if self._call is None:
            self._look_in(max(LEAST_WAIT, -self._bucket.level(self._clock.seconds()) / self.rate))

    def leave(self, lane: Lane) -> None:
        """Forget *lane*, which waits no longer."""
        self._waiting.pop(lane, None)
        if not self._waiting and self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_in(self, seconds: float) -> None:
        self._call = self._clock.callLater(seconds, self._look)

    def _look(self) -> None:
        self._call = None
        is_seen = True
        while self._waiting and is_seen and self.is_open:
            lane, _ = self._waiting.popitem(last=False)
            try:
                is_seen = lane.take_turn()
            except Exception:
                _log.failure("a relay broke")
        if self._waiting and self._call is None:
            level = self._bucket.level(self._clock.seconds())
            # What the last one reads shows in the reactor's next turn only.
            self._look_in(max(LEAST_WAIT, -level / self.rate) if is_seen else max(0.0, -level / self.rate))


def _nothing() -> bool:
    return True


class Lane:
    """One direction of one visitor.

    :param shapers: what it must not outrun.
    :param counts: what counts its bytes.
    :ivar go: called when something may pass again. It lets one piece pass; or returns False, if one may pass soon.
    """

    __slots__ = ("_counts", "_shapers", "_waits_for", "go")

    def __init__(self, shapers: Sequence[Shaper], counts: Sequence[ICount]) -> None:
        self._shapers = shapers
        self._counts = counts
        self._waits_for: Shaper | None = None
        self.go: Callable[[], bool] = _nothing

    @property
    def is_waiting(self) -> bool:
        """Whether nothing may pass before :attr:`go` is called."""
        return self._waits_for is not None

    def passed(self, count: int) -> bool:
        """Take note that *count* bytes have passed. Return whether more may pass; if not, wait for :attr:`go`."""
        for each in self._counts:
            each.add(count)
        is_open = True
        for shaper in self._shapers:
            is_open = shaper.spend(count) and is_open
        return is_open if is_open and self._waits_for is None else self.may_pass()

    def may_pass(self) -> bool:
        """Return whether something may pass. If not, wait for :attr:`go`."""
        if self._waits_for is not None:
            return False
        if self.go is _nothing:
            return True  # it is over, and delivers what is left
        for shaper in self._shapers:
            if not shaper.is_open:
                self._waits_for = shaper
                shaper.wait(self)
                return False
        return True

    def take(self, count: int) -> bool:
        """Let *count* bytes pass now or never; return whether they do. For datagrams, which do not wait."""
        if not all(shaper.is_open for shaper in self._shapers):
            return False
        for shaper in self._shapers:
            shaper.spend(count)
        for each in self._counts:
            each.add(count)
        return True

    def take_turn(self) -> bool:
        """Go on if nothing else is in the way. Return False if what passes does so later."""
        self._waits_for = None
        return self.go() if self.may_pass() else True

    def close(self) -> None:
        """Wait no longer: the visitor is gone, or is let go."""
        shaper, self._waits_for = self._waits_for, None
        self.go = _nothing
        if shaper is not None:
            shaper.leave(self)


def piece_for(rate: float | None) -> int:
    """Return how many bytes are to pass at a time.

    :param rate: bytes a second; None: as many as there are.
    """
    return MOST_PIECE if rate is None else int(min(MOST_PIECE, max(LEAST_PIECE, PIECE * rate)))
