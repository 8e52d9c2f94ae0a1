"""Local sockets whose bytes are measured, on both tunnels."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from rtunnel.relay.last_bytes import connection_of
from rtunnel.relay.socket_end import SocketEnd
from rtunnel.shaping.shaper import Lane


class IMeter(Protocol):
    """Measures what passes of one connection.

    :ivar up: from the socket.
    :ivar down: to the socket.
    :ivar piece: how many bytes are to pass at a time.
    """

    up: Lane
    down: Lane
    piece: int

    def attach(self, go_up: Callable[[], bool], go_down: Callable[[], bool], abort: Callable[[], object]) -> None:
        """Measure from now on.

        :param go_up: see :attr:`Lane.go`.
        :param abort: ends the connection.
        """

    def close(self) -> None:
        """Let go: the connection is over. May be called twice."""


class MeteredEnd(SocketEnd):
    """A :class:`SocketEnd` whose bytes are measured: a visitor's, or that of a service, which may still be dialled.

    :ivar meter: measures them.
    """

    meter: IMeter
    _is_socket_full = False

    def limit(self, meter: IMeter) -> None:
        """Measure by this from now on, perhaps instead of by another."""
        before: IMeter | None = self.__dict__.get("meter")
        self.meter = meter
        meter.attach(self._go_up, self._go_down, self.abort)
        if self.transport is not None:
            self._read_pieces()
        if not meter.down.may_pass():
            self._full = True
        if before is not None:
            before.close()
            # It may have stopped what may pass now.
            if self._connected and not meter.up.is_waiting:
                self._go_up()
            if self._connected and not meter.down.is_waiting:
                self._go_down()

    def _read_pieces(self) -> None:
        connection = connection_of(self.transport)
        if connection is not None and connection.connected:
            connection.bufferSize = min(self.meter.piece, connection.bufferSize)
        if not self.meter.up.may_pass():
            self.transport.pauseProducing()

    def connectionMade(self) -> None:
        """See :class:`SocketEnd`."""
        super().connectionMade()
        if self._connected:
            self._read_pieces()

    def take_socket(self) -> socket.socket:
        """See :class:`SocketEnd`. The meter is somebody else's from now on."""
        sock = super().take_socket()
        self.meter.close()
        return sock

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`SocketEnd`."""
        self.meter.close()
        super().connectionLost(reason)

    def was_reset(self, code: str, message: str) -> None:
        """See :class:`SocketEnd`. What has come before goes out at once."""
        self.meter.close()
        self._full = self._is_socket_full
        super().was_reset(code, message)

    # From the visitor

    def dataReceived(self, data: bytes) -> None:
        """See :class:`SocketEnd`."""
        super().dataReceived(data)
        if not self.meter.up.passed(len(data)) and self._connected and self._read_open:
            self.transport.pauseProducing()

    def resume(self) -> None:
        """See :class:`SocketEnd`."""
        if self.meter.up.is_waiting:
            self._paused = False
        else:
            super().resume()

    def _go_up(self) -> bool:
        if not self._paused:
            super().resume()
        return self._paused

    # To the visitor

    def data_received(self, data: bytes) -> None:
        """See :class:`SocketEnd`."""
        for start in range(0, len(data), self.meter.piece):
            super().data_received(data[start : start + self.meter.piece])

    def _write(self, data: bytes) -> None:
        super()._write(data)
        if not self.meter.down.passed(len(data)):
            self._full = True

    def socket_is_full(self) -> None:
        """See :class:`SocketEnd`."""
        self._is_socket_full = True
        super().socket_is_full()

    def socket_has_room(self) -> None:
        """See :class:`SocketEnd`."""
        self._is_socket_full = False
        if not self.meter.down.is_waiting:
            super().socket_has_room()

    def _go_down(self) -> bool:
        if not self._is_socket_full:
            super().socket_has_room()
        return True


class MeteredPromptEnd(MeteredEnd):
    """The same of a :class:`~rtunnel.relay.socket_end.PromptEnd`."""

    sends_at_once = True


def limit_end(end: SocketEnd, meter: IMeter) -> None:
    """Measure the bytes of a connection from now on, also of one that exists already."""
    end.__class__ = MeteredPromptEnd if end.sends_at_once else MeteredEnd
    assert isinstance(end, MeteredEnd)
    end.limit(meter)
