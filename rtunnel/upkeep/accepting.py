"""A port to which the system gives no connection, though one waits, rests in place of asking again at once.

Twisted logs that it could not accept (:mod:`rtunnel.options.plugins.newcomers` makes few lines of it) and returns. The
socket is still ready, so the reactor would ask as fast as it can. Where it is this process that has no descriptor left,
Twisted closes those who wait by means of one that it keeps, and there is nothing to do here.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp

#: What ``accept`` says when the whole system has no file, no memory or no buffer left.
SYSTEM_IS_FULL = (errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
#: Seconds of a rest.
REST = 0.1


class _Listening:
    """The socket of a port, in its place."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self._socket = port.socket

    def accept(self) -> Any:
        """As a socket does."""
        try:
            return self._socket.accept()
        except OSError as error:
            if error.errno in SYSTEM_IS_FULL:
                self._port.stopReading()
                self._port.reactor.callLater(REST, self._go_on)
            raise

    def _go_on(self) -> None:
        if self._port.connected and not self._port.disconnecting:
            self._port.startReading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def rest_when_full(port: Any) -> None:
    """Let *port*, which listens, rest so, if it is one of Twisted's."""
    if isinstance(port, tcp.Port):
        port.socket = _Listening(port)
