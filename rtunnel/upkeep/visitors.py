"""The connections that a service relays just now: counted, watched for idleness, waited for at the end."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class IVisitor(Protocol):
    """What relays one connection, such as :class:`~rtunnel.relay.socket_end.SocketEnd` and
    :class:`~rtunnel.relay.direct.DirectRelay`; not hashed by what it holds.

    :ivar touched: set whenever a byte passes.
    """

    touched: bool

    def abort(self) -> None:
        """Reset it."""


class Visitors:
    """The connections of one service.

    Its methods do not wait for one another: :meth:`drain` is over before :meth:`all_gone` is called.
    """

    def __init__(self) -> None:
        self._ends: set[IVisitor] = set()
        self._waiting: Deferred[None] | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def __contains__(self, end: object) -> bool:
        return end in self._ends

    def add(self, end: IVisitor) -> None:
        """Count a connection that is relayed."""
        self._ends.add(end)

    def discard(self, end: IVisitor) -> None:
        """Count a connection no more, as it is over."""
        self._ends.discard(end)
        if not self._ends:
            self.stop_draining()

    def abort_all(self) -> None:
        """Reset every connection."""
        for end in list(self._ends):
            end.abort()

    def abort_idle(self) -> int:
        """Reset every connection on which nothing passed since the last call; return how many."""
        idle = [end for end in self._ends if not end.touched]
        for end in self._ends:
            end.touched = False
        for end in idle:
            end.abort()
        return len(idle)

    async def drain(self, clock: IReactorTime, seconds: float) -> int:
        """Wait for the last connection to end, or for *seconds*, or :meth:`stop_draining`; return how many are left."""
        if self._ends and seconds > 0:
            timeout = clock.callLater(seconds, self.stop_draining)
            await self._wait()
            if timeout.active():
                timeout.cancel()
        return len(self._ends)

    def stop_draining(self) -> None:
        """Wait no longer."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def all_gone(self) -> None:
        """Wait for the last connection to end."""
        while self._ends:
            await self._wait()

    async def _wait(self) -> None:
        self._waiting = waiting = Deferred[None]()
        await waiting
