"""The pid file of ``twistd``: what is wrong with it is one line that says what to do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rtunnel.errors import ConfigError
from rtunnel.options.plugins import pid_file
from rtunnel.options.plugins.pid_file import check_pid_file

OTHERWISE = "name another with twistd --pidfile=FILE, or have none with --pidfile="
NOBODY = 2**22 + 1
"""No process has this ID: Linux gives out lower ones only."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "twistd.pid"


def complaint(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        check_pid_file(str(path))
    return str(caught.value)


def test_nothing_wrong(path: Path) -> None:
    check_pid_file("")
    check_pid_file(str(path))
    path.write_text(str(NOBODY))
    check_pid_file(str(path))
    assert path.exists(), "twistd removes it"


def test_a_file_of_a_killed_container(path: Path, logged: list[tuple[str, str]]) -> None:
    path.write_text(str(os.getpid()))
    check_pid_file(str(path))
    assert not path.exists()
    assert logged == [("info", f"removed the pid file {path}, which a killed process had left")]


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (
            "/usr/bin/python3 /usr/bin/twistd -n x",
            f"another twistd (process 1) has the pid file PATH; stop it, or {OTHERWISE}",
        ),
        (
            "/sbin/init",
            (
                "the pid file PATH names process 1, which is not twistd but '/sbin/init': a killed process has left "
                f"it; remove it, or {OTHERWISE}"
            ),
        ),
    ],
)
def test_a_process_that_is_there(path: Path, monkeypatch: pytest.MonkeyPatch, program: str, line: str) -> None:
    monkeypatch.setattr(pid_file, "_program", lambda process: program if process == 1 else "")
    path.write_text("1")
    assert complaint(path) == line.replace("PATH", str(path))
    assert path.exists()


@pytest.mark.parametrize("content", ["", "twistd"])
def test_no_process_id(path: Path, content: str) -> None:
    path.write_text(content)
    assert complaint(path) == f"the pid file {path} has no process ID; remove it"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "no" / "twistd.pid"
    assert complaint(path) == f"there is no directory for the pid file {path}; make it, or {OTHERWISE}"


def test_a_directory_that_may_not_be_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert complaint(path) == f"the pid file {path} cannot be written in that directory; {OTHERWISE}"


def test_a_file_that_cannot_be_read(path: Path) -> None:
    path.mkdir()
    assert complaint(path).endswith(f"cannot be read (Is a directory); {OTHERWISE}")


@pytest.mark.parametrize(("given", "expected"), [(None, None), (0o000, 0o002), (0o077, 0o077)])
def test_not_everybody_may_write_it(given: int | None, expected: int | None) -> None:
    twistd: dict[str, object] = {"umask": given}
    before = os.umask(0o020)
    try:
        pid_file.close_to_others(twistd)
    finally:
        umask = os.umask(before)
    assert (umask, twistd["umask"]) == (0o022, expected)


@pytest.mark.process
def test_twistd_says_it(run_twistd: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    result = run_twistd("-n", "--pidfile=no/x.pid", "standin")
    assert result.returncode == 1
    assert "there is no directory for the pid file" in result.stdout.splitlines()[-1]
    assert "Traceback" not in result.stdout + result.stderr
