"""UDP between two ends that send each other many packets: several of them in one system call, where the system can.

Packets that every way should take may be fragmented. A larger one is refused or lost where it is too large, so that
whoever sends can find out what gets through (RFC 8899).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.python.failure import Failure

from rtunnel.relay.udp.segments import (
    MAX_BYTES,
    MAX_SEGMENTS,
    SMALL,
    knows_segments,
    let_fragment,
    receive_together,
    segment_control,
    segment_size,
)
from rtunnel.relay.udp.sockets import READS_IN_A_ROW, Address, UdpSocket

#: What one read takes: a batch, or the largest packet.
READ_SIZE = 65536
_CONTROL_SIZE = 256
#: Packets that are read from one socket before others get their turn.
PACKETS_IN_A_ROW = 512
#: The send buffer, in bytes, that the kernel is asked for.
SEND_BUFFER = 1 << 20


class BatchSocket(UdpSocket):
    """One UDP socket whose packets go out, and come in, several at a time.

    The parameters are those of :class:`UdpSocket`, and:

    :param base: the size of packets, in bytes, up to which they may be fragmented: no smaller ones take their place.
    """

    def __init__(
        self,
        reactor: Any,
        received: Callable[[bytes, Address], None],
        lost: Callable[[str], None],
        done: Callable[[], None],
        base: int,
    ) -> None:
        super().__init__(reactor, received, lost, done=done)
        self._base = base
        self._segments = False
        self._fragments = False

    def _use(self, handle: socket.socket) -> None:
        super()._use(handle)
        self._fragments = False
        let_fragment(handle, False)
        receive_together(handle)
        self._segments = knows_segments(handle)
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def send_all(self, packets: Sequence[tuple[bytes, Address | None]], too_large: Callable[[int], None]) -> None:
        """Send packets, each to its address; None: the socket is connected. What cannot be sent is lost.

        :param too_large: called with the size of each packet that this machine's interface does not take.
        """
        start, count = 0, len(packets)
        while start < count and self._socket is not None:
            end = self._end_of_batch(packets, start) if self._segments else start + 1
            data, address = packets[start]
            self._let_fragment(len(data))
            if end == start + 1:
                self._send_one(data, address, too_large)
            elif not self._send_batch([packet for packet, _ in packets[start:end]], address):
                for packet, _ in packets[start:end]:
                    self._send_one(packet, address, too_large)
            start = end

    def _let_fragment(self, size: int) -> None:
        fragments = size <= self._base
        if fragments is not self._fragments and size > SMALL:
            assert self._socket is not None
            self._fragments = fragments
            let_fragment(self._socket, fragments)

    @staticmethod
    def _end_of_batch(packets: Sequence[tuple[bytes, Address | None]], start: int) -> int:
        """Return where the packets end that can go out with the one at *start*: all but the last are of its size."""
        first, address = packets[start]
        size = total = len(first)
        end = start + 1
        most = min(len(packets), start + MAX_SEGMENTS)
        while end < most:
            data, other = packets[end]
            total += len(data)
            if other != address or len(data) > size or total > MAX_BYTES:
                break
            end += 1
            if len(data) < size:
                break
        return end

    def _send_one(self, data: bytes, address: Address | None, too_large: Callable[[int], None]) -> None:
        for is_first in (True, False):
            try:
                self._send(data, address)
            except BlockingIOError:
                self._lost("the socket is busy")
            except OSError as error:
                if is_first:
                    continue  # it may be the ICMP error for an earlier packet
                if error.errno == errno.EMSGSIZE:
                    too_large(len(data))
                else:
                    self._failed(error)
            return

    def _send_batch(self, batch: list[bytes], address: Address | None) -> bool:
        """Send packets of equal size, but for the last one. Return False if they are to be sent one by one."""
        assert self._socket is not None
        control: list[Any] = [segment_control(len(batch[0]))]
        if address is not None and isinstance(address[-1], tuple):
            control.append(address[-1])
            address = address[:-1]
        for is_first in (True, False):
            try:
                if address is None:
                    self._socket.sendmsg(batch, control)
                else:
                    self._socket.sendmsg(batch, control, 0, address)
            except BlockingIOError:
                self._lost("the socket is busy")
            except OSError as error:
                if is_first:
                    continue
                if error.errno in (errno.EIO, errno.EOPNOTSUPP):
                    self._segments = False  # the interface cannot do it
                elif error.errno not in (errno.EMSGSIZE, errno.EINVAL):  # which is about the size, too
                    self._failed(error)
                    return True
                return False
            return True
        return True

    def doRead(self) -> Failure | None:
        """Read up to :data:`PACKETS_IN_A_ROW` packets, and not much longer."""
        count = reads = 0
        while self._socket is not None and count < PACKETS_IN_A_ROW and reads < READS_IN_A_ROW:
            reads += 1
            try:
                data, control, _, source = self._socket.recvmsg(READ_SIZE, _CONTROL_SIZE)
            except BlockingIOError:
                break
            except OSError as error:
                self._failed(error)
                continue
            size = segment_size(control, len(data))
            if self._tells_local:
                source += self._from(control)
            if size >= len(data):
                count += 1
                self._received(data, source)
            else:
                count += len(data) // size
                for start in range(0, len(data), size):
                    self._received(data[start : start + size], source)
        if self._done is not None:
            self._done()
        return None
