"""Handshakes take turns, so that a flood of them holds up neither everything else nor anybody else's.

A thousand bytes from a stranger make a server sign and exchange keys, which takes milliseconds in which the reactor
does nothing else. So what comes in a handshake waits for its turn. All turns together get as much time as everything
else, and an address as many turns as any other that waits. Nothing is refused: a thousand clients that come back from
one address at the same time are all served.

Of one address the last to come goes first. In a crowd whoever came first may have given up by the time of his turn, or
is about to; and an answer that comes back from a client is dealt with at once, before its handshake is too old.

Addresses that are known, because a link comes from them, and all others take alternate turns. So strangers, however
many, hold up no client that comes back, and neither can a client shut strangers out.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds that handshakes may take at once after a pause.
BURST = 0.05
#: The shortest time that is waited, in seconds: what the reactor can tell from none.
SHORTEST = 0.001
#: No turn counts for longer, in seconds: the process was stopped in it, or the machine was.
LONGEST = 0.5
#: Bytes of one handshake that wait, plus what one more read brings. What comes from a client at a time is less.
MAX_WAITING = 32768


class Turn:
    """The bytes of one handshake that wait for its turn.

    :param is_known: whether a link comes from *address*.
    :param take: is given the bytes.
    :ivar line: where it waits.
    :ivar transport: the connection's, which reads no more while too many bytes wait.
    """

    __slots__ = ("_held", "_paused", "_take", "_turns", "address", "is_known", "line", "transport")

    def __init__(self, turns: Turns, address: str, is_known: bool, take: Callable[[bytes], None]) -> None:
        self.transport: Any = None
        self.address = address
        self.is_known = is_known
        self.line = turns.known if is_known else turns.strange
        self._turns = turns
        self._take = take
        self._held = b""
        self._paused = False

    def received(self, data: bytes) -> None:
        """Pass on bytes when it is their turn, perhaps at once."""
        self._held += data
        if len(self._held) >= MAX_WAITING and not self._paused:
            self._paused = True
            self.transport.pauseProducing()
        self._turns.join(self)

    def have(self) -> None:
        """Pass on the bytes that wait: it is their turn."""
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()
        data, self._held = self._held, b""
        self._take(data)

    def leave(self) -> None:
        """Forget the bytes that wait: the handshake is over."""
        self._held = b""
        self._take = _ignore  # no reference cycle with the connection
        self._turns.leave(self)


def _ignore(_data: bytes) -> None:
    pass


class Turns:
    """Whose turn it is.

    :ivar known: those of known addresses that wait, by address, in the order of their turns.
    :ivar strange: the same, of other addresses.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self.known: OrderedDict[str, dict[Turn, None]] = OrderedDict()
        self.strange: OrderedDict[str, dict[Turn, None]] = OrderedDict()
        self._known_is_next = True
        # Seconds that handshakes may take now. It grows by the time that everything else has had.
        self._budget = BURST
        self._free_since = clock.seconds()
        self._has_turn = False
        self._call: IDelayedCall | None = None

    def join(self, turn: Turn) -> None:
        """Give *turn* its turn when it is its turn, which may be at once."""
        turn.line.setdefault(turn.address, {})[turn] = None
        if not self._has_turn and self._call is None:
            self._go_on()

    def leave(self, turn: Turn) -> None:
        """Take *turn* out of the line, if it is in it."""
        line = turn.line
        of_address = line.get(turn.address)
        if of_address is not None and turn in of_address:
            del of_address[turn]
            if not of_address:
                del line[turn.address]
        if self._call is not None and not self.known and not self.strange:
            self._call.cancel()
            self._call = None

    def _next(self) -> Turn | None:
        both = (self.known, self.strange) if self._known_is_next else (self.strange, self.known)
        line = both[0] or both[1]
        if not line:
            return None
        self._known_is_next = line is self.strange
        address, of_address = next(iter(line.items()))
        turn = next(reversed(of_address))
        line.move_to_end(address)
        self.leave(turn)
        return turn

    def _go_on(self) -> None:
        self._call = None
        while (self.known or self.strange) and not self._has_turn:
            now = self._clock.seconds()
            self._budget = min(BURST, self._budget + now - self._free_since)
            self._free_since = now
            if self._budget <= 0:
                self._call = self._clock.callLater(max(-self._budget, SHORTEST), self._go_on)
                return
            turn = self._next()
            assert turn is not None
            self._has_turn = True
            try:
                turn.have()
            except Exception:
                # It is no fault of those who come next, nor of whoever's bytes have just come.
                self._log.failure("in a handshake of {address}", address=turn.address)
                turn.transport.abortConnection()
            finally:
                self._has_turn = False
                # Not the processor's time: on a busy machine all others wait for longer.
                self._free_since = self._clock.seconds()
                self._budget -= min(self._free_since - now, LONGEST)
