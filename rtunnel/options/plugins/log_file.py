"""The log file: what is kept of it is bounded, and SIGUSR1 works for ``twistd``'s users and for logrotate.

The log names clients and their addresses, so a new file can be read by its owner and group only. A file that exists
keeps its permissions, which logrotate or the operator gave it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.logger import Logger
from twisted.python.logfile import LogFile

#: Bytes after which the file is rotated, and how many old files are kept.
ROTATE_AT = 1_000_000
MOST_OLD = 20
#: Permissions of a new file, less what the umask takes away when the process starts; a daemon has another one later.
MODE = 0o640


class BoundedLogFile(LogFile):
    """A log file that is rotated at :data:`ROTATE_AT`. Twisted's own keeps every old file."""

    log = Logger()

    def __init__(self, name: str, directory: str) -> None:
        umask = os.umask(0o077)
        os.umask(umask)
        self._mode = MODE & ~umask
        super().__init__(name, directory, rotateLength=ROTATE_AT, maxRotatedFiles=MOST_OLD)

    def renew(self) -> None:
        """Open a new file if another program has renamed this one, as logrotate does; otherwise rotate it."""
        if not self._is_renamed():
            self.rotate()
            return
        before = self._file
        try:
            self._openFile()
        except OSError as error:
            self.log.warn(
                "cannot open the log file {path}: {why}; the renamed file stays in use",
                path=self.path,
                why=error.strerror,
            )
        else:
            before.close()

    def _openFile(self) -> None:
        # Not by Twisted's parameter defaultMode, which also changes files that exist, such as /dev/null.
        with suppress(FileExistsError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, self._mode)
            try:
                if hasattr(os, "fchmod"):
                    os.fchmod(descriptor, self._mode)
            finally:
                os.close(descriptor)
        super()._openFile()

    def _is_renamed(self) -> bool:
        try:
            return not os.path.samestat(Path(self.path).stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True


def open_log_file(path: str) -> BoundedLogFile:
    """Open a log file, and let SIGUSR1 renew it.

    :raises SystemExit: it cannot be opened; the message says why.
    """
    build: Any = BoundedLogFile.fromFullPath
    try:
        file: BoundedLogFile = build(path)
    except OSError as error:
        sys.exit(f"cannot open the log file {path}: {error.strerror}; name another with twistd --logfile")
    on_sigusr1(file.renew)
    return file


def ignore_sigusr1() -> None:
    """Let SIGUSR1 be a line in the log, which goes to standard output or to syslog. By default it kills the process."""
    on_sigusr1(lambda: BoundedLogFile.log.info("SIGUSR1: ignored; the log does not go to a file"))


def on_sigusr1(call: Callable[[], object]) -> None:
    """Call *call* on SIGUSR1, in the reactor's thread, unless that signal already has a handler."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None or signal.getsignal(number) not in (signal.SIG_DFL, None):
        return

    def call_soon(number: int, frame: FrameType | None) -> None:
        from twisted.internet import reactor

        reactor.callFromThread(call)  # type: ignore[attr-defined]

    signal.signal(number, call_soon)
