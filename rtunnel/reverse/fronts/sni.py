"""The HTTPS port: each connection goes to the client that publishes its host name, and stays encrypted.

    port --> SniFront.landed --+--> the ClientHello is there: its name's client gets the connection, hello and all
                               +--> Guest: waits for the rest of it, among the others that wait

The server has no key here and makes no TLS. It reads the name in the ClientHello (:mod:`rtunnel.wire.web.client_hello`)
and answers with nothing but an alert. From then on the connection is a visitor like that of a TCP port.

Whoever has not said a name yet is in a table of its own. When that is full, the oldest connection of the address that
has most gives way. A hello that is not there in time is waited for no longer.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Protocol as TypingProtocol

from twisted.internet.interfaces import IAddress, IDelayedCall, IReadDescriptor
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.bare_port import Accepted, LandingFactory
from rtunnel.relay.interfaces import IStream
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.relay.sockets import address_prefix, close_socket, descriptor_limit, format_address
from rtunnel.reverse.fronts.challenges import is_challenge, search
from rtunnel.reverse.public import Visitor
from rtunnel.reverse.server.groups import Group
from rtunnel.reverse.server.hosts import HostNames
from rtunnel.tls.messages import limit_messages
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.places import Places
from rtunnel.upkeep.visitors import Visitors
from rtunnel.wire.opening import Kind, foreign_protocol
from rtunnel.wire.web.client_hello import (
    DECODE_ERROR,
    INTERNAL_ERROR,
    UNRECOGNIZED_NAME,
    BadHello,
    ClientHello,
    HelloReader,
    fatal_alert,
    whole_hello,
)

#: Connections that may be without a name at once. An honest one is that for a round trip.
MAX_WAITING = 1024
#: The share of our descriptors that they may hold.
WAITING_SHARE = 1 / 8
#: Bytes that are read at a time.
PIECE = 4096
_TEXT = b"This port speaks HTTPS: the address begins with https://\n"
NO_HTTP_HERE = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
) % (len(_TEXT), _TEXT)
_log = DebugLog()


class IHouse(TypingProtocol):
    """The part of the server that the front uses.

    :ivar names: who serves which name.
    :ivar poller: watches sockets; see :func:`~rtunnel.relay.poller.poller_for`.
    :ivar handshake_timeout: seconds in which the whole hello must be there.
    """

    reactor: Any
    names: HostNames
    poller: Any
    visitors: Visitors
    handshake_timeout: float


class Guest:
    """A connection whose hello is not complete.

    :ivar until: when it has waited for too long.
    :ivar is_over: it is decided what becomes of it.
    """

    until: float

    def __init__(self, front: SniFront, connection: Accepted | SocketEnd, address: Any) -> None:
        self.address = address
        self.is_over = False
        self._front = front
        self._connection = connection
        self._reader = HelloReader()

    @property
    def name(self) -> str:
        """The address at its other end, as logs show it."""
        return format_address(self.address)

    def take(self, data: bytes) -> None:
        """Take the next bytes. They may bring the connection to its client, or to its end."""
        try:
            hello = self._reader.take(data)
        except BadHello as error:
            self._bad(error)
            return
        if hello is not None:
            self._front.found(self, hello)

    def _bad(self, error: BadHello) -> None:
        if error.is_tls:
            self.refuse("{why}", fatal_alert(DECODE_ERROR), why=str(error))
        elif foreign_protocol(bytes(self._reader.raw)) is Kind.HTTP:
            self.refuse("that is HTTP, and the port speaks HTTPS", NO_HTTP_HERE)
        else:
            self.refuse("{why}", why=str(error))

    def visitor(self) -> Visitor:
        """Return the visitor that it has turned out to be."""
        return Visitor(self.address, self._connection, self._front.house.visitors.discard, bytes(self._reader.raw))

    def refuse(self, why: str, answer: bytes = b"", /, **fields: Any) -> None:
        """Close the connection behind *answer*, with one line in the log that says why.

        :param why: the format of the reason. What visitors choose is in its *fields*.
        """
        self._front.log_limiter.info(f"HTTPS connection from {{peer}} closed: {why}", peer=self.name, **fields)
        self.close(answer)

    def close(self, answer: bytes) -> None:
        """Close the connection behind *answer*."""
        raise NotImplementedError

    def abort(self) -> None:
        """Reset the connection."""
        raise NotImplementedError


@implementer(IReadDescriptor)
class BareGuest(Guest):
    """One on a bare socket."""

    def __init__(self, front: SniFront, accepted: Accepted, address: Any) -> None:
        super().__init__(front, accepted, address)
        self._socket = accepted.socket
        self._is_watched = False

    def watch(self) -> None:
        """Go on when there is more to read.

        :raises OSError: the system does not let us watch the socket.
        """
        self._front.house.poller.addReader(self)
        self._is_watched = True

    def visitor(self) -> Visitor:
        """See :class:`Guest`."""
        self._leave()
        return super().visitor()

    def close(self, answer: bytes) -> None:
        """See :class:`Guest`."""
        self._leave()
        with suppress(OSError):
            self._socket.send(answer)
        close_socket(self._socket, reset=False)

    def abort(self) -> None:
        """See :class:`Guest`."""
        self._leave()
        close_socket(self._socket, reset=True)

    def _leave(self) -> None:
        self.is_over = True
        if self._is_watched:
            self._is_watched = False
            self._front.house.poller.removeReader(self)
            self._front.waiting.discard(self)

    # Called by the reactor

    def fileno(self) -> int:
        """See ``IFileDescriptor``."""
        return self._socket.fileno()

    def logPrefix(self) -> str:
        """See ``ILoggingContext``."""
        return "HTTPS port"

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor is stopping."""
        if not self.is_over:
            self.abort()

    def doRead(self) -> None:
        """Read what there is."""
        if self.is_over:
            return
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.take(data)
        else:
            _log.debug("connection from {peer} is lost: it had named no host", peer=self.name)
            self.abort()


