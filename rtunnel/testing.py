"""Fakes for tests, ours and those of whoever builds on this package.

- :class:`ReferenceServer` and :class:`ReferenceClient` behave as the two Go programs do (docs/wire.rst, "Reference
  protocol"), their defects included. They are written from that page alone and share no code with ``rtunnel.wire``: a
  mistake there must not be made here once more.
- :func:`memory_streams` is a stream without a carrier: what one end writes, the other end is given.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from struct import Struct
from typing import Any

from twisted.application.service import Service
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.interfaces import IStream, IStreamUser

HEADER = Struct("!BII")
NEW_CONN, DATA, CLOSE_CONN, INIT = 1, 2, 3, 4
#: What the Go programs read from a socket at a time, and so their largest DATA payload.
CHUNK = 4096


# The reference protocol


@implementer(IPushProducer)
class _Valve:
    """Tells when a transport takes no more, and when it does again: where a Go program's ``Write`` blocks."""

    def __init__(self, blocked: Callable[[], None], unblocked: Callable[[], None]) -> None:
        self._blocked = blocked
        self._unblocked = unblocked

    def pauseProducing(self) -> None:
        self._blocked()

    def resumeProducing(self) -> None:
        self._unblocked()

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` follows."""


class _QuietFactory(Factory):
    noisy = False


class _Socket(Protocol):
    """One visitor, or one connection to the local service. Its first end of file ends it, whichever side that was."""

    transport: Any

    def __init__(self, peer: _Peer, conn_id: int) -> None:
        self._peer = peer
        self._conn_id = conn_id
        self._early: list[bytes] = []
        self._closing = False
        self._up = False

    def connectionMade(self) -> None:
        self._up = True
        self.transport.registerProducer(_Valve(self._slow, self._quick), True)
        self._peer.socket_made(self)
        for data in self._early:
            self.transport.write(data)
        if self._closing:
            self.close()

    def _slow(self) -> None:
        self._peer.slow.add(self._conn_id)
        self._peer.look()

    def _quick(self) -> None:
        self._peer.slow.discard(self._conn_id)
        self._peer.look()

    def write(self, data: bytes) -> None:
        if self._up:
            self.transport.write(data)
        else:
            self._early.append(data)

    def close(self) -> None:
        self._closing = True
        if self._up:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        if self._up:
            self.transport.abortConnection()

    def pause(self, paused: bool) -> None:
        if self._up and not self._closing:
            (self.transport.pauseProducing if paused else self.transport.resumeProducing)()

    def dataReceived(self, data: bytes) -> None:
        for start in range(0, len(data), CHUNK):
            self._peer.send(DATA, self._conn_id, data[start : start + CHUNK])

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._up = False
        self._quick()
        self._peer.sockets.pop(self._conn_id, None)
        self._peer.send(CLOSE_CONN, self._conn_id)


class _Peer(Protocol):
    """One end of a link in the reference protocol.

    :ivar sockets: the other sides of the streams, by conn_id.
    :ivar slow: conn_ids of sockets that do not take more; while there is one, nothing is read from the link.
    :ivar ignored: how many frames of which unknown type came.
    """

    transport: Any

    def __init__(self, sockets: dict[int, _Socket]) -> None:
        self.sockets = sockets
        self.slow: set[int] = set()
        self.ignored: Counter[int] = Counter()
        self.up = False
        self._held = bytearray()

    def connectionMade(self) -> None:
        self.up = True
        self.transport.registerProducer(_Valve(lambda: self._pause_all(True), lambda: self._pause_all(False)), True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.up = False

    def _pause_all(self, paused: bool) -> None:
        for socket in self.sockets.values():
            socket.pause(paused)

    def look(self) -> None:
        """Read on, or not."""
        if self.up:
            (self.transport.pauseProducing if self.slow else self.transport.resumeProducing)()

    def socket_made(self, socket: _Socket) -> None:
        """A socket has its connection."""

    def send(self, frame_type: int, conn_id: int, payload: bytes = b"") -> None:
        """One frame; nothing where there is no link."""
        if self.up:
            self.transport.write(HEADER.pack(frame_type, conn_id, len(payload)) + payload)

    def dataReceived(self, data: bytes) -> None:
        held = self._held
        held += data
        while len(held) >= HEADER.size:
            frame_type, conn_id, length = HEADER.unpack_from(held)
            end = HEADER.size + length
            if len(held) < end:
                break
            payload = bytes(held[HEADER.size : end])
            del held[:end]
            self.got_frame(frame_type, conn_id, payload)

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        """What both programs do with a frame."""
        socket = self.sockets.get(conn_id)
        if frame_type == DATA and socket is not None:
            socket.write(payload)
        elif frame_type == CLOSE_CONN and socket is not None:
            self.send(CLOSE_CONN, conn_id)
            socket.close()
        elif frame_type not in (DATA, CLOSE_CONN):
            self.ignored[frame_type] += 1


class ReferenceServer(Service):
    """The reference server: visitors of one public port for the client that connected last.

    :param reactor: provides TCP.
    :param shared: it has a public port of its own and ignores INIT; otherwise the client's INIT names the port.
    :param control_port: where to listen; 0: any free port.
    :ivar control_port: where clients connect, once the service runs.
    :ivar public_port: where visitors come; 0 while there is no such port.
    :ivar peer: the present link.
    :ivar inits: the payload of every INIT that came.
    """

    def __init__(self, reactor: Any, *, shared: bool = False, control_port: int = 0) -> None:
        self.control_port = control_port
        self.public_port = 0
        self.peer: _ServerPeer | None = None
        self.inits: list[bytes] = []
        self.shared = shared
        self.links = 0
        self._reactor = reactor
        self._listening: list[Any] = []
        self._public: Any = None
        self._next_id = 1

    def startService(self) -> None:
        """Listen."""
        super().startService()
        self.control_port = self._listen(self.control_port, self._build_peer).getHost().port
        if self.shared:
            self.open_public_port(0)

    def stopService(self) -> Any:
        """Cut everything off."""
        super().stopService()
        if self.peer is not None:
            self.peer.cut()
        listening, self._listening = self._listening, []
        self._public = None
        for port in listening:
            port.stopListening()

    def _listen(self, number: int, build: Callable[[Any], Protocol | None]) -> Any:
        factory = _QuietFactory()
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        listening: list[Any] = []
        TCP4ServerEndpoint(self._reactor, number, interface="127.0.0.1").listen(factory).addCallback(listening.append)
        self._listening += listening
        return listening[0]

    def open_public_port(self, number: int) -> None:
        """Accept visitors, unless that is done."""
        if self._public is None:
            self._public = self._listen(number, self._build_visitor)
            self.public_port = self._public.getHost().port

    def _build_peer(self, _address: Any) -> Protocol:
        self.links += 1
        self._next_id = 1
        self.peer = _ServerPeer(self)
        return self.peer

    def _build_visitor(self, _address: Any) -> Protocol | None:
        if self.peer is None or not self.peer.up:
            return None
        conn_id, self._next_id = self._next_id, self._next_id + 1
        socket = self.peer.sockets[conn_id] = _Socket(self.peer, conn_id)
        self.peer.send(NEW_CONN, conn_id)
        return socket


class _ServerPeer(_Peer):
    def __init__(self, server: ReferenceServer) -> None:
        super().__init__({})
        self._server = server

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        if frame_type != INIT:
            super().got_frame(frame_type, conn_id, payload)
            return
        self._server.inits.append(payload)
        if not self._server.shared:
            self._server.open_public_port(int(payload.partition(b":")[0]))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        for socket in list(self.sockets.values()):
            socket.abort()

    def cut(self) -> None:
        """End the link at once."""
        if self.up:
            self.transport.abortConnection()


class ReferenceClient(Service):
    """The reference client: one link, one local service.

    :param reactor: provides TCP and time.
    :param server_port: the server's control port on this machine.
    :param local_port: the service's port on this machine.
    :param remote_port: port to ask for; 0: say nothing, and be served from the shared port.
    :param reconnect_delay: seconds before it dials again.
    :param keeps_streams: after a reconnect, go on sending the bytes of old streams under their old ids, as the real one
        does.
    :ivar peer: the present link.
    :ivar links: how many there were.
    """

    def __init__(
        self,
        reactor: Any,
        server_port: int,
        local_port: int,
        remote_port: int = 0,
        *,
        reconnect_delay: float = 5.0,
        keeps_streams: bool = False,
    ) -> None:
        self.remote_port = remote_port
        self.local_port = local_port
        self.keeps_streams = keeps_streams
        self.peer: _ClientPeer | None = None
        self.sockets: dict[int, _Socket] = {}
        self.links = 0
        self.reactor = reactor
        self._server_port = server_port
        self._delay = reconnect_delay
        self._dialling: Any = None
        self._again: Any = None

    def startService(self) -> None:
        """Dial."""
        super().startService()
        self._dial()

    def _dial(self) -> None:
        self._again = None
        if not self.keeps_streams:
            self.sockets = {}
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", self._server_port)
        self._dialling = endpoint.connect(_QuietFactory.forProtocol(lambda: _ClientPeer(self)))
        self._dialling.addErrback(self.lost)

    def lost(self, _reason: Any) -> None:
        """The link is lost, or was not to be had."""
        if self.running:
            self._again = self.reactor.callLater(self._delay, self._dial)

    def stopService(self) -> Any:
        """Cut everything off."""
        super().stopService()
        self._dialling.cancel()
        if self._again is not None:
            self._again.cancel()
        if self.peer is not None:
            self.peer.cut()
        for socket in list(self.sockets.values()):
            socket.abort()


class _ClientPeer(_Peer):
    def __init__(self, client: ReferenceClient) -> None:
        super().__init__(client.sockets)
        self._client = client

    def connectionMade(self) -> None:
        super().connectionMade()
        client = self._client
        client.peer = self
        client.links += 1
        if client.keeps_streams:
            for socket in self.sockets.values():
                socket._peer = self
        if client.remote_port:
            self.send(INIT, 0, b"%d:127.0.0.1:%d" % (client.remote_port, client.local_port))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        if not self._client.keeps_streams:
            for socket in list(self.sockets.values()):
                socket.abort()
        self._client.lost(reason)

    def cut(self) -> None:
        """End the link at once."""
        if self.up:
            self.transport.abortConnection()

    def got_frame(self, frame_type: int, conn_id: int, payload: bytes) -> None:
        if frame_type != NEW_CONN:
            super().got_frame(frame_type, conn_id, payload)
            return
        socket = self.sockets[conn_id] = _Socket(self, conn_id)
        endpoint = TCP4ClientEndpoint(self._client.reactor, "127.0.0.1", self._client.local_port, timeout=5)
        dialled = endpoint.connect(_QuietFactory.forProtocol(lambda: socket))
        dialled.addErrback(lambda _failure: socket.connectionLost())


# Streams


#: Bytes waiting behind the window at which the source of a memory stream is paused.
HIGH_WATER = 65536


@implementer(IStream)
class MemoryStream:
    """One end of a stream in memory; see :func:`memory_streams`.

    :ivar waiting: bytes given to the user of this end and not yet delivered.
    :ivar delivered_count: bytes that the user of this end has delivered.
    """

    def __init__(self, window: int) -> None:
        self.user: IStreamUser | None = None
        self.other: MemoryStream = self
        self.waiting = 0
        self.delivered_count = 0
        self._window = window
        self._queue: deque[bytes] = deque()
        self._paused = False
        self._finishing = False
        self._finished = False
        self._over = False
        self._pumping = False

    @property
    def queued(self) -> int:
        """Bytes written at this end that the other end has no room for."""
        return sum(map(len, self._queue))

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        if data and not self._over and not self._finishing:
            self._queue.append(data)
            self._pump()

    def finish(self) -> None:
        """See :class:`IStream`."""
        if not self._over:
            self._finishing = True
            self._pump()

    def reset(self, code: str, message: str) -> None:
        """See :class:`IStream`."""
        if not self._over:
            self._end()
            if self.other.user is not None:
                self.other.user.was_reset(code, message)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self.waiting -= count
        self.delivered_count += count
        self.other._pump()

    def _end(self) -> None:
        self._over = self.other._over = True
        self._queue.clear()
        self.other._queue.clear()

    def _pump(self) -> None:
        # What a user does while it is told something must not overtake that.
        if self._pumping:
            return
        self._pumping = True
        try:
            self._move()
        finally:
            self._pumping = False

    def _move(self) -> None:
        other, user = self.other, self.user
        while self._queue and other.user is not None and (room := self._window - other.waiting) > 0:
            data = self._queue.popleft()
            if len(data) > room:
                self._queue.appendleft(data[room:])
                data = data[:room]
            other.waiting += len(data)
            other.user.data_received(data)
        if self._finishing and not self._finished and not self._queue and other.user is not None:
            self._finished = True
            other.user.finished()
            if other._finished:
                self._end()
        should_pause = self.queued >= HIGH_WATER
        if user is not None and should_pause != self._paused:
            self._paused = should_pause
            (user.pause if should_pause else user.resume)()


def memory_streams(window: int = 65536) -> tuple[MemoryStream, MemoryStream]:
    """The two ends of a stream. Set ``user`` of each; bytes are handed over as they are written, without a reactor.

    :param window: bytes that an end takes before its user must deliver some.
    """
    one, two = MemoryStream(window), MemoryStream(window)
    one.other, two.other = two, one
    return one, two
