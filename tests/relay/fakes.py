"""A fake connection, and a user of a stream that records what it is told."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.interfaces import IStreamUser
from rtunnel.relay.socket_end import SocketEnd


class FakeSocket(StringTransport):
    """A transport that is full when the test says so, and records what it is asked to do.

    :ivar reading: whether the connection is read.
    """

    def __init__(self) -> None:
        super().__init__(lenient=True)
        self.half_closed = False
        self.aborted = False

    @property
    def reading(self) -> bool:
        return bool(self.producerState == "producing")

    def unregisterProducer(self) -> None:
        self.producer = None

    def loseWriteConnection(self) -> None:
        assert not self.disconnecting
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True

    def say_full(self) -> None:
        assert self.producer is not None
        self.producer.pauseProducing()

    def say_room(self) -> None:
        assert self.producer is not None
        self.producer.resumeProducing()


@implementer(IStreamUser)
class Recorder:
    """A user of a stream that records what the carrier tells it.

    :ivar delivers: the stream on which to deliver all bytes at once; None: deliver none.
    """

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.told: list[str] = []
        self.reset: tuple[str, str] | None = None
        self.delivers: Any = None

    @property
    def received(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def paused(self) -> bool:
        turns = [what for what in self.told if what in ("paused", "resumed")]
        return turns[-1:] == ["paused"]

    def buffered(self) -> int:
        return 0

    def data_received(self, data: bytes) -> None:
        assert data
        assert not {"finished", "closed", "reset"} & set(self.told), "bytes behind the end"
        self.chunks.append(data)
        if self.delivers is not None:
            self.delivers.delivered(len(data))

    def finished(self) -> None:
        self.told.append("finished")

    def closed(self) -> None:
        self.told.append("closed")

    def was_reset(self, code: str, message: str) -> None:
        self.reset = (code, message)
        self.told.append("reset")

    def pause(self) -> None:
        self.told.append("paused")

    def resume(self) -> None:
        self.told.append("resumed")


@implementer(IStreamClientEndpoint)
class FakeEndpoint:
    """An endpoint whose attempt to connect ends when the test says so."""

    def __init__(self) -> None:
        self.factory: Any = None
        self.cancelled = False
        self.result: Deferred[IProtocol] = Deferred(self._cancel)

    def _cancel(self, _deferred: Deferred[IProtocol]) -> None:
        self.cancelled = True

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        self.factory = protocolFactory
        return self.result

    def succeed(self) -> FakeSocket:
        protocol = self.factory.buildProtocol(None)
        socket = FakeSocket()
        protocol.makeConnection(socket)
        self.result.callback(protocol)
        return socket


class Lives:
    """Records the two callbacks of a :class:`SocketEnd`."""

    def __init__(self) -> None:
        self.made: list[SocketEnd] = []
        self.lost: list[SocketEnd] = []

    def end(self) -> SocketEnd:
        return SocketEnd(self.made.append, self.lost.append)


def lose(end: SocketEnd, *, cleanly: bool = True) -> None:
    """Tell *end* what the reactor tells when the connection is over."""
    end.connectionLost(Failure(ConnectionDone() if cleanly else ConnectionLost()))
