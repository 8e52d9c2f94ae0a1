"""Ports behind a load balancer: the PROXY header is read first, so that all above see the visitor and not the balancer.

The header is read from the bare socket and nothing behind it, so that the socket is as good as one that was just
accepted. Only ports for which the operator has written ``haproxy:`` do this: whoever connects there is believed.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.proxy_header import BadHeader, ProxyHeader
from rtunnel.relay.sockets import close_socket, descriptor_limit, format_address
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter

#: Seconds in which the header must be there. A balancer sends it at once.
PATIENCE = 10.0
#: How many connections may be without one, and which share of our descriptors they may hold. One more replaces the
#: oldest.
MAX_WAITING = 1024
WAITERS_SHARE = 1 / 4
#: Bytes that are looked at in one go.
LOOK = 512
_log = DebugLog()


class ProxiedFactory(LandingFactory):
    """Reads the header of each connection, and passes the connection on.

    :param factory: is given the connections, as bare sockets if it can take them.
    """

    def __init__(self, reactor: Any, factory: Any) -> None:
        self.reactor = reactor
        self.waiting: dict[_Reader, None] = {}
        self.log_limiter = LogLimiter(_log, reactor)
        self._factory = factory

    def startFactory(self) -> None:
        """Start the factory behind."""
        self._factory.doStart()

    def stopFactory(self) -> None:
        """Close the connections that have no header yet."""
        for reader in list(self.waiting):
            reader.close()
        self._factory.doStop()

    def landed(self, accepted: Accepted, address: Any) -> None:
        """See :class:`LandingFactory`."""
        reader = _Reader(self, accepted, address)
        reader.doRead()
        if reader.is_done:
            return
        count = len(self.waiting)
        if count >= min(MAX_WAITING, descriptor_limit() * WAITERS_SHARE):
            oldest = next(iter(self.waiting))
            oldest.refuse(f"it has no PROXY header yet, like {count} others")
        reader.wait()

    def pass_on(self, accepted: Accepted, address: Any, header: ProxyHeader) -> None:
        """Hand on a connection whose header has been read."""
        if header.source is not None:
            address = accepted.peer = header.source
        if isinstance(self._factory, LandingFactory):
            self._factory.landed(accepted, address)
            return
        protocol = self._factory.buildProtocol(address)
        if protocol is None:
            close_socket(accepted.socket, reset=False)
            return
        try:
            accepted.give(protocol)
        except OSError as error:
            _log.debug("connection from {peer} is lost: {why}", peer=format_address(address), why=error)


@implementer(IReadDescriptor)
class _Reader:
    """One connection, until its header has been read."""

    def __init__(self, factory: ProxiedFactory, accepted: Accepted, address: IAddress) -> None:
        self.is_done = False
        self._factory = factory
        self._accepted = accepted
        self._address = address
        self._header = ProxyHeader()
        self._timer: IDelayedCall | None = None

    def wait(self) -> None:
        """Go on when more has come."""
        try:
            self._factory.reactor.addReader(self)
        except OSError as error:
            self._lost(error)
            return
        self._factory.waiting[self] = None
        self._timer = self._factory.reactor.callLater(PATIENCE, self._late)

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._accepted.socket.fileno()

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "PROXY"

    def doRead(self) -> None:
        """Read what there is of the header, and nothing behind it."""
        if self.is_done:
            return
        sock = self._accepted.socket
        try:
            while not self._header.is_complete:
                data = sock.recv(LOOK, socket.MSG_PEEK)
                if not data:  # a balancer that only looks whether the port is open
                    self.close()
                    return
                sock.recv(self._header.take(data))
        except BlockingIOError:
            return
        except BadHeader as error:
            self.refuse(str(error))
            return
        except OSError as error:
            self._lost(error)
            return
        self._leave()
        self._factory.pass_on(self._accepted, self._address, self._header)

    def _lost(self, error: OSError) -> None:
        _log.debug("connection from {peer} is lost: {why}", peer=format_address(self._address), why=error)
        self.close()

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor is stopping."""
        self.close()

    def _late(self) -> None:
        self._timer = None
        self.refuse(f"it has sent no PROXY header within {PATIENCE:g} s")

    def refuse(self, why: str) -> None:
        """Close the connection, and say why."""
        self._factory.log_limiter.warn(
            "connection from {peer} closed: {why}; let the load balancer send one (haproxy: send-proxy-v2, nginx: "
            "proxy_protocol on), or remove haproxy: from the address of this port",
            peer=format_address(self._address),
            why=why,
        )
        self.close()

    def close(self) -> None:
        """Close the connection. May be called again."""
        if not self.is_done:
            self._leave()
            close_socket(self._accepted.socket, reset=False)

    def _leave(self) -> None:
        self.is_done = True
        delayed_calls.cancel(self._timer)
        if self in self._factory.waiting:
            del self._factory.waiting[self]
            self._factory.reactor.removeReader(self)
