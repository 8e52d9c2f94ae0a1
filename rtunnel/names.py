"""Host names are looked up without waiting for one another.

Twisted and asyncio look names up in a few threads that everything shares, and wait for these threads when the process
ends. So the names of one silent name server hold up all others, and the end of the process too. The :class:`Resolver`
here takes their place; :mod:`rtunnel.options.plugins.reactor` installs it. It asks the system too, so ``/etc/hosts``
and ``nsswitch.conf`` count as ever.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

#: Seconds for which an answer is used again, even if it is that the name has no address.
KEPT = 5.0
#: How many look-ups may run at once, as each takes a thread. Those of :attr:`Resolver.first` come on top.
MOST_AT_ONCE = 32

IPAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the system says about a name.

    :ivar addresses: family and socket address of each, the best one first.
    :ivar why: why there is none.
    :ivar until: how long to use this answer again.
    """

    addresses: Sequence[tuple[int, tuple[Any, ...]]]
    why: str
    until: float


@implementer(IHostResolution)
class _Resolution:
    """One party that waits for the addresses of a name.

    :ivar why: why the name has no address, once that is known.
    """

    def __init__(self, resolver: Resolver, receiver: IResolutionReceiver, name: str, port: int, kind: str) -> None:
        self.name = name
        self.why = ""
        self.types: frozenset[type[IAddress]] = frozenset((IPv4Address, IPv6Address))
        self._resolver = resolver
        self._receiver = receiver
        self._port = port
        self._kind: Any = kind

    def cancel(self) -> None:
        """Wait no longer. The look-up goes on."""
        self._resolver.forget(self)

    def take(self, answer: _Answer) -> None:
        self.why = answer.why
        for family, (host, _port, *more) in answer.addresses:
            address = (
                IPv4Address(self._kind, host, self._port)
                if family == socket.AF_INET
                else IPv6Address(self._kind, host, self._port, *more)
            )
            if type(address) in self.types:
                self._receiver.addressResolved(address)
        self._receiver.resolutionComplete()


@implementer(IHostnameResolver)
class Resolver:
    """Looks each name up in a thread of its own, once for all who wait for it, and keeps the answer for a moment.

    Nobody waits for the threads when the process ends.

    :param reactor: provides the time and ``callFromThread``.
    :param ask: asks the system, in the thread; see :func:`socket.getaddrinfo`.
    :ivar first: names that never wait until other look-ups are done: those without which there is no tunnel.
    """

    def __init__(self, reactor: Any, ask: Callable[..., Any] = socket.getaddrinfo) -> None:
        self.first: set[str] = set()
        self._reactor = reactor
        self._ask = ask
        self._answers: dict[str, _Answer] = {}
        self._waiting: dict[str, dict[_Resolution, None]] = {}
        self._queue: deque[str] = deque()
        self._running = 0

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        """See ``IHostnameResolver``. The answer may come before this returns."""
        name = hostName
        resolution = _Resolution(self, resolutionReceiver, name, portNumber, transportSemantics)
        if addressTypes is not None:
            resolution.types = frozenset(addressTypes)
        resolutionReceiver.resolutionBegan(resolution)
        answer = self._answers.get(name)
        if answer is not None and self._reactor.seconds() < answer.until:
            resolution.take(answer)
        elif name in self._waiting:
            self._waiting[name][resolution] = None
        else:
            self._waiting[name] = {resolution: None}
            if name in self.first:
                self._start(name, self._answered)
            else:
                self._queue.append(name)
                self._start_some()
        return resolution

    def forget(self, resolution: _Resolution) -> None:
        """Tell *resolution* nothing. May be called again."""
        self._waiting.get(resolution.name, {}).pop(resolution, None)

    def _start_some(self) -> None:
        while self._queue and self._running < MOST_AT_ONCE:
            name = self._queue.popleft()
            if self._waiting[name]:
                self._running += 1
                self._start(name, self._done)
            else:
                del self._waiting[name]

    def _start(self, name: str, then: Callable[[str, Any, str], None]) -> None:
        def look_up() -> None:
            found: Any = ()
            why = ""
            try:
                found = self._ask(name, None, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError) as error:
                why = getattr(error, "strerror", None) or str(error)
            self._reactor.callFromThread(then, name, found, why)

        try:
            # Python waits for threads at its end, unless they are daemons.
            threading.Thread(target=look_up, name=f"look-up of {name}", daemon=True).start()
        except RuntimeError as error:
            self._reactor.callLater(0, then, name, (), str(error))

    def _done(self, name: str, found: Any, why: str) -> None:
        self._running -= 1
        self._start_some()
        self._answered(name, found, why)

    def _answered(self, name: str, found: Any, why: str) -> None:
        now = self._reactor.seconds()
        addresses = [(family, address) for family, _, _, _, address in found if family != socket.AF_UNIX]
        answer = _Answer(addresses, why, now + KEPT)
        self._answers = {name: answer for name, answer in self._answers.items() if now < answer.until}
        self._answers[name] = answer
        for resolution in self._waiting.pop(name):
            resolution.take(answer)


@implementer(IResolutionReceiver)
class _Receiver:
    """Makes a Deferred of an answer."""

    def __init__(self, name: str) -> None:
        self.result: Deferred[list[IPAddress]] = Deferred(self._cancel)
        self._name = name
        self._addresses: list[IPAddress] = []
        self._resolution: Any = None

    def _cancel(self, _result: object) -> None:
        if self._resolution is not None:
            with suppress(NotImplementedError):  # Twisted's own resolver
                self._resolution.cancel()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        self._resolution = resolutionInProgress

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address)

    def resolutionComplete(self) -> None:
        if self.result.called:
            return  # cancelled
        if self._addresses:
            self.result.callback(self._addresses)
        else:
            why = getattr(self._resolution, "why", "") or "no address"
            self.result.errback(DNSLookupError(f"{self._name}: {why}"))


def look_up(reactor: Any, name: str, port: int = 0) -> Deferred[list[IPAddress]]:
    """Look a name up by the reactor's resolver. The result has at least one address, the best one first.

    The result fails with :class:`DNSLookupError` if there is none. It may have fired when this returns.
    """
    receiver = _Receiver(name)
    reactor.nameResolver.resolveHostName(receiver, name, port)
    return receiver.result


def dialled(address: IPAddress) -> str:
    """Return the IP address as one dials it; a link-local one names its interface."""
    scope = f"%{address.scopeID}" if isinstance(address, IPv6Address) and address.scopeID else ""
    return address.host + scope


def prefer(addresses: Iterable[IPAddress], host: str) -> list[IPAddress]:
    """Return *addresses* in the order in which to try them (RFC 8305, section 4).

    The families alternate, as one of them may not work at all.

    :param host: the IP address that comes first if it is among them, because it has worked before.
    """
    rest = list(addresses)
    families = [[one for one in rest if type(one) is kind] for kind in dict.fromkeys(map(type, rest))]
    turns = sorted((number, kind) for kind, family in enumerate(families) for number in range(len(family)))
    return sorted((families[kind][number] for number, kind in turns), key=lambda one: one.host != host)
