"""What Twisted's listening ports lack: log lines that do not fill the disk and a pause when ``accept()`` fails, and a
way to refuse connections for a while.

If this process has no file descriptor left (EMFILE), Twisted closes the waiting connections with a descriptor that it
reserves for that, and logs three lines for each. :class:`AcceptErrorObserver` reduces them to one line a minute.

If the whole system has no file or memory left, Twisted logs that and returns. The socket is still readable, so the
reactor would call ``accept()`` again at once: :func:`pause_when_full` lets the port wait.

A port that :func:`refuse_connections` closes stays ours: nobody else can have it, and no privileges are needed to open
it again. The system refuses whoever connects, as it does where nothing listens.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from typing import Any

from twisted.internet import tcp
from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from zope.interface import implementer

#: What ``accept()`` reports when the whole system has no file, memory or buffer left.
SYSTEM_IS_FULL = (errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)
#: Seconds for which a port then stops reading.
PAUSE = 0.1

#: How the log lines of Twisted's TCP and UNIX ports begin.
OUT_OF_DESCRIPTORS = ("EMFILE", "Re-reserving EMFILE")
CLOSED = "EMFILE recovery: Closed"
NOT_ACCEPTED = "Could not accept new connection"
#: Seconds between two lines with the same reason.
LINE_EVERY = 60.0


class _ListeningSocket:
    """The socket of a port. If its ``accept`` fails because the system is full, the port pauses.

    :ivar refuses: see :func:`refuse_connections`. The port may be in the middle of accepting then.
    """

    def __init__(self, port: Any) -> None:
        self.refuses = False
        self._port = port
        self._socket = port.socket

    def accept(self) -> Any:
        """See :meth:`socket.socket.accept`."""
        if self.refuses:
            raise BlockingIOError(errno.EAGAIN, "the port refuses connections")
        try:
            return self._socket.accept()
        except OSError as error:
            if error.errno in SYSTEM_IS_FULL:
                self._port.stopReading()
                self._port.reactor.callLater(PAUSE, self._go_on)
            raise

    def _go_on(self) -> None:
        if self._port.connected and not self._port.disconnecting and not self.refuses:
            self._port.startReading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def pause_when_full(port: Any) -> None:
    """When ``accept()`` fails for want of files or memory, let *port* stop reading for :data:`PAUSE` instead of
    spinning.

    Ports that are not Twisted's own are left as they are.
    """
    if isinstance(port, tcp.Port):
        port.socket = _ListeningSocket(port)


def refuse_connections(port: Any) -> bool:
    """Let the system refuse connections to *port*, and keep the port. Those that were accepted continue.

    Only after :func:`pause_when_full`.

    Return False, with the port as it was, where that is not possible: on other systems than Linux, for a socket that
    systemd has too, and for ports that are not Twisted's own TCP ports.
    """
    if sys.platform != "linux" or type(port) is not tcp.Port or port.port is None:
        return False
    sock: Any = port.socket
    address = sock.getsockname()
    sock.refuses = True
    port.stopReading()
    # To Linux this is the opposite of listen().
    sock.shutdown(socket.SHUT_RDWR)
    with suppress(OSError):
        sock.bind(address)  # a port that the system chose is given back; any other is still ours, and this fails
    # With it, another socket that has it too could listen here.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    return True


def refuses_already(port: Any) -> bool:
    """Return whether the system refuses connections to *port*: a predecessor has closed it in this way."""
    return type(port) is tcp.Port and not port.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def step_aside(port: Any) -> bool:
    """Let another socket listen at an address that *port* has too, such as all addresses with its number.

    Connections that the system has accepted are taken before; others are refused. Only after :func:`pause_when_full`.
    :func:`step_back` undoes it. Return False where that is not possible.
    """
    if sys.platform != "linux" or type(port) is not tcp.Port or port.port is None:
        return False
    sock: Any = port.socket
    if sock.refuses:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return True
    port.doRead()
    sock.refuses = True
    port.stopReading()
    sock.shutdown(socket.SHUT_RDWR)
    return True


def step_back(port: Any, *, accepts: bool) -> None:
    """Undo :func:`step_aside`.

    :param accepts: whether *port* accepted connections before.
    :raises OSError: the system does not let us listen again.
    """
    if accepts:
        accept_connections(port)
    else:
        port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def accept_connections(port: Any) -> None:
    """Undo :func:`refuse_connections`.

    :raises OSError: the system does not let us listen again.
    """
    # Connections from before still have the port.
    port.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    port.socket.listen(port.backlog)
    port.socket.refuses = False
    port.startReading()


@implementer(ILogObserver)
class AcceptErrorObserver:
    """Replaces the log lines of Twisted's ports about failed ``accept()`` calls, and passes on everything else.

    :param target: receives the other events, and for each reason a line every :data:`LINE_EVERY`.
    """

    def __init__(self, target: ILogObserver) -> None:
        self._target = target
        self._log = Logger(observer=target)
        self._closed = 0
        self._logged_at: dict[str, float] = {}

    def __call__(self, event: LogEvent) -> None:
        """Take an event."""
        text = event.get("log_format") or ""
        if not event.get("log_namespace", "").startswith("twisted.internet."):
            self._target(event)
        elif text.startswith(OUT_OF_DESCRIPTORS):
            self._closed += text.startswith(CLOSED)
            if self._is_due("EMFILE", event):
                self._log.warn(
                    "no file descriptor is left: new connections are closed until there are some again{count}; "
                    "allow more with LimitNOFILE= or ulimit -n",
                    count=f" ({self._closed} more since the last such line)" if self._closed else "",
                )
                self._closed = 0
        elif not text.startswith(NOT_ACCEPTED):
            self._target(event)
        elif self._is_due(reason := formatEvent(event), event):
            self._log.warn("{reason}", reason=reason)

    def _is_due(self, reason: str, event: LogEvent) -> bool:
        now = event.get("log_time") or 0.0
        if abs(now - self._logged_at.get(reason, -LINE_EVERY)) < LINE_EVERY:
            return False
        self._logged_at[reason] = now
        return True
