"""The access log: a line of JSON about each visitor who is gone (docs/control.rst, "The access log")."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from twisted.logger import Logger

#: Seconds between two log lines that say that nothing can be written.
SAY_EVERY = 60.0


class IFile(Protocol):
    """Where the lines go."""

    def write(self, data: str) -> None:
        """Write a line.

        :raises OSError: that cannot be, for example because the disk is full.
        """

    def close(self) -> None: ...


class AccessLog:
    """Writes lines. Nothing that goes wrong with that disturbs a visitor.

    :param file: where they go.
    :param seconds: returns the time, for the log.
    """

    log = Logger()

    def __init__(self, file: IFile, seconds: Any) -> None:
        self._file = file
        self._seconds = seconds
        self._lost = 0
        self._say_at = 0.0

    def write(self, at: float, line: Mapping[str, object]) -> None:
        """Write a line.

        :param at: the time, in seconds since 1970.
        """
        when = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            self._file.write(json.dumps({"time": when, **line}) + "\n")
        except (OSError, ValueError) as error:
            self._lost += 1
            if self._seconds() >= self._say_at:
                self._say_at = self._seconds() + SAY_EVERY
                self.log.warn(
                    "the access log cannot be written: {why}; lines lost so far: {count}",
                    why=getattr(error, "strerror", None) or str(error),
                    count=self._lost,
                )

    def close(self) -> None:
        """Close the file."""
        self._file.close()
