"""The pid file of ``twistd``, looked at before ``twistd`` does: its own answers are a traceback, or no help.

Whoever can write the pid file decides whom a script kills that reads it; so not everybody may.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from twisted.logger import Logger

from rtunnel.errors import ConfigError
from rtunnel.trusted_files import open_to_read, read_all

_OTHERWISE = "name another with twistd --pidfile=FILE, or have none with --pidfile="

#: Bytes of a pid file that make sense.
_MAX_SIZE = 64

_log = Logger()


def close_to_others(twistd: MutableMapping[str, Any]) -> None:
    """Let not everybody write the files that ``twistd`` makes, whatever the umask.

    :param twistd: the options of ``twistd``.
    """
    os.umask(os.umask(0o077) | 0o002)
    if isinstance(twistd.get("umask"), int):
        twistd["umask"] |= 0o002


def check_pid_file(name: str) -> None:
    """Check that the pid file can be written, and is not that of another process.

    A killed container leaves its file, and the next one has the same process IDs. A file that names this very process
    is therefore removed.

    :param name: the path as given to ``twistd``; empty: there is no such file.
    :raises ConfigError: it cannot be used; the message says what to do.
    """
    if not name:
        return
    path = Path(name).absolute()
    try:
        written = _read(path)
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise ConfigError(f"there is no directory for the pid file {path}; make it, or {_OTHERWISE}") from None
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise ConfigError(f"the pid file {path} cannot be written in that directory; {_OTHERWISE}") from None
        return
    except OSError as error:
        raise ConfigError(f"the pid file {path} cannot be read ({error.strerror}); {_OTHERWISE}") from None
    if not written.strip().isdecimal():
        raise ConfigError(f"the pid file {path} has no process ID; remove it")
    process = int(written)
    if process == os.getpid():
        path.unlink()
        _log.info("removed the pid file {path}, which a killed process had left", path=path)
        return
    program = _program(process)
    if "twistd" in program:
        raise ConfigError(f"another twistd (process {process}) has the pid file {path}; stop it, or {_OTHERWISE}")
    if program:
        raise ConfigError(
            f"the pid file {path} names process {process}, which is not twistd but '{program}': a killed process has "
            f"left it; remove it, or {_OTHERWISE}"
        )


def _read(path: Path) -> str:
    descriptor = open_to_read(path)
    try:
        return read_all(descriptor, _MAX_SIZE).decode(errors="replace")
    finally:
        os.close(descriptor)


def _program(process: int) -> str:
    """Return the command line of a process; empty if there is none, or the system does not say."""
    try:
        line = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return ""
    return " ".join(line.decode(errors="replace").replace("\0", " ").split())[:80]
