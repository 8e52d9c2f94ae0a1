"""One tunnel of a client, while a link lasts."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint

from rtunnel.relay.sockets import text_prefix
from rtunnel.reverse.client.tls_hosts import Check
from rtunnel.reverse.client.wanted import Wanted
from rtunnel.reverse.datagrams.client_flows import ClientFlow, ClientFlows
from rtunnel.reverse.proxy_protocol import header_for
from rtunnel.reverse.settings import TunnelSettings
from rtunnel.services.shared_watch import SharedWatch, Watch
from rtunnel.traffic.accounts import LINK, UNKNOWN, Account
from rtunnel.upkeep.backoff import Backoff
from rtunnel.upkeep.visitors import IServed, Visitors
from rtunnel.wire.tunnel_request import TunnelRequest

if TYPE_CHECKING:
    from rtunnel.tls.hosts import Host


class Tunnel:
    """One of the client's tunnels.

    :param wanted: what is to be served.
    :ivar version: the version of it that the server and the log know.
    :ivar refusal: why the server has refused it last; empty if it has not.
    :ivar is_served: visitors can come.
    :ivar is_given_up: the server was told that no more are wanted.
    :ivar public: where, as the log shows it.
    :ivar retry: the next time that the server is asked.
    """

    def __init__(self, wanted: Wanted, backoff: Backoff) -> None:
        self.wanted = wanted
        self.number = wanted.number
        self.version = wanted.version
        self.backoff = backoff
        self.refusal = ""
        self.is_served = False
        self.is_given_up = False
        self.public = ""
        # The same as the server has told it.
        self.public_address = ""
        self.retry: IDelayedCall | None = None

    def header(self, visitor: str) -> bytes:
        """Return what the service gets before the visitor's first byte; see :func:`header_for`."""
        return header_for(self.settings, visitor, self.public_address)

    def serve(self, end: IServed, visitors: Visitors, who: str, carrier: str) -> None:
        """Count a visitor among *visitors*, to whom *end* relays; see :meth:`Visitors.serve`."""
        count = self.descriptors - (carrier == LINK)
        visitors.serve(end, text_prefix(who), self.number, count, self.account, who or UNKNOWN, carrier)

    @property
    def name(self) -> str:
        """The tunnel's name in logs."""
        return self.settings.shown_name

    # What is wanted, as it is now

    @property
    def settings(self) -> TunnelSettings:
        """The operator's settings."""
        return self.wanted.settings

    @property
    def endpoint(self) -> IStreamClientEndpoint:
        """See :class:`~rtunnel.reverse.client.interfaces.IService`."""
        return self.wanted.endpoint

    def endpoint_for(self, visitor: str) -> IStreamClientEndpoint:
        """Return where a visitor is taken who comes by the link."""
        return self.wanted.endpoint_for(visitor)

    @property
    def cross(self) -> Callable[[str], socket.socket | None] | None:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.cross

    def flow(self, owner: ClientFlows, key: tuple[int, str]) -> ClientFlow:
        """See :class:`~rtunnel.reverse.datagrams.client_flows.IUdpTunnel`."""
        return self.wanted.flow(owner, key, self)

    @property
    def address(self) -> tuple[int, Any] | None:
        """See :class:`~rtunnel.reverse.client.interfaces.IService`."""
        return self.wanted.address

    @property
    def descriptors(self) -> int:
        """See :class:`~rtunnel.reverse.client.interfaces.IService`."""
        return self.wanted.descriptors

    @property
    def account(self) -> Account:
        """See :class:`~rtunnel.reverse.client.interfaces.IService`."""
        return self.wanted.account

    @property
    def watch(self) -> Watch | None:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.watch

    @property
    def watching(self) -> SharedWatch | None:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.watching

    def rest(self) -> None:
        """Look no more, on behalf of this link, whether the service answers."""
        if self.watching is not None:
            self.watching.stop(self)

    @property
    def tls(self) -> Host | None:
        """See :class:`~rtunnel.reverse.client.interfaces.IService`."""
        return self.wanted.tls

    @property
    def check(self) -> Check | None:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.check

    @property
    def request(self) -> TunnelRequest:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.request

    @property
    def is_gone(self) -> bool:
        """See :class:`~rtunnel.reverse.client.wanted.Wanted`."""
        return self.wanted.is_gone
