"""Relay between two connected sockets, without frames or queues. :mod:`rtunnel.relay.side` moves the bytes.

Each direction has its own end, which is passed on as a half-close. The relay is over when both ends have come, or when
a socket breaks. Then the other socket is reset, so that its peer does not mistake a part for the whole; but first it
gets everything that came before. A socket that cannot be written to is still read to its end or error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReadDescriptor

from rtunnel.relay import pipes
from rtunnel.relay.last_bytes import LastBytes
from rtunnel.relay.side import Side
from rtunnel.relay.sockets import StreamSocket

#: Seconds that a peer under TLS gets to read what comes before a cut, and to close.
PATIENCE_AFTER_CUT = 3.0
#: What a relay costs in itself, in bytes, and what OpenSSL adds for each socket under TLS.
COST, TLS_COST = 2 * 1024, 54 * 1024


def _ignore(_count: int) -> None:
    pass


class DirectRelay:
    """A relay between two connected, non-blocking stream sockets, which it owns from now on.

    A socket belongs to the kernel (TCP or UNIX), or is under TLS. The latter ends a direction in its own way and cannot
    be spliced.

    :param reactor: watches the sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :param on_end: called once, with this relay, when both sockets are closed, maybe within :meth:`start` or
        :meth:`abort`.
    :param kept: called with the number of bytes that a socket does not take at once, and that stay in memory.
    :param to_left: bytes for the left socket that were read from the right one before.
    :param to_right: bytes for the right socket that were read from the left one before.
    :ivar touched: set whenever bytes pass; the search for idle connections clears it.
    """

    __slots__ = ("_last_bytes", "_left", "_on_end", "_right", "kept", "reactor", "touched")

    def __init__(
        self,
        reactor: Any,
        left: StreamSocket,
        right: StreamSocket,
        on_end: Callable[[DirectRelay], None],
        *,
        kept: Callable[[int], None] = _ignore,
        to_left: bytes = b"",
        to_right: bytes = b"",
    ) -> None:
        self.reactor = reactor
        self.touched = True
        self.kept = kept
        self._on_end: Callable[[DirectRelay], None] | None = on_end
        self._last_bytes: LastBytes | None = None
        self._left = Side(self, left, to_left)
        self._right = Side(self, right, to_right)
        self._left.other, self._right.other = self._right, self._left
        # Splicing would bypass TLS.
        self._left.may_splice = self._right.may_splice = (
            pipes.HAVE_SPLICE and self._left.is_plain and self._right.is_plain
        )

    def start(self, instead_of: IReadDescriptor | None = None) -> None:
        """Start relaying.

        :param instead_of: the descriptor that has watched the left socket so far, to be replaced.
        """
        if self._on_end is None:
            return
        if instead_of is not None:
            self.reactor.replace(instead_of, self._left)
            self._left.reading = True
        try:
            self._left.start()
            self._right.start()
        except OSError:
            self.abort()

    @property
    def held(self) -> int:
        """How many bytes of memory this takes. What is in pipes is the kernel's."""
        sides = self._left, self._right
        return COST + sum(len(side.pending) + (0 if side.is_plain else TLS_COST) for side in sides)

    def abort(self) -> None:
        """Reset both connections at once."""
        self.close(reset=True)

    cut = abort

    def lost(self, side: Side) -> None:
        """Close the socket of *side*, which is broken, and reset the other once that has everything."""
        other = side.other
        if self._last_bytes is not None or other.broken:
            self.abort()
        elif self._on_end is not None:
            side.ended = side.broken = True
            side.close(reset=True)
            if not other.ended:
                # What comes is dropped, so that a peer that sends before it reads gets to read.
                other.bulk = other.may_splice = False
                other._watch_bytes(True)
            self._last_bytes = LastBytes(self.reactor.reactor, other.undelivered, lambda: self._break(other))
            self._last_bytes.start()

    def _break(self, side: Side) -> None:
        """Reset the connection of *side*, the last one."""
        cut = getattr(side.socket, "cut", None)
        if cut is None or side.ended:
            self.abort()
            return
        # Under TLS, a peer whose write fails cannot read what we have sent it. An end without a goodbye is a reset too,
        # and leaves its writes alone until it has read that.
        cut()
        side.broken = True  # so its end is the last that we wait for
        self._last_bytes = LastBytes(self.reactor.reactor, lambda: 1, self.abort, PATIENCE_AFTER_CUT)
        self._last_bytes.start()

    def close(self, reset: bool) -> None:
        """Close both sockets, and drop what waits for them.

        :param reset: reset the connections, where the kind of socket allows it.
        """
        on_end, self._on_end = self._on_end, None
        if self._last_bytes is not None:
            self._last_bytes.cancel()
        if on_end is not None:
            self._left.close(reset)
            self._right.close(reset)
            on_end(self)
