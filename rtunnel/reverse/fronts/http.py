"""The HTTP port: each request goes to the client that publishes the host name and path that it asks for."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol

from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.reverse.server.hosts import HostNames


class HttpFront(LandingFactory):
    """Accepts HTTP connections."""

    def __init__(self, names: HostNames) -> None:
        self._names = names

    def build(self, address: IAddress | None) -> Protocol | None:
        """See :class:`LandingFactory`."""
        raise NotImplementedError

    def landed(self, accepted: Accepted, address: object) -> None:
        """See :class:`LandingFactory`."""
        raise NotImplementedError
