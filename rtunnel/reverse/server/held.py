"""Visitors and HTTP requests that wait, because the client that serves them is away for a moment.

    Group.take --> HeldVisitor --+--> Line, one for each place: served in the order of arrival, as fast as the client
    Group.ask --> HeldRequest  --+          takes them

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


@dataclass(frozen=True, slots=True)
class Lobby:
    """What is needed to let visitors wait.

    :ivar poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar limiter: for log lines.
    """

    visitors: Visitors
    memory: Memory
    poller: Any
    limiter: LogLimiter


class IHeld(Protocol):
    """One who waits."""

    def serve(self) -> bool:
        """Serve him. Return False if the client cannot take him yet, so that he goes on waiting."""

    def turn_away(self) -> None:
        """Let him wait no longer."""


class Line:
    """Those who wait for the client of one place, the first of them first."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._held: dict[IHeld, None] = {}
        self._call: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._held)

    def add(self, held: IHeld) -> None:
        """Let one more wait."""
        self._held[held] = None

    def discard(self, held: IHeld) -> None:
        """Forget one who is served, or gone."""
        self._held.pop(held, None)

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
        if call is not None and call.active():
            call.cancel()

    def turn_away(self) -> int:
        """Let nobody wait any longer; return how many did."""
        self.stop_serving()
        held, self._held = self._held, {}
        for each in held:
            each.turn_away()
        return len(held)


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
        self._lobby.poller.forget(self)
        self._lobby.visitors.discard(self)
        self._lobby.memory.leave(self)
        self._line.discard(self)
        self._visitor.abort()

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
