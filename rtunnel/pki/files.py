"""Files with keys and certificates: each is written whole or not at all, and none is overwritten by mistake.

A file is written under a temporary name, flushed to the disk, and then renamed. All files of one :func:`publish` are
written before the first is renamed, so a full disk leaves everything as it was. A new file never overwrites another. A
file that replaces another keeps its owner and permissions, so the operator sets these only once.

Permissions do not depend on the umask. :mod:`rtunnel.pki.directories` keeps other users from leading us elsewhere.
"""

from __future__ import annotations

import errno
import os
import secrets
import shlex
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rtunnel import trusted_files
from rtunnel.errors import ConfigError, PkiError
from rtunnel.pki import directories
from rtunnel.pki.directories import Directory, opened
from rtunnel.trusted_files import open_to_read, read_all

PRIVATE = 0o600
PUBLIC = 0o644
PRIVATE_DIRECTORY = 0o700

#: Most bytes of a certificate, key or bundle. (An ML-DSA-87 certificate has 10 KB, a revocation 40 bytes.)
MAX_SIZE = 16 << 20
#: Seconds to wait for another command to finish in the same directory.
PATIENCE = 10.0

_LOCK = ".lock"
_TEMPORARY = ".tmp"
_O_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, slots=True)
class Draft:
    """A file to write.

    :ivar mode: its permissions.
    :ivar replaces: whether it may replace a file of this name.
    :ivar group: the number of the group that will own a new file; None: the system's choice.
    """

    path: Path
    content: bytes
    mode: int
    replaces: bool = False
    group: int | None = None


def publish(drafts: Sequence[Draft], *, is_ours: bool = True) -> None:
    """Write files: first the new ones, then those that replace others.

    :param is_ours: whether no other user may have a say in where the files are; see :mod:`rtunnel.pki.directories`.
    :raises PkiError: a file is in the way, or the system refuses; nothing has changed.
    """
    with ExitStack() as stack:
        places: dict[Path, Directory] = {}
        for draft in drafts:
            if draft.path.parent not in places:
                with complaints(draft.path):
                    places[draft.path.parent] = stack.enter_context(opened(draft.path.parent, is_ours=is_ours))
        _publish(drafts, places)


def _publish(drafts: Sequence[Draft], places: Mapping[Path, Directory]) -> None:
    staged: list[tuple[str, Draft]] = []
    appeared: list[Path] = []
    try:
        try:
            for draft in drafts:
                with complaints(draft.path):
                    staged.append((_stage(draft, places[draft.path.parent]), draft))
            for temporary, draft in staged:
                if not draft.replaces:
                    with complaints(draft.path):
                        _appear(temporary, draft.path.name, places[draft.path.parent])
                    appeared.append(draft.path)
            _sync_directories(places.values())
        except BaseException:
            for path in appeared:
                _unlink(path.name, places[path.parent])
            raise
        # The new files hold copies of those that are replaced, so from here on they stay even after an error.
        for temporary, draft in staged:
            if draft.replaces:
                with complaints(draft.path):
                    _rename(temporary, draft.path.name, places[draft.path.parent])
        _sync_directories(places.values())
    finally:
        for temporary, draft in staged:
            _unlink(temporary, places[draft.path.parent])


def read(path: Path, *, is_ours: bool = True) -> bytes:
    """Return the content of a file.

    :param is_ours: whether no other user may have a say in where it is, see :mod:`rtunnel.pki.directories`, and in what
        it says.
    :raises PkiError: it does not exist, is too large, or cannot be read; or another user can have written it.
    """
    with complaints(path, "read"):
        if is_ours:
            with opened(path.parent) as directory:
                descriptor = directory.read(path.name)
        else:
            descriptor = open_to_read(path)
        try:
            if is_ours:
                trusted_files.check(path, os.fstat(descriptor))
            return read_all(descriptor, MAX_SIZE)
        except ConfigError as error:
            raise PkiError(str(error)) from None
        finally:
            os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file.

    :raises PkiError: the system refuses.
    """
    with complaints(path, "remove"), opened(path.parent) as directory:
        os.unlink(directory.at(path.name), dir_fd=directory.descriptor)


def make_directory(path: Path, group: int | None = None) -> None:
    """Make a directory that only its owner may enter, unless it exists. Its parents get the usual permissions.

    :param group: the number of a group that may enter too.
    :raises PkiError: the system refuses, there is a file of that name, or another user has a say in where it is.
    """
    with complaints(path):
        directories.make(path, PRIVATE_DIRECTORY, group)


def check_directory(path: Path) -> None:
    """Check that no other user has a say in where a directory is, and thus in what is in it.

    :raises PkiError: another user has, or it cannot be opened. That it does not exist is no error.
    """
    with complaints(path, "read"), suppress(FileNotFoundError), opened(path):
        pass


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other commands from changing a directory. Temporary files of an earlier command are removed.

    :raises PkiError: another command does not finish, or other users may write in the directory.
    """
    with ExitStack() as stack:
        with complaints(path):
            directory = stack.enter_context(opened(path))
            if directory.descriptor is not None and os.fstat(directory.descriptor).st_mode & 0o022:
                raise PkiError(f"other users may write in {path}; first run: chmod go-w {shlex.quote(str(path))}")
            lock = os.open(
                directory.at(_LOCK), os.O_RDWR | os.O_CREAT | _O_NOFOLLOW, PRIVATE, dir_fd=directory.descriptor
            )
        stack.callback(os.close, lock)
        _wait_for(lock, path)
        with complaints(path):
            _remove_leftovers(directory)
        yield


