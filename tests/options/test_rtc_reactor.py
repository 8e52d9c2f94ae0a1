"""Host and client get the asyncio reactor, in the foreground, as a daemon and from a ``.tac``, and it works there.

The plugin here has the options of ``rtc-host``, and a service that uses asyncio as aiortc does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.options.conftest import ROOT
from tests.patience import PATIENCE
from tests.process.harness import Twistds, poll

pytestmark = pytest.mark.process

Run = Callable[..., subprocess.CompletedProcess[str]]

PLUGIN = """
from twisted.application.service import ServiceMaker

echo = ServiceMaker("echo", "echo_by_asyncio", "A datagram to itself.", "echo")
"""

MODULE = """
import asyncio
import os

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from rtunnel.options.plugins.rtc_host import Options
from rtunnel.options.plugins.run import PluginService


class Receiver(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        self.received.set_result(data)


async def echo(log):
    await asyncio.sleep(0.01)
    loop = asyncio.get_running_loop()
    transport, receiver = await loop.create_datagram_endpoint(Receiver, ("127.0.0.1", 0))
    transport.sendto(b"datagram", transport.get_extra_info("sockname"))
    log.info("{data} in {pid}", data=(await receiver.received).decode(), pid=os.getpid())
    transport.close()


class Echo(Service):
    log = Logger()

    def __init__(self, reactor):
        self.reactor = reactor

    def startService(self):
        super().startService()
        self.reactor.callWhenRunning(self.run)

    def run(self):
        done = Deferred.fromFuture(asyncio.ensure_future(echo(self.log)))
        done.addErrback(lambda failure: self.log.failure("no echo", failure))


def makeService(options):
    from twisted.internet import reactor

    options.tell()
    return PluginService("echo", Echo(reactor), options, reactor, dict)
"""

TAC = """
import echo_by_asyncio
from rtunnel.options.plugins import run

application = run.application("echo", echo_by_asyncio.Options, echo_by_asyncio.makeService)
"""

WORKS = r"datagram in (\d+)"
REFUSED = "WebRTC needs the asyncio reactor, and SelectReactor is installed already; write twistd --reactor=asyncio"


@pytest.fixture
def standin(tmp_path: Path) -> dict[str, str]:
    """Write the plugin ``echo`` and ``echo.tac``; the environment in which ``twistd`` finds them."""
    plugins = tmp_path / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "echo_plugin.py").write_text(PLUGIN)
    (tmp_path / "echo_by_asyncio.py").write_text(MODULE)
    (tmp_path / "echo.tac").write_text(TAC)
    return {"PYTHONPATH": f"{tmp_path}:{ROOT}", "RTUNNEL_ID": "x"}


@pytest.mark.parametrize("reactor", [(), ("--reactor=asyncio",)])
def test_in_the_foreground(twistd: Twistds, standin: dict[str, str], reactor: tuple[str, ...]) -> None:
    process = twistd("echo", env=standin, twistd_options=("-n", "--pidfile=", *reactor))
    assert int(process.wait_for(WORKS)[1]) == process.pid
    assert process.terminate() == 0
    assert "Traceback" not in process.output


@pytest.mark.parametrize("arguments", [("echo",), ("-y", "echo.tac")])
def test_as_a_daemon(run_twistd: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    result = run_twistd(*arguments, RTUNNEL_ID="x")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    pid = int((tmp_path / "twistd.pid").read_text())
    log = tmp_path / "twistd.log"
    try:
        poll(lambda: f"datagram in {pid}\n" in log.read_text(), PATIENCE, "the datagram")
        os.kill(pid, signal.SIGTERM)
        poll(lambda: not (tmp_path / "twistd.pid").exists(), PATIENCE, "the end of the daemon")
    finally:
        if (tmp_path / "twistd.pid").exists():
            os.kill(pid, signal.SIGKILL)
    assert "Traceback" not in log.read_text()


@pytest.mark.parametrize("reactor", [(), ("--reactor=asyncio",)])
def test_a_tac(twistd: Twistds, standin: dict[str, str], reactor: tuple[str, ...]) -> None:
    process = twistd("-y", "echo.tac", env=standin, twistd_options=("-n", "--pidfile=", *reactor))
    assert int(process.wait_for(WORKS)[1]) == process.pid
    assert process.terminate() == 0


def test_another_reactor_is_refused(run_twistd: Run) -> None:
    result = run_twistd("-n", "--reactor=select", "echo", "--id=x")
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].endswith(REFUSED)
    assert "Traceback" not in result.stdout + result.stderr


def test_another_reactor_is_refused_for_a_tac(run_twistd: Run) -> None:
    result = run_twistd("-n", "--reactor=select", "-y", "echo.tac", RTUNNEL_ID="x")
    assert (result.returncode, result.stderr) == (1, f"echo: {REFUSED}\n")


def test_a_tac_that_imports_the_reactor_is_told_what_to_write(run_twistd: Run, tmp_path: Path) -> None:
    tac = tmp_path / "echo.tac"
    tac.write_text(f"from twisted.internet import reactor\n{tac.read_text()}")
    result = run_twistd("-n", "-y", "echo.tac", RTUNNEL_ID="x")
    assert result.returncode == 1
    assert result.stderr.endswith("is installed already; write twistd --reactor=asyncio\n")
