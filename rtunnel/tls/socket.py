"""A TLS connection whose handshake is over, with the methods of a socket.

OpenSSL reads and writes the socket itself. So a relay has no more to do with it than with a plain socket, and an idle
connection holds no buffer.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

from rtunnel.tls.engine import TlsEngine
from rtunnel.tls.openssl import RECORD, Records

#: One read runs at a time, and what it brings is copied out.
_BUFFER = memoryview(bytearray(RECORD))


class TlsSocket(Records):
    """In place of a socket that does not block, with those of its methods that a relay needs.

    That nothing more comes is the other end's goodbye, and ours is :meth:`shutdown`; where TCP ends without, that is an
    error.

    :param sock: all that the engine had for it is sent.
    :param engine: its handshake is over, and what it has received is read. It has no more part in the connection.
    :ivar fileno: the method of *sock*.
    :ivar setsockopt: the method of *sock*.
    """

    __slots__ = ("_engine", "_socket", "fileno", "setsockopt")

    def __init__(self, sock: socket.socket, engine: TlsEngine) -> None:
        assert engine.messages is not None
        super().__init__(engine.connection, sock.fileno(), engine.messages)
        self._socket = sock
        self._engine: TlsEngine | None = engine
        self.fileno = sock.fileno
        self.setsockopt = sock.setsockopt

    def recv(self, _size: int) -> bytes:
        """Read one record, whatever its size; see :meth:`recv_into`."""
        return bytes(_BUFFER[: self.recv_into(_BUFFER)])

    def send(self, data: bytes | memoryview) -> int:
        """See :meth:`Records.send`."""
        self._raise_error()
        return super().send(data)

    def shutdown(self, how: int) -> None:
        """See :meth:`Records.shutdown`."""
        self._raise_error()
        super().shutdown(how)

    def _raise_error(self) -> None:
        """Raise the error of the socket, if it has one: after a failed write, OpenSSL would not read the rest."""
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))

    def cut(self) -> None:
        """End the direction to the other end without a goodbye, which it takes for a reset. Reading goes on."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; the other end is told nothing by this. May be called twice."""
        self._socket.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
            # OpenSSL holds tens of kilobytes, which cannot wait until somebody searches for what is not used any more.
            self.release()

    def leave(self) -> tuple[socket.socket, TlsEngine]:
        """Return socket and engine, for a :class:`~rtunnel.tls.transport.TlsTransport` to use them again."""
        engine, self._engine = self._engine, None
        assert engine is not None
        self.to_memory()
        self.release()
        return self._socket, engine
