"""The HTTPS port: each connection goes to the client that publishes its host name, and stays encrypted."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol

from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.reverse.server.hosts import HostNames


class SniFront(LandingFactory):
    """Accepts TLS connections."""

    def __init__(self, names: HostNames) -> None:
        self._names = names

    def build(self, address: IAddress | None) -> Protocol | None:
        """See :class:`LandingFactory`."""
        raise NotImplementedError

    def landed(self, accepted: Accepted, address: object) -> None:
        """See :class:`LandingFactory`."""
        raise NotImplementedError