@implementer(IStream)
class EndGuest(Guest):
    """One whose port cannot hand out bare sockets: the stream of its :class:`SocketEnd`, until there is a real one."""

    def __init__(self, front: SniFront, end: SocketEnd) -> None:
        super().__init__(front, end, end.transport.getPeer())
        self._end = end
        self._visitor: Visitor | None = None

    def visitor(self) -> Visitor:
        """See :class:`Guest`."""
        self._visitor = super().visitor()
        return self._visitor

    def close(self, answer: bytes) -> None:
        """See :class:`Guest`. It stays among those that wait until the connection is closed."""
        self.is_over = True
        self._end.data_received(answer)
        self._end.closed()

    def abort(self) -> None:
        """See :class:`Guest`."""
        self.is_over = True
        self._end.abort()

    # See IStream

    def write(self, data: bytes) -> None:
        """Take bytes of the hello; or, while its visitor waits for a carrier, what comes behind it."""
        if self._visitor is not None:
            self._visitor.first += data
        elif not self.is_over:
            self.take(data)

    def finish(self) -> None:
        """Give up: half a connection names no host."""
        if self._visitor is None and not self.is_over:
            self.abort()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """Forget it: the connection is lost."""
        self._front.waiting.discard(self)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""


class SniFront(LandingFactory):
    """Accepts TLS connections.

    :ivar waiting: those whose hello is not complete, by address.
    :ivar log_limiter: one line of each kind and address at a time, as the whole internet comes here.
    """

    def __init__(self, house: IHouse) -> None:
        self.house = house
        self.waiting: Places[Guest] = Places()
        self.log_limiter = LogLimiter(_log, house.reactor, most=1)
        self._late_call: IDelayedCall | None = None

    def build(self, address: IAddress | None) -> SocketEnd:
        """See :class:`LandingFactory`."""
        return SocketEnd(self._connected, self.house.visitors.discard)

    def _connected(self, end: SocketEnd) -> None:
        limit_messages(end.transport)
        guest = EndGuest(self, end)
        end.attach(guest)
        self._wait_for(guest)

    def landed(self, accepted: Accepted, address: Any) -> None:
        """See :class:`LandingFactory`. Often the hello is there already, and nothing need be built for it."""
        data = b""
        try:
            data = accepted.socket.recv(PIECE)
            hello = whole_hello(data)
        except (OSError, BadHello):
            hello = None  # that shows again
        if hello is not None and hello.name is not None:
            group = self.house.names.https(hello.name)
            if group is not None:
                visitor = Visitor(address, accepted, self.house.visitors.discard, data)
                if is_challenge(hello, group):
                    search(group, visitor, self.house.visitors, self)
                elif not group.take(visitor):
                    self._cannot_take(BareGuest(self, accepted, address), group)
                return
        guest = BareGuest(self, accepted, address)
        if data:
            guest.take(data)
        else:
            guest.doRead()
        if guest.is_over:
            return
        try:
            guest.watch()
        except OSError as error:
            _log.debug("connection from {peer} is lost: {why}", peer=guest.name, why=str(error))
            guest.abort()
        else:
            self._wait_for(guest)

    def _wait_for(self, guest: Guest) -> None:
        """Wait for a hello. If too many are waited for already, one of them gives way."""
        house = self.house
        house.visitors.descriptors.make_room()
        count = len(self.waiting)
        if count >= min(MAX_WAITING, descriptor_limit() * WAITING_SHARE):
            first_to_go = self.waiting.first_to_go
            self.log_limiter.warn(
                "HTTPS connection from {peer} closed: it has not named a host yet, like {count} others",
                peer=first_to_go.name,
                count=count,
            )
            self.waiting.discard(first_to_go)
            first_to_go.abort()
        guest.until = house.reactor.seconds() + house.handshake_timeout
        self.waiting.add(guest, address_prefix(guest.address))
        if self._late_call is None:
            self._late_call = house.reactor.callLater(house.handshake_timeout, self._look_who_is_late)

    def _look_who_is_late(self) -> None:
        self._late_call = None
        reactor, patience = self.house.reactor, self.house.handshake_timeout
        now = reactor.seconds()
        while self.waiting:
            guest = next(iter(self.waiting))
            if guest.until > now:
                self._late_call = reactor.callLater(guest.until - now, self._look_who_is_late)
                return
            self.waiting.discard(guest)
            if not guest.is_over:
                what = "HTTPS connection from {peer} closed: it named no host within {seconds:g} s"
                self.log_limiter.info(what, peer=guest.name, seconds=patience)
            guest.abort()

    def found(self, guest: Guest, hello: ClientHello) -> None:
        """Take a connection to the client that publishes the name in its hello."""
        group = self.house.names.https(hello.name) if hello.name is not None else None
        if group is None:
            why = "nobody publishes https://{host}" if hello.name is not None else "it asks for no host by name (SNI)"
            guest.refuse(why, fatal_alert(UNRECOGNIZED_NAME), host=hello.name)
            return
        if is_challenge(hello, group):
            self.waiting.discard(guest)
            search(group, guest.visitor(), self.house.visitors, self)
        elif group.take(guest.visitor()):
            self.waiting.discard(guest)
        else:
            self._cannot_take(guest, group)

    def _cannot_take(self, guest: Guest, group: Group) -> None:
        what = "the client of {place} cannot take it now"
        guest.refuse(what, fatal_alert(INTERNAL_ERROR), place=group.public)

    async def settle(self, seconds: float) -> None:
        """Close the connections whose hello is not complete, once it had so much time to come: whoever has just
        connected is sending it. The port accepts no more.
        """
        clock = self.house.reactor
        until = clock.seconds() + seconds
        while self.waiting and clock.seconds() < until:
            await deferLater(clock, seconds / 20)
        if self._late_call is not None:
            self._late_call.cancel()
            self._late_call = None
        for guest in list(self.waiting):
            guest.abort()
