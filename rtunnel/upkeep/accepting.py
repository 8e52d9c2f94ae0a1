"""What Twisted's listening ports lack when ``accept()`` fails: a pause, and log lines that do not fill the disk.

If this process has no file descriptor left (EMFILE), Twisted closes the waiting connections by means of a descriptor
that it keeps for that, and logs three lines for each. :class:`AcceptErrorObserver` makes one line a minute of them.

If the whole system has no file or memory left, Twisted logs that and returns. The socket is still readable, so the
reactor would call ``accept()`` again at once: :func:`pause_when_full` lets the port wait.
"""

from __future__ import annotations

import errno
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
    """The socket of a port, whose ``accept`` also makes the port rest."""

    def __init__(self, port: Any) -> None:
        self._port = port
        self._socket = port.socket

    def accept(self) -> Any:
        """See :meth:`socket.socket.accept`."""
        try:
            return self._socket.accept()
        except OSError as error:
            if error.errno in SYSTEM_IS_FULL:
                self._port.stopReading()
                self._port.reactor.callLater(PAUSE, self._go_on)
            raise

    def _go_on(self) -> None:
        if self._port.connected and not self._port.disconnecting:
            self._port.startReading()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def pause_when_full(port: Any) -> None:
    """When ``accept()`` fails for want of files or memory, let *port* stop reading for :data:`PAUSE`, not spin.

    Ports that are not Twisted's own are left as they are.
    """
    if isinstance(port, tcp.Port):
        port.socket = _ListeningSocket(port)


@implementer(ILogObserver)
class AcceptErrorObserver:
    """Replaces what Twisted's ports log about connections that they cannot accept, and passes on everything else.

    :param target: receives the other events, and a line every :data:`LINE_EVERY` for each reason.
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
                    "no file descriptor is left: newcomers are closed until there are some again{count}; "
                    "allow more with LimitNOFILE= or ulimit -n",
                    count=f" ({self._closed} more since this was said)" if self._closed else "",
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
