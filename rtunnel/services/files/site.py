"""HTTP for a directory that is served: Twisted's parser, and what sends the answers.

One step at a time, and only while the connection takes more: the head, and then each piece of a body. Between two of
them the reactor serves others, and so does it between two requests that a visitor has sent at once. So however many he
asks for without reading, there is no more of them in memory than one piece.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IAddress, IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.relay.sockets import QuietFactory, SocketTransport
from rtunnel.services.files.answers import Answer, Cut, answer
from rtunnel.services.files.ranges import http_date

#: Seconds that a connection may be silent in front of a request or within its head. Longer than the tunnel keeps one
#: for the next request.
IDLE = 60
#: Entries of directories that are in memory for all visitors together, of 200 bytes or so. Beyond that, whoever has
#: been reading a list for longest has to give way.
MOST_HELD = 200_000
#: Fields that all answers have, beside ``Date``.
COMMON = (("X-Content-Type-Options", b"nosniff"), ("Referrer-Policy", b"same-origin"))


class FileRequest(Request):
    """A request. Its body is not kept.

    :param channel: the connection.
    """

    channel: FileChannel

    def __init__(self, channel: FileChannel, _queued: object = None) -> None:
        super().__init__(channel)
        self._sender: _Sender | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self._sender is not None

    def gotLength(self, length: int | None) -> None:
        """Keep nothing of the body."""
        self.content = io.BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        """Drop a piece of the body."""

    def parseCookies(self) -> None:
        """Do nothing: nobody looks at them."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Begin to answer."""
        self.method, self.uri, self.clientproto = command, path, version
        self._sender = _Sender(self)
        self.registerProducer(self._sender, True)
        self._sender.go_on()

    def field(self, name: str) -> bytes | None:
        """Return a field of the head; see :data:`~rtunnel.services.files.ranges.Field`."""
        values = self.requestHeaders.getRawHeaders(name.encode())
        return None if values is None else b", ".join(values)

    def connectionLost(self, reason: Failure) -> None:
        """Answer no more."""
        if self._sender is not None:
            self._sender.stopProducing()
        super().connectionLost(reason)


@implementer(IPushProducer)
class _Sender:
    """Sends the answer to a request, a piece in each turn of the reactor.

    :ivar held: how many entries of a directory it has in memory.
    """

    log = Logger()

    def __init__(self, request: FileRequest) -> None:
        self.held = 0
        self._request: FileRequest | None = request
        self._channel = request.channel
        self._site = request.channel.site
        self._answer: Answer | None = None
        self._turn: IDelayedCall | None = None

    def go_on(self) -> None:
        """Take the next step soon."""
        if self._turn is None and self._request is not None:
            self._turn = self._channel.reactor.callLater(0, self._step)

    def pauseProducing(self) -> None:
        """Do nothing: each step asks whether there is room."""

    def resumeProducing(self) -> None:
        """Go on: there is room."""
        self.go_on()

    def stopProducing(self) -> None:
        """Send no more, and close what is open."""
        self._request = None
        turn, self._turn = self._turn, None
        delayed_calls.cancel(turn)
        found, self._answer = self._answer, None
        if found is not None:
            found.close()
        self._site.holds(self, 0)

    def cut(self) -> None:
        """Close the connection, and what is open."""
        self.stopProducing()
        self._channel.abort()

    def _step(self) -> None:
        self._turn = None
        request = self._request
        if request is None or self._channel.is_full:
            return
        try:
            if self._answer is None:
                self._begin(request)
                return
            pieces = self._answer.pieces
            data = None if pieces is None or request.method == b"HEAD" else next(pieces, None)
        except (OSError, Cut) as error:
            self.log.debug("a file in {root} cannot be sent to its end: {error}", root=self._site.root, error=error)
            self.cut()
        except Exception:
            self.log.failure("in an answer to a visitor of {root}", root=self._site.root)
            self.cut()
        else:
            self._send(request, data)

    def _send(self, request: FileRequest, data: bytes | None) -> None:
        if data is None:
            request.unregisterProducer()
            self.stopProducing()
            request.finish()
            return
        self.go_on()
        if self._answer is not None and self._answer.listed:
            self._site.holds(self, len(self._answer.listed))
        if data and self._answer is not None:
            request.write(data)

    def _begin(self, request: FileRequest) -> None:
        self._answer = found = answer(self._site.root, self._site.prefix, request.method, request.uri, request.field)
        request.setResponseCode(found.status, HTTPStatus(found.status).phrase.encode())
        for name, value in (("Date", http_date(time.time())), *COMMON, *found.fields):
            request.responseHeaders.setRawHeaders(name.encode(), [value])
        self.go_on()
        request.write(b"")


@implementer(IHalfCloseableProtocol)
class FileChannel(HTTPChannel):
    """A connection. Who sends no more still gets the answer to his last request.

    :ivar is_full: whether it takes no more bytes now.
    """

    timeOut = IDLE
    requestFactory: type[Request] = FileRequest
    transport: SocketTransport  # type: ignore[assignment]
    is_full = False

    def __init__(self, site: FileSite) -> None:
        super().__init__()
        self.site = site
        self.reactor = site.reactor

    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:
        """See :class:`~twisted.protocols.policies.TimeoutMixin`, which would take the global reactor."""
        call: IDelayedCall = self.reactor.callLater(period, func)
        return call

    def abort(self) -> None:
        """Close the connection in the middle of an answer, so that the part is not taken for the whole."""
        self.transport.abortConnection()

    def pauseProducing(self) -> None:
        """Take note that there is no room."""
        self.is_full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Take note that there is room again."""
        self.is_full = False
        super().resumeProducing()

    def readConnectionLost(self) -> None:
        """Close the connection behind the answer to what has come: there is no more."""
        self.persistent = False
        if not any(request.is_whole for request in self.requests):
            self.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: this end does not half-close."""

    def timeoutConnection(self) -> None:
        """Close a silent connection, once all that was written is on its way."""
        self.loseConnection()


class FileSite(QuietFactory):
    """Serves a directory.

    :param root: the directory.
    :param prefix: names that the paths of all requests begin with, in front of what is in the directory.
    """

    def __init__(self, reactor: Any, root: Path, prefix: Sequence[bytes] = ()) -> None:
        self.reactor = reactor
        self.root = root
        self.prefix = prefix
        # Those that have the longest been in the making come first.
        self._listings: dict[_Sender, None] = {}
        self._held = 0

    def buildProtocol(self, addr: IAddress | None) -> FileChannel:
        """Return the protocol of a connection."""
        return FileChannel(self)

    def holds(self, sender: _Sender, count: int) -> None:
        """Take note how many entries of a directory *sender* has in memory. If need be, cut others that have any."""
        self._held += count - sender.held
        sender.held = count
        if count:
            self._listings[sender] = None
        else:
            self._listings.pop(sender, None)
        while self._held > MOST_HELD:
            next(iter(self._listings)).cut()
