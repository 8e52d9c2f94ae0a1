"""The I/O of one link: connects its state machine and the users of its streams to a connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel import delayed_calls
from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.interfaces import IStream, IStreamUser
from rtunnel.relay.last_bytes import buffered
from rtunnel.relay.sockets import SocketTransport, address_prefix, below_tls, format_address, tune
from rtunnel.upkeep.log_limiter import LogLimiter
from rtunnel.upkeep.memory import STREAM, Memory
from rtunnel.upkeep.periodic import Repeated, do_all
from rtunnel.wire import events
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream

if TYPE_CHECKING:
    from rtunnel.tls.identity import Peer

#: Stream bytes that are handed to the connection at a time; a control frame waits for no more than that.
TURN = 65536
#: Seconds that the last frames get to leave a connection that we close.
LINGER = 5.0


@implementer(IStream)
class LinkStream:
    """One stream of a link, as its user sees it."""

    __slots__ = ("_protocol", "_user", "stream")

    def __init__(self, protocol: LinkProtocol, stream: Stream, user: IStreamUser) -> None:
        self._protocol = protocol
        self._user = user
        self.stream = stream
        stream.owner = user
        protocol.memory.came += STREAM

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        protocol, stream = self._protocol, self.stream
        protocol.memory.came += len(data)
        protocol.link.send(stream, data)
        protocol.flush()
        if stream.wants_pause and not stream.paused:
            stream.paused = True
            self._user.pause()

    def finish(self) -> None:
        """See :class:`IStream`."""
        self._protocol.link.finish(self.stream)
        self._protocol.flush()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`."""
        self._protocol.link.reset(self.stream, code, message, behind=behind)
        self._protocol.flush()

    def delivered(self, count: int) -> None:
        """See :class:`IStream`."""
        self._protocol.link.delivered(self.stream, count)
        self._protocol.flush()


