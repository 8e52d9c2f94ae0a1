"""What every carrier is to the session that asks it to take visitors."""

from __future__ import annotations

from typing import Any, Protocol

from rtunnel.reverse.public import Visitor
from rtunnel.tls.identity import Peer
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.token_bucket import TokenBucket
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.data_connection import Tickets
from rtunnel.wire.server_link import ServerLink, StreamIds


class ICarrier(Protocol):
    """A way to carry visitors to one client. A session asks its carriers in order."""

    def open(self, tunnel: int, visitor: Visitor) -> bool:
        """Take *visitor* to *tunnel*; return False to leave it to the next carrier.

        :raises rtunnel.errors.TunnelRefused: the client can take no more visitors, by any carrier.
        """

    def tunnels_changed(self) -> None:
        """The client serves another tunnel."""

    def tick(self, now: float) -> None:
        """Look after what is due by time, about once a second."""

    def close(self, *, cut: bool) -> None:
        """Give everything up, as the link is gone. May be called twice.

        :param cut: visitors that are carried too. If not, the client has ended or cut them, and their last bytes may
            be on the way.
        """


class ICarrierServer(Protocol):
    """What all carriers of a server share.

    :ivar poller: watches sockets, see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar pool_size: data connections of one link that may wait for visitors.
    :ivar waiting: visitors who wait for data connections, of all links.
    :ivar bucket: data connections of all links that may be made; None: they cost little.
    """

    reactor: Any
    poller: Any
    visitors: Visitors
    tickets: Tickets[Any]
    ids: StreamIds
    pool_size: int
    waiting: int
    bucket: TokenBucket | None
    log_limiter: LogLimiter


class ICarrierSession(Protocol):
    """What a carrier needs of the link.

    :ivar peer_name: the client, for logs.
    :ivar identity: who TLS has proved the client to be; None without TLS.
    """

    link: ServerLink
    peer_name: str
    identity: Peer | None

    @property
    def wants_visitors(self) -> bool: ...
    def send_tickets(self, tickets: list[str], expires: float) -> None: ...
