"""Files that are read again when they change.

A pipe, such as ``<(command)`` of a shell, can be read only once, and could hold up everybody. So there is none here.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from rtunnel.errors import ConfigError

T = TypeVar("T")

#: The longest text of an error that nobody has expected, in characters.
MAX_TEXT = 1000


class WatchedFiles(Generic[T]):
    """The parsed content of some files. If they become unusable, the last usable version stays in use.

    Nothing runs by itself: call :meth:`refresh` regularly.

    :param paths: the files. A missing one counts as changed once it appears.
    :param read: reads all of them, and raises :exc:`ConfigError` if they cannot be used. Whatever else it raises, as
        libraries do for files that they do not expect, becomes one.
    :raises ConfigError: see *read*.
    :ivar now: what *read* last returned.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._paths = paths
        self._parse = read
        # Several files, such as a key and its certificate, cannot be replaced at the same moment. Between the two
        # writes they do not fit together, so complain only if the next look finds the same.
        self._patience = min(len(paths), 2)
        self._failures = 0
        self._has_raised = False
        self._states = self._look()
        self.now = self._read()

    def refresh(self) -> bool:
        """Read the files again if they have changed, or could not be used the last time.

        :returns: whether :attr:`now` differs from before, or is that of the files again after an error was raised.
        :raises ConfigError: they cannot be used. It is raised once for each change of the files.
        """
        states = self._look()
        if states == self._states:
            if not self._failures:
                return False
        else:
            self._states, self._failures = states, 0
        before = self.now
        try:
            self.now = self._read()
        except ConfigError:
            self._failures += 1
            if self._failures == self._patience:
                self._has_raised = True
                raise
            return False
        is_mended, self._has_raised, self._failures = self._has_raised, False, 0
        return is_mended or self.now != before

    def _read(self) -> T:
        for path in self._paths:
            if _is_pipe(path):
                raise ConfigError(f"{path} is a pipe, which cannot be read again later; put a file in its place")
        try:
            return self._parse()
        except ConfigError:
            raise
        except Exception as error:
            files = ", ".join(map(str, self._paths))
            raise ConfigError(f"one of {files} cannot be used: {error!r}"[:MAX_TEXT]) from error

    def _look(self) -> list[object]:
        return [_state_of(path) for path in self._paths]


def _is_pipe(path: Path) -> bool:
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except OSError:
        return False


def _state_of(path: Path) -> object:
    """Return a value that differs when a file has changed, was replaced, appeared or disappeared."""
    try:
        status = path.stat()
    except OSError as error:
        return error.errno
    # Who may write it decides whether it is used.
    return (
        status.st_mtime_ns,
        status.st_size,
        status.st_ino,
        status.st_dev,
        status.st_mode,
        status.st_uid,
    )
