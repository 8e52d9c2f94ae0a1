"""Runs tests in many processes at once: ``pytest --workers=auto``.

Each of these workers is forked when all tests have been collected. So the tests are imported once, which takes some
ten seconds of a core, and workers share the memory of it. (Each worker of pytest-xdist imports and collects everything
for itself.) A worker that dies counts as a failure of the test that it ran, and another takes its place.

Tests that start processes are handed out first, a few at a time, as one of them may take a minute; the order stays
random among them, and among the others.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.process import fork_server

MOST = 50
"""How many tests a worker gets at a time, of those that start no process."""
MOST_OF_PROCESSES = 3
"""And of those that do."""

MEMORY = 300_000_000
"""What a worker takes of memory, with what it starts, in bytes."""

_inherited: list[object] = []
"""What a worker has from the process that forked it, and must neither use nor free."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--workers", help="run tests in so many processes at once, or 'auto'")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    wanted = config.getoption("--workers")
    if wanted and not config.getoption("usepdb") and hasattr(os, "fork"):
        config.pluginmanager.register(Workers(config, _usual() if wanted == "auto" else int(wanted)), "workers")


def _memory_to_spare() -> int:
    """How many bytes this machine has that nobody uses."""
    try:
        found = re.search(r"MemAvailable: *([0-9]+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        found = None
    return sys.maxsize if found is None else int(found[1]) * 1024


def _usual() -> int:
    """Five for each core, as most of the time a test waits for another process, or for a time to pass; fewer if they
    would take more than half of the memory.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(cores, min(5 * cores, _memory_to_spare() // (2 * MEMORY)))


@dataclass(eq=False)
class Worker:
    """One of them, as the main process knows it.

    :ivar given: the places in the list of tests of those that it has, and has not finished.
    """

    pid: int
    connection: Connection
    given: deque[int] = field(default_factory=deque)


class Workers:
    """The main process, which hands tests out and reports what came of them."""

    def __init__(self, config: pytest.Config, number: int) -> None:
        self._config = config
        self._number = number
        self._names = count()
        self._running: dict[Connection, Worker] = {}
        self._to_do: deque[int] = deque()
        self._origin: fork_server.Origin | None = None

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.getoption("collectonly"):
            return None  # pytest does what is to do.
        if reporter := self._config.pluginmanager.get_plugin("terminalreporter"):
            reporter.showfspath = False
        self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # There is one, and all are in it.
        quick = [place for place, item in enumerate(session.items) if not _starts_processes(item)]
        self._to_do.extend(place for place, item in enumerate(session.items) if _starts_processes(item))
        if self._to_do and fork_server.available():
            self._origin = fork_server.Origin.launch()
        self._to_do.extend(quick)
        is_stopping = False
        try:
            for _ in range(min(self._number, len(session.items))):
                self._fork(session)
            while self._running:
                for connection in wait(list(self._running)):
                    assert isinstance(connection, Connection)
                    self._hear(session, self._running[connection])
                if (session.shouldfail or session.shouldstop) and not is_stopping:
                    is_stopping = True
                    self._stop()
        finally:
            for worker in self._running.values():
                os.kill(worker.pid, signal.SIGTERM)
            if self._origin:
                self._origin.end()
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _stop(self) -> None:
        """Let all end what they are at, and no more."""
        self._to_do.clear()
        for connection in self._running:
            with contextlib.suppress(OSError):
                connection.send([])

    def _fork(self, session: pytest.Session) -> None:
        name = f"w{next(self._names)}"
        ours, theirs = Pipe()
        origin = self._origin.fork() if self._origin else None
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            ours.close()
            for connection in self._running:
                connection.close()
            if origin:
                fork_server.prepare(origin)
            _work(session, theirs, name)
        theirs.close()
        if origin:
            origin.end()
        self._running[ours] = Worker(pid, ours)

    def _hear(self, session: pytest.Session, worker: Worker) -> None:
        hook = self._config.hook
        try:
            kind, data = worker.connection.recv()
        except EOFError:
            self._ended(session, worker)
            return
        if kind == "more":
            chunk = self._chunk(session)
            worker.given.extend(chunk)
            with contextlib.suppress(OSError):  # If it has gone, we hear so.
                worker.connection.send(chunk)
        elif kind == "start":
            hook.pytest_runtest_logstart(nodeid=data[0], location=data[1])
        elif kind == "report":
            report = hook.pytest_report_from_serializable(config=self._config, data=data)
            hook.pytest_runtest_logreport(report=report)
        elif kind == "end":
            worker.given.clear()
        elif kind == "finish":
            worker.given.popleft()
            hook.pytest_runtest_logfinish(nodeid=data[0], location=data[1])
        else:
            assert kind == "warning"
            hook.pytest_warning_recorded.call_historic(kwargs=data)

    def _chunk(self, session: pytest.Session) -> Sequence[int]:
        """What a worker does next: fewer at a time towards the end, so that all end at once. Empty: nothing is left."""
        if not self._to_do:
            return []
        processes = _starts_processes(session.items[self._to_do[0]])
        size = min(MOST_OF_PROCESSES if processes else MOST, 1 + len(self._to_do) // (4 * self._number))
        chunk = [self._to_do.popleft()]
        while self._to_do and len(chunk) < size and _starts_processes(session.items[self._to_do[0]]) == processes:
            chunk.append(self._to_do.popleft())
        return chunk

    def _ended(self, session: pytest.Session, worker: Worker) -> None:
        """A worker has gone. If that was before its time, its test has failed, and another does the rest."""
        del self._running[worker.connection]
        worker.connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if not worker.given:
            return
        item = session.items[worker.given.popleft()]
        why = f"The worker ended in the middle of this test, with exit code {code}; what it said is above."
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
        self._config.hook.pytest_runtest_logreport(report=report)
        self._to_do.extendleft(reversed(worker.given))
        if self._to_do:
            self._fork(session)


def _starts_processes(item: pytest.Item) -> bool:
    return item.get_closest_marker("process") is not None


# In a worker


class Teller:
    """Tells the main process what the hooks of pytest tell here."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self._is_listening = False
        config.pluginmanager.register(self)  # which tells of every warning that there has been
        self._is_listening = True

    def pytest_runtest_logstart(self, nodeid: str, location: object) -> None:
        self._connection.send(("start", (nodeid, location)))

    def pytest_runtest_logfinish(self, nodeid: str, location: object) -> None:
        self._connection.send(("finish", (nodeid, location)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        if not self._is_listening:
            return
        shown = warnings.WarningMessage(
            str(warning_message.message), Warning, warning_message.filename, warning_message.lineno
        )
        data = {"warning_message": shown, "when": when, "nodeid": nodeid, "location": location}
        self._connection.send(("warning", data))


def _work(session: pytest.Session, connection: Connection, name: str) -> NoReturn:
    """Run tests until none is left, and end this process without what the main process does at its end."""
    code = 1
    try:
        _become_worker(session.config, name)
        Teller(session.config, connection)
        to_do: deque[int] = deque()

        def more() -> None:
            connection.send(("more", None))
            to_do.extend(connection.recv())

        more()
        while to_do:
            item = session.items[to_do.popleft()]
            if not to_do:
                more()  # What comes next decides which fixtures stay.
            following = session.items[to_do[0]] if to_do else None
            session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail or session.shouldstop or connection.poll():
                break
        connection.send(("end", None))
        session._setupstate.teardown_exact(
            None
        )  # After a stop there may be fixtures of a module, with their processes.
        atexit._run_exitfuncs()
        code = 0
    except KeyboardInterrupt:
        pass
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    os._exit(code)


def _become_worker(config: pytest.Config, name: str) -> None:
    """Have everything that must not be shared anew: output, directories, and the reactor."""
    atexit._clear()
    os.environ["PYTEST_XDIST_WORKER"] = name  # as plugins know workers
    for variable in ("RUNTIME_DIRECTORY", "XDG_STATE_HOME"):
        own = Path(os.environ[variable], name)
        own.mkdir(mode=0o700, exist_ok=True)
        os.environ[variable] = str(own)
    factory = config._tmp_path_factory  # type: ignore[attr-defined]
    factory._basetemp = factory.mktemp(name, numbered=False)
    # The file that has what is captured is shared, and so is the place in it. The reporter has nothing to say here.
    capture: Any = config.pluginmanager.get_plugin("capturemanager")
    capture.stop_global_capturing()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    capture.start_global_capturing()
    capture.suspend_global_capture()
    _renew_reactor()


def _renew_reactor() -> None:
    """The tests' modules have installed one. Its selector and the sockets that wake it are shared by all workers."""
    from twisted.internet import reactor

    renewed: Any = reactor
    _inherited.extend((renewed._asyncioEventloop, renewed.waker))
    renewed.waker = None
    renewed.__init__()
