"""How a plugin starts, logs and ends in real ``twistd`` processes: in the foreground, as a daemon, from a ``.tac``."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.process.harness import Twistds, clean_environment, poll, twistd_program

pytestmark = pytest.mark.process

Run = Callable[..., subprocess.CompletedProcess[str]]

REACTORS = ["epoll", "asyncio", "select"]
FOREGROUND = ("-n", "--pidfile=")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("reactor", REACTORS)
def test_a_signal_drains_and_the_exit_code_is_0(
    twistd: Twistds, standin: dict[str, str], reactor: str, number: signal.Signals
) -> None:
    process = twistd("standin", env=standin, twistd_options=(*FOREGROUND, f"--reactor={reactor}"))
    process.wait_for("ready as")
    assert process.terminate(number=number) == 0
    assert f"{number.name}: stopping" in process.output
    assert "drained" in process.output
    assert "Traceback" not in process.output


@pytest.mark.parametrize("reactor", REACTORS)
def test_a_second_signal_ends_at_once(twistd: Twistds, standin: dict[str, str], reactor: str) -> None:
    process = twistd(
        "standin", env=standin | {"STANDIN_DRAIN": "60"}, twistd_options=(*FOREGROUND, f"--reactor={reactor}")
    )
    process.wait_for("ready as")
    process.send_signal(signal.SIGTERM)
    process.wait_for("draining")
    assert process.terminate() == 0
    assert "stopped now" in process.output
    assert "Traceback" not in process.output


def test_a_tac(twistd: Twistds, standin: dict[str, str]) -> None:
    process = twistd("-y", "standin.tac", env=standin | {"RTUNNEL_LOG_FORMAT": "json", "RTUNNEL_LOG_LEVEL": "debug"})
    process.wait_for("ready as")
    assert process.terminate() == 0
    lines = [json.loads(line) for line in process.output.splitlines()]
    assert {"level": "debug", "message": "details of 192.0.2.1", "visitor": "192.0.2.1"}.items() <= next(
        line for line in lines if line["level"] == "debug"
    ).items()


def test_a_tac_honours_logfile(twistd: Twistds, standin: dict[str, str]) -> None:
    process = twistd("-y", "standin.tac", "--logfile=x.log", env=standin)
    log = twistd.directory / "x.log"
    poll(lambda: log.exists() and "ready as" in log.read_text(), PATIENCE, "the log file")
    assert process.terminate() == 0
    assert process.output == ""


@pytest.fixture
def nohup() -> Iterator[None]:
    """What ``nohup`` does to the process that runs the tests."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def children_heed_sighup() -> Iterator[None]:
    """Children have the default, even under ``nohup``: they inherit that a signal is ignored, but not a handler."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


def test_children_heed_sighup_under_nohup(nohup: None, children_heed_sighup: None) -> None:
    shows = [sys.executable, "-c", "import signal; print(signal.getsignal(signal.SIGHUP).name)"]
    assert subprocess.check_output(shows, text=True) == "SIG_DFL\n"


def test_a_daemon(run_twistd: Run, tmp_path: Path, children_heed_sighup: None) -> None:
    result = run_twistd("--umask=000", "standin", "--log-format=json")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = int((tmp_path / "twistd.pid").read_text())
    log = tmp_path / "twistd.log"
    # Whoever can write the pid file chooses whom a script kills that reads it.
    assert not (tmp_path / "twistd.pid").stat().st_mode & stat.S_IWOTH
    try:
        poll(lambda: "ready as" in log.read_text(), PATIENCE, "the log file")
        os.kill(pid, signal.SIGHUP)
        poll(lambda: "SIGHUP: the settings are read again" in log.read_text(), PATIENCE, "the answer to SIGHUP")
        os.kill(pid, signal.SIGUSR1)
        poll((tmp_path / "twistd.log.1").exists, PATIENCE, "the rotated log")
        # As logrotate does.
        log.rename(tmp_path / "twistd.log-20261129")
        os.kill(pid, signal.SIGUSR1)
        poll(log.exists, PATIENCE, "a new log")
        os.kill(pid, signal.SIGTERM)
        poll(lambda: not (tmp_path / "twistd.pid").exists(), PATIENCE, "the end of the daemon")
    finally:
        if (tmp_path / "twistd.pid").exists():
            os.kill(pid, signal.SIGKILL)
    messages = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert messages[:3] == ["SIGTERM: stopping", "draining", "drained"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("twistd.log*")} == {0o640}


#: Makes standard input the terminal of its session, and becomes another program.
WITH_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_a_terminal_that_is_closed_drains(standin: dict[str, str], tmp_path: Path, children_heed_sighup: None) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_TERMINAL, twistd_program(), "-ny", "standin.tac", "--pidfile="],
        cwd=tmp_path,
        env=clean_environment(standin),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    os.close(theirs)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert any("ready as" in line for line in process.stdout)
            # It would kill the process if nothing was done about it.
            process.send_signal(signal.SIGUSR1)
            assert any("SIGUSR1: the log does not go to a file" in line for line in process.stdout)
            os.close(ours)
            rest = process.stdout.read()
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert "SIGHUP: stopping" in rest
    assert "drained" in rest


def test_a_start_error_is_one_line(run_twistd: Run, tmp_path: Path) -> None:
    result = run_twistd("-n", "standin", STANDIN_ERROR="cannot listen on tcp:7000: address in use")
    assert (result.returncode, result.stderr) == (1, "cannot listen on tcp:7000: address in use\n")
    assert "cannot listen" not in result.stdout
    assert not (tmp_path / "twistd.pid").exists()


def test_a_start_error_is_in_the_log_file_too(run_twistd: Run, tmp_path: Path) -> None:
    result = run_twistd("-n", "--logfile=x.log", "standin", STANDIN_ERROR="cannot listen on tcp:7000")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "cannot listen on tcp:7000\n")
    log = (tmp_path / "x.log").read_text()
    assert log.count("PluginService#critical] cannot listen on tcp:7000\n") == 1
    assert "Traceback" not in log


def test_a_start_error_of_a_daemon(run_twistd: Run, tmp_path: Path) -> None:
    result = run_twistd("standin", STANDIN_ERROR="cannot listen on tcp:7000")
    assert result.returncode == 1
    assert "cannot listen on tcp:7000" in result.stderr
    assert "Traceback" not in result.stderr
    # The parent has gone as soon as it knew; the daemon still cleans up.
    poll(lambda: not (tmp_path / "twistd.pid").exists(), PATIENCE, "no pid file")
    poll(lambda: "cannot listen on tcp:7000" in (tmp_path / "twistd.log").read_text(), PATIENCE, "the log file")


def test_a_start_error_of_a_tac(run_twistd: Run) -> None:
    result = run_twistd("-ny", "standin.tac", STANDIN_ERROR="cannot listen on tcp:7000")
    assert (result.returncode, result.stderr) == (1, "cannot listen on tcp:7000\n")


def test_a_usage_error_of_a_tac(run_twistd: Run) -> None:
    result = run_twistd("-ny", "standin.tac", RTUNNEL_DRAIN="soon")
    assert result.returncode == 1
    assert result.stderr.startswith("standin: environment variable RTUNNEL_DRAIN: 'soon' is not a time")
    assert "Traceback" not in result.stdout + result.stderr


def test_a_logger_of_their_own(run_twistd: Run, tmp_path: Path) -> None:
    (tmp_path / "theirs.py").write_text(
        "from twisted.logger import textFileLogObserver\nmake = lambda: textFileLogObserver(open('o.log', 'a'))\n"
    )
    result = run_twistd("-n", "--logger=theirs.make", "standin", "--log-format=json", STANDIN_ERROR="x happened")
    assert (result.returncode, result.stderr) == (1, "x happened\n")
    assert "#critical] x happened" in (tmp_path / "o.log").read_text()


def test_a_log_file_that_cannot_be_opened(run_twistd: Run) -> None:
    result = run_twistd("-n", "--logfile=missing/x.log", "standin")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("cannot open the log file missing/x.log: No such file or directory")


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["rtunnel-client"], {}, "--server is missing; write for example --server tunnel.example.org:7000"),
        (["rtunnel-server", "--allow-ports=x"], {}, "flag --allow-ports: 'x' is not a port number"),
        (["rtunnel-server"], {"RTUNNEL_DRAIN": "x"}, "environment variable RTUNNEL_DRAIN: 'x' is not a time"),
        (["rtunnel-server", "--config=bad.yaml"], {}, "bad.yaml: line 1: unknown key 'contol_listen'; did you mean"),
    ],
)
def test_usage_errors(
    run_twistd: Run, tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    (tmp_path / "bad.yaml").write_text("contol_listen: :7000\n")
    result = run_twistd("-n", *arguments, **environment)
    assert result.returncode == 1
    # Not buried under the whole help.
    *above, line = result.stdout.splitlines()
    plugin = arguments[0]
    assert above == ["Usage: twistd [options]", f"'twistd {plugin} --help' lists the options of {plugin}.", ""]
    assert message in line
    assert result.stderr == ""


@pytest.mark.parametrize("plugin", ["rtunnel-server", "rtunnel-client", "rtc-signal", "rtc-host", "rtc-client"])
def test_help(run_twistd: Run, plugin: str) -> None:
    result = run_twistd("-n", plugin, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: twistd [options] " + plugin)
    assert "What most people need:" in result.stdout
