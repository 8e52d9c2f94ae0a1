"""Datagrams on a data connection, where UDP does not get through (docs/wire.rst, "Datagrams on a data connection").

    message on the stream = length message     ; length = u32

TCP delays everything behind a byte that was lost. So little is kept for a slow connection, and the newest: nobody wants
an old datagram.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from struct import Struct
from typing import Any

from rtunnel.errors import Code
from rtunnel.relay.pipes import PIPES, Pipe
from rtunnel.reverse.carriers.record_socket import RecordSocket
from rtunnel.wire.datagrams.messages import DATAGRAM, MAX_MESSAGE

#: How many bytes of memory may wait here, and bytes in the kernel's send buffer.
MAX_WAITING = 256 * 1024
SEND_BUFFER = 64 * 1024
#: What a message that waits costs beside its bytes.
COST = 64
#: Seconds without a message after which the connection is closed, if the path is open.
IDLE = 30.0

_LENGTH = Struct("!I")


class NewestBytes:
    """Messages that wait, the newest ones.

    :ivar bytes: how many bytes of memory they take.
    :ivar lost: how many messages had to make room.
    """

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self.bytes = 0
        self.lost = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: bytes) -> None:
        """Let *message* wait."""
        self._messages.append(message)
        self.bytes += len(message) + COST
        while self.bytes > MAX_WAITING:
            self.next()
            self.lost += 1

    def next(self) -> bytes:
        """Remove and return the oldest message. Only if there is one."""
        message = self._messages.popleft()
        self.bytes -= len(message) + COST
        return message

    def take(self) -> list[bytes]:
        """Remove and return all messages, the oldest first."""
        messages = list(self._messages)
        self._messages.clear()
        self.bytes = 0
        return messages


class Fallback:
    """The local side of a data connection's stream, see :class:`~rtunnel.reverse.carriers.record_interfaces.ILocal`.

    :param clock: provides the time.
    :param received: called with each message.
    :param on_end: called once, with this object, when the stream is over.
    """

    may_splice = False

    def __init__(self, clock: Any, received: Callable[[bytes], None], on_end: Callable[[Fallback], None]) -> None:
        self._clock = clock
        self._received = received
        self._on_end: Callable[[Fallback], None] | None = on_end
        self._far: RecordSocket | None = None
        self._waiting = NewestBytes()
        self._partial = b""
        self._used_at = clock.seconds()

    def use(self, far: RecordSocket) -> None:
        """Send by *far*, whose stream is open."""
        self._far = far
        with suppress(OSError):  # a lost connection shows at its next use
            far.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    @property
    def held(self) -> int:
        """How many bytes of memory this takes."""
        return self._waiting.bytes + len(self._partial)

    def is_idle(self, now: float) -> bool:
        """Whether no message has passed for a while."""
        return bool(now - self._used_at >= IDLE)

    def send(self, message: bytes) -> None:
        """Send a message, or let it wait."""
        self._used_at = self._clock.seconds()
        record = _LENGTH.pack(len(message)) + message
        if self._far is None or self._waiting.bytes or not self._far.has_room:
            self._waiting.put(record)
        else:
            self._far.write(record)

    # From the data connection

    def deliver(self, data: memoryview, flags: int = 0) -> None:
        """Take bytes."""
        self._used_at = self._clock.seconds()
        buffer = self._partial + data
        start, end = 0, len(buffer)
        while end - start >= _LENGTH.size:
            length = _LENGTH.unpack_from(buffer, start)[0]
            if not 1 <= length <= MAX_MESSAGE:
                self._fail("a message of a length that none has")
                return
            if end - start < _LENGTH.size + length:
                break
            message = buffer[start + _LENGTH.size : start + _LENGTH.size + length]
            start += _LENGTH.size + length
            if message[0] >= DATAGRAM:
                self._received(message)
        self._partial = buffer[start:]

    def deliver_pipe(self, pipe: Pipe) -> None:
        """Take what is in *pipe*."""
        data = os.read(pipe.read_end, pipe.count)
        pipe.count -= len(data)
        PIPES.give_back(pipe)
        self.deliver(memoryview(data))

    def has_room(self) -> None:
        """Send what waits."""
        while self._far is not None and len(self._waiting) and self._far.has_room:
            self._far.write(self._waiting.next())

    def far_ended(self) -> None:
        """End the stream: the other end has."""
        if self._far is not None:
            self._far.finish()

    def far_over(self) -> None:
        """Take note that the stream is over."""
        self._end()

    def far_reset(self, code: str, message: str) -> None:
        """Take note that the stream broke."""
        self._end()

    # The end

    def close(self) -> None:
        """Close the connection. May be called twice."""
        far = self._far
        self._end()
        if far is not None:
            far.abort()

    def _fail(self, why: str) -> None:
        far = self._far
        self._end()
        if far is not None:
            far.reset(Code.PROTOCOL, why)

    def _end(self) -> None:
        self._far = None
        self._partial = b""
        self._waiting.take()
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)
