"""Visitors and HTTP requests that wait, because the client that serves them is away for a moment.

    Group.take --> HeldVisitor --+--> Line, one for each place: served in the order of arrival, as fast as the client
    Group.ask --> HeldRequest  --+          takes them

If another process takes the place of this one, visitors wait there; see :attr:`Lobby.heir`. Requests cannot.

A visitor who waits has a place in the budget of descriptors, as he will have when he is served: so a flood from one
address costs that address its own places. What was read of him counts as memory of his address. A request waits on a
connection that is counted already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.access.public import Public
from rtunnel.reverse.public import Visitor
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors

#: What a visitor who waits costs in himself, in bytes.
COST = 1024
#: How many are served before others get their turn.
AT_ONCE = 64
#: Seconds until the next attempt when the client can take no more for now.
AGAIN = 0.02
#: Seconds between two looks whether a client that is waited for would still be let in.
LOOK_EVERY = 1.0
#: Seconds in which clients come back to a process that has taken the place of another, even if there was less time.
LEAST_HOLD = 5.0

#: Takes a visitor who waits for the client of a place into another process, with the seconds that he has left; None: as
#: long as others there. Returns False if that cannot be, and he stays as he is.
Heir = Callable[[Public, Visitor, float | None], bool]


@dataclass(slots=True)
class Lobby:
    """What is needed to let visitors wait.

    :ivar poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar limiter: for log lines.
    :ivar heir: takes visitors into the process that takes the place of this one; None: none does.
    """

    visitors: Visitors
    memory: Memory
    poller: Any
    limiter: LogLimiter
    heir: Heir | None = None

    def hand_on(self, public: Public, visitor: Visitor, left: float | None) -> bool:
        """Let a visitor wait in another process; see :data:`Heir`."""
        return self.heir is not None and self.heir(public, visitor, left)


def anybody() -> bool:
    """Return that a client may stay, whoever it is."""
    return True


class IHeld(Protocol):
    """One who waits."""

    def serve(self) -> bool:
        """Serve him. Return False if the client cannot take him yet, so that he goes on waiting."""

    def turn_away(self) -> None:
        """Let him wait no longer."""


class Line:
    """Those who wait for the client of one place, the first of them first, and how long they may.

    :param on_late: called when they may wait no longer.
    :ivar may_stay: tells whether the client would be let in now.
    """

    def __init__(self, reactor: Any, on_late: Callable[[], None]) -> None:
        self.may_stay = anybody
        self._reactor = reactor
        self._on_late = on_late
        self._held: dict[IHeld, None] = {}
        self._call: IDelayedCall | None = None
        self._until = 0.0
        self._hold_call: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: IHeld) -> None:
        """Let one more wait."""
        self._held[held] = None

    def discard(self, held: IHeld) -> None:
        """Forget one who is served, or gone."""
        self._held.pop(held, None)

    # For how long

    @property
    def is_open(self) -> bool:
        """Whether the time is not over."""
        return self._hold_call is not None

    @property
    def left(self) -> float:
        """How many seconds they may still wait."""
        now: float = self._reactor.seconds()
        return max(0.0, self._until - now)

    def hold(self, seconds: float, may_stay: Callable[[], bool] = anybody) -> None:
        """Let visitors wait from now on.

        :param may_stay: see :attr:`may_stay`.
        """
        self.stop_holding()
        self._until = self._reactor.seconds() + seconds
        self.may_stay = may_stay
        self._look()

    def hold_on(self, left: float | None) -> None:
        """Let somebody wait who has waited in another process.

        :param left: see :data:`Heir`.
        """
        if not self.is_open:
            self.hold(LEAST_HOLD)
        elif left is not None:
            self._until = min(self._until, self._reactor.seconds() + max(left, LEAST_HOLD))

    def stop_holding(self) -> None:
        """Let nobody wait, but for those who do."""
        call, self._hold_call = self._hold_call, None
        delayed_calls.cancel(call)

    def _look(self) -> None:
        self._hold_call = None
        if self.left and self.may_stay():
            self._hold_call = self._reactor.callLater(min(self.left, LOOK_EVERY), self._look)
        else:
            self._on_late()

    # The service of those who wait

    def serve_soon(self) -> None:
        """Serve them, the first ones in the next turn of the reactor."""
        self._serve_in(0.0)

    def _serve_in(self, seconds: float) -> None:
        if self._call is None:
            self._call = self._reactor.callLater(seconds, self._serve)

    def _serve(self) -> None:
        self._call = None
        for _ in range(AT_ONCE):
            held = next(iter(self._held), None)
            if held is None:
                return
            if not held.serve():
                self._serve_in(AGAIN)
                return
            self.discard(held)
        self._serve_in(0.0)

    def stop_serving(self) -> None:
        """Serve nobody for now."""
        call, self._call = self._call, None
        delayed_calls.cancel(call)

    def turn_away(self) -> None:
        """Let nobody wait any longer."""
        self.stop_serving()
        held, self._held = self._held, {}
        for each in held:
            each.turn_away()

    def release(self) -> Iterator[Visitor]:
        """Yield the visitors, who wait here no longer. Requests stay."""
        for each in list(self._held):
            if isinstance(each, HeldVisitor):
                yield each.release()


@implementer(IReadDescriptor)
class HeldVisitor:
    """A visitor who waits; see :class:`~rtunnel.upkeep.visitors.IVisitor` and :class:`~rtunnel.upkeep.memory.IParty`.

    :param owner: under which he is counted.
    :param open_visitor: gives him to a client. Returns False if none can take him yet.
    """

    __slots__ = ("_line", "_lobby", "_open", "_owner", "_visitor", "touched")

    def __init__(
        self, lobby: Lobby, line: Line, owner: object, visitor: Visitor, open_visitor: Callable[[Visitor], bool]
    ) -> None:
        self.touched = True
        self._lobby = lobby
        self._line = line
        self._owner = owner
        self._visitor = visitor
        self._open = open_visitor
        visitor.wait()
        lobby.memory.join(self)
        lobby.memory.add(self._cost)
        with suppress(OSError):  # too many are watched; then his end shows when he is served
            if visitor.fileno() >= 0:
                lobby.poller.watch_end(self)
        line.add(self)
        lobby.visitors.add(self, visitor.prefix, owner)

    def serve(self) -> bool:
        """See :class:`IHeld`."""
        lobby, visitor = self._lobby, self._visitor
        lobby.poller.removeReader(self)
        # As what he will be now, he has a place of his own.
        lobby.visitors.discard(self)
        visitor.go_on()
        if not self._open(visitor):
            visitor.wait()
            lobby.visitors.add(self, visitor.prefix, self._owner)
            return False
        lobby.memory.leave(self)
        return True

    def turn_away(self) -> None:
        """See :class:`IHeld`."""
        self.release().abort()

    def release(self) -> Visitor:
        """Return the visitor, who waits here no longer."""
        self._lobby.poller.forget(self)
        self._lobby.visitors.discard(self)
        self._lobby.memory.leave(self)
        self._line.discard(self)
        return self._visitor

    abort = cut = turn_away

    # See IParty

    @property
    def _cost(self) -> int:
        return COST + len(self._visitor.first)

    @property
    def payer(self) -> str:
        """Who pays for what was read: the visitor's address."""
        return self._visitor.prefix or self._visitor.name

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """Yield what was read."""
        yield self._cost, self

    def free(self, _holding: Any) -> None:
        """Turn the visitor away."""
        self.turn_away()

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """Do nothing: there is no window."""

    def measure_growth(self) -> int:
        """Return 0, as there is no window."""
        return 0

    # Called by the poller, once the visitor sends no more

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._visitor.fileno()

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "visitors who wait"

    def doRead(self) -> None:
        """Forget the visitor if he is gone. One who has only ended what he sends may still wait for an answer."""
        if self._visitor.is_gone():
            self.turn_away()
        else:
            self._lobby.poller.removeReader(self)

    doLastRead = doRead

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor is stopping."""
        self.turn_away()


class HeldRequest:
    """An HTTP request that waits.

    :param has_room: tells whether a client can take it now.
    :ivar decided: fires with True when one can, or with False if none has come in time.
    """

    __slots__ = ("_has_room", "_line", "decided")

    def __init__(self, line: Line, has_room: Callable[[], bool]) -> None:
        self.decided: Deferred[bool] = Deferred()
        self._line = line
        self._has_room = has_room
        line.add(self)

    def serve(self) -> bool:
        """See :class:`IHeld`."""
        if not self._has_room():
            return False
        # It may be asked for again before this returns.
        self._line.discard(self)
        self.decided.callback(True)
        return True

    def turn_away(self) -> None:
        """See :class:`IHeld`."""
        self.decided.callback(False)

    def forget(self) -> None:
        """Take note that the visitor is gone."""
        self._line.discard(self)
