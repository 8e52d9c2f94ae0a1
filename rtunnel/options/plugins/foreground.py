"""The ends of the tunnels as commands of ``rtunnel``: in the foreground, without ``twistd``."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.application.service import Application, IService, MultiService
from twisted.logger import ILogObserver, globalLogBeginner

from rtunnel.errors import StartupError


@contextmanager
def ctrl_c_ends() -> Iterator[None]:
    """Let Ctrl-C end the process here. Twisted's search for plugins of endpoints would swallow a KeyboardInterrupt."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, before)


def run_in_foreground(make_service: Callable[[], MultiService]) -> None:
    """Run a service without ``twistd`` until it has stopped: no daemon, no pid file, the log on standard output.

    :raises StartupError: it cannot start, or has ended by itself (:meth:`PluginService.fail`); the message is one line.
    """
    with ctrl_c_ends():
        # It imports most of what the process needs.
        gc.disable()
        try:
            # ExitSignals takes over.
            service = make_service()
        finally:
            gc.enable()
        from twisted.internet import reactor

        tree = Application(service.name)
        service.setServiceParent(tree)
        globalLogBeginner.beginLoggingTo([tree.getComponent(ILogObserver)], redirectStandardIO=False)
        # As twisted.application.app does it, which also imports debuggers and profilers.
        services = IService(tree)
        services.privilegedStartService()
        services.startService()
        reactor.addSystemEventTrigger("before", "shutdown", services.stopService)
    reactor.run()
    if why := getattr(service, "failure", ""):
        raise StartupError(why)
