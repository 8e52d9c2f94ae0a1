"""Files with keys and certificates: each is written whole or not at all, and none is overwritten by mistake.

A file is written under a temporary name, flushed to the disk, and then renamed. All files of one :func:`publish` are
written before the first is renamed, so a full disk leaves everything as it was. A new file never overwrites another. A
file that replaces another keeps its owner and permissions, so the operator sets these only once.

Permissions do not depend on the umask.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rtunnel.errors import PkiError

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


def publish(drafts: Sequence[Draft]) -> None:
    """Write files: first the new ones, then those that replace others.

    :raises PkiError: a file is in the way, or the system refuses; nothing has changed.
    """
    staged: list[tuple[Path, Draft]] = []
    appeared: list[Path] = []
    try:
        try:
            for draft in drafts:
                with complaints(draft.path):
                    staged.append((_stage(draft), draft))
            for temporary, draft in staged:
                if not draft.replaces:
                    with complaints(draft.path):
                        _appear(temporary, draft.path)
                    appeared.append(draft.path)
            _sync_directories(drafts)
        except BaseException:
            for path in appeared:
                path.unlink(missing_ok=True)
            raise
        # The new files hold copies of those that are replaced, so from here on they stay even after an error.
        for temporary, draft in staged:
            if draft.replaces:
                with complaints(draft.path):
                    temporary.replace(draft.path)
        _sync_directories(drafts)
    finally:
        for temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def read(path: Path) -> bytes:
    """Return the content of a file.

    :raises PkiError: it does not exist, is too large, or cannot be read.
    """
    with complaints(path, "read"), path.open("rb") as file:
        content = file.read(MAX_SIZE + 1)
    if len(content) > MAX_SIZE:
        raise PkiError(f"{path} is too large to be a certificate or a key")
    return content


def make_directory(path: Path, group: int | None = None) -> None:
    """Make a directory that only its owner may enter, unless it exists. Its parents get the usual permissions.

    :param group: the number of a group that may enter too.
    :raises PkiError: the system refuses, or there is a file of that name.
    """
    with complaints(path):
        for above in reversed(path.parents):
            if not above.exists():
                above.mkdir(0o755, exist_ok=True)
        try:
            path.mkdir(PRIVATE_DIRECTORY)
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            path.chmod(PRIVATE_DIRECTORY)
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o750)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Keep other commands from changing a directory. Temporary files of an earlier command are removed.

    :raises PkiError: another command does not finish, or other users may write in the directory.
    """
    with complaints(directory):
        if hasattr(os, "geteuid") and stat.S_IMODE(directory.stat().st_mode) & 0o022:
            raise PkiError(f"other users may write in {directory}; first run: chmod go-w {directory}")
        lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | _O_NOFOLLOW, PRIVATE)
    try:
        _wait_for(lock, directory)
        for leftover in (*directory.glob(f".*{_TEMPORARY}"), *directory.glob(f"*/.*{_TEMPORARY}")):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(lock)


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
    return (error.strerror or str(error)).lower()


def _stage(draft: Draft) -> Path:
    """Write a file under a temporary name in its directory; return that path."""
    replaced = draft.path.stat() if draft.replaces and draft.path.exists() else None
    temporary = draft.path.parent / f".{draft.path.name}.{secrets.token_hex(8)}{_TEMPORARY}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_NOFOLLOW, PRIVATE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(draft.content)
            file.flush()
            _give(descriptor, draft, replaced)
            os.fsync(descriptor)
    except BaseException:
        temporary.unlink(missing_ok=True)
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


def _appear(temporary: Path, path: Path) -> None:
    """Rename a file, unless the new name exists."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # This file system has no hard links. Replace an empty file of that name, which only one process can create.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))
        try:
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _sync_directories(drafts: Sequence[Draft]) -> None:
    for directory in {draft.path.parent for draft in drafts}:
        # Not every system can sync a directory. Without it, files may be lost if the power fails now.
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


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
