"""Where the control sockets of running processes are.

Each process has one, ``NAME-PID.sock``, such as ``rtunnel-server-4711.sock``, in a directory of its user:

- ``$RUNTIME_DIRECTORY``, which systemd sets (RuntimeDirectory=),
- for root ``/run/rtunnel``,
- ``$XDG_RUNTIME_DIR/rtunnel``, which a login sets,
- else ``run`` in the directory of :func:`~rtunnel.acme.settings.default_state_dir`.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from rtunnel.acme.settings import default_state_dir
from rtunnel.errors import ConfigError

#: The longest path of a UNIX socket, in bytes, where it is shortest among the systems of today.
MOST_BYTES = 103
RUN = Path("/run")

_NAME = re.compile(r"([a-z-]{1,32})-([0-9]{1,10})\.sock")


def control_directory(environ: Mapping[str, str]) -> Path:
    """Return the directory for the socket of this process. It need not exist."""
    named = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return RUN / "rtunnel"
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    if runtime.is_absolute():
        return runtime / "rtunnel"
    return default_state_dir(environ) / "run"


def prepare(directory: Path, service: str) -> Path:
    """Make the directory, remove sockets of processes that are gone, and return the path for our own.

    :raises ConfigError: the directory cannot be used; the message says why.
    """
    path = directory / f"{service}-{os.getpid()}.sock"
    if len(os.fsencode(path)) > MOST_BYTES:
        raise ConfigError(f"the path {path} is too long for a UNIX socket; set RUNTIME_DIRECTORY to a shorter one")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise ConfigError(f"{directory} cannot be made: {error.strerror}") from error
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{directory} is not ours alone; make it with 'install -d -m 700 {directory}'")
    for each, _, pid in _sockets_in(directory):
        if pid == os.getpid() or not _is_running(pid):
            with suppress(OSError):
                each.unlink()
    return path


def running(environ: Mapping[str, str]) -> Iterator[tuple[Path, str, int]]:
    """Yield the control sockets that this user may have a look at: path, name of the service, process id.

    Those in ``$RUNTIME_DIRECTORY`` if that is set; else the user's, and those of the system's units.
    """
    is_named = bool(environ.get("RUNTIME_DIRECTORY"))
    systems = sorted([*RUN.glob("rtunnel*"), *RUN.glob("rtc-*")]) if RUN.is_dir() and not is_named else []
    for directory in dict.fromkeys([control_directory(environ), *systems]):
        with suppress(OSError):
            yield from (each for each in _sockets_in(directory) if _is_running(each[2]))


def _sockets_in(directory: Path) -> Iterator[tuple[Path, str, int]]:
    for path in sorted(directory.iterdir()):
        match = _NAME.fullmatch(path.name)
        if match is not None and path.is_socket():
            yield path, match[1], int(match[2])


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except OverflowError:
        return False
    return True