def _remove_leftovers(directory: Directory, *, also_below: bool = True) -> None:
    for name in directory.names():
        if name.startswith(".") and name.endswith(_TEMPORARY):
            _unlink(name, directory)
        elif also_below:
            status = os.stat(directory.at(name), dir_fd=directory.descriptor, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                with opened(directory.path / name) as below:
                    _remove_leftovers(below, also_below=False)


@contextmanager
def complaints(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn an :exc:`OSError` into a :exc:`PkiError` that says what to do.

    :param verb: what could not be done with *path*.
    """
    try:
        yield
    except FileExistsError:
        raise PkiError(f"{path} already exists, and is not overwritten") from None
    except PermissionError as error:
        hint = "run this as the user that owns it, or name another directory"
        raise PkiError(f"cannot {verb} {path}: {_reason(error)}; {hint}") from None
    except OSError as error:
        raise PkiError(f"cannot {verb} {path}: {_reason(error)}") from None


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _stage(draft: Draft, directory: Directory) -> str:
    """Write a file under a temporary name in its directory; return that name."""
    place, replaced = directory.descriptor, None
    if draft.replaces:
        with suppress(FileNotFoundError):
            replaced = os.stat(directory.at(draft.path.name), dir_fd=place)
    temporary = f".{draft.path.name}.{secrets.token_hex(8)}{_TEMPORARY}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW
    descriptor = os.open(directory.at(temporary), flags, PRIVATE, dir_fd=place)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(draft.content)
            file.flush()
            _give(descriptor, draft, replaced)
            os.fsync(descriptor)
    except BaseException:
        _unlink(temporary, directory)
        raise
    return temporary


def _give(descriptor: int, draft: Draft, replaced: os.stat_result | None) -> None:
    """Set owner and permissions, but only if they are not right already: not every file system can set them."""
    if sys.platform == "win32":
        return
    mode = draft.mode
    if replaced is not None:
        # Keep the permissions that the operator gave, but never let everybody read a private file.
        mode = stat.S_IMODE(replaced.st_mode) & (0o777 if mode & 0o007 else 0o770)
    now = os.fstat(descriptor)
    owner, group = (now.st_uid, draft.group) if replaced is None else (replaced.st_uid, replaced.st_gid)
    if (owner, group) != (now.st_uid, now.st_gid):
        os.fchown(descriptor, owner, -1 if group is None else group)
    if stat.S_IMODE(now.st_mode) != mode:
        os.fchmod(descriptor, mode)


def _appear(temporary: str, name: str, directory: Directory) -> None:
    """Rename a file, unless the new name exists."""
    place = directory.descriptor
    try:
        os.link(directory.at(temporary), directory.at(name), src_dir_fd=place, dst_dir_fd=place)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # This file system has no hard links. Replace an empty file of that name, which only one process can create.
        os.close(os.open(directory.at(name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE, dir_fd=place))
        try:
            _rename(temporary, name, directory)
        except BaseException:
            _unlink(name, directory)
            raise


def _rename(temporary: str, name: str, directory: Directory) -> None:
    place = directory.descriptor
    os.replace(directory.at(temporary), directory.at(name), src_dir_fd=place, dst_dir_fd=place)


def _unlink(name: str, directory: Directory) -> None:
    with suppress(FileNotFoundError):
        os.unlink(directory.at(name), dir_fd=directory.descriptor)


def _sync_directories(places: Iterable[Directory]) -> None:
    for directory in places:
        # Not every system can sync a directory. Without it, files may be lost if the power fails now.
        with suppress(OSError), directory.readable() as descriptor:
            os.fsync(descriptor)


def _wait_for(lock: int, directory: Path) -> None:
    if sys.platform == "win32":
        # This file system cannot lock, but a new file still never overwrites another.
        return
    import fcntl

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise PkiError(f"another command is at work in {directory}; wait for it to end") from None
            time.sleep(0.05)
        except OSError as error:
            raise PkiError(f"cannot lock {directory}: {_reason(error)}") from None
