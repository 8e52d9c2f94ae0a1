"""Answers a CA that checks by HTTP-01 that a host name is ours (RFC 8555, section 8.3).

Whoever knows the token gets the answer, while an order lasts. All others are told that there is nothing. A connection
is for one request, and all that is kept of it is an incomplete head.
"""

from __future__ import annotations

from typing import Any, Protocol as TypingProtocol

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from rtunnel import delayed_calls
from rtunnel.relay.sockets import QuietFactory
from rtunnel.services.files.endpoint import SiteEndpoint
from rtunnel.wire.web.heads import RequestHead, phrase
from rtunnel.wire.web.parsers import RequestParser

#: Seconds in which the request must have come.
PATIENCE = 30.0


class IShown(TypingProtocol):
    """What a CA is shown.

    :ivar key_authorization: the token, a dot, and the thumbprint of the account's key; empty: no order lasts.
    """

    key_authorization: str


class _Conversation(Protocol):
    transport: Any

    def __init__(self, site: _Site) -> None:
        self._site = site
        self._parser = RequestParser()
        self._is_answered = False
        self._late: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for a request."""
        self._late = self._site.reactor.callLater(PATIENCE, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Answer the first request."""
        for event in [] if self._is_answered else self._parser.feed(data)[:1]:
            self._is_answered = True
            self.transport.write(self._site.answer(event))
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Wait no longer."""
        delayed_calls.cancel(self._late)


class _Site(QuietFactory):
    def __init__(self, reactor: Any, shown: IShown, path: str) -> None:
        self.reactor = reactor
        self._shown = shown
        self._path = path

    def buildProtocol(self, addr: IAddress | None) -> _Conversation:
        return _Conversation(self)

    def answer(self, event: object) -> bytes:
        """Return the whole response to what has come first: a request, or what is none."""
        if not isinstance(event, RequestHead):
            return _response(400, b"That is no request.\n")
        # It may change meanwhile, in another thread.
        shown = self._shown.key_authorization
        place = f"{self._path}/{shown.partition('.')[0]}".encode("ascii")
        is_asked_for = bool(shown) and event.method in (b"GET", b"HEAD") and event.target == place
        status, body = (200, shown.encode("ascii")) if is_asked_for else (404, b"Nothing is to be confirmed here.\n")
        return _response(status, body, is_head=event.method == b"HEAD")


def _response(status: int, body: bytes, *, is_head: bool = False) -> bytes:
    kind = "application/octet-stream" if status == 200 else "text/plain"
    head = (
        f"HTTP/1.1 {status} {phrase(status)}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (b"" if is_head else body)


class _SharedEndpoint(SiteEndpoint):
    """The same for a member of a group: while it has no order, the server tries the other members."""

    def __init__(self, reactor: Any, site: IProtocolFactory, shown: IShown) -> None:
        super().__init__(reactor, site)
        self._shown = shown

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See :class:`SiteEndpoint`."""
        if not self._shown.key_authorization:
            return fail(ConnectionRefusedError("no certificate is being ordered here"))
        return super().connect(protocolFactory)


def challenge_endpoint(reactor: Any, shown: IShown, path: str, *, is_shared: bool) -> IStreamClientEndpoint:
    """Return the endpoint of what answers for one host name.

    :param path: the path in front of a token, without a slash at its end.
    :param is_shared: other clients answer for the same name.
    """
    site = _Site(reactor, shown, path)
    endpoint: IStreamClientEndpoint
    endpoint = _SharedEndpoint(reactor, site, shown) if is_shared else SiteEndpoint(reactor, site)
    return endpoint
