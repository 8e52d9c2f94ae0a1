"""Files are read again when they change, and what was usable stays in use while they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rtunnel.errors import ConfigError
from rtunnel.upkeep.watched_files import WatchedFiles


class Reader:
    """Files with a number each, which must be equal."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.reads = 0
        for path in paths:
            path.write_text("1")
        self.files = WatchedFiles(paths, self.read)

    def read(self) -> str:
        self.reads += 1
        found = {path.read_text() if path.exists() else "none" for path in self.paths}
        if len(found) > 1 or "bad" in found:
            raise ConfigError(f"not usable: {sorted(found)}")
        return found.pop()


@pytest.fixture
def one(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "one")


@pytest.fixture
def two(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "one", tmp_path / "two")


def replace(path: Path, text: str) -> None:
    """As an editor does."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


def test_files_that_do_not_change_are_not_read_again(two: Reader) -> None:
    assert not any(two.files.refresh() for _ in range(10))
    assert (two.reads, two.files.now) == (1, "1")


def test_a_change(one: Reader) -> None:
    replace(one.paths[0], "2")
    assert one.files.refresh()
    assert one.files.now == "2"
    assert not one.files.refresh()
    assert one.reads == 2


def test_a_change_that_says_the_same(one: Reader) -> None:
    replace(one.paths[0], "1")
    assert not one.files.refresh()
    assert one.reads == 2


def test_what_is_usable_again_is_reported(one: Reader) -> None:
    replace(one.paths[0], "bad")
    with pytest.raises(ConfigError):
        one.files.refresh()
    replace(one.paths[0], "1")
    assert one.files.refresh()
    assert not one.files.refresh()


def test_a_change_of_the_same_size_at_the_same_time(one: Reader) -> None:
    stat = one.paths[0].stat()
    replace(one.paths[0], "2")
    os.utime(one.paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert one.files.refresh()


def test_a_change_of_who_may_write_it(one: Reader) -> None:
    assert not one.files.refresh()
    reads = one.reads
    one.paths[0].chmod(0o666)
    one.files.refresh()
    assert one.reads == reads + 1


def test_a_pipe_is_refused(tmp_path: Path) -> None:
    """It would be empty the second time."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="pipe is a pipe, which cannot be read again later; put a file in its place"):
        WatchedFiles([path], lambda: 1)


def test_a_file_that_becomes_a_pipe_holds_nobody_up(one: Reader) -> None:
    one.paths[0].unlink()
    os.mkfifo(one.paths[0])
    with pytest.raises(ConfigError, match="is a pipe, which cannot be read again"):
        one.files.refresh()
    assert not one.files.refresh()
    assert (one.reads, one.files.now) == (1, "1")


def test_a_file_that_goes_and_comes_back(one: Reader) -> None:
    one.paths[0].unlink()
    assert one.files.refresh()
    assert one.files.now == "none"
    one.paths[0].write_text("1")
    assert one.files.refresh()
    assert one.files.now == "1"


def test_one_file_that_cannot_be_used_is_reported_at_once_and_once(one: Reader) -> None:
    replace(one.paths[0], "bad")
    with pytest.raises(ConfigError, match="not usable"):
        one.files.refresh()
    assert not any(one.files.refresh() for _ in range(5))
    assert one.files.now == "1"
    replace(one.paths[0], "bad")
    with pytest.raises(ConfigError, match="not usable"):
        one.files.refresh()
    replace(one.paths[0], "2")
    assert one.files.refresh()
    assert one.files.now == "2"


def test_two_files_between_their_writes(two: Reader) -> None:
    replace(two.paths[0], "2")
    assert not two.files.refresh()
    assert two.files.now == "1"
    replace(two.paths[1], "2")
    assert two.files.refresh()
    assert two.files.now == "2"


def test_two_files_that_cannot_be_used_are_reported_at_the_second_look(two: Reader) -> None:
    replace(two.paths[0], "2")
    assert not two.files.refresh()
    replace(two.paths[0], "3")
    assert not two.files.refresh()
    with pytest.raises(ConfigError, match="not usable"):
        two.files.refresh()
    assert not any(two.files.refresh() for _ in range(5))


def test_a_failure_that_ends_without_a_change(one: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that no descriptor was left to read them with."""
    replace(one.paths[0], "2")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", lambda _path: "bad")
        with pytest.raises(ConfigError):
            one.files.refresh()
        assert not one.files.refresh()
    assert one.files.refresh()
    assert one.files.now == "2"
    assert not one.files.refresh()


def test_what_a_library_raises_is_an_error_like_others(one: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(one.files, "_parse", lambda: int("x"))
        replace(one.paths[0], "2")
        with pytest.raises(ConfigError, match=r"one of .*/one cannot be used: ValueError.*'x'"):
            one.files.refresh()
        assert not one.files.refresh()
    assert one.files.refresh()
    with pytest.raises(ConfigError, match=r"cannot be used: ZeroDivisionError"):
        WatchedFiles(one.paths, lambda: 1 / 0)


def test_files_that_cannot_be_used_at_the_start(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("1")
    reader = Reader.__new__(Reader)
    reader.paths, reader.reads = (one, two), 0
    with pytest.raises(ConfigError, match="not usable"):
        WatchedFiles(reader.paths, reader.read)
