"""Files are written whole or not at all, whatever fails and whatever the umask."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rtunnel.errors import PkiError
from rtunnel.pki import files
from rtunnel.pki.files import PRIVATE, PUBLIC, Draft, locked, make_directory, publish, read


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(params=[0o000, 0o022, 0o277, 0o777], ids=oct)
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The umask of the test, but not of *tmp_path*, which its owner could not enter."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_do_not_depend_on_the_umask(umask: int, tmp_path: Path) -> None:
    directory = tmp_path / "pki"
    make_directory(directory)
    publish([Draft(directory / "key", b"k", PRIVATE), Draft(directory / "crt", b"c", PUBLIC)])
    publish([Draft(directory / "crt", b"d", PUBLIC, replaces=True)])
    assert (mode(directory), mode(directory / "key"), mode(directory / "crt")) == (0o700, 0o600, 0o644)
    assert tree(directory) == {"key": b"k", "crt": b"d"}


def test_directories_above_are_not_open_to_everybody(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_directory(tmp_path / "etc" / "rtunnel" / "pki")
    finally:
        os.umask(before)
    assert mode(tmp_path / "etc" / "rtunnel") == 0o755


def test_a_directory_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    make_directory(tmp_path)
    assert mode(tmp_path) == 0o750


def test_a_group_is_let_in(tmp_path: Path) -> None:
    make_directory(tmp_path / "pki", os.getgid())
    publish([Draft(tmp_path / "pki" / "key", b"k", 0o640, group=os.getgid())])
    assert mode(tmp_path / "pki") == 0o750
    assert mode(tmp_path / "pki" / "key") == 0o640
    assert (tmp_path / "pki" / "key").stat().st_gid == os.getgid()


def test_a_file_in_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "pki").write_text("")
    with pytest.raises(PkiError, match="already exists"):
        make_directory(tmp_path / "pki")
    with pytest.raises(PkiError, match="not a directory"):
        make_directory(tmp_path / "pki" / "clients")


@pytest.mark.parametrize("kind", ["file", "directory", "symbolic link", "broken link"])
def test_nothing_is_overwritten(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "key"
    match kind:
        case "file":
            path.write_text("old")
        case "directory":
            path.mkdir()
        case "symbolic link":
            (tmp_path / "elsewhere").write_text("old")
            path.symlink_to(tmp_path / "elsewhere")
        case _:
            path.symlink_to(tmp_path / "nowhere")
    before = tree(tmp_path)
    with pytest.raises(PkiError, match="already exists, and is not overwritten"):
        publish([Draft(tmp_path / "crt", b"c", PUBLIC), Draft(path, b"new", PRIVATE)])
    assert tree(tmp_path) == before


def test_a_replacement_keeps_who_may_read_it(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key", tmp_path / "crt"
    key.write_text("old")
    key.chmod(0o640)
    certificate.write_text("old")
    certificate.chmod(0o604)
    publish([Draft(key, b"new", PRIVATE, replaces=True), Draft(certificate, b"new", PUBLIC, replaces=True)])
    assert (mode(key), mode(certificate)) == (0o640, 0o604)
    key.chmod(0o644)
    publish([Draft(key, b"newer", PRIVATE, replaces=True)])
    assert mode(key) == 0o640


def test_a_replacement_keeps_its_owner(tmp_path: Path) -> None:
    # Only root can give files away; others can at least choose among their groups.
    owner, group = (12, 34) if os.geteuid() == 0 else (os.geteuid(), (os.getgroups() or [os.getegid()])[-1])
    key = tmp_path / "key"
    key.write_text("old")
    os.chown(key, owner, group)
    publish([Draft(key, b"new", PRIVATE, replaces=True)])
    assert (key.stat().st_uid, key.stat().st_gid) == (owner, group)


os_open = os.open


def failing(function: Callable[..., Any], after: int, number: int) -> Callable[..., Any]:
    """A system call that fails after a few times; of those that open, only what makes a file counts."""
    left = after

    def call(*arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        if function is os_open and not arguments[1] & os.O_CREAT:
            return function(*arguments, **keywords)
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        return function(*arguments, **keywords)

    return call


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize(("name", "number"), [("fsync", errno.EIO), ("open", errno.ENOSPC), ("link", errno.EDQUOT)])
def test_a_failure_leaves_everything_as_it_was(
    name: str, number: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "crl").write_text("old")
    drafts = [
        Draft(tmp_path / "crl", b"new", PUBLIC, replaces=True),
        Draft(tmp_path / "a.key", b"a", PRIVATE),
        Draft(tmp_path / "a.crt", b"a", PUBLIC),
        Draft(tmp_path / "b.crt", b"b", PUBLIC),
    ]
    monkeypatch.setattr(os, name, failing(getattr(os, name), after, number))
    with pytest.raises(PkiError, match=os.strerror(number).lower()):
        publish(drafts)
    monkeypatch.undo()
    assert tree(tmp_path) == {"crl": b"old"}


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fdopen = os.fdopen

    class Full:
        def __init__(self, descriptor: int) -> None:
            self.file = fdopen(descriptor, "wb")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *arguments: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> int:
            self.file.write(content[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fdopen", lambda descriptor, mode: Full(descriptor))
    with pytest.raises(PkiError, match=r"cannot write .*/key: no space left on device"):
        publish([Draft(tmp_path / "key", b"secret", PRIVATE)])
    assert tree(tmp_path) == {}


def test_file_systems_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(os.link, 0, errno.EPERM))
    publish([Draft(tmp_path / "key", b"k", PRIVATE)])
    assert tree(tmp_path) == {"key": b"k"}
    assert mode(tmp_path / "key") == 0o600
    with pytest.raises(PkiError, match="already exists"):
        publish([Draft(tmp_path / "crt", b"c", PUBLIC), Draft(tmp_path / "key", b"l", PRIVATE)])
    assert tree(tmp_path) == {"key": b"k"}


def test_nobody_else_works_there_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.1)
    with locked(tmp_path), pytest.raises(PkiError, match="another command is at work"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_lock_is_one_that_others_see(tmp_path: Path) -> None:
    with locked(tmp_path), (tmp_path / ".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_killed_command_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "clients").mkdir()
    for leftover in (tmp_path / ".ca.key.0123.tmp", tmp_path / "clients" / ".laptop.key.4567.tmp"):
        leftover.write_text("half a secret")
    with locked(tmp_path):
        assert set(tree(tmp_path)) == {".lock"}


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777])
def test_a_directory_in_which_others_may_write(bits: int, tmp_path: Path) -> None:
    tmp_path.chmod(bits)
    with pytest.raises(PkiError, match=f"first run: chmod go-w {tmp_path}"), locked(tmp_path):
        pass
    assert tree(tmp_path) == {}


def test_reading(tmp_path: Path) -> None:
    with pytest.raises(PkiError, match=r"cannot read .*/key: no such file or directory"):
        read(tmp_path / "key")
    with pytest.raises(PkiError, match="is a directory"):
        read(tmp_path)
    with pytest.raises(PkiError, match="cannot read /dev/zero: it is larger than 16 MB"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize("is_ours", [True, False])
def test_reading_what_others_can_have_written(is_ours: bool, tmp_path: Path) -> None:
    """Where it is ours it is refused, as where others could have put it there."""
    path = tmp_path / "ca.key"
    path.write_bytes(b"key")
    path.chmod(0o602)
    if not is_ours:
        assert read(path, is_ours=False) == b"key"
        return
    with pytest.raises(PkiError, match=f"^every user of this machine may change {path}; run: chmod o-w {path}$"):
        read(path)
