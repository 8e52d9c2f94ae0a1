"""Debug lines for each visitor. To make one that nobody reads would cost as much as to relay the visitor's request."""

from __future__ import annotations

from typing import ClassVar

from twisted.logger import Logger


class DebugLog(Logger):
    """A logger that formats debug lines only if somebody wants them.

    :cvar is_wanted: whether somebody does. Set by whoever sets up the log of the process.
    """

    is_wanted: ClassVar[bool] = True

    def debug(self, format: str | None = None, **kwargs: object) -> None:
        """See :class:`twisted.logger.Logger`."""
        if DebugLog.is_wanted:
            super().debug(format, **kwargs)
