"""What is in a directory that is served, as far as visitors may see it.

Visitors name what they want by the names on the way from the directory. Each step is taken from an open descriptor, and
none of them follows a link by itself: what a link means is worked out here, and walked from the beginning again. So
nothing outside is ever opened, whatever others rename or link meanwhile.

Names that begin with a dot are not there. Neither is what is no regular file and no directory: opening a FIFO would
wait, and opening a device may do something.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rtunnel.errors import ConfigError
from rtunnel.reasons import reason_of

#: Links on the way to one file.
MOST_LINKS = 16
#: Entries that a list of a directory has at most.
MOST_ENTRIES = 10_000
#: Entries that are looked at in one go, before others get their turn.
IN_ONE_GO = 200

# Whether there are descriptors of directories; Windows has none.
_CAN = os.open in os.supports_dir_fd and os.scandir in os.supports_fd
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# Where the system can, a directory need not be readable to be passed through.
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
# The second is for the case that a FIFO takes the place of the file after we have looked.
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
#: Errors that mean that there is nothing of this name, as far as visitors are concerned.
# EINVAL: what was a link is none any more. EILSEQ: the file system cannot have such a name.
_NOTHING = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


class NothingThere(Exception):
    """There is no file or directory of that name that visitors may see."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file or a directory.

    :ivar descriptor: of the open file or directory; whoever has this closes it.
    """

    descriptor: int
    status: os.stat_result

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory; else it is a regular file."""
        return stat.S_ISDIR(self.status.st_mode)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a directory.

    :ivar size: in bytes; 0 for a directory.
    :ivar modified: seconds since 1970.
    """

    name: bytes
    is_directory: bool
    size: int
    modified: float


def check_directory(directory: Path) -> None:
    """Check that this process may read a directory that is to be served.

    :raises ConfigError: it may not, or there is no such directory.
    """
    if not _CAN:
        raise ConfigError(f"files:{directory}: this system cannot open files beneath a directory (openat)")
    try:
        here = os.open(directory, _DIRECTORY)
        try:
            os.stat(".", dir_fd=here)
        finally:
            os.close(here)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"files:{directory} cannot be read: {reason_of(error)}; name a directory that this user may read"
        ) from error


def find(root: Path, names: Sequence[bytes]) -> Found:
    """Open a file or a directory.

    :param names: those on the way from *root*, which visitors have sent.
    :raises NothingThere: they may see no such thing.
    :raises OSError: it cannot be opened.
    """
    try:
        return _walk(root, list(names))
    except OSError as error:
        if error.errno in _NOTHING:
            raise NothingThere from error
        raise


def _walk(root: Path, names: list[bytes]) -> Found:
    # Each round ends at a link, except for the last one.
    for _ in range(MOST_LINKS + 1):
        here = os.open(root, _STEP if names else _DIRECTORY)
        try:
            for number, name in enumerate(names):
                there = _step(here, name, is_last=number == len(names) - 1)
                if isinstance(there, bytes):
                    names = [*_beneath(root, names[:number], there), *names[number + 1 :]]
                    break
                os.close(here)
                here = there
            else:
                found = Found(here, os.fstat(here))
                if not (found.is_directory or stat.S_ISREG(found.status.st_mode)):
                    raise NothingThere  # somebody has put it there since we looked
                here = -1
                return found
        finally:
            if here >= 0:
                os.close(here)
    raise NothingThere


def _step(here: int, name: bytes, *, is_last: bool) -> int | bytes:
    """Open what the directory *here* has of that name. Return its descriptor, or where the link of that name leads."""
    if not name or name.startswith(b".") or b"/" in name or b"\0" in name:
        raise NothingThere
    mode = os.stat(name, dir_fd=here, follow_symlinks=False).st_mode
    if stat.S_ISLNK(mode):
        return os.readlink(name, dir_fd=here)
    if stat.S_ISDIR(mode):
        return os.open(name, (_DIRECTORY if is_last else _STEP) | _NO_LINK, dir_fd=here)
    if stat.S_ISREG(mode) and is_last:
        return os.open(name, _FILE | _NO_LINK, dir_fd=here)
    raise NothingThere


def _beneath(root: Path, names: list[bytes], target: bytes) -> list[bytes]:
    """Return the names on the way to the *target* of a link, which is in the directory that *names* lead to."""
    if target.startswith(b"/"):
        target = posixpath.normpath(target)
        for known in (os.fsencode(root), os.path.realpath(os.fsencode(root))):
            if target == known or target.startswith(known.rstrip(b"/") + b"/"):
                target = target[len(known) :]
                break
        else:
            raise NothingThere
        names = []
    names = list(names)
    for name in target.split(b"/"):
        if name == b"..":
            if not names:
                raise NothingThere
            names.pop()
        elif name not in (b"", b"."):
            names.append(name)
    return names


def entries(root: Path, names: Sequence[bytes], descriptor: int) -> Generator[Entry | None]:
    """Yield what visitors may see of a directory, in no order, and None whenever others should get their turn.

    :param names: those on the way from *root* to it.
    :param descriptor: of the open directory.
    """
    with os.scandir(descriptor) as found:
        for number, entry in enumerate(found, 1):
            if number % IN_ONE_GO == 0:
                yield None
            name = os.fsencode(entry.name)
            if name.startswith(b"."):
                continue
            try:
                if entry.is_symlink():
                    there = find(root, [*names, name])
                    there.close()
                    status = there.status
                else:
                    status = entry.stat(follow_symlinks=False)
            except (OSError, NothingThere):
                continue
            if stat.S_ISDIR(status.st_mode):
                yield Entry(name, True, 0, status.st_mtime)
            elif stat.S_ISREG(status.st_mode):
                yield Entry(name, False, status.st_size, status.st_mtime)
