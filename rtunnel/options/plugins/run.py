"""How a plugin starts and exits.

- On SIGTERM or SIGINT the services drain and stop; then the exit code is 0. ``twistd`` alone would kill itself by the
  same signal. A second signal ends the process at once.
- SIGHUP does the same when the process has a terminal, which is gone then. Otherwise the settings are read again; see
  :mod:`rtunnel.options.reload.reloader`.
- ``rtunnel server`` and so on run the same services without ``twistd``; see :mod:`rtunnel.options.plugins.foreground`.
- A :class:`~rtunnel.errors.StartupError` while the services start is one line on standard error and exit code 1, and
  no pid file is left. ``twistd`` alone would only log it.

In a ``.tac`` file :func:`application` also turns a wrong setting into one line::

    from rtunnel.options.plugins import rtunnel_server, run

    application = run.application(server.NAME, server.Options, server.makeService)
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from twisted.application.service import Application, IService, MultiService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ReactorNotRunning
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized

from rtunnel.control.actions.perform import Actions, only
from rtunnel.control.service import ControlService, Look
from rtunnel.control.settings import StatusSettings
from rtunnel.errors import ConfigError, StartupError
from rtunnel.options.plugins.log_file import AccessLogFile
from rtunnel.options.plugins.log_level import LogThreshold
from rtunnel.options.plugins.logs import TwistdLogging, observer_for, twistd_logging
from rtunnel.options.reload.drain import Drain
from rtunnel.options.reload.part import Part, Reloadable
from rtunnel.options.upgrade import predecessor
from rtunnel.options.upgrade.handover import NOT_NOW, Handover
from rtunnel.options.upgrade.notify import notify
from rtunnel.options.upgrade.succession import ISuccession

if TYPE_CHECKING:
    from rtunnel.options.reload.reloader import Outcome, Reloader

#: How many seconds after the second signal the process ends, even if its services have not stopped.
LAST_MOMENT = 1.0

#: The settings of the status port, in the order of the fields of :class:`StatusSettings`.
STATUS = tuple(f"status-{name}" for name in ("listen", "token", "tls-cert", "tls-key", "tls-ca"))

OptionsT = TypeVar("OptionsT", bound=usage.Options)


class PluginService(MultiService):
    """What ``makeService`` returns: one service, with the log and the signal handlers of its process."""

    log = Logger()

    def __init__(
        self,
        name: str,
        service: IService,
        options: usage.Options,
        reactor: Any,
        look: Look,
        actions: Actions = MappingProxyType({}),
        reloadable: Callable[[], Reloadable] | None = None,
        succession: Callable[[], ISuccession] | None = None,
    ) -> None:
        """Make it.

        :param actions: what the process can be asked to do, besides what all can.
        :param reloadable: returns what takes other settings; None: nothing does.
        :param succession: returns how another process takes the place of this one; None: none can.
        """
        super().__init__()
        self.setName(name)
        #: Why the process ends without having been told to; empty: it does not.
        self.failure = ""
        self._options = options
        self._reactor = reactor
        self._logging = TwistdLogging()
        self._drain = Drain(
            reactor, service, lambda: options.get("drain", 0.0), lambda: options.get("status-listen") is not None
        )
        self._reloadable = reloadable
        self._reloader: Reloader | None = None
        self._handover = Handover(reactor, name, succession, options, self._why_no_upgrade, self._leave)
        # Children stop in reverse order: when ExitSignals is told to stop, the service is already stopping.
        signals = ExitSignals(reactor, service, self._told_to_stop, self._hung_up, self._handover.request)
        signals.setServiceParent(self)
        if options.get("access-log") is not None:
            accounts = service.visitors.accounts  # type: ignore[attr-defined]
            AccessLogFile(options["access-log"], accounts, reactor.seconds).setServiceParent(self)
        service.setServiceParent(self)
        status = status_settings(options)
        # The lowest level that is logged; None: the log is somebody else's.
        self._threshold: LogThreshold | None = None
        own: Actions = {
            "log-level": self._change_log_level,
            "reload": self._reload,
            "drain": self._drain.act,
            "upgrade": self._handover.act,
            **self._handover.guarded(actions),
        }
        self._control = ControlService(reactor, name, look, status, own)
        self._handover.ports = self._control.handed
        self._control.is_leaving = lambda: self._drain.has_begun

    def setServiceParent(self, parent: Any) -> None:
        """Join a parent; if that is an application, set its log observer."""
        if isinstance(parent, Componentized) and parent.getComponent(ILogObserver, None) is None:
            self._logging = twistd_logging(self._options.parent, sys.argv)
            if not self._logging.logger:
                self._threshold = LogThreshold(self._options["log-level"], in_terminal=self._logging.terminal)
                observer = observer_for(self._options["log-format"], self._threshold, self._logging)
                parent.setComponent(ILogObserver, observer)
        super().setServiceParent(parent)

    def _change_log_level(self, asked: dict[str, Any]) -> dict[str, Any]:
        if self._threshold is None:
            raise ConfigError("this process logs where its 'twistd --logger' or .tac file says, and that has no level")
        return self._threshold.change(asked)

    def _hung_up(self) -> None:
        if not self._handover.pass_on(signal.SIGHUP):
            # What has come of it is in the log.
            self.reload().addErrback(lambda _failure: None)

    def reload(self) -> Deferred[Outcome]:
        """Read the settings again, and apply what has changed; see :meth:`Reloader.reload`."""
        if self._reloader is None:
            self._reloader = self._build_reloader()
        return self._reloader.reload()

    def _build_reloader(self) -> Reloader:
        # Most processes are never asked.
        from rtunnel.options.reload.reloader import Reloader

        parts = [
            Part(frozenset({"log-level"}), lambda new: self._set_log_level(new["log-level"])),
            Part(frozenset(STATUS), lambda new: self._control.use(status_settings(new))),
        ]
        found = self._reloadable() if self._reloadable is not None else Reloadable(None)
        return Reloader(self._reactor, self._options, found, parts, self._why_not)

    def _why_not(self) -> str:
        if self._reloadable is None:
            return "this process takes no other settings while it runs"
        return NOT_NOW if self._handover.is_under_way else self._why_no_upgrade()

    def _why_no_upgrade(self) -> str:
        return "the process is about to end" if self._drain.has_begun or not self.running else ""

    def _set_log_level(self, level: str) -> None:
        if self._threshold is not None:
            self._threshold.set(level)

    async def _reload(self, asked: dict[str, Any]) -> dict[str, Any]:
        only(asked)
        outcome = await self.reload()
        return {"changed": outcome.changed, "failed": outcome.failed, "restart": outcome.restart}

    def _leave(self, successor: int, within: float) -> None:
        self._control.leave(successor)
        # Whoever has asked gets the answer first.
        self._reactor.callLater(0, self._drain.stop, within)

    def _told_to_stop(self) -> None:
        self._handover.told_to_stop(is_ending=self._drain.has_begun)
        self._drain.hurry()

    def _is_running(self) -> None:
        notify("READY=1")
        spare_collector()
        self._handover.begin()

    def privilegedStartService(self) -> None:
        self._start(self._handover.meet)
        self._start(super().privilegedStartService)
        self._start(self._control.privilegedStartService)
        self._start(self._handover.inherit)

    def startService(self) -> None:
        self._start(self._handover.wait)
        self._start(super().startService)
        self._start(self._control.startService)
        self._reactor.callWhenRunning(self._is_running)

    def stopService(self) -> Deferred[Any]:
        """Stop. Until everything else has, it can be asked how that goes."""
        self._handover.stop()
        stopping: Deferred[Any] = maybeDeferred(super().stopService)
        return stopping.addBoth(self._stop_control)

    def _stop_control(self, result: Any) -> Deferred[Any]:
        stopped: Deferred[Any] = self._control.stopService()
        return stopped.addCallback(lambda _: result)

    def fail(self, why: str) -> None:
        """End the process with this one line: there is nothing left for it to do.

        Under ``twistd`` the line is in the log only, and the exit code is 0.
        """
        if self.failure:
            return
        self.failure = why
        if not self._logging.to_stdout:
            self.log.critical("{why}", why=why)
        # The reactor may already be stopping.
        with suppress(ReactorNotRunning):
            self._reactor.stop()

    def _start(self, start: Callable[[], None]) -> None:
        try:
            start()
        except StartupError as error:
            predecessor.failed(str(error))
            # The interpreter prints the line when it exits; a terminal need not show it twice.
            if not self._logging.to_stdout:
                self.log.critical("{error}", error=error)
            sys.stderr = sys.__stderr__
            raise


def status_settings(options: Mapping[str, Any]) -> StatusSettings:
    """Return where the status can be read."""
    return StatusSettings(*(options.get(name) for name in STATUS))


def spare_collector() -> None:
    """Keep the garbage collector from looking at what exists now, which is there to stay.

    A full collection looks at everything, and nothing else happens meanwhile: 50 ms for the 75,000 objects of our
    imports alone. And one does not come before there are a quarter as many new ones, so that garbage may lie for long.
    """
    gc.freeze()
    # Costs nothing now, and lets it count from here.
    gc.collect()


def has_terminal() -> bool:
    """Return whether the process has a controlling terminal, wherever its standard streams lead."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class ExitSignals(Service):
    """Stops the reactor on SIGTERM, SIGINT, or SIGHUP of a terminal, so that the exit code is 0."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: IService,
        on_stop: Callable[[], None],
        on_hangup: Callable[[], None],
        on_upgrade: Callable[[], None],
    ) -> None:
        """Make it.

        :param service: a second signal calls its method ``stop_now``, if it has one.
        :param on_stop: called before the process stops.
        :param on_hangup: called on SIGHUP, if there is no terminal.
        :param on_upgrade: called on SIGUSR2.
        """
        self.setName("exit-signals")
        self._reactor = reactor
        self._service = service
        self._on_stop = on_stop
        self._on_hangup = on_hangup
        self._on_upgrade = on_upgrade
        self._seen = 0
        self._stopping = False

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        # Do this before anything listens: a program that waits for that may send a signal at once.
        self._install()

    def startService(self) -> None:
        super().startService()
        # The reactor installs its own handlers when it starts to run, so these are installed again after that. sigTerm
        # covers a signal in between.
        self._reactor.sigTerm = self._got_signal
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        signal.signal(signal.SIGTERM, self._got_signal)
        # Leave SIGINT alone if a shell made this background job ignore it, or a debugger handles it.
        ours = (signal.default_int_handler, signal.SIG_DFL, getattr(self._reactor, "sigInt", None))
        if signal.getsignal(signal.SIGINT) in ours:
            signal.signal(signal.SIGINT, self._got_signal)
        # nohup ignores SIGHUP. A terminal that is gone is not ours any more, so look for it now.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, self._got_signal if has_terminal() else self._got_reload)
        if hasattr(signal, "SIGUSR2") and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
            signal.signal(signal.SIGUSR2, self._got_upgrade)

    def _got_signal(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._stop, signal.Signals(number).name)

    def _got_reload(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._hung_up)

    def _got_upgrade(self, number: int, frame: FrameType | None) -> None:
        self._reactor.callFromThread(self._on_upgrade)

    def _hung_up(self) -> None:
        self.log.info("SIGHUP: the settings are read again")
        self._on_hangup()

    def stopService(self) -> None:
        super().stopService()
        self._stopping = True
        if self._seen > 1:
            self._stop_now()

    def _stop(self, name: str) -> None:
        if name == "SIGHUP" and self._seen:
            # The kernel and the shell may each send one; that does not mean "at once".
            return
        self._seen += 1
        if self._seen == 1:
            self.log.info("{signal}: stopping", signal=name)
            self._on_stop()
            # The reactor may already be stopping.
            with suppress(ReactorNotRunning):
                self._reactor.stop()
        elif self._seen == 2:
            self.log.info("{signal} again: stopping at once", signal=name)
            self._reactor.callLater(LAST_MOMENT, self._reactor.crash)
            # After two signals in one turn of the reactor, the services have not been told to stop yet.
            if self._stopping:
                self._stop_now()

    def _stop_now(self) -> None:
        stop_now = getattr(self._service, "stop_now", None)
        if stop_now is not None:
            stop_now()


def application(
    name: str,
    options_class: Callable[[], OptionsT],
    make_service: Callable[[OptionsT], MultiService],
    arguments: Sequence[str] = (),
) -> Any:
    """Return the application of a ``.tac`` file.

    :param arguments: flags as on the command line; without any, all settings come from the environment and the file.
    :raises SystemExit: a setting is wrong; the message is one line.
    """
    options = options_class()
    try:
        parse: Any = options.parseOptions
        parse(list(arguments))
    except usage.UsageError as error:
        sys.exit(f"{name}: {error}")
    tree = Application(name)
    make_service(options).setServiceParent(tree)
    return tree
