"""Where control sockets are, and whose directory is good enough for one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rtunnel.control import sockets
from rtunnel.control.sockets import MOST_BYTES, control_directory, prepare, running
from rtunnel.errors import ConfigError


@pytest.fixture
def gone() -> int:
    """The id of a process that does not exist: above the largest."""
    return int(Path("/proc/sys/kernel/pid_max").read_text()) + 1 if Path("/proc/sys").exists() else 2**31 - 1


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("c")


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


@pytest.mark.parametrize(
    ("environ", "as_root", "expected"),
    [
        ({"RUNTIME_DIRECTORY": "/run/rtunnel-server:/run/other"}, True, "/run/rtunnel-server"),
        ({"RUNTIME_DIRECTORY": "/run/x", "XDG_RUNTIME_DIR": "/run/user/1"}, False, "/run/x"),
        ({"XDG_RUNTIME_DIR": "/run/user/0", "HOME": "/root"}, True, "/run/rtunnel"),
        ({"XDG_RUNTIME_DIR": "/run/user/7", "HOME": "/home/a"}, False, "/run/user/7/rtunnel"),
        ({"XDG_RUNTIME_DIR": "not/absolute", "HOME": "/home/a"}, False, "/home/a/.local/state/rtunnel/run"),
        ({"XDG_STATE_HOME": "/state"}, False, "/state/rtunnel/run"),
    ],
)
def test_where(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], as_root: bool, expected: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0 if as_root else 1000)
    assert control_directory(environ) == Path(expected)


def test_the_directory_is_made_for_us_alone(short: Path) -> None:
    directory = short / "a" / "b"
    path = prepare(directory, "rtunnel-server")
    assert path == directory / f"rtunnel-server-{os.getpid()}.sock"
    assert directory.stat().st_mode & 0o777 == 0o700


def test_sockets_of_processes_that_are_gone_are_removed_and_nothing_else(short: Path, gone: int) -> None:
    stale, own = short / f"rtc-host-{gone}.sock", short / f"rtunnel-client-{os.getpid()}.sock"
    others = [short / f"rtc-host-{os.getppid()}.sock", short / "notes.sock", short / f"x y-{gone}.sock"]
    for path in (stale, own, *others):
        bind(path)
    file = short / f"rtc-client-{gone}.sock"
    file.write_text("no socket")
    prepare(short, "rtunnel-client")
    assert sorted(short.iterdir()) == sorted([*others, file])


def test_running_processes_are_found(short: Path, gone: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = short / "run"
    unit, mine = system / "rtunnel-server", short / "rtunnel"
    for directory in (unit, mine, system / "other"):
        directory.mkdir(parents=True)
    monkeypatch.setattr(sockets, "RUN", system)
    for path in (
        mine / f"rtunnel-client-{os.getpid()}.sock",
        mine / f"rtc-host-{gone}.sock",
        unit / f"rtunnel-server-{os.getppid()}.sock",
        system / "other" / f"rtunnel-server-{os.getpid()}.sock",
    ):
        bind(path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    own = (mine / f"rtunnel-client-{os.getpid()}.sock", "rtunnel-client", os.getpid())
    of_unit = (unit / f"rtunnel-server-{os.getppid()}.sock", "rtunnel-server", os.getppid())
    assert list(running({"XDG_RUNTIME_DIR": str(short)})) == [own, of_unit]
    assert list(running({"XDG_RUNTIME_DIR": str(short / "nothing")})) == [of_unit]
    # Whoever names a directory means that one.
    assert list(running({"RUNTIME_DIRECTORY": str(mine)})) == [own]
    assert not list(running({"RUNTIME_DIRECTORY": str(short / "nothing")}))


def test_directories_that_are_not_good_enough(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(directory: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            prepare(directory, "rtunnel-server")
        return str(caught.value)

    file = short / "file"
    file.write_text("")
    assert why(file / "below") == f"{file / 'below'} cannot be made: Not a directory"
    assert why(file) == f"{file} cannot be made: File exists"
    everybody = short / "everybody"
    everybody.mkdir()
    everybody.chmod(0o777)
    assert why(everybody) == f"{everybody} is not ours alone; make it with 'install -d -m 700 {everybody}'"
    assert "is too long for a UNIX socket; set RUNTIME_DIRECTORY" in why(short / ("x" * MOST_BYTES))
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    own = short / "own"
    own.mkdir(0o700)
    if own.stat().st_uid:
        assert "is not ours alone" in why(own)
