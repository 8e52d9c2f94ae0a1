"""How log lines look, and where they go."""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import ILogObserver, LogEvent, Logger, LogLevel, LogPublisher
from twisted.python import usage
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from rtunnel.errors import ConfigError
from rtunnel.options.plugins.log_file import MOST_OLD, BoundedLogFile, on_sigusr1
from rtunnel.options.plugins.log_level import LogThreshold
from rtunnel.options.plugins.logs import TwistdLogging, json_line, observer_for, twistd_logging
from rtunnel.upkeep.debug_log import DebugLog
from rtunnel.upkeep.log_limiter import STRANGER_BURST, Source

WHEN = 1793926923.4567


def event(**fields: object) -> LogEvent:
    return {
        "log_time": WHEN,
        "log_level": LogLevel.info,
        "log_namespace": "rtunnel.reverse.server.service",
        "log_format": "hello",
        **fields,
    }


def line(**fields: object) -> dict[str, Any]:
    text = json_line(event(**fields))
    assert text is not None
    assert text.endswith("\n")
    assert text.count("\n") == 1
    parsed: dict[str, Any] = json.loads(text)
    return parsed


def test_json() -> None:
    assert line(log_format="{visitor} came to {port}", visitor="192.0.2.1", port=8080, name=None, ok=True, rtt=0.5) == {
        "time": "2026-11-06T01:02:03.456Z",
        "level": "info",
        "system": "rtunnel.reverse.server.service",
        "message": "192.0.2.1 came to 8080",
        "visitor": "192.0.2.1",
        "port": 8080,
        "name": None,
        "ok": True,
        "rtt": 0.5,
    }


def test_json_leaves_out_what_is_not_plain() -> None:
    assert set(line(thing=object(), items=[1], nan=float("nan"), log_private=1)) == {
        "time",
        "level",
        "system",
        "message",
    }


def test_json_fields_do_not_replace_ours() -> None:
    assert line(level="x", message="x", time="x", system="x") == line()


def test_json_is_one_line_whatever_a_visitor_sends() -> None:
    assert line(log_format="{sent}", sent='a\nb"\u2028\ud800')["message"] == 'a\nb"\u2028\ud800'


def test_json_failure() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        failure = Failure()
    shown = line(log_failure=failure, log_level=LogLevel.critical, log_format="while serving")
    assert (shown["level"], shown["message"]) == ("critical", "while serving")
    assert "ValueError: broken" in shown["traceback"]
    assert line(log_failure=failure, log_format=None)["message"] == "broken"


def test_json_of_what_cannot_be_formatted() -> None:
    assert "Unable to format event" in line(log_format="{missing.attribute}")["message"]


def test_json_of_nothing() -> None:
    assert json_line({}) is None
    assert json_line(event(log_format="", log_time=None)) is None


def test_json_of_an_event_without_time_or_level() -> None:
    shown = json_line({"log_format": "x"})
    assert shown is not None
    assert json.loads(shown) == {"time": "-", "level": "info", "system": "-", "message": "x"}


