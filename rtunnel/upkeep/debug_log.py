"""Debug lines for each visitor. Formatting a line that nobody reads would cost as much as relaying a request."""

from __future__ import annotations

from typing import ClassVar

from twisted.logger import Logger


class DebugLog(Logger):
    """A logger that formats debug lines only if they are wanted.

    :cvar is_wanted: whether debug lines are wanted; set when the log of the process is set up.
    """

    is_wanted: ClassVar[bool] = True

    def debug(self, format: str | None = None, **kwargs: object) -> None:
        """See :class:`twisted.logger.Logger`."""
        if DebugLog.is_wanted:
            super().debug(format, **kwargs)
