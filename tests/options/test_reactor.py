"""The reactor of every plugin has a clock that nobody can set, and a resolver that waits for nothing."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from twisted.internet.base import ReactorBase

from rtunnel.names import Resolver
from rtunnel.options.plugins.reactor import prepare
from tests.options.conftest import ROOT
from tests.patience import PATIENCE

EACH_PLUGIN = """
import time
from rtunnel.options.plugins import rtc_client, rtc_host, rtc_signal, rtunnel_client, rtunnel_server

def prepared(plugin, *arguments):
    options = plugin.Options()
    options.parseOptions(["--drain=0", *arguments])
    plugin.makeService(options)
    from twisted.internet import reactor
    print(plugin.NAME, reactor.seconds is time.monotonic, *sorted(reactor.nameResolver.first))
    del reactor.seconds
    reactor.nameResolver.first.clear()

ice = "--stun-server=stun:stun.example", "--turn-server=turn:turn.example", "--turn-secret=x"
prepared(rtc_host, "--id=x", "--remote=app.example:1", "--signal=ws://signal.example", *ice)
prepared(rtc_client, "--id=x", "--local=:1", "--signal=ws://signal.example", *ice)
prepared(rtunnel_server)
prepared(rtunnel_client, "--server=server.example:1", "--local=app.example:1")
rtc_signal.Options.opt_drain = lambda self, value: None
prepared(rtc_signal)
"""

RUNNING = """
import socket
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.internet import reactor
from twisted.internet.abstract import FileDescriptor
from rtunnel.names import Resolver
from rtunnel.options.plugins.reactor import prepare

class Ear(FileDescriptor):
    def fileno(self):
        return ours.fileno()

    def doRead(self):
        print(ours.recv(5), isinstance(reactor.nameResolver, Resolver))
        reactor.stop()

def tick():
    reactor.callLater(0.001, tick)

def begin():
    prepare(reactor)
    tick()
    theirs.send(b"heard")

ours, theirs = socket.socketpair()
ear = Ear()
ear.startReading()
reactor.callLater(0, begin)
reactor.run()
"""


class ByTheWall(ReactorBase):
    """A reactor that has nothing but time, and goes by the time of day.

    :ivar day: the time of day.
    """

    day = 1e9

    def __init__(self) -> None:
        super().__init__()
        self.seconds = lambda: self.day

    def installWaker(self) -> None:
        pass


@pytest.mark.process
def test_every_plugin_prepares_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", EACH_PLUGIN], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.splitlines() == [
        "rtc-host True signal.example stun.example turn.example",
        "rtc-client True signal.example stun.example turn.example",
        "rtunnel-server True",
        "rtunnel-client True server.example",
        "rtc-signal True",
    ]


def test_timers_that_run_already_go_on() -> None:
    reactor = ByTheWall()
    fired: list[str] = []
    reactor.callLater(-0.0, fired.append, "due")
    reactor.callLater(3600, fired.append, "in an hour")
    before = time.monotonic()
    prepare(reactor)
    assert isinstance(reactor.nameResolver, Resolver)
    resolver = reactor.nameResolver
    reactor.day -= 3600
    reactor.runUntilCurrent()
    assert fired == ["due"]
    (left,) = reactor.getDelayedCalls()
    assert before + 3600 <= left.getTime() <= time.monotonic() + 3600
    prepare(reactor, "server.example", None)
    assert reactor.nameResolver is resolver
    assert resolver.first == {"server.example"}


@pytest.mark.process
def test_one_that_runs_goes_on_looking_at_sockets() -> None:
    """Another program may start a tunnel in a timed call. The loop for such calls then has the clock of before."""
    done = subprocess.run(
        [sys.executable, "-c", RUNNING], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout == "b'heard' True\n"
