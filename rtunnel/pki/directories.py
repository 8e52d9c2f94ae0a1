"""Directories that are opened step by step, so that no other user decides where keys are read or written.

Whoever may rename a directory on the way to ours, or put a link in its place, decides that. So each directory on the
way must belong to this user or to root, and not be open to everybody for writing, unless it has the sticky bit, as
``/tmp`` has: there, others cannot rename what is ours. A link on the way counts only if this user or root has made it.
sshd (``StrictModes``) has the same rule.

What was checked is then used by its descriptor, whatever becomes of its name. Windows has no descriptors of
directories, and no such owners; there the paths are used as they are.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rtunnel.errors import PkiError
from rtunnel.trusted_files import is_trusted, open_to_read, user_name

_MOST_LINKS = 40
#: The permissions of directories that are made on the way, before the umask.
_PARENTS = 0o755
_HAS_DESCRIPTORS = os.open in os.supports_dir_fd
_OPEN = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)
# Where the system can, a directory need not be readable to be passed through.
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class Directory:
    """An open directory.

    :ivar descriptor: for the parameter ``dir_fd``; None where there are none.
    """

    path: Path
    descriptor: int | None

    def at(self, name: str) -> str:
        """Return what to call the file *name* beside ``dir_fd``."""
        return str(self.path / name) if self.descriptor is None else name

    def names(self) -> list[str]:
        """Return the names of all that it holds."""
        if self.descriptor is None:
            return [path.name for path in self.path.iterdir()]
        with self.readable() as descriptor, os.scandir(descriptor) as entries:
            return [entry.name for entry in entries]

    @contextmanager
    def readable(self) -> Iterator[int]:
        """Open the directory itself, to read it or to change who may."""
        descriptor = os.open(self.at("."), _OPEN, dir_fd=self.descriptor)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def read(self, name: str) -> int:
        """Open a file for reading, without waiting for anybody; return the descriptor.

        :raises PkiError: it is a link that another user has made.
        """
        if self.descriptor is not None:
            _check_link(self.path / name, os.stat(name, dir_fd=self.descriptor, follow_symlinks=False))
        return open_to_read(self.at(name), self.descriptor)


@contextmanager
def opened(path: Path, *, is_ours: bool = True) -> Iterator[Directory]:
    """Open a directory.

    :param is_ours: whether no other user may have a say in where it is.
    :raises PkiError: another user has.
    """
    if not _HAS_DESCRIPTORS:
        yield Directory(path, None)
        return
    descriptor = _walk(path) if is_ours else os.open(path, _STEP)
    try:
        yield Directory(path, descriptor)
    finally:
        os.close(descriptor)


def make(path: Path, mode: int, group: int | None = None) -> None:
    """Make a directory, unless it exists. Its parents get the usual permissions.

    :param group: the number of a group that may enter it too.
    :raises PkiError: another user has a say in where it is.
    """
    if _HAS_DESCRIPTORS:
        descriptor = _walk(path, mode)
        os.close(descriptor)
    elif not path.is_dir():
        path.parent.mkdir(_PARENTS, parents=True, exist_ok=True)
        path.mkdir(mode)
    if group is not None:
        with opened(path) as directory, directory.readable() as descriptor:
            os.fchown(descriptor, -1, group)
            os.fchmod(descriptor, 0o750)


def _walk(path: Path, mode: int | None = None) -> int:
    """Open a directory step by step; return the descriptor.

    :param mode: the permissions of the last one, if those that are missing are to be made.
    """
    root, *names = path.absolute().parts
    names.reverse()
    links, at = 0, Path(root)
    here = os.open(root, _STEP)
    try:
        while True:
            _check_directory(at, os.fstat(here), "o-w" if names else "go-w")
            if not names:
                return here
            name = names.pop()
            status = _status(here, name, mode if mode is None or not names else _PARENTS)
            if mode is not None and not names and stat.S_ISREG(status.st_mode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            if not stat.S_ISLNK(status.st_mode):
                at = at / name
                there = os.open(name, _STEP | _NO_LINK, dir_fd=here)
            else:
                _check_link(at / name, status)
                links += 1
                if links > _MOST_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                target = Path(os.readlink(name, dir_fd=here))
                names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                at = Path(target.root) if target.is_absolute() else at
                there = os.open(target.root or ".", _STEP, dir_fd=here)
            os.close(here)
            here = there
    except BaseException:
        os.close(here)
        raise


def _status(here: int, name: str, mode: int | None) -> os.stat_result:
    """Return what the directory *here* has of that name.

    :param mode: the permissions of a directory that is made if there is nothing; None: none is made.
    """
    try:
        return os.stat(name, dir_fd=here, follow_symlinks=False)
    except FileNotFoundError:
        if mode is None:
            raise
    try:
        os.mkdir(name, mode, dir_fd=here)
    except FileExistsError:  # another process was quicker
        return os.stat(name, dir_fd=here, follow_symlinks=False)
    if mode != _PARENTS:
        # Whatever the umask is. Nobody else can have put a link there meanwhile.
        os.chmod(name, mode, dir_fd=here)
    return os.stat(name, dir_fd=here, follow_symlinks=False)


def _check_directory(path: Path, status: os.stat_result, mend: str) -> None:
    if not is_trusted(status.st_uid, also_caller=False):
        owner = user_name(status.st_uid)
        raise PkiError(
            f"{path} belongs to the user {owner}, who could exchange what is in it; run this as {owner}, or name "
            "another directory"
        )
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PkiError(f"other users may write in {path}; first run: chmod {mend} {shlex.quote(str(path))}")


def _check_link(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode) and not is_trusted(status.st_uid, also_caller=False):
        raise PkiError(f"{path} is a link of the user {user_name(status.st_uid)}; remove it, or name another directory")
