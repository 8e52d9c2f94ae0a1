"""A UDP socket that takes and sends many packets in one system call (Linux: UDP_GRO, UDP_SEGMENT).

asyncio's own transport makes one system call and one callback for each packet. This one reads what has come in one go,
tells packets of DTLS from others (RFC 7983), and hands on those of one sender together. It never waits: what a full
socket does not take is kept until there is room, up to a bound, and dropped beyond it, as any router does.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from typing import Any, Protocol

from rtunnel.relay.udp.segments import (
    ROOM,
    SMALL,
    knows_segments,
    let_fragment,
    receive_together,
    segment_control,
    segment_size,
)

#: The size of the kernel's buffer in each direction, in bytes.
SOCKET_BUFFER = 1024 * 1024
#: About how many packets are taken before other sockets have their turn.
MAX_PACKETS = 128
#: How many bytes are kept while the kernel takes none.
MAX_KEPT = 256 * 1024

#: What the first byte of a DTLS record may be.
_DTLS = bytes(range(20, 64))
#: One for all sockets: what it holds is used up before another packet is read.
_buffer = bytearray(65_536)
_buffers, _view = [_buffer], memoryview(_buffer)


class IPort(Protocol):
    """What uses a socket."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the socket is closed."""

    def error_received(self, exc: Exception) -> None:
        """Take note that the system refuses to send or receive."""

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """Take a packet that may be of any protocol."""

    def records_received(self, data: memoryview, segment: int, addr: tuple[Any, ...]) -> None:
        """Take packets of DTLS from one sender. The memory is good only during the call.

        :param segment: the size of each in bytes; the last may be shorter.
        """

    def all_received(self) -> None:
        """Deal with what was taken: there is no more for now."""


class ITakesRecords(Protocol):
    """What reads DTLS records once the handshake is over."""

    def take(self, data: memoryview, segment: int) -> None:
        """Take packets of *segment* bytes each; the last may be shorter. The memory is good only during the call."""

    def deliver(self) -> None:
        """Deal with what was taken: there is no more for now."""


class UdpTransport(asyncio.DatagramTransport):
    """A socket in asyncio's loop.

    :param handle: bound, and not connected. This closes it.
    """

    def __init__(self, handle: socket.socket, port: IPort) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._socket = handle
        self._port = port
        self._is_closing = False
        self._fragments = True
        let_fragment(handle, True)
        self._waiting: deque[tuple[bytes, int, tuple[Any, ...]]] = deque()
        self._kept = 0
        handle.setblocking(False)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        #: Whether the system can send many at once, and whether this is tried.
        self._knows_segments = self._segments = knows_segments(handle)
        receive_together(handle)
        port.connection_made(self)
        self._loop.add_reader(handle, self._readable)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return the socket's own address as ``sockname``, and the socket as ``socket``."""
        if name == "sockname":
            return self._socket.getsockname()
        return self._socket if name == "socket" else default

    # Receiving

    def _readable(self) -> None:
        port, count = self._port, 0
        while count < MAX_PACKETS and not self._is_closing:
            try:
                size, ancillary, _, addr = self._socket.recvmsg_into(_buffers, ROOM)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                port.error_received(error)
                break
            # The kernel tells the size of each packet where there are several.
            segment = segment_size(ancillary, size) if ancillary else size
            if size == 0:
                count += 1
            elif not _buffer[0:size:segment].strip(_DTLS):
                count += -(-size // segment)
                port.records_received(_view[:size], segment, addr)
            else:
                for start in range(0, size, segment):
                    count += 1
                    port.datagram_received(bytes(_view[start : min(start + segment, size)]), addr)
        port.all_received()

    # Sending

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one packet."""
        if not self._is_closing:
            self._send(bytes(data), len(data), addr)

    def send_batch(self, data: bytes, segment: int, addr: tuple[Any, ...], *, fragments: bool = False) -> bool:
        """Send packets that are not fragmented on the way.

        :param data: at most :data:`~rtunnel.relay.udp.segments.MAX_SEGMENTS` packets and
            :data:`~rtunnel.relay.udp.segments.MAX_BYTES` bytes, or one larger packet.
        :param segment: the size of each in bytes; the last may be shorter.
        :param fragments: whether IP may fragment them after all.
        :returns: whether all were small enough for the first link. Larger ones were dropped.
        """
        if self._is_closing:
            return True
        if fragments is not self._fragments and segment > SMALL:
            self._fragments = fragments
            let_fragment(self._socket, fragments)
        return self._send(data, segment, addr)

    def _send(self, data: bytes, segment: int, addr: tuple[Any, ...]) -> bool:
        if self._waiting:
            self._keep(data, segment, addr)
            return True
        try:
            if len(data) <= segment:
                self._socket.sendto(data, addr)
                return True
            if self._segments:
                self._socket.sendmsg((data,), (segment_control(segment),), 0, addr)
                return True
        except (BlockingIOError, InterruptedError):
            self._keep(data, segment, addr)
            return True
        except OSError as error:
            if len(data) <= segment:
                # Had it been among many, that would not have been the reason.
                self._segments = self._knows_segments
                if error.errno == errno.EMSGSIZE:
                    return False
                self._port.error_received(error)
                return True
            # Errors do not tell the reason. If each is taken by itself, the device or the kernel cannot do it.
            self._segments = False
        return self._send_each(data, segment, addr)

    def _send_each(self, data: bytes, segment: int, addr: tuple[Any, ...]) -> bool:
        fits = True
        for start in range(0, len(data), segment):
            one = data[start : start + segment]
            # Where one is too large, all of its size are.
            if fits or len(one) < segment:
                fits = self._send(one, len(one), addr) and fits
        return fits

    def _keep(self, data: bytes, segment: int, addr: tuple[Any, ...]) -> None:
        if self._kept + len(data) > MAX_KEPT or self._is_closing:
            return
        if not self._waiting:
            self._loop.add_writer(self._socket, self._writable)
        self._waiting.append((data, segment, addr))
        self._kept += len(data)

    def _writable(self) -> None:
        waiting, self._waiting, self._kept = self._waiting, deque(), 0
        self._loop.remove_writer(self._socket)
        for packets in waiting:
            self._send(*packets)

    # Closing

    def is_closing(self) -> bool:
        """Return whether the socket is closed, or about to be."""
        return self._is_closing

    def close(self) -> None:
        """Close the socket; what it has not taken is dropped."""
        if self._is_closing:
            return
        self._is_closing = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._waiting.clear()
        self._loop.call_soon(self._closed)

    def abort(self) -> None:
        """Close the socket."""
        self.close()

    def _closed(self) -> None:
        self._socket.close()
        self._port.connection_lost(None)
        # No reference cycle.
        del self._port


def bind(address: str, port: IPort) -> UdpTransport:
    """Bind a socket to a free port of an IP address of this machine.

    :raises OSError: it cannot be bound.
    """
    handle = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        handle.bind((address, 0))
        return UdpTransport(handle, port)
    except OSError:
        handle.close()
        raise
