"""What passes to the log, and ``rtunnel log-level``, which changes that while the process runs."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel, LogLevelFilterPredicate

from rtunnel.control.actions.perform import only, text
from rtunnel.endpoint_strings import suggestion
from rtunnel.errors import ConfigError
from rtunnel.upkeep.debug_log import DebugLog

LEVELS = ("debug", "info", "warn", "error")


class LogThreshold:
    """The lowest level that is logged.

    :param level: one of :data:`LEVELS`.
    :param in_terminal: whether a person reads the log, and not a file.
    :ivar passes: tells whether an event passes.
    """

    log = Logger()

    def __init__(self, level: str, *, in_terminal: bool = False) -> None:
        self.passes = LogLevelFilterPredicate()
        self._in_terminal = in_terminal
        self.level = level
        self.set(level)

    def set(self, level: str) -> None:
        """Let events of this level and above pass from now on."""
        self.level = level
        DebugLog.is_wanted = level == "debug"
        self.passes.defaultLogLevel = LogLevel.levelWithName(level)
        self.passes.clearLogLevels()
        if level == "info":
            # Twisted's legacy logging knows only errors and other lines; its lines about every port are for debugging.
            self.passes.setLogLevelForNamespace("log_legacy", LogLevel.warn)
            if self._in_terminal:
                self.passes.setLogLevelForNamespace("twisted", LogLevel.warn)

    def change(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Set the ``level`` that is asked for, if there is one, and return the one from now on and the one before.

        :raises ConfigError: there is no such level.
        """
        only(asked, "level")
        before, level = self.level, text(asked, "level")
        if level:
            check_level(level)
            # The line is to be seen at either level.
            if LEVELS.index(level) < LEVELS.index(before):
                self.set(level)
            self.log.info("log level {now} from now on; it was {before}", now=level, before=before)
            self.set(level)
        return {"level": self.level, "before": before}


def check_level(level: str) -> None:
    """Check that there is such a level.

    :raises ConfigError: there is none.
    """
    if level not in LEVELS:
        hint = suggestion(level, LEVELS) or f"; levels are {', '.join(LEVELS)}"
        raise ConfigError(f"'{level}' is no level{hint}")
