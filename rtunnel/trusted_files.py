"""Files that decide what this process does: its settings, the rights of clients, its keys.

Such a file is read only if no other user can have written it: it belongs to this process's user or to root, and not
everybody may write it. A group may, as in many checkouts. Devices (``/dev/null``) are exempt, as only root makes them.

Reading never takes for ever: a file has a largest size, and a pipe has a time by which all must have come.
"""

from __future__ import annotations

import errno
import os
import select
import shlex
import stat
import time
from pathlib import Path

from rtunnel.errors import ConfigError

#: The largest file that is read, in bytes. A clients file with 100,000 clients has about 6 MB.
MAX_SIZE = 16 << 20
#: Seconds by which a pipe must have delivered everything. Somebody may have to type a passphrase at its other end.
PATIENCE = 60.0

_PIECE = 1 << 20
# Without the second, opening a named pipe waits for a writer.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)

#: More users whose files are trusted; see :func:`trust`.
_also: set[int] = set()


def trust(user: int) -> None:
    """Trust the files of a user as which this process will run: that of ``twistd --uid``."""
    _also.add(user)


def is_trusted(user: int, *, also_caller: bool = True) -> bool:
    """Return whether files of a user may decide what this process does.

    :param also_caller: whether root trusts who has called ``sudo``, and could have run anything.
    """
    own = os.geteuid()
    if user in (0, own) or user in _also or (also_caller and own == 0 and str(user) == os.environ.get("SUDO_UID")):
        return True
    # In a user namespace without root, what is root's has an owner who does not exist here, such as 65534.
    return user == Path("/").stat().st_uid


def user_name(user: int) -> str:
    """Return the name of a user, or the number if there is no name."""
    try:
        import pwd

        return pwd.getpwuid(user).pw_name
    except (ImportError, KeyError):
        return str(user)


def read_trusted(path: str | Path, most: int = MAX_SIZE) -> bytes:
    """Return the content of a file that no other user can have written.

    :param most: the largest size in bytes.
    :raises ConfigError: another user can have written it; the message says what to do.
    :raises OSError: it cannot be read, is too large, or is a pipe that does not end.
    """
    descriptor = open_to_read(path)
    try:
        check(path, os.fstat(descriptor))
        return read_all(descriptor, most)
    finally:
        os.close(descriptor)


def check(path: str | Path, status: os.stat_result) -> None:
    """See to it that no other user can have written a file.

    :raises ConfigError: another user can; the message says what to do.
    """
    if not hasattr(os, "geteuid") or stat.S_ISCHR(status.st_mode):
        return
    own, quoted = os.geteuid(), shlex.quote(str(path))
    run = "run" if own == 0 else "as root, run"
    if status.st_mode & stat.S_IWOTH:
        run = "run" if own == status.st_uid else run
        raise ConfigError(f"every user of this machine may change {path}; {run}: chmod o-w {quoted}")
    if not is_trusted(status.st_uid):
        owner = user_name(status.st_uid)
        raise ConfigError(
            f"{path} belongs to the user {owner}, who could change what this process does; "
            f"{run}: chown {user_name(own)} {quoted}, or run this as {owner}"
        )


def open_to_read(path: str | Path, dir_fd: int | None = None) -> int:
    """Open a file without waiting for anybody; return the descriptor.

    :param dir_fd: the directory in which *path* is looked for, if it is relative.
    """
    return os.open(path, _READ, dir_fd=dir_fd)


def read_all(descriptor: int, most: int) -> bytes:
    """Return the rest of a file that :func:`open_to_read` has opened.

    :raises OSError: it cannot be read, has more than *most* bytes, or is a pipe that does not end in time.
    """
    status = os.fstat(descriptor)
    too_large = OSError(errno.EFBIG, f"it is larger than {most >> 20} MB" if most >> 20 else "it is too large")
    if stat.S_ISREG(status.st_mode) and status.st_size > most:
        raise too_large
    pieces: list[bytes] = []
    left = most + 1
    deadline = time.monotonic() + PATIENCE
    while left:
        if not stat.S_ISREG(status.st_mode):
            _wait(descriptor, deadline)
        try:
            piece = os.read(descriptor, min(_PIECE, left))
        except BlockingIOError:
            continue
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        left -= len(piece)
    raise too_large


def _wait(descriptor: int, deadline: float) -> None:
    """Wait until there is something to read, or the end."""
    if not hasattr(select, "poll"):
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise OSError(errno.ETIMEDOUT, f"it is a pipe that has not come to its end within {PATIENCE:.0f} seconds")
