"""What the parts of a client need of each other."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.interfaces import IStreamClientEndpoint

from rtunnel.traffic.accounts import Account
from rtunnel.upkeep.visitors import IServed, Visitors

if TYPE_CHECKING:
    from rtunnel.tls.hosts import Host


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
