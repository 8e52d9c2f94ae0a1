"""Real processes for tests: start one, wait for what it logs, end it, read its exit code.

A test that runs ``twistd`` must not hang when the process does, must not leave it behind when the test fails, and must
show what it logged when something goes wrong. So everything here waits with a bound, ends processes by their own
process id only, and puts their output into the error.

A test takes the fixture ``twistd`` (a :class:`Twistds`) and calls it as one would type the command::

    server = twistd("rtunnel-server", "--control-listen", "tcp:0:interface=127.0.0.1")
    port = int(server.wait_for(r"control port listening on \\S+:(\\d+)")[1])
    ...
    assert server.terminate() == 0

Everything blocks, so it belongs in plain (not ``async``) tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import pytest

from tests.patience import PATIENCE
from tests.process import fork_server, proc

Result = TypeVar("Result")

POLL = 0.02
"""Seconds between two looks at something that cannot be waited for otherwise."""


def poll(look: Callable[[], Result | None], timeout: float, what: str) -> Result:
    """Look again and again until there is something to see; after ``timeout`` seconds fail, naming ``what``."""
    deadline = time.monotonic() + timeout
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(POLL)


def need(program: str) -> str:
    """The path of a system program; skips the test with a reason where it is not installed."""
    path = shutil.which(program, path=os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin:/sbin:/usr/games")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def _attempt(host: str, port: int) -> str:
    """What becomes of a connection: ``open``, ``refused``, or something else."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return str(error)
    return "open"


def wait_until_open(port: int, timeout: float = PATIENCE, host: str = "127.0.0.1") -> None:
    """Wait until something accepts connections on ``port``."""
    poll(lambda: _attempt(host, port) == "open", timeout, f"{host}:{port} accepts connections")


def wait_until_closed(port: int, timeout: float = PATIENCE, host: str = "127.0.0.1") -> None:
    """Wait until ``port`` refuses connections."""
    poll(lambda: _attempt(host, port) == "refused", timeout, f"{host}:{port} refuses connections")


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of rtunnel or of socket activation, and with ``extra``."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RTUNNEL_", "WTT_", "LISTEN_")) and name != "PYTHONPATH"
    }
    environment["PYTHONUNBUFFERED"] = "1"
    environment.update(extra or {})
    return environment


class Process:
    """One child process, whose output (standard output and error together) is collected by a thread."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.argv = list(argv)
        self._chunks: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._process = self._start(cwd, clean_environment(env), pass_fds)
        self._reader = threading.Thread(target=self._collect, name=f"output of {self.pid}", daemon=True)
        self._reader.start()

    def _start(
        self, cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes] | fork_server.Forked:
        return subprocess.Popen(
            self.argv,
            cwd=cwd,
            env=env,
            pass_fds=pass_fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _collect(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        with stream:
            for line in iter(stream.readline, b""):
                with self._news:
                    self._chunks.append(line.decode(errors="replace"))
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """Everything that it has printed so far."""
        with self._news:
            return "".join(self._chunks)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Its resident memory now (Linux)."""
        return proc.rss_bytes(self.pid)

    def descriptors(self) -> int:
        """How many file descriptors it has open now (Linux)."""
        return proc.descriptors(self.pid)

    def cpu_seconds(self) -> float:
        """The processor time that it has used so far (Linux)."""
        return proc.cpu_seconds(self.pid)

    def wait_for(self, regex: str, timeout: float = PATIENCE, *, after: int = 0) -> re.Match[str]:
        """Wait until its output has a match for ``regex`` (multi-line mode) at or past the offset ``after``.

        To see the same line a second time, keep ``len(process.output)`` or ``match.end()`` from before. Fails at once
        when the process has ended without it.
        """
        pattern = re.compile(regex, re.MULTILINE)
        deadline = time.monotonic() + timeout
        with self._news:
            while True:
                found = pattern.search("".join(self._chunks), after)
                if found:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    break
                self._news.wait(left)
            ended = self._ended
        why = "it ended" if ended else f"{timeout} s passed"
        raise AssertionError(f"{why} without {regex!r}\n{self}")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal (none when it has ended)."""
        self._process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end, and return the exit code (negative: the signal that ended it)."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s\n{self}") from None
        self._reader.join(timeout)
        return code

    def terminate(self, timeout: float = PATIENCE, number: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end, and return the exit code. A process that does not end in time is killed, and that fails."""
        self.send_signal(number)
        try:
            return self.wait(timeout)
        except AssertionError:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as ``kill -9`` does, and wait until it is gone. Not an error when it has ended already."""
        self._process.kill()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def __str__(self) -> str:
        code = self._process.poll()
        state = "running" if code is None else f"exit code {code}"
        return f"--- {' '.join(self.argv)} (pid {self.pid}, {state}) ---\n{self.output}---"


def twistd_program(name: str = "twistd") -> str:
    """The ``twistd``, or ``rtunnel``, of the environment that runs the tests."""
    path = shutil.which(name, path=str(Path(sys.executable).parent))
    assert path is not None, f"{name} is not in the environment that runs the tests"
    return path


class Twistd(Process):
    """``twistd -n --pidfile= ARGUMENTS``, in the foreground and without a pid file.

    :param cold: start the program itself, with all its imports, and do not let the fork server have done them already.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        twistd_options: Sequence[str] = ("-n", "--pidfile="),
        cold: bool = True,
    ) -> None:
        self._cold = cold or not fork_server.available()
        super().__init__([self._program(), *twistd_options, *arguments], cwd=cwd, env=env, pass_fds=pass_fds)

    def _program(self) -> str:
        return twistd_program()

    def _start(
        self, cwd: Path, env: Mapping[str, str], pass_fds: Sequence[int]
    ) -> subprocess.Popen[bytes] | fork_server.Forked:
        if self._cold or pass_fds:
            return super()._start(cwd, env, pass_fds)
        return fork_server.fork_server().start(self.argv, cwd, env)


