"""The socket of a data connection, from the proof of both ends to its last stream.

    visitor -- LocalSocket or RecordStream <-> RecordSocket ==== records ==== RecordSocket <-> ... -- service

The rules are those of :mod:`rtunnel.wire.data.connection`; here bytes are moved. The socket waits in the epoll of the
relays (:mod:`rtunnel.relay.poller`), where it costs little.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.last_bytes import unacknowledged
from rtunnel.relay.polled_socket import BULK, SPLICE_SIZE
from rtunnel.reverse.carriers.record_interfaces import ILocal, IUser
from rtunnel.reverse.carriers.record_writer import MORE, RecordWriter
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.wire.data.connection import DataConnection, Ended, Opened, WasReset
from rtunnel.wire.data.frozen import Fields, State, text_of
from rtunnel.wire.data.records import (
    ALIVE,
    DATA,
    DONE,
    END,
    MAX_PLAIN,
    MAX_SEALED,
    MAX_UNPROVED,
    PlainReader,
    Reader,
    SealedReader,
)
from rtunnel.wire.data.seal import Seal
from rtunnel.wire.limits import LinkLimits

#: What a connection costs in itself, in bytes.
COST = 2 * 1024
#: The number of the tunnel in OPEN of a stream that carries datagrams.
DATAGRAMS = 2**32 - 1
_log = DebugLog()


@implementer(IReadWriteDescriptor)
class RecordSocket(RecordWriter):
    """One end of a data connection.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :param sock: connected and non-blocking; this owns it from now on.
    :param seals: of what this end sends and of what it receives; None: records are plain.
    :ivar user: see :class:`IUser`.
    :ivar visitor: whose stream it is, for the log.
    :ivar is_proved: the first record of the other end has come.
    :raises OSError: the system does not let us watch the socket.
    """

    __slots__ = ("_local", "_reader", "_told_free", "_unsent", "is_proved", "user", "visitor")

    def __init__(
        self,
        poller: Any,
        sock: socket.socket,
        user: IUser,
        limits: LinkLimits,
        now: float,
        seals: tuple[Seal, Seal] | None,
        *,
        is_server: bool,
    ) -> None:
        sealing, opening = (None, None) if seals is None else seals
        super().__init__(poller, sock, DataConnection(limits, sealing, now, is_server=is_server), sealing)
        self.user = user
        self._reader: Reader = PlainReader() if opening is None else SealedReader(opening)
        self._local: ILocal | None = None
        self.visitor = ""
        self._told_free = True
        self.is_proved = False
        if seals is not None:
            self._reader.most = MAX_UNPROVED
        # How many bytes had not arrived when this end looked last, without a local side.
        self._unsent = 0
        self._watch_bytes(True)

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open, and nothing waits."""
        return self.state.is_free and not self._writing

    @property
    def has_local(self) -> bool:
        """Whether a local side counts what this holds. When both have ended, it may be gone."""
        return self._local is not None and not self.state.has_ended

    @property
    def held(self) -> int:
        """How many bytes of memory this takes. What is in a pipe is the kernel's."""
        return COST + self._reader.held + len(self._pending) + len(self._behind)

    @property
    def has_room(self) -> bool:
        """Whether nothing waits to be sent, so that the local side may send. It is told when that is so again."""
        return not self._writing

    # For the user

    def prove(self) -> None:
        """Take the other end as proved, without a record of it."""
        self.is_proved = True
        self._reader.most = MAX_PLAIN if self._seal is None else MAX_SEALED

    def say_alive(self) -> None:
        """Send a sign of life."""
        self._send(self.state.alive())

    def open(self, tunnel: int, visitor: str, moved: int, local: ILocal, first: bytes = b"") -> None:
        """Open a stream for *local*, and send its *first* bytes. See :meth:`DataConnection.open`."""
        record = self.state.open(tunnel, visitor, moved)
        if first:
            record += self.state.pack(DATA, first)
        self._told_free = False
        self._local = local
        self.visitor = visitor or f"stream {moved}"
        self._send(record)

    def carry(self, local: ILocal) -> None:
        """Take *local* as the local side of the open stream, in place of another one."""
        self._local = local

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        if self._number < 0:
            return
        is_left = self._local is None and not self.is_idle
        if is_left:
            # A slow reader at the other end takes what came before a reset first.
            unsent = self.waiting + unacknowledged(self.socket)
            if unsent != self._unsent:
                self._unsent = unsent
                self.state.progressed()
        state = self.state
        is_quiet = not (state.has_heard or state.has_sent)
        # The first signs of life prove the ends, in their order; behind a RESET, one would count as progress.
        can_send = self.is_proved and not (self._writing or is_left)
        alive = state.tick(now, is_reading=self._reading, can_send=can_send)
        if state.is_dead:
            self._lost(f"nothing was heard of the other end for {state.silence:.0f} s")
            return
        if state.is_stalled:
            self._lost("the other end does not answer")
            return
        self._send(alive)
        if is_quiet and self._seal is not None:
            # An idle connection needs no state of its ciphers, 5 KiB.
            self._seal.rest()
            self._reader.rest()

    # For the local side, see IFar

    def finish(self, count: int = 0) -> bool:
        """End the direction to the other end behind what waits, and behind the first *count* bytes of the payload."""
        state = self.state
        data = state.pack(DATA, self.payload[:count]) if count else b""
        self._send(data + state.end())
        self._look_whether_over()
        return not self._writing

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """Reset the stream, and forget the local side.

        :param behind: what waits goes out first. Otherwise, if anything waits, the connection is closed: it would not
            say in time what this end has decided.
        """
        self._local = None
        record = self.state.reset(code, message)
        if not record:
            return  # it is over, or was reset before
        if self._writing and not behind:
            self._lost("a stream was reset while bytes waited")
            return
        self._watch_bytes(True)
        self._send(record)
        self._look_whether_over()

    def drop(self) -> None:
        """Close the connection, because descriptors are needed, and tell the user; the next visitor would come by it
        at once. Not at the server: it has visitors who wait for it.
        """
        if not self.state.is_server:
            self.abort()

    def abort(self) -> None:
        """Close the connection, because what it holds is needed, and tell the user."""
        self._lost("its descriptor or memory is needed")

    def stop_reading(self) -> None:
        """Deliver no more for now: the local side is full."""
        self._watch_bytes(False)

    def resume_reading(self) -> None:
        """Deliver again."""
        self._watch_bytes(True)

    # Another process goes on; see rtunnel.reverse.carriers.frozen

    @property
    def local(self) -> ILocal | None:
        """The local side of its stream; None: it is left alone, or there is no stream."""
        return self._local

    @property
    def is_sound(self) -> bool:
        """Whether both ends are proved, and the connection works."""
        return self._number >= 0 and self.is_proved and not self._is_broken

    @property
    def frozen_size(self) -> int:
        """How many bytes :meth:`freeze` returns that are on their way."""
        return self.waiting + self._reader.held

    def freeze(self) -> State:
        """Return all that is to be known beside the socket. This is out of use afterwards, and nobody is told."""
        reader = self._reader
        seals = [self._seal, reader.seal] if isinstance(reader, SealedReader) else []
        state: State = {
            "name": self.visitor,
            "seals": [seal.freeze() for seal in seals if seal is not None],
            "stream": self.state.freeze(),
            "reader": reader.freeze(),
            "waiting": text_of(self.detach()),
        }
        self._local = None
        return state

    def thaw(self, frozen: Fields, most: int) -> None:
        """Be what another one was at :meth:`freeze`. This one is new, and has its seals.

        :param most: bytes that may wait.
        :raises ValueError: this was not called for it.
        """
        self.state.thaw(frozen.fields("stream"))
        self._reader.thaw(frozen.fields("reader"))
        self.prove()
        self.visitor, self._told_free = frozen.text("name"), False
        if waiting := frozen.data("waiting", most):
            self._append(waiting)

    def go_on(self) -> None:
        """Go on behind :meth:`thaw`, now that the local side is known."""
        if self._local is None:
            self._look_whether_over()
        else:
            # The other end has heard nothing for a while.
            self.say_alive()

    # Called by the reactor

    def logPrefix(self) -> str:
        """Return the name under which the reactor logs errors."""
        return "data connection"

    def connectionLost(self, reason: Failure) -> None:
        """Take note that the reactor found the socket broken, or is stopping."""
        self._lost(reason_of(reason))

    def doRead(self) -> None:
        """Read records, the end, or an error."""
        if not self._reading:
            return  # the event is older than our decision to stop reading
        reader, state = self._reader, self.state
        if reader.left >= BULK and self._splice(reader):
            return
        try:
            count = self.socket.recv_into(reader.target())
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(reason_of(error))
            return
        if not count:
            self._lost("it was closed")
            return
        state.has_heard = True
        try:
            records = reader.feed(count)
            # The bytes and the end behind them leave in one packet.
            flags = MORE if len(records) > 1 and records[-1][0] in (END, DONE) else 0
            for kind, number, payload in records:
                if kind == DATA and state.takes_data and number == state.number:
                    self._local.deliver(payload, flags)  # type: ignore[union-attr]
                elif not self._take(kind, number, payload):
                    return
        except ValueError as error:
            self._lost(str(error), is_breach=True)
        if reader.taken:
            taken, reader.taken = reader.taken, 0
            self.user.holds(taken)

    def doWrite(self) -> None:
        """Send what waits, and then read more from the local side."""
        if self._writing and self._flush():
            self._watch_room(False)
            if self._local is not None:
                self._local.has_room()
            self._look_whether_over()

    # Records in

    def _splice(self, reader: Reader) -> bool:
        """Move bytes of a DATA record through a pipe. Return False if they must go through the buffer."""
        local = self._local
        if (
            local is None
            or not (local.may_splice and self.may_splice and self.state.takes_data)
            or reader.number != self.state.number
        ):
            return False
        try:
            pipe = self._fill_pipe(min(reader.left, SPLICE_SIZE))
        except BlockingIOError:
            return True
        except OSError as error:
            self._lost(reason_of(error))
            return True
        if pipe is None:
            return False
        self.state.has_heard = True
        reader.left -= pipe.count
        local.deliver_pipe(pipe)
        return True

    def _take(self, kind: int, number: int, payload: memoryview) -> bool:
        """Take any record but DATA for the local side. Return whether the connection is still there.

        :raises ValueError: an honest peer does not send this.
        """
        if not self.is_proved:
            if kind != ALIVE:
                raise ValueError("a record other than the first sign of life")
            self.prove()
            self.user.proved(self)
        event = self.state.receive(kind, number, payload)
        if isinstance(event, Ended):
            self._send(event.answer)
            if self._local is not None:
                self._local.far_ended()
        elif isinstance(event, Opened):
            self._told_free = False
            self.visitor = event.visitor or f"stream {event.moved}"
            self.user.opened(self, event)
        elif isinstance(event, WasReset):
            self._send(event.answer)
            self._reset_local(event.code, event.message)
        self._look_whether_over()
        return self._number >= 0

    def _reset_local(self, code: str, message: str) -> None:
        local, self._local = self._local, None
        if local is not None:
            if DebugLog.is_wanted:
                what = "data connection of {visitor}: the stream was reset: {code}: {text}"
                _log.debug(what, visitor=self.visitor, code=code, text=message)
            local.far_reset(code, message)

    def _look_whether_over(self) -> None:
        """Leave the local side alone once the stream is over; and tell the user when nothing waits any more."""
        if not self.state.is_free or self._told_free or self._number < 0:
            return
        local, self._local = self._local, None
        if local is not None:
            local.far_over()
        self._watch_bytes(True)
        # A broken connection is lost in a moment.
        if not (self._writing or self._is_broken):
            self._told_free = True
            self.user.freed(self)

    # The end

    def cut(self) -> None:
        """Close the connection at once. The stream, if there is one, is reset."""
        if self._number >= 0:
            # The last bytes of a stream that is over may still be on their way.
            self._shut(reset=not self.is_idle)
            self._reset_local(Code.CONNECTION_LOST, "the data connection was closed")

    def _lost(self, why: str, *, is_breach: bool = False) -> None:
        if self._number >= 0:
            self._shut(reset=True)
            self._reset_local(Code.PROTOCOL if is_breach else Code.CONNECTION_LOST, why)
            self.user.lost(self, why, is_breach=is_breach)

    def _shut(self, *, reset: bool) -> None:
        self.state.takes_data = False
        self._close(reset=reset)
