"""The order in which a service stops: refuse new visitors, let the present ones finish, then close the links."""

from __future__ import annotations

from math import isfinite
from typing import Any, Protocol

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rtunnel import delayed_calls
from rtunnel.traffic.accounts import LOOK_EVERY, Accounts
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.periodic import PeriodicService
from rtunnel.upkeep.visitors import Visitors

#: How often it is looked who is left, in seconds.
LOOK_AT_OTHERS = 0.1


class IKeeper(Protocol):
    """Puts visitors away for the process that follows."""

    @property
    def others(self) -> int:
        """How many visitors there are who cannot be put away."""

    @property
    def can_keep_any(self) -> bool:
        """Whether there are visitors who can be."""

    async def leave(self) -> None:
        """Put away all who can be, and leave the links to them. May be called again."""


class DrainingService(MultiService):
    """A tree of services that relays visitors, and stops in order.

    :param reactor: provides the time.
    :param drain: seconds that streams have to finish.
    :param has_services: it connects visitors to local services, and does not accept them.
    :ivar descriptors: who has how many.
    :ivar visitors: the connections that are relayed.
    :ivar is_stopping: visitors are refused, as the process is about to end.
    :ivar keeper: puts visitors away once no others are left, or have no time left; None: nobody can.
    """

    log = Logger()

    def __init__(self, reactor: Any, name: str, drain: float, *, has_services: bool = False) -> None:
        super().__init__()
        self.setName(name)
        self.reactor = reactor
        self.descriptors = Descriptors(reactor)
        self.descriptors.service().setServiceParent(self)
        accounts = Accounts(reactor, are_services=has_services)
        PeriodicService(reactor, "traffic", LOOK_EVERY, accounts.tick).setServiceParent(self)
        self.visitors = Visitors(self.descriptors, accounts)
        self.is_stopping = False
        self.keeper: IKeeper | None = None
        self._drain = drain
        self._is_waiting = False
        self._timer: IDelayedCall | None = None
        self._stream_ended: Deferred[None] | None = None

    async def refuse_visitors(self) -> None:
        """Accept no more visitors."""
        raise NotImplementedError

    def streams_left(self) -> int:
        """Return how many streams the links still carry, those included whose visitor has left before the last byte."""
        raise NotImplementedError

    async def close_links(self) -> None:
        """Close the links, once the visitors are gone."""
        raise NotImplementedError

    def stream_ended(self) -> None:
        """Take note that :meth:`streams_left` may return less than before; the links must call this."""
        ended, self._stream_ended = self._stream_ended, None
        if ended is not None:
            # Whoever has ended it may be in the middle of something.
            self.reactor.callLater(0, ended.callback, None)

    @property
    def may_wait(self) -> bool:
        """Whether visitors have any time to finish, or are cut."""
        return self._drain > 0

    def set_drain(self, seconds: float) -> None:
        """Let visitors have so much time to finish: once the service stops, or from now on if it does that already.

        :param seconds: infinite: as much as they need.
        """
        self._drain = seconds
        if self._is_waiting:
            self._set_timer()

    def _set_timer(self) -> None:
        timer, self._timer = self._timer, None
        delayed_calls.cancel(timer)
        if self._is_waiting and isfinite(self._drain):
            self._timer = self.reactor.callLater(self._drain, self.stop_now)

    def stopService(self) -> Deferred[None]:
        """Accept no more visitors, let the present ones finish for *drain* seconds at most, then close."""
        return Deferred.fromCoroutine(self._stop())

    def stop_now(self) -> None:
        """Stop waiting for visitors."""
        self._drain = 0.0
        self.visitors.stop_draining()
        self.stream_ended()

    async def _stop(self) -> None:
        self.is_stopping = True
        await self.refuse_visitors()
        keeper = self.keeper
        if count := len(self.visitors) if keeper is None else keeper.others:
            self.log.info(
                "waiting {limit}for {count} visitors",
                limit=f"up to {self._drain:g} s " if isfinite(self._drain) else "",
                count=count,
            )
        self._is_waiting = self.may_wait
        self._set_timer()
        if keeper is not None:
            while self.may_wait and keeper.others:
                await deferLater(self.reactor, LOOK_AT_OTHERS)
            await keeper.leave()
        left = await self.visitors.drain() if self.may_wait else len(self.visitors)
        while self.may_wait and not left and self.streams_left():
            self._stream_ended = ended = Deferred[None]()
            await ended
        self._is_waiting = False
        self._set_timer()
        if left:
            self.log.warn("{count} visitors did not finish in time and are cut off", count=left)
        self.visitors.abort_all()
        await self.close_links()
        await self.visitors.all_gone()
        await super().stopService()