class Rtunnel(Twistd):
    """``rtunnel ARGUMENTS``."""

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, cold: bool = True) -> None:
        super().__init__(*arguments, cwd=cwd, env=env, twistd_options=(), cold=cold)

    def _program(self) -> str:
        return twistd_program("rtunnel")


class Daemon:
    """A daemonized ``twistd ARGUMENTS``: known by its pid file, heard by its log file.

    It is not our child any more, so its end can be seen but not its exit code.
    """

    def __init__(self, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._pidfile = cwd / "twistd.pid"
        self._logfile = cwd / "twistd.log"
        self.pid = 0
        launcher = Twistd(
            *arguments,
            cwd=cwd,
            env=env,
            twistd_options=(f"--pidfile={self._pidfile}", f"--logfile={self._logfile}"),
        )
        with launcher:
            code = launcher.wait()
            assert code == 0, f"twistd did not become a daemon\n{launcher}\n{self.output}"
        self.pid = int(poll(self._read_pidfile, PATIENCE, f"a pid file\n{self.output}"))

    def _read_pidfile(self) -> str:
        """What the pid file says; empty while it is not there."""
        return self._pidfile.read_text() if self._pidfile.exists() else ""

    @property
    def output(self) -> str:
        """Its log file so far."""
        return self._logfile.read_text(errors="replace") if self._logfile.exists() else ""

    @property
    def running(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def wait_for(self, regex: str, timeout: float = PATIENCE) -> re.Match[str]:
        """Wait until its log file has a match for ``regex`` (multi-line mode)."""
        pattern = re.compile(regex, re.MULTILINE)
        try:
            return poll(lambda: pattern.search(self.output), timeout, regex)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def terminate(self, timeout: float = PATIENCE, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to end, and wait until it has."""
        self.send_signal(number)
        poll(lambda: not self.running, timeout, f"the end of the daemon {self.pid}\n{self.output}")

    def kill(self) -> None:
        """End it as ``kill -9`` does. Not an error when it has ended already."""
        if self.pid and self.running:
            os.kill(self.pid, signal.SIGKILL)
            poll(lambda: not self.running, PATIENCE, f"the end of the daemon {self.pid}")

    def __str__(self) -> str:
        return f"--- daemon {self.pid} ---\n{self.output}---"


class Endable(Protocol):
    def kill(self) -> None: ...


class Twistds:
    """What the fixture ``twistd`` gives: starts processes, and ends those that a test leaves running.

    :param cold: start each ``twistd`` with all its imports; otherwise a fork server has done them already.
    """

    def __init__(self, directory: Path, *, cold: bool = True) -> None:
        self._cold = cold
        self.directory = directory
        """Where the processes run; nothing of the checkout is the current directory."""
        self._started: list[Endable] = []

    def __call__(
        self,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        twistd_options: Sequence[str] = ("-n", "--pidfile="),
    ) -> Twistd:
        """Start ``twistd -n --pidfile= ARGUMENTS``."""
        process = Twistd(
            *arguments,
            cwd=self.directory,
            env=env,
            pass_fds=pass_fds,
            twistd_options=twistd_options,
            cold=self._cold,
        )
        self._started.append(process)
        return process

    def rtunnel(self, *arguments: str, env: Mapping[str, str] | None = None) -> Rtunnel:
        """Start ``rtunnel ARGUMENTS``."""
        process = Rtunnel(*arguments, cwd=self.directory, env=env, cold=self._cold)
        self._started.append(process)
        return process

    def program(self, *argv: str, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()) -> Process:
        """Start any other program, such as a web server."""
        process = Process(argv, cwd=self.directory, env=env, pass_fds=pass_fds)
        self._started.append(process)
        return process

    def daemon(self, *arguments: str, env: Mapping[str, str] | None = None) -> Daemon:
        """Start a daemonized ``twistd ARGUMENTS``, in a directory of its own."""
        directory = self.directory / f"daemon{len(self._started)}"
        directory.mkdir()
        process = Daemon(*arguments, cwd=directory, env=env)
        self._started.append(process)
        return process

    def end_all(self) -> None:
        """End what still runs, last started first, and print what all of them logged, for the report of a failure."""
        while self._started:
            process = self._started.pop()
            process.kill()
            print(process)
