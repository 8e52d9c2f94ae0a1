"""The socket of a data connection, from the proof of both ends to its last stream.

    visitor -- LocalSocket or RecordStream <-> RecordSocket ==== records ==== RecordSocket <-> ... -- service

The rules are those of :mod:`rtunnel.wire.data.connection`; here bytes are moved. A small record leaves in one ``send``
with its header. Plain bulk is spliced: into a pipe, the header, and out of the pipe. It waits in the epoll of the
relays (:mod:`rtunnel.relay.poller`), where it costs little.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Protocol

from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.errors import Code
from rtunnel.reasons import reason_of
from rtunnel.relay.local_socket import BULK, SPLICE_SIZE, send_some
from rtunnel.relay.pipes import CANNOT_SPLICE, HAVE_SPLICE, PIPES, SPLICE_FLAGS, Pipe
from rtunnel.relay.sockets import close_socket
from rtunnel.wire.data.connection import DataConnection, Ended, Opened, WasReset
from rtunnel.wire.data.records import (
    ALIVE,
    DATA,
    HEADER,
    HEADER_SIZE,
    MAX_PLAIN,
    MAX_SEALED,
    MAX_UNPROVED,
    PlainReader,
    Reader,
    SealedReader,
)
from rtunnel.wire.data.seal import TAG, Seal
from rtunnel.wire.limits import LinkLimits

#: The most that is read from a local socket at a time, in bytes.
PAYLOAD_SIZE = 64 * 1024
#: What a connection costs in itself, in bytes.
COST = 2 * 1024

# One buffer serves all connections: the reactor runs one read at a time, and what stays is copied out. A header comes
# before the payload, and the sealed record has a buffer of its own.
_OUT = memoryview(bytearray(HEADER_SIZE + PAYLOAD_SIZE))
_PAYLOAD = _OUT[HEADER_SIZE:]
_SEALED = memoryview(bytearray(HEADER_SIZE + PAYLOAD_SIZE + TAG))
_NOTHING = memoryview(b"")
_MORE = getattr(socket, "MSG_MORE", 0)


class ILocal(Protocol):
    """The local side of a stream: a :class:`~rtunnel.relay.local_socket.LocalSocket`, or a stand-in for one.

    :ivar may_splice: it may take pipes.
    """

    may_splice: bool

    def deliver(self, data: memoryview) -> None: ...
    def deliver_pipe(self, pipe: Pipe) -> None: ...
    def far_ended(self) -> None: ...
    def far_over(self) -> None: ...
    def far_reset(self, code: str, message: str) -> None: ...
    def has_room(self) -> None: ...


class IUser(Protocol):
    """Whoever gives the streams of a data connection something to do."""

    def proved(self, connection: RecordSocket) -> None:
        """Take note that the other end is proved: its first record has come."""

    def opened(self, connection: RecordSocket, opened: Opened) -> None:
        """At the client: take a visitor, by :meth:`RecordSocket.carry` or :meth:`RecordSocket.reset`."""

    def freed(self, connection: RecordSocket) -> None:
        """Take note that the stream is over, so that another one may follow."""

    def lost(self, connection: RecordSocket, why: str, *, is_breach: bool) -> None:
        """Take note that the connection is lost. Not called after :meth:`RecordSocket.cut`.

        :param is_breach: the other end broke the protocol.
        """


@implementer(IReadWriteDescriptor)
class RecordSocket:
    """One end of a data connection.

    :param poller: watches the socket; see :func:`~rtunnel.relay.poller.poller_for`.
    :param sock: connected and non-blocking; this owns it from now on.
    :param seals: of what this end sends and of what it receives; None: records are plain.
    :ivar user: see :class:`IUser`.
    :ivar state: the state machine.
    :ivar is_proved: the first record of the other end has come.
    :raises OSError: the system does not let us watch the socket.
    """

    __slots__ = (
        "_is_broken",
        "_local",
        "_number",
        "_pending",
        "_pipe",
        "_poller",
        "_reader",
        "_reading",
        "_seal",
        "_socket",
        "_tail",
        "_told_free",
        "_writing",
        "is_proved",
        "payload",
        "state",
        "takes_pipes",
        "user",
    )

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
        self._poller = poller
        self._socket = sock
        self._number = sock.fileno()
        self.user = user
        self._seal: Seal | None = None
        self._reader: Reader = PlainReader()
        if seals is not None:
            self._seal, self._reader = seals[0], SealedReader(seals[1])
        self.state = DataConnection(limits, self._seal, now, is_server=is_server)
        self._local: ILocal | None = None
        self.payload = _PAYLOAD
        self.takes_pipes = self._seal is None and HAVE_SPLICE
        # What the socket has not accepted yet, in this order.
        self._pending = _NOTHING
        self._pipe: Pipe | None = None
        self._tail = b""
        # Writes fail; what has come before is still read.
        self._is_broken = False
        self._told_free = True
        self.is_proved = False
        self._reader.most = MAX_UNPROVED
        self._writing = False
        self._reading = True
        poller.addReader(self)

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open, and nothing waits."""
        return self.state.is_free and not self._waits

    @property
    def is_lost(self) -> bool:
        """Whether the connection is closed."""
        return self._number < 0

    @property
    def held(self) -> int:
        """How many bytes of memory this takes."""
        return COST + self._reader.held + len(self._pending) + len(self._tail)

    @property
    def _waits(self) -> bool:
        return bool(self._pending or self._tail) or self._pipe is not None

    # For the user

    def prove(self) -> None:
        """Take the other end as proved, without a record of it."""
        self.is_proved = True
        self._reader.most = MAX_PLAIN if self._seal is None else MAX_SEALED

    def say_alive(self) -> None:
        """Send a sign of life."""
        self._send(self.state.alive())

    def open(self, tunnel: int, visitor: str, moved: int, local: ILocal, first: bytes = b"") -> None:
        """Open a stream for *local*; see :meth:`~rtunnel.wire.data.connection.DataConnection.open`.

        :param first: the first bytes of the stream, which leave in the same packet.
        """
        record = self.state.open(tunnel, visitor, moved)
        if first:
            record += self.state.pack(DATA, first)
        self._told_free = False
        self._local = local
        self._send(record)

    def carry(self, local: ILocal) -> None:
        """Take *local* as the local side of the open stream, in place of another one."""
        self._local = local

    def tick(self, now: float) -> None:
        """Look after what is due by time."""
        alive = self.state.tick(now, is_reading=self._reading, can_send=not self._waits)
        if self.state.is_dead:
            self._lost(f"nothing was heard of the other end for {self.state.silence:.0f} s")
        elif alive:
            self._send(alive)

    def cut(self) -> None:
        """Close the connection at once. The stream is reset."""
        if self._number >= 0:
            self._close()
            self._reset_local(Code.CONNECTION_LOST, "the data connection was closed")

    # For the local side, see IFar

    def send_data(self, count: int) -> bool:
        """Send the first *count* bytes of :attr:`payload` as a record."""
        state, seal = self.state, self._seal
        state.has_sent = True
        if seal is None:
            size = HEADER_SIZE + count
            HEADER.pack_into(_OUT, 0, DATA << 24 | count, state.number)
            record = _OUT[:size]
        else:
            size = HEADER_SIZE + count + TAG
            HEADER.pack_into(_SEALED, 0, DATA << 24 | count + TAG, state.number)
            seal.seal(_SEALED[:HEADER_SIZE], _PAYLOAD[:count], _SEALED[HEADER_SIZE:size])
            record = _SEALED[:size]
        try:
            sent = self._socket.send(record)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self._write_failed(error)
        if sent == size:
            return True
        self._pending = memoryview(bytes(record[sent:]))
        self._watch_room(True)
        return False

    def send_pipe(self, pipe: Pipe) -> bool:
        """Send what is in *pipe* as a record."""
        self.state.has_sent = True
        header = HEADER.pack(DATA << 24 | pipe.count, self.state.number)
        self._pipe = pipe
        try:
            sent = self._socket.send(header, _MORE)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            return self._write_failed(error)
        if sent < HEADER_SIZE:
            self._pending = memoryview(header[sent:])
        return self._flush()

    def write(self, data: bytes) -> bool:
        """Send *data*, of any length, as records. Return False if the source should pause."""
        view = memoryview(data)
        for start in range(0, len(view), PAYLOAD_SIZE):
            piece = view[start : start + PAYLOAD_SIZE]
            if self._waits:
                self._send(self.state.pack(DATA, bytes(piece)))
            else:
                _PAYLOAD[: len(piece)] = piece
                self.send_data(len(piece))
        return not self._waits

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._pending) + len(self._tail) + (0 if self._pipe is None else self._pipe.count)

    def finish(self) -> None:
        """End the direction to the other end behind what waits."""
        self._send(self.state.end())
        self._look_whether_over()

    def reset(self, code: str, message: str, *, behind: bool = False) -> None:
        """Reset the stream, and forget the local side.

        :param behind: what waits goes out first. Otherwise, if anything waits, the connection is closed: it would not
            say in time what this end has decided.
        """
        self._local = None
        record = self.state.reset(code, message)
        if self._waits and not behind:
            self._lost("a stream was reset while bytes waited")
            return
        self._watch_bytes(True)
        self._send(record)
        self._look_whether_over()

    def stop_reading(self) -> None:
        """Deliver no more for now: the local side is full."""
        self._watch_bytes(False)

    def resume_reading(self) -> None:
        """Deliver again."""
        if self._number >= 0:
            self._watch_bytes(True)

    # Called by the reactor

    def fileno(self) -> int:
        """Return the descriptor; -1 once the connection is closed."""
        return self._number

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
            count = self._socket.recv_into(reader.target())
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
            for kind, number, payload in reader.feed(count):
                if kind == DATA and state.takes_data and number == state.number:
                    self._local.deliver(payload)  # type: ignore[union-attr]
                elif not self._take(kind, number, payload):
                    return
        except ValueError as error:
            self._lost(str(error), is_breach=True)

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
        if local is None or not local.may_splice or not self.state.takes_data or reader.number != self.state.number:
            return False
        pipe = PIPES.take()
        if pipe is None:
            return False
        try:
            pipe.count = os.splice(self._number, pipe.write_end, min(reader.left, SPLICE_SIZE), flags=SPLICE_FLAGS)
        except OSError as error:
            PIPES.give_back(pipe)
            if isinstance(error, BlockingIOError):
                return True
            if error.errno in CANNOT_SPLICE:
                local.may_splice = False
                return False
            self._lost(reason_of(error))
            return True
        if not pipe.count:
            PIPES.give_back(pipe)
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
            self.user.opened(self, event)
        elif isinstance(event, WasReset):
            self._send(event.answer)
            self._reset_local(event.code, event.message)
        self._look_whether_over()
        return self._number >= 0

    def _reset_local(self, code: str, message: str) -> None:
        local, self._local = self._local, None
        if local is not None:
            local.far_reset(code, message)

    def _look_whether_over(self) -> None:
        """Leave the local side alone once the stream is over; and tell the user when nothing waits any more."""
        if not self.state.is_free or self._told_free or self._number < 0:
            return
        local, self._local = self._local, None
        if local is not None:
            local.far_over()
        self._watch_bytes(True)
        if not self._waits:
            self._told_free = True
            self.user.freed(self)

    # Bytes out

    def _send(self, record: bytes) -> None:
        """Send a record behind what waits."""
        if not record or self._number < 0 or self._is_broken:
            return
        self.state.has_sent = True
        if self._pipe is not None:
            self._tail += record
            return
        if self._pending:
            self._pending = memoryview(bytes(self._pending) + record)
            return
        try:
            sent = send_some(self._socket, memoryview(record))
        except OSError as error:
            self._write_failed(error)
            return
        if sent < len(record):
            self._pending = memoryview(record[sent:])
            self._watch_room(True)

    def _flush(self) -> bool:
        """Send what waits. Return whether nothing waits any more."""
        pipe = self._pipe
        try:
            if self._pending:
                self._pending = self._pending[send_some(self._socket, self._pending) :] or _NOTHING
            if pipe is not None and not self._pending:
                rest = pipe.send_to(self._number)
                if rest:
                    self._pending = memoryview(rest)
                    self.takes_pipes = False
                if not pipe.count:
                    self._drop_pipe()
                    self._pending = memoryview(bytes(self._pending) + self._tail)
                    self._tail = b""
        except OSError as error:
            return self._write_failed(error)
        if self._waits:
            self._watch_room(True)
            return False
        return True

    def _write_failed(self, error: OSError) -> bool:
        """Drop what waits and what will come. What the other end has sent before is still read to its end or error.

        Return True: the local side may go on.
        """
        self._is_broken = True
        self._pending, self._tail = _NOTHING, b""
        self._drop_pipe()
        self._watch_room(False)
        self._watch_bytes(True)
        return True

    def _drop_pipe(self) -> None:
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            PIPES.give_back(pipe)

    # The end

    def _lost(self, why: str, *, is_breach: bool = False) -> None:
        if self._number < 0:
            return
        self._close()
        self._reset_local(Code.PROTOCOL if is_breach else Code.CONNECTION_LOST, why)
        self.user.lost(self, why, is_breach=is_breach)

    def _close(self) -> None:
        self._poller.forget(self)
        self._reading = self._writing = False
        self._number = -1
        self.state.takes_data = False
        self._pending, self._tail = _NOTHING, b""
        self._drop_pipe()
        close_socket(self._socket, reset=True)

    # What the reactor watches

    def _watch_bytes(self, wanted: bool) -> None:
        if wanted != self._reading and self._number >= 0:
            self._reading = wanted
            (self._poller.addReader if wanted else self._poller.removeReader)(self)

    def _watch_room(self, wanted: bool) -> None:
        if wanted != self._writing and self._number >= 0:
            self._writing = wanted
            (self._poller.addWriter if wanted else self._poller.removeWriter)(self)
