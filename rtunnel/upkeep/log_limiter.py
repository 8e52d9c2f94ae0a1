"""A rate limit on log lines that strangers can cause, so that they cannot fill the disk."""

from __future__ import annotations

from collections import Counter

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger, formatEvent

#: The length of a period, in seconds.
PERIOD = 10.0


class LogLimiter:
    """Logs the first lines of each format, and counts the rest.

    :param most: lines of one format that are logged in each :data:`PERIOD`.
    """

    def __init__(self, log: Logger, clock: IReactorTime, most: int = 20) -> None:
        self._log = log
        self._clock = clock
        self._most = most
        self._since = clock.seconds()
        self._counts: Counter[str] = Counter()
        # The fields of the last line of each format that was left out.
        self._last: dict[str, dict[str, object]] = {}

    def warn(self, format: str, **fields: object) -> None:
        """Log a warning, or count it."""
        if self._is_due(format, fields):
            self._log.warn(format, **fields)

    def info(self, format: str, **fields: object) -> None:
        """Log a line of level info, or count it."""
        if self._is_due(format, fields):
            self._log.info(format, **fields)

    def _is_due(self, format: str, fields: dict[str, object]) -> bool:
        self.tick()
        self._counts[format] += 1
        if self._counts[format] <= self._most:
            return True
        self._last[format] = fields
        return False

    def tick(self) -> None:
        """If the period is over, log how many lines were left out, and begin a new one. Call this regularly."""
        now = self._clock.seconds()
        if now - self._since < PERIOD:
            return
        for format, count in self._counts.items():
            if count > self._most:
                self._log.warn(
                    "{count} more times in {seconds:.0f} s, the last one: {what}",
                    count=count - self._most,
                    seconds=now - self._since,
                    what=formatEvent({"log_format": format, **self._last[format]}),
                )
        self._since = now
        self._counts.clear()
        self._last.clear()
