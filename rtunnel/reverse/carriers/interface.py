"""The interfaces between a session and the carriers that take its visitors to the client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from rtunnel.reverse.public import Visitor
from rtunnel.upkeep.descriptors import Descriptors
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.data.tickets import Tickets
from rtunnel.wire.server_link import ServerLink


class ICarrier(Protocol):
    """A way to carry visitors to one client. A session asks its carriers in order."""

    def open(self, tunnel: int, visitor: Visitor) -> bool:
        """Take *visitor* to *tunnel*; return False to leave it to the next carrier.

        :raises rtunnel.errors.Refused: the client can take no more visitors, by any carrier.
        """

    @property
    def has_room(self) -> bool:
        """Whether another visitor could be taken now, as far as this carrier is concerned."""

    def tunnels_changed(self) -> None:
        """Take note that the client serves another tunnel."""

    def give_back(self, tunnel: int | None = None) -> None:
        """Let visitors go where they came from of whom the client was not told yet.

        :param tunnel: those of this tunnel, which is gone; None: all.
        """

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """Yield the visitors that hold memory of their own; see :class:`~rtunnel.upkeep.memory.IParty`."""

    @property
    def stream_count(self) -> int:
        """How many visitors it carries that are no streams of the link."""

    def tick(self, now: float) -> None:
        """Check time-outs. Called about once a second."""

    def close(self, *, cut: bool, tail: bool = False) -> None:
        """Take no more visitors, because the link is over. May be called twice.

        :param cut: also cut the visitors that are being carried.
        :param tail: the client has ended or cut them, and their last bytes may be on the way for a while.
        """


class ICarrierServer(Protocol):
    """The part of the server that its carriers use.

    :ivar poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar pool_size: data connections of one link that may wait for visitors.
    :ivar descriptors: who has how many.
    """

    reactor: Any
    poller: Any
    descriptors: Descriptors
    visitors: Visitors
    tickets: Tickets[Any]
    pool_size: int
    log_limiter: LogLimiter


class ICarrierSession(Protocol):
    """The part of a session that its carriers use.

    :ivar peer_name: the client, for logs.
    """

    link: ServerLink
    peer_name: str
    memory: Memory

    @property
    def wants_visitors(self) -> bool: ...
    def flush(self) -> None: ...
    def count_streams(self) -> None: ...
    def leave(self, pool: Any) -> None:
        """Forget a carrier that takes no more visitors and has none, or that goes on as part of another link."""

    def send_tickets(self, first: int, count: int, expires: float) -> None: ...