def write(log_format: str, log_level: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    observer = observer_for(log_format, LogThreshold(log_level), TwistdLogging())
    verifyObject(ILogObserver, observer)
    logger = Logger("rtunnel.reverse.server.service", observer=LogPublisher(observer))
    for level in (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical):
        logger.emit(level, "an event at {level_name}", level_name=level.name)
    return out.getvalue().splitlines()


@pytest.mark.parametrize(("log_level", "lines"), [("debug", 5), ("info", 4), ("warn", 3), ("error", 2)])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_level(log_format: str, log_level: str, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(write(log_format, log_level, monkeypatch)) == lines


def test_the_level_can_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    threshold = LogThreshold("info")
    publisher = LogPublisher(observer_for("text", threshold, TwistdLogging()))
    log, quick, legacy = (
        kind(name, observer=publisher)
        for kind, name in ((Logger, "rtunnel.x"), (DebugLog, "rtunnel.y"), (Logger, "log_legacy"))
    )
    threshold.log = log

    def seen() -> list[str]:
        out.seek(0)
        out.truncate()
        for each in (log, quick, legacy):
            each.debug("debug")
        legacy.info("info")
        log.warn("warn")
        log.error("error")
        return [line.split()[-1] for line in out.getvalue().splitlines()]

    assert threshold.change({}) == {"level": "info", "before": "info"}
    assert seen() == ["warn", "error"]
    assert threshold.change({"level": "debug"}) == {"level": "debug", "before": "info"}
    assert out.getvalue().endswith("log level debug from now on; it was info\n")
    assert seen() == ["debug", "debug", "debug", "info", "warn", "error"]
    assert threshold.change({"level": "error"}) == {"level": "error", "before": "debug"}
    assert out.getvalue().endswith("log level error from now on; it was debug\n")
    assert seen() == ["error"]
    threshold.change({"level": "info"})
    assert seen() == ["warn", "error"]
    with pytest.raises(ConfigError, match="'inof' is no level; did you mean 'info'"):
        threshold.change({"level": "inof"})
    assert threshold.level == "info"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_are_counted_in_bytes(log_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in characters, which may have four."""
    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    log = Logger("test", observer=observer_for(log_format, LogThreshold("info"), TwistdLogging()))
    for _ in range(1000):
        log.warn("{what}", what="\N{SPARKLES}" * 60, log_from=Source("192.0.2.1"))
    written = len(out.getvalue().encode())
    assert 0.8 * STRANGER_BURST < written < STRANGER_BURST + 1000


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, level in zip(write("text", "info", monkeypatch), ("info", "warn", "error", "critical"), strict=True):
        stamp, space, rest = text.partition(" ")
        assert space
        assert len(stamp) == len("2026-11-22T01:02:03+0000")
        assert rest == f"[rtunnel.reverse.server.service#{level}] an event at {level}"


@pytest.mark.parametrize("terminal", [True, False])
def test_what_the_encoding_lacks_is_escaped(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    threshold = LogThreshold("info", in_terminal=terminal)
    observer_for("text", threshold, TwistdLogging(terminal=terminal))(event(log_format="例 is up"))
    assert written.getvalue().endswith(b" \\u4f8b is up\n")


def test_lines_are_flushed(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", buffering=8192) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", out)
        observer_for("json", LogThreshold("info"), TwistdLogging())(event())
        assert (tmp_path / "out").read_text().endswith("\n")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["twistd", "-n", "-y", "x.tac"], TwistdLogging(foreground=True)),
        (["twistd", "-ny", "x.tac"], TwistdLogging(foreground=True)),
        (["twistd", "-boy", "x.tac"], TwistdLogging(foreground=True)),
        (["twistd", "-y", "x.tac"], TwistdLogging(foreground=False)),
        (["twistd", "-l", "x.log", "--python=x.tac"], TwistdLogging(foreground=False, logfile="x.log")),
        (["twistd", "--logfile=-", "-ny", "x.tac"], TwistdLogging(foreground=True, logfile="-")),
        (["twistd", "--syslog", "--prefix", "p", "-y", "x"], TwistdLogging(foreground=False, syslog="p")),
        (["twistd", "--syslog", "-y", "x"], TwistdLogging(foreground=False, syslog="twisted")),
        (["twistd", "--logger", "a.b", "-ny", "x"], TwistdLogging(foreground=True, logger=True)),
        (["twistd", "-r", "asyncio", "-ny", "x.tac"], TwistdLogging(foreground=True)),
        (["pytest", "--unknown"], TwistdLogging(foreground=True)),
    ],
)
def test_what_twistd_was_told_is_found_for_a_tac_too(argv: list[str], expected: TwistdLogging) -> None:
    assert twistd_logging(None, argv) == expected


def test_what_twistd_was_told_is_read_from_its_options() -> None:
    options: dict[str, object] = {"nodaemon": 1, "debug": False, "logfile": None, "logger": None, "syslog": 0}
    assert twistd_logging(options, ["ignored"]) == TwistdLogging(foreground=True)
    assert twistd_logging({"logfile": "a.log"}, []) == TwistdLogging(foreground=False, logfile="a.log")


@pytest.mark.parametrize(
    ("twistd", "to_stdout"),
    [
        (TwistdLogging(), True),
        (TwistdLogging(logfile="-"), True),
        (TwistdLogging(logfile="x"), False),
        (TwistdLogging(foreground=False), False),
        (TwistdLogging(syslog="x"), False),
        (TwistdLogging(logger=True), False),
    ],
)
def test_to_stdout(twistd: TwistdLogging, to_stdout: bool) -> None:
    assert twistd.to_stdout is to_stdout


@pytest.fixture
def _sigusr1() -> Any:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_sigusr1")
def test_somebody_elses_signal_handler_stays() -> None:
    def theirs(*_: object) -> None: ...

    signal.signal(signal.SIGUSR1, theirs)
    on_sigusr1(lambda: None)
    assert signal.getsignal(signal.SIGUSR1) is theirs


@pytest.mark.usefixtures("_sigusr1")
@pytest.mark.parametrize("twistd", [TwistdLogging(), TwistdLogging(foreground=False, syslog="x")])
def test_sigusr1_does_not_kill_where_the_log_is_no_file(twistd: TwistdLogging, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted.python.syslog.SyslogObserver", lambda _prefix: SyslogStandin())
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    observer_for("text", LogThreshold("info"), twistd)
    assert callable(signal.getsignal(signal.SIGUSR1))


class SyslogStandin:
    def emit(self, event: object) -> None: ...


@pytest.fixture
def log_file(tmp_path: Path) -> Iterator[BoundedLogFile]:
    file = BoundedLogFile("x.log", str(tmp_path))
    yield file
    file.close()


def content(log_file: BoundedLogFile) -> dict[str, str]:
    return {path.name: path.read_text() for path in Path(log_file.directory).iterdir()}


def test_a_renewed_log_file_is_rotated(log_file: BoundedLogFile) -> None:
    log_file.write("one")
    log_file.renew()
    log_file.write("two")
    assert content(log_file) == {"x.log": "two", "x.log.1": "one"}


@pytest.mark.parametrize(("umask", "mode"), [(0o000, 0o640), (0o022, 0o640), (0o077, 0o600)])
def test_who_may_read_the_log(umask: int, mode: int, tmp_path: Path) -> None:
    """Also once it is rotated, when a daemon has an umask of its own."""
    before = os.umask(umask)
    try:
        file = BoundedLogFile("x.log", str(tmp_path))
        os.umask(0o000)
        file.renew()
        path = Path(file.path)
        path.rename(path.with_name("x.log-20261129"))
        file.renew()
    finally:
        os.umask(before)
    file.close()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(["x.log", "x.log.1", "x.log-20261129"], mode)


def test_a_log_file_keeps_its_permissions(tmp_path: Path) -> None:
    """Those that logrotate gave it; or it may be /dev/null."""
    (tmp_path / "x.log").touch()
    (tmp_path / "x.log").chmod(0o604)
    BoundedLogFile("x.log", str(tmp_path)).close()
    assert stat.S_IMODE((tmp_path / "x.log").stat().st_mode) == 0o604


@pytest.mark.parametrize("creates", [False, True])
def test_a_log_file_that_another_program_renamed(log_file: BoundedLogFile, creates: bool) -> None:
    log_file.write("one")
    path = Path(log_file.path)
    path.rename(path.with_name("x.log-20261129"))
    if creates:
        path.touch()
    log_file.write(" and a half")
    log_file.renew()
    log_file.write("two")
    assert content(log_file) == {"x.log": "two", "x.log-20261129": "one and a half"}


def test_a_log_file_that_cannot_be_opened_again(log_file: BoundedLogFile, logged: list[tuple[str, str]]) -> None:
    path = Path(log_file.path)
    path.rename(path.with_name("x.log-20261129"))
    path.mkdir()
    log_file.renew()
    log_file.write("more")
    assert path.with_name("x.log-20261129").read_text() == "more"
    path.rmdir()
    why = "Is a directory; the renamed file stays in use"
    assert logged == [("warn", f"cannot open the log file {path}: {why}")]


def test_two_processes_write_to_the_same_file(log_file: BoundedLogFile, tmp_path: Path) -> None:
    """While one takes the place of the other, neither writes over what the other has written."""
    other = BoundedLogFile("x.log", str(tmp_path))
    for each, line in ((log_file, "1\n"), (other, "2\n"), (log_file, "3\n"), (other, "4\n")):
        each.write(line)
        each.flush()
    other.close()
    assert (tmp_path / "x.log").read_text() == "1\n2\n3\n4\n"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a file may have another limit")
def test_a_line_for_which_there_is_no_room(log_file: BoundedLogFile) -> None:
    """Not even the rest of the line before is lost: what could be written of it is a line of its own."""
    log_file.write("first\n")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9, before[1]))
    try:
        for _ in range(2):
            with pytest.raises(OSError, match=r"No space left on device|File too large"):
                log_file.write("second\n")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log_file.write("third\n")
    log_file.write("fourth\n")
    assert content(log_file) == {"x.log": "first\nsec\nthird\nfourth\n"}


def test_old_log_files_are_bounded(log_file: BoundedLogFile) -> None:
    for number in range(MOST_OLD + 3):
        log_file.write(str(number))
        log_file.renew()
    kept = content(log_file)
    assert len(kept) == MOST_OLD + 1
    assert kept[f"x.log.{MOST_OLD}"] == "3"


def test_a_log_file_that_cannot_be_opened(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "x.log"
    with pytest.raises(SystemExit) as caught:
        observer_for("text", LogThreshold("info"), TwistdLogging(logfile=str(path)))
    reason = "No such file or directory; name another with twistd --logfile"
    assert caught.value.code == f"cannot open the log file {path}: {reason}"
    with pytest.raises(SystemExit, match="Daemons cannot log to stdout"):
        observer_for("text", LogThreshold("info"), TwistdLogging(foreground=False, logfile="-"))


def test_twistd_options_are_still_what_we_think() -> None:
    from twisted.scripts import twistd

    options: usage.Options = getattr(twistd, "ServerOptions")()  # noqa: B009
    assert {"nodaemon", "logfile", "syslog", "prefix", "logger"} <= set(options)
