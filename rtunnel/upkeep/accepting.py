"""When accept() fails for want of descriptors or memory, stop reading for 100 ms instead of spinning.

Twisted logs that it could not accept (:mod:`rtunnel.options.plugins.newcomers` makes few lines of it) and returns. The
socket is still ready, so the reactor would try again as fast as it can. Where this process itself has no descriptor
left, Twisted closes the waiting connections with one that it keeps in reserve, and there is nothing to do here.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet import tcp

#: What ``accept`` says when the whole system has no file, no memory or no buffer left.
SYSTEM_IS_FULL = (errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
#: Seconds without reading.
REST = 0.1


class _Listening:
    """Stands for the socket of a port."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self._socket = port.socket

    def accept(self) -> Any:
        """Accept as a socket does; when the system is full, stop reading for a while."""
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
    """Apply this to *port*, which listens, if it is one of Twisted's."""
    if isinstance(port, tcp.Port):
        port.socket = _Listening(port)
