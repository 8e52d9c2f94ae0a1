"""The connections of a site: who has shown that he may read it, and who gives way.

    stranger --a request that is answered--> reader
        |
        v
    closed after 10 s, or when all places are taken

A connection costs a stranger nothing. So one that has not shown anything yet keeps nobody out: when all places are
taken, the oldest stranger of the address that has most of them is closed.
"""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel

from rtunnel.relay.sockets import address_prefix
from rtunnel.upkeep.places import Places

#: Seconds that a stranger has.
FIRST_REQUEST = 10.0
#: Seconds without a byte after which the connection of a reader is closed.
TIMEOUT = 60.0


class Channel(HTTPChannel):
    """One connection.

    :ivar site: whose it is, a :class:`~rtunnel.control.site.StatusSite`.
    :ivar is_stranger: whether it has not shown yet that it may read.
    """

    site: Any
    is_stranger = True

    @property
    def address(self) -> str:
        """See :func:`~rtunnel.relay.sockets.address_prefix`."""
        transport: Any = self.transport
        return address_prefix(transport.getPeer())

    def connectionMade(self) -> None:
        """Take a place."""
        super().connectionMade()
        channels: Channels = self.site.channels
        channels.came(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Leave it."""
        channels: Channels = self.site.channels
        channels.gone(self)
        super().connectionLost(reason)

    def let_in(self) -> None:
        """Take note that it may read."""
        if self.is_stranger:
            self.is_stranger = False
            if self.timeOut is not None:
                self.setTimeout(TIMEOUT)
            channels: Channels = self.site.channels
            channels.let_in(self)

    def setTimeout(self, period: float | None) -> float | None:
        """See :class:`twisted.protocols.policies.TimeoutMixin`."""
        if period is not None:
            period = FIRST_REQUEST if self.is_stranger else TIMEOUT
        return cast(float | None, super().setTimeout(period))

    def resetTimeout(self) -> None:
        """See :class:`twisted.protocols.policies.TimeoutMixin`. The bytes of a stranger get him no more time."""
        if not self.is_stranger:
            super().resetTimeout()

    def timeoutConnection(self) -> None:
        """Close it, without a line in the log: strangers decide how often that is."""
        self.abort()

    def abort(self) -> None:
        """Close it at once."""
        transport: Any = self.transport
        transport.abortConnection()


class Channels:
    """All connections of a site.

    :param most: how many there may be.
    :param has_strangers: whether somebody who has connected may still be nobody who may read.
    """

    def __init__(self, most: int, has_strangers: bool) -> None:
        self._most = most
        self._has_strangers = has_strangers
        self._strangers: Places[Channel] = Places()
        self._readers: set[Channel] = set()

    def came(self, channel: Channel) -> None:
        """Give it a place, or close it if there is none."""
        if len(self._strangers) + len(self._readers) >= self._most:
            if not self._strangers:
                channel.abort()
                return
            first_to_go = self._strangers.first_to_go
            self._strangers.discard(first_to_go)
            first_to_go.abort()
        self._strangers.add(channel, channel.address)
        if not self._has_strangers:
            channel.let_in()

    def let_in(self, channel: Channel) -> None:
        """Take note that it may read."""
        if self._strangers.discard(channel):
            self._readers.add(channel)

    def gone(self, channel: Channel) -> None:
        """Free its place."""
        self._strangers.discard(channel)
        self._readers.discard(channel)

    def abort(self) -> None:
        """Close all of them."""
        for channel in [*self._strangers, *self._readers]:
            channel.abort()
