"""A connection that a service holds for as long as it runs: when lost, it is dialled again.

dialling -> up -> lost -> waiting -> dialling ...

A server that is restarted listens again within a second or two, so a lost connection is dialled again soon. As long as
the attempts are refused, which costs the server's machine next to nothing, some more follow. Then the waits of the
back-off begin. The waits are random from the first one on, so that a thousand clients do not come back at once.
"""

from __future__ import annotations

import random
from typing import Any, Generic, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel

from rtunnel.reasons import reason_and_advice
from rtunnel.upkeep.backoff import Backoff

#: The longest wait before an attempt that comes soon, in seconds.
SOON = 0.2
#: How many attempts come soon after a connection was lost: about two seconds of them, which a small machine may need to
#: start a server.
SOON_ATTEMPTS = 20


class Connection(Protocol):
    """The connection that is held.

    :ivar ended: fires with the reason when the connection is lost.
    """

    ended: Deferred[str]


C = TypeVar("C", bound=Connection)


class HeldConnection(Service, Generic[C]):
    """Holds one connection.

    :param reactor: provides the time.
    :param peer: what the connection leads to, for log lines: ``server 192.0.2.1:7000``.
    :param shortest: the first wait of the back-off, in seconds. Only a useful connection that lasted at least as long
        is dialled again soon, so a server that drops each connection at once is not dialled more often than that.
    :param longest: the longest wait, in seconds.
    :param repeated: the level of the log line about an attempt that failed for the same reason as the one before.
    :ivar connection: the current connection, or None.
    :ivar why_down: why there is none; empty if there is one, or while the first is being made.
    """

    log = Logger()

    def __init__(
        self, reactor: Any, peer: str, shortest: float, longest: float, repeated: LogLevel = LogLevel.warn
    ) -> None:
        self.reactor = reactor
        self.connection: C | None = None
        self._peer = self._leads_to = peer
        self._shortest = shortest
        self._backoff = Backoff(shortest, longest)
        self._soon = 0
        self._connected_at = 0.0
        self._repeated = repeated
        # For each peer.
        self._last_reasons: dict[str, str] = {}
        self.why_down = ""
        self._dials = False
        self._running: Deferred[None] | None = None
        self._runs = 0

    # Subclasses override these

    async def dial(self) -> C:
        """Make a connection. If that fails, the exception tells the reason (:mod:`rtunnel.reasons`)."""
        raise NotImplementedError

    def lost(self, connection: C, reason: str) -> str:
        """Return what to log about *connection*, which is lost.

        Call :meth:`was_useful` here if earlier failed attempts should be forgotten.
        """
        raise NotImplementedError

    def leave(self, connection: C) -> None:
        """Close *connection*, because the service is stopping."""
        raise NotImplementedError

    def give_up(self, connection: C) -> None:
        """End *connection*, because another one shall take its place."""
        self.leave(connection)

    def begin(self) -> None:
        """Say what is dialled. Where a firewall drops the packets, nothing else is logged for a while."""
        self.log.info("connecting to {peer}", peer=self._peer)

    def next_at_once(self) -> str:
        """Return what is dialled next without a wait; empty: the wait comes first."""
        return ""

    # Dialling

    def startService(self) -> None:
        """Start dialling."""
        super().startService()
        self._dials = True
        self._run_again()

    def _run_again(self) -> None:
        self._runs += 1
        self._running = Deferred.fromCoroutine(self._run(self._runs))
        self._running.addErrback(self._crashed)

    def _crashed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("the connection to {peer} has failed; please report this", failure, peer=self._peer)

    async def _run(self, number: int) -> None:
        self._peer = self._leads_to
        self.begin()
        while True:
            try:
                reason = await self._hold()
            except CancelledError:
                raise
            except Exception:
                # A bug; but a service that dials no more would be worse.
                self.log.failure("the connection to {peer} has failed; please report this", peer=self._peer)
                reason = f"lost {self._peer}: an internal error"
            if number != self._runs:
                return  # an endpoint may have errors of its own for an attempt that is cancelled
            self.why_down = reason
            if not self._dials:
                return
            repeated = LogLevel.debug if self._soon else self._repeated
            level = repeated if reason == self._last_reasons.get(self._peer) else LogLevel.warn
            self._last_reasons[self._peer] = reason
            self._peer = self._leads_to
            if other := self.next_at_once():
                self.log.emit(level, "{why}; next is {other}", why=reason, other=other)
                await deferLater(self.reactor, 0)
                continue
            wait = self._next_wait()
            self.log.emit(level, "{why}; next attempt in {wait:.1f} s", why=reason, wait=wait)
            await deferLater(self.reactor, wait)

    def _next_wait(self) -> float:
        if not self._soon:
            return self._backoff.next_wait()
        self._soon -= 1
        return random.uniform(0.0, min(SOON, self._shortest))

    async def _hold(self) -> str:
        """Dial, and wait until the connection is lost; return the reason."""
        try:
            connection = await self.dial()
        except CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, ConnectionRefusedError):
                self._soon = 0
            return f"cannot reach {self._peer}: {reason_and_advice(error)}"
        self._soon = 0
        self._connected_at = self.reactor.seconds()
        self.connection = connection
        self.why_down = ""
        try:
            reason = await connection.ended
        finally:
            self.connection = None
        return self.lost(connection, reason)

    def was_useful(self) -> None:
        """Forget earlier failures: start again with the shortest wait, and log the next failure even if it repeats the
        last one. If the connection has lasted, dial again soon.
        """
        self._backoff.reset()
        if self.reactor.seconds() - self._connected_at >= self._shortest:
            self._soon = SOON_ATTEMPTS
        self._last_reasons.clear()

    def dial_anew(self, peer: str, shortest: float, longest: float) -> None:
        """Let the connection lead elsewhere: give up the present one, or the present attempt, and dial soon.

        The parameters are as at first.
        """
        self._leads_to = peer
        self.set_waits(shortest, longest)
        self._last_reasons.clear()
        if not self._dials:
            return
        connection = self.connection
        self.hurry()
        if connection is not None:
            self.give_up(connection)

    def hurry(self) -> None:
        """Dial soon again when the present connection is lost; if there is none, dial at once instead of waiting, or of
        going on with the present attempt."""
        if self.connection is not None:
            self._soon = SOON_ATTEMPTS
        elif self._dials:
            before = self._running
            self._run_again()
            if before is not None:
                before.cancel()

    def set_waits(self, shortest: float, longest: float) -> None:
        """Set the bounds of the back-off, in seconds."""
        self._shortest = shortest
        self._backoff = Backoff(shortest, longest)

    # Stopping

    def dial_no_more(self) -> None:
        """Keep the current connection, if any, and make no other."""
        self._dials = False
        if self.connection is None and self._running is not None:
            self._running.cancel()

    def dial_again(self) -> None:
        """Undo :meth:`dial_no_more`."""
        if self._dials:
            return
        self._dials = True
        if self.connection is None:
            self._run_again()

    def stopService(self) -> Deferred[None]:
        """Close the connection, and dial no more. Fires when it is lost."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._dials = False
        running, self._running = self._running, None
        if running is None:
            return
        if self.connection is not None:
            self.leave(self.connection)
        else:
            running.cancel()
        await running
