"""An environment without settings, and real ``twistd`` processes with a plugin that stands in for a tunnel."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import LogLevel, globalLogPublisher

from tests.process.commands import run_to_end
from tests.process.harness import Twistds

Write = Callable[..., str]

ROOT = Path(__file__).parent.parent.parent

PLUGIN = """
from twisted.application.service import ServiceMaker

standin = ServiceMaker("stand-in", "standin", "Stands in for a service.", "standin")
"""

MODULE = """
import os

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtunnel.errors import StartupError
from rtunnel.options.plugins.run import PluginService
from rtunnel.options.plugins.rtunnel_server import Options


class Standin(Service):
    log = Logger()

    def __init__(self, reactor):
        self.reactor = reactor
        self.done = Deferred()

    def privilegedStartService(self):
        if "STANDIN_ERROR" in os.environ:
            raise StartupError(os.environ["STANDIN_ERROR"])

    def startService(self):
        super().startService()
        self.log.debug("details of {visitor}", visitor="192.0.2.1")
        self.reactor.callWhenRunning(self.log.info, "ready as {pid}", pid=os.getpid())

    def stopService(self):
        self.log.info("draining")
        self.call = self.reactor.callLater(float(os.environ.get("STANDIN_DRAIN", "0.1")), self.finish, "drained")
        return self.done

    def finish(self, message):
        self.log.info(message)
        self.done.callback(None)

    def stop_now(self):
        self.call.cancel()
        self.finish("stopped now")


def makeService(options):
    from twisted.internet import reactor

    return PluginService("standin", Standin(reactor), options, reactor, dict)
"""

TAC = """
import standin
from rtunnel.options.plugins import run

application = run.application("standin", standin.Options, standin.makeService)
"""


@pytest.fixture
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings from the environment or a file in the current directory."""
    for name in list(os.environ):
        if name.startswith(("RTUNNEL_", "WTT_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Write a configuration file, and return its path."""

    def write(content: str, name: str = "x.yaml") -> str:
        path = tmp_path / name
        path.write_text(content)
        return str(path)

    return write


@pytest.fixture
def logged() -> Iterator[list[tuple[str, str]]]:
    """What is logged: levels and texts."""
    events: list[tuple[str, str]] = []

    def note(event: Any) -> None:
        level: Any = event.get("log_level", LogLevel.info)
        events.append((level.name, (event.get("log_format") or "").format(**event)))

    observer: Any = note
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


@pytest.fixture
def standin(tmp_path: Path) -> dict[str, str]:
    """Write the plugin ``standin`` and ``standin.tac``; the environment in which ``twistd`` finds them."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "standin_plugin.py").write_text(PLUGIN)
    (tmp_path / "standin.py").write_text(MODULE)
    (tmp_path / "standin.tac").write_text(TAC)
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}"}


@pytest.fixture
def twistd(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Twistds]:
    """Starts ``twistd -n ARGUMENTS``; whatever is still running when the test is over is ended."""
    started = Twistds(tmp_path, cold=request.config.getoption("--cold"))
    yield started
    started.end_all()


@pytest.fixture
def run_twistd(
    tmp_path: Path, standin: dict[str, str], request: pytest.FixtureRequest
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a ``twistd ARGUMENTS`` that is expected to end at once, in ``tmp_path``."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        cold = request.config.getoption("--cold")
        return run_to_end("twistd", *arguments, cwd=tmp_path, env=standin | environment, cold=cold)

    return run
