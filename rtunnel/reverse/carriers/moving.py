"""A stream that has begun on the link and goes on on a data connection (docs/wire.rst, "A stream that moves").

    SocketEnd <-> MovingStream <-> a stream of the link, until MOVE has come and what came before it is delivered
                               <-> RecordSocket, from then on; what is sent goes there at once

When the link has no more part in it, and nothing waits at the local side, that side's socket is taken from Twisted, and
a :class:`~rtunnel.relay.local_socket.LocalSocket` relays it. That is looked at whenever something passes, and once a
second: Twisted does not tell when the last bytes have gone out.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from rtunnel.relay.socket_end import SocketEnd
from rtunnel.reverse.carriers.record_interfaces import ILocal
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.reverse.carriers.record_stream import HIGH_WATER, RecordStream
from rtunnel.reverse.carriers.sockets import has_socket
from rtunnel.wire.data.records import READ_SIZE
from rtunnel.wire.link import Link
from rtunnel.wire.stream import Stream

if TYPE_CHECKING:
    from rtunnel.tls.stream_end import TlsEnd

#: Seconds for which a stream must have been there before it moves, and bytes that it must have carried otherwise: a
#: short visitor would be over before.
STAYED, CARRIED = 0.1, 64 * 1024


def is_silent(stream: Stream, initial_credit: int) -> bool:
    """Return whether nothing has come from the client that shows that it knows the stream.

    :param initial_credit: of the client, which sends CREDIT beyond it.
    """
    return not stream.receive_window.received and stream.send_window.limit == initial_credit


class SilentStreams:
    """Finds out which silent streams the client knows all the same: those for which it has answered a later PING."""

    __slots__ = ("_about", "_asked")

    def __init__(self) -> None:
        self._about: frozenset[Stream] = frozenset()
        # The number of the PING; 0: nothing was asked.
        self._asked = 0

    def known(self, link: Link, initial_credit: int, now: float) -> frozenset[Stream]:
        """Return those that the client knows, and ask about the others.

        :param initial_credit: see :func:`is_silent`.
        :param now: the time, in seconds.
        """
        liveness = link.liveness
        if liveness.answered < self._asked:
            return frozenset()
        known = self._about
        self._about = frozenset(stream for stream in link.streams.values() if is_silent(stream, initial_credit))
        before = liveness.pings
        if self._about - known:
            link.ping(now)
        # While an earlier PING has no answer, none can be sent.
        self._about, self._asked = (self._about, liveness.pings) if liveness.pings > before else (frozenset(), 0)
        return known


def has_stayed(stream: Stream, initial_credit: int, now: float, known: frozenset[Stream] = frozenset()) -> bool:
    """Return whether a stream of the link is worth a connection of its own.

    :param initial_credit: see :func:`is_silent`.
    :param known: silent streams that the client knows. To one that it does not know, OPEN could overtake NEW_CONN.
    """
    if stream.ending or stream.broken or stream.received_end or not isinstance(stream.owner, SocketEnd):
        return False
    received, sent = stream.receive_window, stream.send_window
    if is_silent(stream, initial_credit) and stream not in known:
        return False
    return now - received.granted_at >= STAYED or received.received + sent.sent >= CARRIED


def take_those_at_rest(streams: Iterable[Any]) -> None:
    """Take those sockets of moved streams from Twisted whose last bytes have gone out by now.

    :param streams: all of one link; only each :class:`MovingStream` counts.
    """
    for stream in [each for each in streams if isinstance(each, MovingStream)]:
        stream.look()


class ILinkUser(Protocol):
    """The link, as a stream that leaves it sees it."""

    @property
    def link(self) -> Link: ...
    def flush(self) -> None: ...


class MovingStream(RecordStream):
    """The stream, to its user; and its user, to the link and to the data connection.

    :param protocol: the link.
    :param stream: of the link, still open there, with a :class:`SocketEnd` or a :class:`TlsEnd` as its owner.
    :param far: the data connection, on which OPEN was sent or has come. It is not read before MOVE has come.
    :param on_left: called with this object when the link has no more part in the stream.
    :param on_taken: called with this object, the data connection and the user's socket when that can be relayed without
        this. Returns what relays it then.
    :param on_end: see :class:`RecordStream`.
    """

    def __init__(
        self,
        protocol: ILinkUser,
        stream: Stream,
        far: RecordSocket,
        on_left: Callable[[], None],
        on_taken: Callable[[MovingStream, RecordSocket, socket.socket], ILocal],
        on_end: Callable[[RecordStream], None],
    ) -> None:
        self.end: SocketEnd | TlsEnd = stream.owner
        super().__init__(far, self.end, on_end)
        self._protocol = protocol
        self._stream = stream
        self._on_left: Callable[[], None] | None = on_left
        self._held: list[Callable[[], None]] = []
        self._on_taken = on_taken
        # The other end sends no more on the link; it has ended its direction, by FIN or by END.
        self._has_moved = stream.received_end
        self._has_ended = stream.received_end and not stream.received_move
        stream.owner = self
        self.end.attach(self)
        far.carry(self)

    def start(self) -> None:
        """Send elsewhere from now on."""
        stream = self._stream
        if stream.paused:
            # It waited for the link's queue, and may go on here.
            stream.paused = False
            self.end.resume()
        self._protocol.link.move(stream)
        self._protocol.flush()
        if not stream.moving:
            # It has ended before.
            self.finish()
        self._read_when_due()

    # From the link, see IStreamUser

    def data_received(self, data: bytes) -> None:
        """Pass on what comes before MOVE."""
        if self._user is not None:
            self._user.data_received(data)
        else:
            self._protocol.link.delivered(self._stream, len(data))

    def moved(self) -> None:
        """Read the data connection, once what came before is delivered."""
        self._has_moved = True
        self._read_when_due()

    def finished(self) -> None:
        """Pass on the end, which came on the link before the other end knew of the data connection."""
        self._has_moved = True
        self._pass_on_end()
        self._read_when_due()

    def left(self) -> None:
        """Take note that the link has no more part in this, if all that came on it is delivered."""
        self.look()

    def closed(self) -> None:
        """Do nothing: only streams of a reference link are closed so."""

    def was_reset(self, code: str, message: str) -> None:
        """Reset the data connection's stream too: the link's was reset, or the link is lost."""
        far = self._far
        self._held.clear()
        self._leave_link()
        super().far_reset(code, message)
        if far is not None:
            far.reset(code, message)

    @property
    def meter(self) -> Any:
        """What measures the visitor's bytes; None: nothing does."""
        return getattr(self.end, "meter", None)

    @property
    def is_connected(self) -> bool:
        """See :class:`SocketEnd`."""
        return self.end.is_connected

    def call_when_lost(self, call: Callable[[], None]) -> None:
        """See :class:`SocketEnd`."""
        self.end.call_when_lost(call)

    def pause(self) -> None:
        """Do nothing: what is sent goes elsewhere."""

    resume = pause

    def buffered(self) -> int:
        """See :class:`IStreamUser`."""
        return 0 if self._user is None else self._user.buffered()

    # From the data connection, see ILocal. What comes before its time, in the same read as OPEN, is held.

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """See :class:`RecordStream`."""
        if self._is_due:
            # Between two reads, nothing may wait at the local side.
            relay = self.look()
            if relay is not None:
                relay.deliver(data, flags)
            else:
                super().deliver(data)
        else:
            kept = bytes(data)
            self._held.append(lambda: RecordStream.deliver(self, memoryview(kept)))

    def far_ended(self) -> None:
        """See :class:`RecordStream`. An end may come on both carriers."""
        self._in_turn(self._pass_on_end)

    def far_over(self) -> None:
        """See :class:`RecordStream`."""
        # From now on the connection is somebody else's.
        self._far = None
        self._in_turn(super().far_over)

    def far_reset(self, code: str, message: str) -> None:
        """See :class:`RecordStream`. Reset the link's part too."""
        self._far = None
        self._in_turn(partial(self._break, code, message))

    def _in_turn(self, call: Callable[[], None]) -> None:
        if self._is_due:
            call()
        else:
            self._held.append(call)

    def _pass_on_end(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            super().far_ended()

    def _break(self, code: str, message: str) -> None:
        self._reset_link(code, message)
        super().far_reset(code, message)

    # From the user

    def write(self, data: bytes) -> None:
        """See :class:`IStream`."""
        super().write(data)
        self.look()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """See :class:`IStream`. What waits on the link goes first if it is *behind*."""
        self._held.clear()
        self._reset_link(code, message, behind=behind)
        super().reset(code, message, behind=behind)

    def delivered(self, count: int) -> None:
        """See :class:`IStream`. What came on the link was delivered first."""
        waiting = self._stream.receive_window.waiting
        if waiting:
            self._protocol.link.delivered(self._stream, min(count, waiting))
            self._protocol.flush()
            count -= min(count, waiting)
            self._read_when_due()
        if count:
            super().delivered(count)
        self.look()

    @property
    def held(self) -> int:
        """See :class:`RecordStream`."""
        return super().held + (READ_SIZE if self._held else 0)

    # The way from one to the other

    def _reset_link(self, code: str, message: str, *, behind: bool = False) -> None:
        stream = self._stream
        if stream.open or stream.lingering:
            self._protocol.link.reset(stream, code, message, behind=behind, elsewhere=behind)
            self._protocol.flush()
        self._leave_link()

    def _read_when_due(self) -> None:
        if self._is_due:
            while self._held:
                self._held.pop(0)()
            if self._far is not None and self._waiting < HIGH_WATER:
                self._far.resume_reading()
        elif self._far is not None:
            self._is_stopped = True
            self._far.stop_reading()
        self.look()

    @property
    def _is_due(self) -> bool:
        """Whether all that came on the link is delivered, and the data connection is to be read."""
        return self._has_moved and not self._stream.receive_window.waiting

    def look(self) -> ILocal | None:
        """Leave the link when it has no more part in the stream, and then Twisted when nothing waits.

        Return what takes the place of this.
        """
        if self._stream.open or self._stream.lingering or self._far is None:
            return None
        self._leave_link()
        end, far = self.end, self._far
        is_whole = not (self._waiting or self._held or self._finished or self._has_ended)
        if not isinstance(end, SocketEnd) or not is_whole or not end.is_at_rest or not has_socket(end.transport):
            return None
        self._user = self._far = self._on_end = None
        return self._on_taken(self, far, end.take_socket())

    def _leave_link(self) -> None:
        on_left, self._on_left = self._on_left, None
        if on_left is not None:
            on_left()

    def _end(self) -> None:
        self._leave_link()
        super()._end()
