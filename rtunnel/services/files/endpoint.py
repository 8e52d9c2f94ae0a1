"""The way to a directory that is served in this process: a pair of connected sockets.

One belongs to the site, and the other is dialled like that of any other service. There is no port, and no path in the
file system, to which others could connect.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import deferLater
from zope.interface import implementer

from rtunnel.addresses import DialAddress

#: Descriptors that a visitor of files takes here: the pair, and the file.
COST = 3


class _End(tcp.Connection):
    """The transport of one of the two."""

    logstr = "files"

    def __init__(self, sock: socket.socket, protocol: IProtocol, reactor: Any) -> None:
        super().__init__(sock, protocol, reactor)
        self.connected = 1
        self.startReading()

    def getHost(self) -> UNIXAddress:
        """Return an address without a path."""
        return UNIXAddress(None)

    def getPeer(self) -> UNIXAddress:
        """Return an address without a path."""
        return UNIXAddress(None)

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Do nothing: this is not TCP."""

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Do nothing: the other end is in this process."""


@implementer(IStreamClientEndpoint)
class SiteEndpoint:
    """Connects to a site in this process.

    :param site: makes the protocols of the connections.
    """

    def __init__(self, reactor: Any, site: IProtocolFactory) -> None:
        self._reactor = reactor
        self._site = site

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See :class:`IStreamClientEndpoint`. Fails with ``OSError`` if there are too few descriptors."""
        # As with every other endpoint, nothing happens before this returns.
        return deferLater(self._reactor, 0, self._connect, protocolFactory)

    def _connect(self, factory: IProtocolFactory) -> IProtocol:
        near, far = socket.socketpair()
        self._give(far, self._site)
        return self._give(near, factory)

    def _give(self, sock: socket.socket, factory: IProtocolFactory) -> IProtocol:
        protocol = factory.buildProtocol(UNIXAddress(None))
        assert protocol is not None
        protocol.makeConnection(_End(sock, protocol, self._reactor))
        return protocol


def service_endpoint(reactor: Any, address: DialAddress, timeout: float, path: str = "") -> IStreamClientEndpoint:
    """Return the endpoint of a local service, which may be a directory.

    :param timeout: seconds that an attempt to connect may take.
    :param path: what the paths of all requests begin with; what is behind it is looked for in the directory.
    """
    if address.directory is None:
        return address.endpoint(reactor, timeout)
    # Only who serves files needs Twisted's HTTP.
    from urllib.parse import unquote_to_bytes

    from rtunnel.services.files.site import FileSite

    prefix = [unquote_to_bytes(name) for name in path.split("/")[1:]]
    endpoint: IStreamClientEndpoint = SiteEndpoint(reactor, FileSite(reactor, address.directory, prefix))
    return endpoint
