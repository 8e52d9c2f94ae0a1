"""What the parts of a client need of each other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IStreamClientEndpoint

from rtunnel.reverse.carriers.kept import KeptConnections
from rtunnel.reverse.client.pace import Pace
from rtunnel.reverse.client.tls_hosts import TlsHosts
from rtunnel.reverse.datagrams.client_flows import ClientFlows
from rtunnel.tls.hedge.keys import Hedges
from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.memory import Memory
from rtunnel.upkeep.visitors import IServed, Visitors

if TYPE_CHECKING:
    from cryptography import x509

    from rtunnel.tls.hosts import Host
    from rtunnel.tls.identity import Peer


class IService(Protocol):
    """The local service that a tunnel leads to.

    :ivar address: family and address of its socket; None if only its endpoint can connect to it.
    :ivar descriptors: how many a visitor takes: a data connection, and what the service needs here.
    :ivar account: counts what visitors send and get.
    :ivar tls: whose TLS ends before it; None: what visitors send goes to it as it is.
    """

    endpoint: IStreamClientEndpoint
    address: tuple[int, Any] | None
    descriptors: int

    @property
    def account(self) -> Account: ...

    tls: Host | None

    @property
    def cross(self) -> Callable[[str], socket.socket | None] | None:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""

    @property
    def name(self) -> str: ...
    def header(self, visitor: str) -> bytes:
        """Return what the service gets before the first byte of a visitor; empty: nothing."""

    def serve(self, end: IServed, visitors: Visitors, who: str, carrier: str) -> None:
        """Count a visitor among *visitors*, to whom *end* relays.

        :param who: his address; empty: unknown.
        :param carrier: how he travels.
        """


class Cancellable(Protocol):
    """An attempt to connect."""

    def cancel(self) -> None: ...


class IDialler(Protocol):
    """Makes connections.

    :ivar reactor: of the process.
    :ivar memory: what the process may hold.
    :ivar poller: watches sockets, see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar connect_timeout: seconds that a connection to the server may take.
    :ivar dial_timeout: seconds that one to a local service may take.
    :ivar flows: those of UDP tunnels.
    :ivar tls_hosts: the names whose TLS ends here.
    :ivar hedges: what is mixed into the keys of links beside the usual.
    :ivar is_proxied: whether the server is reached through a proxy.
    :ivar pace: spares that proxy; None: there is none.
    :ivar has_others: whether the client has other links.
    """

    reactor: Any
    memory: Memory
    poller: Any
    connect_timeout: float
    dial_timeout: float
    is_proxied: bool
    pace: Pace | None

    flows: ClientFlows
    hedges: Hedges
    tls_hosts: TlsHosts
    kept: KeptConnections[Any]

    @property
    def has_others(self) -> bool: ...
    def why_void(self, server: Peer) -> str: ...
    def has_later(self, shown: x509.Certificate) -> bool: ...
    def look_at_files(self) -> None: ...
    def dial_server(self, made: Callable[[socket.socket], None], failed: Callable[[str], None]) -> Cancellable: ...
