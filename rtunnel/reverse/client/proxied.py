"""Connections through a proxy: the endpoint, for links and data connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.addresses import DialAddress
from rtunnel.errors import ProxyFailed
from rtunnel.proxies import Proxy
from rtunnel.reasons import reason_and_advice
from rtunnel.relay.sockets import QuietFactory, tune
from rtunnel.wire.proxy.connect import Connect
from rtunnel.wire.proxy.socks5 import Socks5


class IHandshake(Interface):
    """What is said to a proxy; see :class:`~rtunnel.wire.proxy.connect.Connect`."""

    wants: int

    def begin(self) -> bytes: ...
    def feed(self, data: bytes) -> bytes: ...


_HANDSHAKES: dict[str, Callable[[str, int, str, str], IHandshake]] = {"http": Connect, "socks5": Socks5}


@implementer(IStreamClientEndpoint)
class ProxiedEndpoint:
    """Connects to a server through a proxy. The failure is :class:`ProxyFailed`.

    :param endpoint: of the proxy.
    :param server: has a host and a port.
    :param timeout: seconds that an attempt may take.
    """

    def __init__(
        self, reactor: Any, endpoint: IStreamClientEndpoint, proxy: Proxy, server: DialAddress, timeout: float
    ) -> None:
        self.reactor = reactor
        self.endpoint = endpoint
        self.timeout = timeout
        self._proxy = proxy
        self._server = server

    def handshake(self) -> IHandshake:
        """Return a new handshake."""
        host, port = self._server.host, self._server.port
        assert host is not None
        assert port is not None
        return _HANDSHAKES[self._proxy.kind](host, port, self._proxy.user, self._proxy.password)

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``. The factory is asked once there is a connection to the server."""
        return _Attempt(self, protocolFactory).result


class _Attempt:
    """One attempt to connect.

    :ivar result: what :meth:`ProxiedEndpoint.connect` returns.
    """

    def __init__(self, endpoint: ProxiedEndpoint, factory: IProtocolFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._speaking: _Speaking | None = None
        self._over = False
        self.result: Deferred[IProtocol] = Deferred(lambda _result: self._stop())
        self._time_out: IDelayedCall = endpoint.reactor.callLater(endpoint.timeout, self._too_late)
        self._connecting = endpoint.endpoint.connect(QuietFactory.forProtocol(self._build))
        self._connecting.addErrback(self._not_reached)

    def _build(self) -> _Speaking:
        self._speaking = _Speaking(self._endpoint.handshake(), self._done, self.failed)
        return self._speaking

    def _done(self, transport: Any) -> None:
        """Give the connection to its protocol."""
        self._over = True
        self._time_out.cancel()
        protocol = self._factory.buildProtocol(transport.getPeer())
        if protocol is None:
            transport.abortConnection()
            self.result.errback(ProxyFailed("the connection is not wanted any more"))
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        self.result.callback(protocol)

    def _not_reached(self, failure: Failure) -> None:
        self.failed(f"the proxy cannot be reached: {reason_and_advice(failure)}")

    def _too_late(self) -> None:
        what = "cannot be reached: no answer in time" if self._speaking is None else "is silent: no answer in time"
        self.failed(f"the proxy {what}")

    def failed(self, why: str) -> None:
        """Fail, unless the attempt is over."""
        if not self._over:
            self._stop()
            self.result.errback(ProxyFailed(why))

    def _stop(self) -> None:
        self._over = True
        if self._time_out.active():
            self._time_out.cancel()
        self._connecting.cancel()
        if self._speaking is not None and self._speaking.transport is not None:
            self._speaking.transport.abortConnection()


class _Speaking(Protocol):
    """The connection to the proxy, until it leads to the server.

    :param done: called with the transport once it does.
    :param failed: called with the reason if it does not; may be called again.
    """

    transport: Any

    def __init__(self, handshake: IHandshake, done: Callable[[Any], None], failed: Callable[[str], None]) -> None:
        self._handshake = handshake
        self._done = done
        self._failed = failed
        self._heard = False

    def connectionMade(self) -> None:
        """Ask the proxy."""
        tune(self.transport)
        # What is behind the answer is the server's, and stays in the kernel: the socket may be taken from Twisted.
        self.transport.bufferSize = self._handshake.wants
        self.transport.write(self._handshake.begin())

    def dataReceived(self, data: bytes) -> None:
        """Take a part of the answer."""
        self._heard = True
        try:
            reply = self._handshake.feed(data)
        except ProxyFailed as error:
            self._failed(str(error))
            return
        if reply:
            self.transport.write(reply)
        if self._handshake.wants:
            self.transport.bufferSize = self._handshake.wants
        else:
            del self.transport.bufferSize
            self._done(self.transport)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Fail."""
        # ssh -D does this when it cannot reach the server.
        where = "in the middle of its answer" if self._heard else "without an answer"
        self._failed(f"the proxy closed the connection {where}; can it reach the server?")
