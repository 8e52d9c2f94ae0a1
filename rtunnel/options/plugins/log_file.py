"""The log file and the access log: what is kept of them is bounded, and SIGUSR1 works for ``twistd``'s users and for
logrotate.

The log names clients and their addresses, so a new file can be read by its owner and group only. A file that exists
keeps its permissions, which logrotate or the operator gave it.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.logfile import LogFile

from rtunnel.errors import StartupError
from rtunnel.traffic.access_log import AccessLog
from rtunnel.traffic.accounts import Accounts

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

#: Bytes after which the file is rotated, and how many old files are kept.
ROTATE_AT = 1_000_000
MOST_OLD = 20
#: The first of them for the access log.
ROTATE_ACCESS_AT = 10_000_000
#: Permissions of a new file, less what the umask takes away when the process starts; a daemon has another one later.
MODE = 0o640


class BoundedLogFile(LogFile):
    """A log file that is rotated. Twisted's own keeps every old file.

    :param rotate_at: the size at which it is, in bytes.
    """

    log = Logger()
    _is_cut = False

    def __init__(self, name: str, directory: str, rotate_at: int = ROTATE_AT) -> None:
        umask = os.umask(0o077)
        os.umask(umask)
        self._mode = MODE & ~umask
        super().__init__(name, directory, rotateLength=rotate_at, maxRotatedFiles=MOST_OLD)

    def write(self, data: str | bytes) -> None:
        """Write a line. One of which only a part has room is lost, and the next one does not continue it.

        :raises OSError: it is lost.
        """
        if self.shouldRotate():
            self.flush()
            self.rotate()
        line = b"\n" * self._is_cut + (data.encode() if isinstance(data, str) else data)
        count = self._file.write(line) or 0
        self.size += count
        self._is_cut = count < len(line)
        if self._is_cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

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
        self._is_cut = False
        if fcntl is not None:
            # While a process takes the place of another, both write to it.
            number = self._file.fileno()
            fcntl.fcntl(number, fcntl.F_SETFL, fcntl.fcntl(number, fcntl.F_GETFL) | os.O_APPEND)

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


class AccessLogFile(Service):
    """Keeps the access log open while the process runs.

    :param path: where it is.
    :param accounts: write it.
    :param seconds: returns the time.
    """

    def __init__(self, path: Path, accounts: Accounts, seconds: Callable[[], float]) -> None:
        self.setName("access log")
        self._path = path
        self._accounts = accounts
        self._seconds = seconds

    def startService(self) -> None:
        """Open it. By now this is the user of ``twistd --uid``.

        :raises StartupError: it cannot be opened; the message says why.
        """
        super().startService()
        try:
            file = BoundedLogFile(self._path.name, str(self._path.parent), ROTATE_ACCESS_AT)
        except (OSError, AssertionError) as error:
            why = error.strerror if isinstance(error, OSError) else f"there is no directory {self._path.parent}"
            text = f"cannot open the access log {self._path}: {why}; name another with --access-log"
            raise StartupError(text) from None
        on_sigusr1(file.renew)
        self._accounts.log = AccessLog(file, self._seconds)

    def stopService(self) -> None:
        """Close it."""
        log, self._accounts.log = self._accounts.log, None
        if log is not None:
            log.close()
        super().stopService()


def ignore_sigusr1() -> None:
    """Let SIGUSR1 be a line in the log, which goes to standard output or to syslog. By default it kills the process."""
    on_sigusr1(lambda: BoundedLogFile.log.info("SIGUSR1: the log does not go to a file"))


class _Calls:
    """A handler of a signal that makes several calls, in the reactor's thread."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        from twisted.internet import reactor

        for call in self.calls:
            reactor.callFromThread(call)  # type: ignore[attr-defined]


def on_sigusr1(call: Callable[[], object]) -> None:
    """Call *call* on SIGUSR1, in the reactor's thread, unless that signal has a handler that is not ours."""
    number = getattr(signal, "SIGUSR1", None)
    if number is None:
        return
    handler = signal.getsignal(number)
    if handler in (signal.SIG_DFL, None):
        handler = _Calls()
        signal.signal(number, handler)
    if isinstance(handler, _Calls):
        handler.calls.append(call)
