"""The ICE sessions of a connection: the one in use and, while ICE restarts, the one that is to take its place.

    in use --restart--> in use, and next --next has a path--> next is in use; the other is closed after LINGER
                              |
                              +--no path within RESTART_TIMEOUT--> in use, if its path still works; else the end

What is above, DTLS and SCTP, notices nothing but some lost packets.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Protocol

from twisted.logger import Logger

from rtunnel.rtc.aiortc.bridge import Tasks
from rtunnel.rtc.aiortc.ice import IceAgent
from rtunnel.rtc.aiortc.sessions.consent import is_relayed
from rtunnel.rtc.aiortc.sessions.session import IceSession
from rtunnel.rtc.aiortc.sessions.transport import IceTransport
from rtunnel.wire.webrtc.signaling import Candidate

#: How many seconds the peer has to answer, and then as many to find a path.
RESTART_TIMEOUT = 8.0
#: For how many seconds the path that was left takes what is still under way.
LINGER = 2.0
#: How many candidates are kept that belong to no session yet.
MAX_UNKNOWN = 64


class SessionsUser(Protocol):
    """Is told about paths."""

    def path_doubtful(self) -> None: ...
    def path_silent(self) -> None: ...
    def path_dead(self) -> None: ...
    def path_changed(self) -> None: ...


class Sessions:
    """The sessions of one connection.

    :param make: makes a session.
    :param tasks: those of the connection.
    :ivar user: is told about the path while the connection is established; None before and after it.
    :ivar current: the one in use.
    :ivar next: the one that is to take its place; None: there is none.
    :ivar transport: what DTLS sends to.
    """

    log = Logger()

    def __init__(self, make: Callable[[], IceSession], tasks: Tasks) -> None:
        self._make = make
        self._tasks = tasks
        self.user: SessionsUser | None = None
        self.current = make()
        self.current.agent.user = self
        self.next: IceSession | None = None
        self.transport = IceTransport(self.current.agent)
        #: Those that are not in use any more and not closed yet.
        self._left: set[IceAgent] = set()
        self._unknown: list[Candidate] = []
        self._timer: asyncio.TimerHandle | None = None
        self._address_is_gone = self._is_outdated = False

    @property
    def agents(self) -> Iterable[IceAgent]:
        """Those that may have sockets."""
        return (self.current.agent, *((self.next.agent,) if self.next is not None else ()), *self._left)

    def take_candidate(self, candidate: Candidate) -> None:
        """Give a candidate of the peer to the session that it belongs to."""
        current = self.current
        if self.next is not None and not current.has_fragment(candidate.fragment):
            self.next.take_candidate(candidate)
        elif current.peer is None or not candidate.fragment or current.has_fragment(candidate.fragment):
            current.take_candidate(candidate)
        elif len(self._unknown) < MAX_UNKNOWN:
            # It may have overtaken the offer of its session.
            self._unknown.append(candidate)

    # Restarts

    @property
    def is_unanswered(self) -> bool:
        """Whether there is a next session of which the peer has said nothing yet."""
        return self.next is not None and self.next.peer is None

    @property
    def wants_restart(self) -> bool:
        """Whether the path in use has failed, or there may be a better one, and no other is looked for."""
        needs = self._address_is_gone or self._is_outdated or self.current.agent.path_is_silent
        return needs and self.next is None

    def addresses_changed(self, addresses: Collection[str]) -> None:
        """Take note of the addresses that this machine has now."""
        pair = self.current.agent.selected
        if pair is not None:
            local = pair.local_candidate
            self._address_is_gone = local.type == "host" and local.host not in addresses
            # The next session may have been made before there was an address, say, between two networks.
            self._is_outdated = is_relayed(pair) or self.next is not None
            if self.next is not None:
                self._drop_next(self.next)

    def begin(self) -> IceSession:
        """Make the next session. One that was begun before is given up."""
        if self.next is not None:
            self._drop_next(self.next)
        self._is_outdated = False
        session = self.next = self._make()
        session.mid = self.current.mid
        session.agent.ice_controlling = self.current.agent.ice_controlling
        self.transport.listen_to(session.agent)
        for candidate in self._unknown:
            session.take_candidate(candidate)
        self._unknown.clear()
        self._wait()
        return session

    async def connect_next(self, session: IceSession) -> None:
        """Find a path in the next session, and use it."""
        self._wait()
        # It may have been given up.
        with suppress(ConnectionError):
            await session.connect()
        if session is self.next and session.agent.selected is not None:
            self._use(session)

    def _wait(self) -> None:
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(RESTART_TIMEOUT, self.give_up_next)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def give_up_next(self) -> None:
        """Stay with the path in use, if it still works."""
        if self.next is None:
            return
        self.log.debug("an ICE restart has led to nothing")
        self._drop_next(self.next)
        if self.current.agent.peer_is_silent:
            self._end()

    def give_up(self, session: IceSession) -> bool:
        """Give a session up that has no address, if it is the next one: there may be another in time."""
        if session is not self.next:
            return False
        self.give_up_next()
        return True

    def _drop_next(self, session: IceSession) -> None:
        self._stop_timer()
        self.next = None
        self._leave(session.agent)

    def _use(self, session: IceSession) -> None:
        self._stop_timer()
        before, self.current, self.next = self.current.agent, session, None
        self._address_is_gone = False
        session.agent.path_round_trip = before.path_round_trip
        session.agent.user = self
        self.transport.agent = session.agent
        before.stop_watching()
        self._leave(before, LINGER)
        if self.user is not None:
            self.user.path_changed()

    def _leave(self, agent: IceAgent, wait: float = 0.0) -> None:
        async def close() -> None:
            await asyncio.sleep(wait)
            # One that is cancelled here could not be closed again.
            await asyncio.shield(agent.close())
            self._left.discard(agent)

        self._left.add(agent)
        self._tasks.start(close())

    # Called by the agent in use

    def path_doubtful(self) -> None:
        """See :class:`~rtunnel.rtc.aiortc.sessions.consent.PathUser`."""
        if self.user is not None:
            self.user.path_doubtful()

    def path_silent(self) -> None:
        """See :class:`~rtunnel.rtc.aiortc.sessions.consent.PathUser`."""
        if self.user is not None:
            self.user.path_silent()

    def path_moved(self) -> None:
        """See :class:`~rtunnel.rtc.aiortc.sessions.consent.PathUser`."""
        self._address_is_gone = False
        if self.user is not None:
            self.user.path_changed()

    def path_dead(self) -> None:
        """See :class:`~rtunnel.rtc.aiortc.sessions.consent.PathUser`. A peer that has just answered by signaling gets
        the time that a restart has."""
        if self.next is None or self.next.peer is None:
            self._end()

    def _end(self) -> None:
        self.transport.end()
        if self.user is not None:
            self.user.path_dead()

    # Closing

    def stop(self) -> None:
        """Begin nothing more."""
        self._stop_timer()
        self.transport.end()

    async def close(self) -> None:
        """Close all agents."""
        await asyncio.gather(*(agent.close() for agent in self.agents))

    def clear(self) -> None:
        """Refer to nothing of the connection any more."""
        for session in (self.current, self.next):
            if session is not None:
                session.clear()
        self.next = None
        del self._make, self._tasks
