"""What Twisted says of connections that it cannot accept, in fewer words.

Without a descriptor left it accepts and closes newcomers, by means of one that it keeps for that, and says so in three
lines for each: a stranger could fill the disk. An operator needs to hear that it happens, why, and how often.
"""

from __future__ import annotations

from twisted.logger import ILogObserver, LogEvent, Logger, formatEvent
from zope.interface import implementer

#: The beginnings of what Twisted's ports say, of TCP and UNIX sockets.
OUT_OF_DESCRIPTORS = ("EMFILE", "Re-reserving EMFILE")
CLOSED = "EMFILE recovery: Closed"
NOT_ACCEPTED = "Could not accept new connection"
#: Seconds between two lines of ours.
SAID_EVERY = 60.0


@implementer(ILogObserver)
class NewcomersObserver:
    """Passes on what it observes, but for this.

    :param target: who hears the rest, and our lines.
    """

    def __init__(self, target: ILogObserver) -> None:
        self._target = target
        self._log = Logger(observer=target)
        self._closed = 0
        self._said_at: dict[str, float] = {}

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

    def _is_due(self, what: str, event: LogEvent) -> bool:
        now = event.get("log_time") or 0.0
        if abs(now - self._said_at.get(what, -SAID_EVERY)) < SAID_EVERY:
            return False
        self._said_at[what] = now
        return True
