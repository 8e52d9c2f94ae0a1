"""Dial a host by its name: all of its addresses, until one accepts (RFC 8305, "Happy Eyeballs").

Twisted's ``HostnameEndpoint`` waits 0.3 s before it tries the next address, even if the last one has refused. That is
what each visitor of a service at ``localhost`` would wait if the service listens on IPv4 only.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError, TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.names import IPAddress, dialled, look_up, prefer

#: Seconds without an answer of an address after which the next one is tried as well (RFC 8305, section 8).
ATTEMPT_DELAY = 0.25


@implementer(IStreamClientEndpoint)
class NameEndpoint:
    """A TCP port of a host that has a name. The address that worked last is tried first.

    :param timeout: seconds that an attempt may take, all addresses and the look-up of the name included.
    :param bindAddress: the IP address to connect from, and its port, usually 0; None: any.
    :ivar worked: the IP address that worked last; empty if none has.
    """

    def __init__(
        self, reactor: Any, host: str, port: int, timeout: float, bindAddress: tuple[str, int] | None = None
    ) -> None:
        self.reactor = reactor
        self.host = host
        self.port = port
        self.timeout = timeout
        self.source = bindAddress
        self.worked = ""

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``. Without an address, the failure is :class:`DNSLookupError`."""
        return _Attempt(self, protocolFactory).result

    def at(self, address: IPAddress) -> IStreamClientEndpoint:
        """Return the endpoint of one address of the host."""
        from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint

        build: Any = TCP6ClientEndpoint if isinstance(address, IPv6Address) else TCP4ClientEndpoint
        endpoint: IStreamClientEndpoint = build(
            self.reactor, dialled(address), self.port, timeout=self.timeout, bindAddress=self.source
        )
        return endpoint


class _Attempt:
    """One attempt to connect: the look-up, and the addresses that are being dialled.

    :ivar result: what :meth:`NameEndpoint.connect` returns.
    """

    def __init__(self, endpoint: NameEndpoint, factory: IProtocolFactory) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._left: list[IPAddress] = []
        self._dialling: list[Deferred[Any]] = []
        self._failure: Failure | None = None
        self._next: IDelayedCall | None = None
        self._over = False
        self.result: Deferred[IProtocol] = Deferred(lambda _result: self._stop())
        self._time_out = endpoint.reactor.callLater(endpoint.timeout, self._too_late)
        self._looking_up = look_up(endpoint.reactor, endpoint.host, endpoint.port)
        self._looking_up.addCallback(self._found).addErrback(self._failed)

    def _found(self, addresses: list[IPAddress]) -> None:
        if self._over:
            return
        source = self._endpoint.source
        if source is not None:
            addresses = [one for one in addresses if (":" in one.host) == (":" in source[0])]
            if not addresses:
                raise DNSLookupError(f"{self._endpoint.host}: no address that can be reached from {source[0]}")
        self._left = prefer(addresses, self._endpoint.worked)
        self._dial()

    def _dial(self) -> None:
        """Dial the next address."""
        delayed_calls.cancel(self._next)
        address = self._left.pop(0)
        if self._left:
            self._next = self._endpoint.reactor.callLater(ATTEMPT_DELAY, self._dial)
        dialling = self._endpoint.at(address).connect(self._factory)
        self._dialling.append(dialling)
        dialling.addCallbacks(partial(self._connected, address.host), partial(self._refused, dialling))

    def _connected(self, host: str, protocol: IProtocol) -> None:
        self._endpoint.worked = host
        self._stop()
        self.result.callback(protocol)

    def _refused(self, dialling: Deferred[Any], failure: Failure) -> None:
        if self._over:
            return
        self._dialling.remove(dialling)
        # The system puts the best address first, and what that one says is of most use.
        self._failure = self._failure or failure
        if self._left:
            self._dial()
        elif not self._dialling:
            self._failed(self._failure)

    def _too_late(self) -> None:
        why = "" if self._looking_up.called else f"{self._endpoint.host} is still being looked up"
        self._failed(Failure(ConnectTimeout(string=why)))

    def _failed(self, failure: Failure) -> None:
        if not self._over:
            self._stop()
            self.result.errback(failure)

    def _stop(self) -> None:
        self._over = True
        for call in (self._time_out, self._next):
            delayed_calls.cancel(call)
        # What has fired is not cancelled by this.
        for deferred in (self._looking_up, *self._dialling):
            deferred.cancel()
