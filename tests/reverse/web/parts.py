"""An HTTP engine in memory: visitors in front, services behind, and a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import Logger
from zope.interface import implementer

from rtunnel.access.limits import Limits
from rtunnel.access.passwords import Passwords
from rtunnel.access.rules import Rules
from rtunnel.relay.interfaces import IStreamUser
from rtunnel.relay.memory_stream import MemoryStream, memory_streams
from rtunnel.reverse.web.answers import Answer
from rtunnel.reverse.web.connection import HttpConnection
from rtunnel.reverse.web.house import HttpHouse, HttpVisitor
from rtunnel.reverse.web.interfaces import IConnection, Target
from rtunnel.reverse.web.upstream import Upstream
from rtunnel.reverse.web.upstreams import Upstreams
from rtunnel.traffic.accounts import Accounts
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.wire.web.heads import RequestHead

WINDOW = 65536
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n"


def get(path: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", "Host: app.example.org", *lines, "", ""]).encode()


def answer(body: bytes = b"ok", *lines: str, status: str = "200 OK") -> bytes:
    """A response of known length."""
    return "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *lines, "", ""]).encode() + body


@implementer(IStreamUser)
class Peer:
    """A visitor, or a service's end of one connection.

    :ivar takes: it reads what comes.
    :ivar received: all bytes that came.
    :ivar ended: the other end sends no more.
    :ivar why: with what the stream was reset; empty: it was not.
    :ivar paused: it should send no more for now.
    """

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.takes = True
        self.received = b""
        self._seen = 0
        self.ended = self.paused = False
        self.why = ""
        stream.user = self

    def send(self, *data: bytes) -> None:
        for each in data:
            self.stream.write(each)

    def send_all(self, pieces: Iterable[bytes]) -> int:
        """Send pieces for as long as the other end takes them; return how many bytes were sent."""
        count = 0
        for piece in pieces:
            if self.paused or self.why:
                break
            self.stream.write(piece)
            count += len(piece)
        return count

    def end(self) -> None:
        self.stream.finish()

    def leave(self) -> None:
        self.stream.reset("connection_lost", "gone")

    def news(self) -> bytes:
        """What came since the last look."""
        data, self._seen = self.received[self._seen :], len(self.received)
        return data

    def take_all(self) -> None:
        """Read from now on, and all that waits."""
        self.takes = True
        count = -1
        while count < len(self.received):
            count = len(self.received)
            self.stream.delivered(self.stream.waiting)

    @property
    def is_over(self) -> bool:
        return self.ended or bool(self.why)

    # IStreamUser

    def data_received(self, data: bytes) -> None:
        self.received += data
        if self.takes:
            self.stream.delivered(len(data))

    def finished(self) -> None:
        self.ended = True

    def closed(self) -> None:
        self.ended = True

    def was_reset(self, code: str, message: str) -> None:
        self.why = message or code

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def buffered(self) -> int:
        return 0


class Service:
    """A service, with all its connections.

    :ivar connections: in the order in which they were opened.
    :ivar visitors: for whom they were opened.
    :ivar opened: our ends of them; *lost*: those that are over.
    :ivar is_slow: its connections open when the test says so, by :meth:`open_all`.
    :ivar is_full: nothing can be opened.
    :ivar is_stalled: it does not read from connections that are opened.
    :ivar is_gone: connections are lost while they are opened.
    """

    def __init__(self, web: World, rules: Rules) -> None:
        self.connections: list[Peer] = []
        self.visitors: list[HttpVisitor] = []
        self.opened: list[Upstream] = []
        self.lost: list[Upstream] = []
        self.is_slow = self.is_full = self.is_stalled = self.is_gone = False
        self._waiting: list[Upstream] = []
        self.upstreams = Upstreams(self._open, web.seconds, self.lost.append)
        self.refused: list[tuple[str, str]] = []
        limits = Limits()
        limits.use([rules], web.seconds())
        self.target = web.build_target(
            rules, limits, "app.example.org", self.upstreams, lambda address, why: self.refused.append((address, why))
        )

    def _open(self, upstream: Upstream, visitor: HttpVisitor) -> bool:
        if self.is_full:
            return False
        if self.is_gone:
            upstream.was_reset("local_unreachable", "gone")
            return True
        self.visitors.append(visitor)
        self.opened.append(upstream)
        self._waiting.append(upstream)
        if not self.is_slow:
            self.open_all()
        return True

    def open_all(self) -> None:
        waiting, self._waiting = self._waiting, []
        for upstream in waiting:
            ours, theirs = memory_streams(WINDOW)
            # As a data connection has it.
            ours.deliver = None  # type: ignore[attr-defined]
            self.connections.append(Peer(theirs))
            self.connections[-1].takes = not self.is_stalled
            ours.user = upstream
            upstream.attach(ours)
            upstream.resume()

    def refuse(self, code: str) -> None:
        """Fail what waits."""
        waiting, self._waiting = self._waiting, []
        for upstream in waiting:
            upstream.was_reset(code, "refused")


class World(HttpHouse):
    """What is behind the connections, and the connections themselves.

    :ivar services: by the first part of a path; the one with an empty name is for all others.
    :ivar decide: what :meth:`find` returns, unless it returns None.
    :ivar over: how many requests that went to a service are over.
    """

    def __init__(self) -> None:
        self.clock = Clock()
        seconds, lines = self.clock.seconds, LogLimiter(Logger(), self.clock)
        super().__init__(seconds, lines, Passwords(self._in_thread, seconds), 10.0, Accounts(self.clock))
        self.services: dict[str, Service] = {}
        self.decide: Callable[[RequestHead], Answer | None] = lambda head: None
        self.over = 0
        self.complaints: list[str] = []
        self.threads: list[tuple[Callable[[], bool], Deferred[bool]]] = []

    def _in_thread(self, call: Callable[[], bool]) -> Deferred[bool]:
        done: Deferred[bool] = Deferred()
        self.threads.append((call, done))
        return done

    def run_threads(self) -> None:
        """Do what waits for a thread, such as looking at passwords."""
        threads, self.threads = self.threads, []
        for call, done in threads:
            done.callback(call())

    @property
    def service(self) -> Service:
        """The service that is asked unless another one is."""
        return self.serve()

    def serve(self, name: str = "", **rules: Any) -> Service:
        """The service for paths that begin with this name."""
        if name not in self.services:
            self.services[name] = Service(self, Rules(**rules))
        return self.services[name]

    def visit(self, *data: bytes, address: str = "192.0.2.7:1024", is_trusted: bool = False) -> Peer:
        """A new connection, and what is sent at once."""
        ours, theirs = memory_streams(WINDOW)
        peer = Peer(theirs)
        connection = HttpConnection(self, ours, HttpVisitor(address, is_trusted=is_trusted))
        ours.user = connection
        self.connections[connection] = None
        peer.send(*data)
        return peer

    def pass_time(self, seconds: float) -> None:
        """Let time pass, with a tick each second."""
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.tick()

    def find(self, head: RequestHead, connection: IConnection) -> Target | Answer:
        """See :class:`HttpHouse`."""
        found = self.decide(head)
        return found or self.services.get(head.path.strip("/").split("/")[0], self.service).target

    def targets(self) -> list[Target]:
        """See :class:`HttpHouse`."""
        return [service.target for service in self.services.values()]

    def done(self, target: Target, head: RequestHead, connection: IConnection) -> None:
        """See :class:`HttpHouse`."""
        self.over += 1
        super().done(target, head, connection)

    def refused(self, connection: IConnection, why: str) -> None:
        """See :class:`HttpHouse`."""
        self.complaints.append(why)
        super().refused(connection, why)