@implementer(IPushProducer)
class LinkProtocol(Protocol):
    """Runs a :class:`~rtunnel.wire.link.Link` over a connection; the base of the server's and the client's sessions.

    :param link: a new state machine, which nothing else has used.
    :param clock: provides the time for keepalive.
    :param memory: what the process may hold.
    :ivar since: when the link was made, by *clock*.
    :ivar identity: the other end as authenticated by TLS; None without TLS. Set before there is a connection.
    :ivar peer_name: the connection's other end, for logs. May be set before there is a connection.
    :ivar connected_now: whether there is a connection.
    :ivar log_limiter: for log lines that the peer can cause. Set before there is a connection.
    :ivar admitted: by which name or address the peer's lines are counted; None: it is a stranger.
    :ivar end_code: the code with which the link was closed; empty if its connection was lost without.
    :ivar why_lost: why the link was lost, if one of the ends gave a reason.
    :ivar peer_has_left: whether the peer is going down, and has told us so after everything else.
    """

    log = Logger()
    #: Whether :attr:`why_lost` is in a line of the service that holds the link, so that another line would repeat it.
    owner_says_why = False
    log_limiter: LogLimiter
    transport: SocketTransport  # type: ignore[assignment]

    def __init__(self, link: Link, clock: IReactorTime, memory: Memory) -> None:
        self.link = link
        self.clock = clock
        self.since = clock.seconds()
        self.memory = memory
        link.windows.growth = memory.growth
        self.identity: Peer | None = None
        self.peer_name = ""
        self.admitted: str | None = None
        self.connected_now = False
        self.end_code = ""
        self.why_lost = ""
        self.peer_has_left = False
        self._handling = False
        self._connection_full = False
        self._reading_paused = False
        self._ticks = Repeated(clock, "the tick of a link", self._tick)
        self._linger_call: IDelayedCall | None = None
        self._handlers: dict[type[events.Event], Callable[[Any], None]] = {
            events.DataReceived: self._data_received,
            events.StreamFinished: self._stream_finished,
            events.StreamMoved: self._stream_moved,
            events.StreamLeft: self._stream_left,
            events.StreamClosed: self._stream_closed,
            events.StreamReset: self._stream_reset,
            events.StreamWritable: self._stream_writable,
            events.FrameIgnored: self._frame_ignored,
            events.LinkFailed: self._link_failed,
        }

    # The connection

    def connectionMade(self) -> None:
        """Send what is queued, and start keepalive."""
        self.peer_name = self.peer_name or format_address(self.transport.getPeer())
        if self.identity is not None and self.identity.name:
            self.peer_name += f" ({self.identity.name})"
        self.connected_now = True
        self.memory.join(self)
        tune(self.transport)
        self.transport.registerProducer(self, True)
        self._ticks.start(self.link.liveness.tick_every)
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        """Pass bytes to the state machine."""
        if not self.connected_now:
            return
        self.memory.came += len(data)
        self.link.receive_data(data, self.clock.seconds())
        self.handle_events()
        self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Reset every stream that has not ended."""
        self.connected_now = False
        self.memory.leave(self)
        self._ticks.stop()
        delayed_calls.cancel(self._linger_call)
        self.link.close(Code.CONNECTION_LOST, reason_of(reason))
        do_all([partial(self._lose_stream, stream) for stream in self.link.streams.values()])
        ignored = self.link.ignored
        if ignored:
            self.log.debug(
                "link {peer}: ignored {count} frames: {kinds}",
                peer=self.peer_name,
                count=ignored.total(),
                kinds=", ".join(f"{count} x {what}" for what, count in ignored.most_common(5)),
            )

    def _lose_stream(self, stream: Stream) -> None:
        self.link.reset(stream, Code.CONNECTION_LOST, "the link is lost")
        if stream.owner is not None:
            stream.owner.was_reset(Code.CONNECTION_LOST, "the link is lost")

    def _tick(self) -> None:
        self.link.tick(self.clock.seconds())
        self.handle_events()
        self.flush()

    # Bytes out, with the connection's back-pressure

    def flush(self) -> None:
        """Hand the connection as much as it takes. Cheap when there is nothing to send."""
        link = self.link
        if self._handling or not self.connected_now:
            return
        memory = self.memory
        if memory.came >= memory.look_at:
            memory.look_soon()
        while True:
            while link.has_data_to_send and not self._connection_full:
                self.transport.writeSequence(link.data_to_send(TURN, self.clock.seconds()))
            if not link.has_events:
                break
            self.handle_events()
        if link.reading_paused != self._reading_paused:
            self._reading_paused = link.reading_paused
            if self._reading_paused:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def pauseProducing(self) -> None:
        """Send no more until the connection has room."""
        self._connection_full = True

    def resumeProducing(self) -> None:
        """Send again."""
        self._connection_full = False
        self.flush()

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost, and ``connectionLost`` follows."""

    # The log

    def _emit(self, level: object, format: str, **fields: object) -> None:
        """Log a line about ``{peer}``. Above level debug the peer causes no more of them than its share."""
        if level is LogLevel.debug:
            self.log.debug(format, **{"peer": self.peer_name, **fields})
        else:
            self.log_limiter.emit(level, format, admitted=self.admitted, **{"peer": self.peer_name, **fields})

    def _warn(self, format: str, **fields: object) -> None:
        self._emit(LogLevel.warn, format, **fields)

    def _info(self, format: str, **fields: object) -> None:
        self._emit(LogLevel.info, format, **fields)

    # Memory, see IParty

    @property
    def payer(self) -> str:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return address_prefix(self.transport.getPeer()) or self.peer_name

    def holdings(self) -> Iterator[tuple[int, Any]]:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        link = self.link
        yield link.held + buffered(self.transport), self
        for streams in (link.streams.values(), link.lingering):
            for stream in streams:
                owner, window = stream.owner, stream.receive_window
                theirs = 0 if owner is None else owner.buffered()
                yield STREAM + stream.queued + window.received - window.delivered + theirs, stream

    def free(self, holding: Any) -> None:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        if holding is self:
            self.drop()
        elif not isinstance(holding, Stream):
            holding.abort()
        elif holding.open or holding.lingering:
            why = "the process is short of memory (--memory)"
            self.link.reset(holding, Code.STALLED, why)
            if holding.owner is not None:
                holding.owner.was_reset(Code.STALLED, why)
            self.flush()

    def set_short(self, is_short: bool, is_full: bool) -> None:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        self.link.windows.is_short, self.link.windows.is_full = is_short, is_full

    def measure_growth(self) -> int:
        """See :class:`~rtunnel.upkeep.memory.IParty`."""
        return self.link.windows.measure(stream.receive_window for stream in self.link.streams.values())

    # Ends

    @property
    def streams_outlive(self) -> bool:
        """Whether streams on data connections go on although the link is over: it was lost, or was taken over."""
        return self.end_code in ("", Code.CONNECTION_LOST, Code.TIMEOUT, Code.TAKEN_OVER)

    def close(self, code: str, message: str) -> None:
        """End the link, and tell an extended peer why."""
        self.end_code = self.end_code or code
        self.link.close(code, message)
        self._close_connection(half=True)

    def fail(self, code: str, message: str) -> None:
        """End the link because of what the peer did or is. Log it, and tell an extended peer."""
        self.link.fail(code, message)
        self.handle_events()

    def drop(self) -> None:
        """End the link at once, because its peer is gone."""
        if self.connected_now:
            self.transport.abortConnection()

    def _close_connection(self, *, half: bool = False) -> None:
        if not self.connected_now or self._linger_call is not None:
            return
        self.transport.writeSequence(self.link.data_to_send(0, self.clock.seconds()))
        self._linger_call = self.clock.callLater(LINGER, self.drop)
        self.transport.unregisterProducer()
        if half and below_tls(self.transport) is self.transport:
            # A closed socket answers further bytes with a reset, which destroys what is on its way to the peer. (TLS
            # waits for the peer's close_notify, and so does not have this problem.)
            self.transport.resumeProducing()
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    # Events of the state machine

    def handle_events(self) -> None:
        """Handle the events of the state machine, and those that handling them causes."""
        if self._handling:
            return
        self._handling = True
        handlers = self._handlers
        try:
            while happened := self.link.take_events():
                for event in happened:
                    handlers[type(event)](event)
        finally:
            self._handling = False

    def _data_received(self, event: events.DataReceived) -> None:
        event.stream.owner.data_received(event.data)

    def _stream_finished(self, event: events.StreamFinished) -> None:
        event.stream.owner.finished()

    def _stream_moved(self, event: events.StreamMoved) -> None:
        moved = getattr(event.stream.owner, "moved", None)
        if moved is not None:
            moved()
        else:
            self._moved_early(event.stream)

    def _stream_left(self, event: events.StreamLeft) -> None:
        event.stream.owner.left()

    def _moved_early(self, stream: Stream) -> None:
        """The peer has moved a stream that is on no data connection yet."""

    def _stream_closed(self, event: events.StreamClosed) -> None:
        event.stream.owner.closed()

    def _stream_reset(self, event: events.StreamReset) -> None:
        self.log.debug(
            "link {peer}: stream {stream} was reset: {code}: {text}",
            peer=self.peer_name,
            stream=event.stream.conn_id,
            code=event.code,
            text=event.message,
        )
        event.stream.owner.was_reset(event.code, event.message)

    def _stream_writable(self, event: events.StreamWritable) -> None:
        event.stream.owner.resume()

    def _frame_ignored(self, event: events.FrameIgnored) -> None:
        self._emit(
            LogLevel.debug if event.is_normal else LogLevel.warn, "link {peer}: ignored: {what}", what=event.what
        )

    def _link_failed(self, event: events.LinkFailed) -> None:
        self.end_code = self.end_code or event.code
        self.why_lost = f"{event.code}: {event.message}"
        self.peer_has_left = event.by_peer and event.code == Code.SHUTTING_DOWN
        level = LogLevel.info if event.code == Code.SHUTTING_DOWN else LogLevel.warn
        self._emit(
            LogLevel.debug if self.owner_says_why else level,
            "link {peer}: closed by {side}: {code}: {text}",
            side="the peer" if event.by_peer else "us",
            code=event.code,
            text=event.message,
        )
        if event.code == Code.TIMEOUT and not event.by_peer:
            self.drop()
        else:
            self._close_connection()
