"""The last warnings and errors of the process, for whoever asks what is wrong."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, globalLogPublisher
from zope.interface import implementer

LEVELS = ("warn", "error", "critical")
#: How many are kept.
MOST = 50
#: The longest text of one, in characters.
MOST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Warned:
    """A line of the log.

    :ivar at: when, in seconds since 1970.
    :ivar level: ``warn``, ``error`` or ``critical``.
    """

    at: float
    level: str
    text: str


@implementer(ILogObserver)
class Recent:
    """Listens to the log of the process while it is in use.

    :ivar lines: the last lines, the oldest first.
    :ivar counts: how many there were, by level.
    """

    def __init__(self) -> None:
        self.lines: deque[Warned] = deque(maxlen=MOST)
        self.counts = Counter(dict.fromkeys(LEVELS, 0))

    def start(self) -> None:
        """Listen."""
        globalLogPublisher.addObserver(self)

    def stop(self) -> None:
        """Listen no more."""
        globalLogPublisher.removeObserver(self)

    def __call__(self, event: LogEvent) -> None:
        """Take an event of the log."""
        level = event.get("log_level")
        if level is None or level < LogLevel.warn or not event.get("log_namespace", "").startswith("rtunnel."):
            return
        self.counts[level.name] += 1
        text = formatEvent(event)
        if len(text) > MOST_TEXT:
            text = f"{text[:MOST_TEXT]}..."
        self.lines.append(Warned(event.get("log_time", time.time()), level.name, text))
