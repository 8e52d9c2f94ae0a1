"""The service around a plugin's service: signals, start errors, the application's log observer."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from twisted.application.service import Application, IServiceCollection, MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import Clock
from twisted.logger import ILogObserver
from twisted.python.failure import Failure

from rtunnel.errors import StartupError
from rtunnel.options.plugins import rtunnel_server, run
from rtunnel.options.plugins.run import LAST_MOMENT, PluginService
from rtunnel.upkeep.accepting import AcceptErrorObserver


class FakeReactor(Clock):
    """As much of a reactor as signals need. Calls from threads come at the next ``turn``."""

    def __init__(self) -> None:
        super().__init__()
        self.did: list[str] = []
        self.started: list[Callable[[], object]] = []
        self.from_threads: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.on_stop: Callable[[], object] = lambda: None
        self.stopped = False

    def callWhenRunning(self, call: Callable[[], object]) -> None:
        self.started.append(call)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        self.from_threads.append((call, arguments))

    def sigInt(self, *_: object) -> None: ...

    def stop(self) -> None:
        if self.stopped:
            raise ReactorNotRunning
        self.stopped = True
        self.did.append("stop")

    def crash(self) -> None:
        self.did.append("crash")

    def turn(self) -> None:
        """The calls from threads first, then the end, as in a real reactor."""
        calls, self.from_threads = self.from_threads, []
        for call, arguments in calls:
            call(*arguments)
        if self.stopped:
            self.on_stop()
            self.on_stop = lambda: None


class Draining(Service):
    """A service that takes its time to stop."""

    def __init__(self, reactor: FakeReactor) -> None:
        self.reactor = reactor
        self.done: Deferred[None] = Deferred()

    def stopService(self) -> Deferred[None]:
        self.reactor.did.append("drain")
        return self.done

    def stop_now(self) -> None:
        self.reactor.did.append("stop_now")


@pytest.fixture
def reactor() -> FakeReactor:
    return FakeReactor()


@pytest.fixture(autouse=True)
def signals() -> Iterator[Callable[[signal.Signals], None]]:
    """Deliver a signal to its handler; handlers are put back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def deliver(number: signal.Signals) -> None:
        handler = signal.getsignal(number)
        assert callable(handler)
        handler(number, None)

    yield deliver
    for number, handler in before.items():
        signal.signal(number, handler)


def start(reactor: FakeReactor, service: Service) -> PluginService:
    plugin = PluginService("rtunnel-test", service, rtunnel_server.Options(), reactor, dict)
    plugin.privilegedStartService()
    plugin.startService()
    reactor.on_stop = plugin.stopService
    # What a reactor does before it calls what waits for it to run.
    signal.signal(signal.SIGINT, reactor.sigInt)
    for call in reactor.started:
        call()
    return plugin


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_drains(
    reactor: FakeReactor, signals: Callable[[signal.Signals], None], number: signal.Signals
) -> None:
    start(reactor, Draining(reactor))
    signals(number)
    assert reactor.did == []
    reactor.turn()
    assert reactor.did == ["stop", "drain"]
    assert reactor.getDelayedCalls() == []


def test_the_second_signal_does_not_wait(reactor: FakeReactor, signals: Callable[[signal.Signals], None]) -> None:
    start(reactor, Draining(reactor))
    signals(signal.SIGTERM)
    reactor.turn()
    signals(signal.SIGINT)
    reactor.turn()
    assert reactor.did == ["stop", "drain", "stop_now"]
    signals(signal.SIGINT)
    reactor.turn()
    assert reactor.did == ["stop", "drain", "stop_now"]
    reactor.advance(LAST_MOMENT)
    assert reactor.did == ["stop", "drain", "stop_now", "crash"]


def test_two_signals_in_one_turn(reactor: FakeReactor, signals: Callable[[signal.Signals], None]) -> None:
    start(reactor, Draining(reactor))
    signals(signal.SIGTERM)
    signals(signal.SIGTERM)
    reactor.turn()
    assert reactor.did == ["stop", "drain", "stop_now"]


def test_a_service_without_stop_now(reactor: FakeReactor, signals: Callable[[signal.Signals], None]) -> None:
    start(reactor, Service())
    signals(signal.SIGTERM)
    signals(signal.SIGTERM)
    reactor.turn()
    reactor.advance(LAST_MOMENT)
    assert reactor.did == ["stop", "crash"]


def test_a_signal_when_the_reactor_stops_already(
    reactor: FakeReactor, signals: Callable[[signal.Signals], None]
) -> None:
    start(reactor, Service())
    reactor.stop()
    signals(signal.SIGTERM)
    reactor.turn()
    assert reactor.did == ["stop"]


def test_a_terminal_that_is_gone_drains(
    reactor: FakeReactor, signals: Callable[[signal.Signals], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "has_terminal", lambda: True)
    start(reactor, Draining(reactor))
    # From the kernel and from the shell.
    signals(signal.SIGHUP)
    signals(signal.SIGHUP)
    reactor.turn()
    assert reactor.did == ["stop", "drain"]
    signals(signal.SIGTERM)
    reactor.turn()
    assert reactor.did == ["stop", "drain", "stop_now"]


def test_sighup_without_a_terminal_reloads(
    reactor: FakeReactor,
    signals: Callable[[signal.Signals], None],
    monkeypatch: pytest.MonkeyPatch,
    logged: list[tuple[str, str]],
) -> None:
    monkeypatch.setattr(run, "has_terminal", lambda: False)
    start(reactor, Draining(reactor))
    signals(signal.SIGHUP)
    reactor.turn()
    assert reactor.did == []
    (_, first), (level, second) = logged[-2:]
    assert first == "SIGHUP: the settings are read again"
    assert level == "warn"
    assert second.endswith("this process takes no other settings while it runs")


def test_an_ignored_sighup_stays_ignored(reactor: FakeReactor) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    start(reactor, Service())
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_an_ignored_sigint_stays_ignored(reactor: FakeReactor) -> None:
    PluginService("rtunnel-test", Service(), rtunnel_server.Options(), reactor, dict).startService()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for call in reactor.started:
        call()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL


def test_tree(reactor: FakeReactor) -> None:
    service = Service()
    plugin = PluginService("rtunnel-test", service, rtunnel_server.Options(), reactor, dict)
    assert isinstance(plugin, MultiService)
    assert plugin.name == "rtunnel-test"
    assert service in list(plugin)


class Unstartable(Service):
    def privilegedStartService(self) -> None:
        raise StartupError("cannot listen")


def test_a_start_error_goes_to_the_real_standard_error(
    reactor: FakeReactor, monkeypatch: pytest.MonkeyPatch, flush_logged_errors: Callable[..., list[Failure]]
) -> None:
    monkeypatch.setattr(sys, "stderr", object())
    plugin = PluginService("rtunnel-test", Unstartable(), rtunnel_server.Options(), reactor, dict)
    with pytest.raises(StartupError) as caught:
        plugin.privilegedStartService()
    assert caught.value.code == "cannot listen"
    assert sys.stderr is sys.__stderr__
    assert flush_logged_errors() == []


def test_a_start_error_is_logged_where_the_log_is_elsewhere(
    reactor: FakeReactor,
    monkeypatch: pytest.MonkeyPatch,
    flush_logged_errors: Callable[..., list[Failure]],
) -> None:
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(sys, "argv", ["twistd", "--logger=x", "-y", "x.tac"])
    plugin = PluginService("rtunnel-test", Unstartable(), rtunnel_server.Options(), reactor, dict)
    plugin.setServiceParent(Application("x"))
    with pytest.raises(StartupError):
        plugin.privilegedStartService()
    [error] = flush_logged_errors()
    assert "PluginService#critical] cannot listen" in str(error.value)


def options() -> rtunnel_server.Options:
    made = rtunnel_server.Options()
    made.parseOptions([])
    return made


def test_the_application_gets_a_log_observer(reactor: FakeReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["twistd", "-ny", "x.tac"])
    application = Application("x")
    PluginService("rtunnel-test", Service(), options(), reactor, dict).setServiceParent(application)
    assert isinstance(application.getComponent(ILogObserver), AcceptErrorObserver)


def test_an_observer_that_is_there_stays(reactor: FakeReactor) -> None:
    application = Application("x")
    theirs = object()
    application.setComponent(ILogObserver, theirs)
    PluginService("rtunnel-test", Service(), options(), reactor, dict).setServiceParent(application)
    assert application.getComponent(ILogObserver) is theirs


def test_no_observer_where_twistd_was_given_a_logger(reactor: FakeReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["twistd", "--logger=x", "-ny", "x.tac"])
    application = Application("x")
    PluginService("rtunnel-test", Service(), options(), reactor, dict).setServiceParent(application)
    assert application.getComponent(ILogObserver, None) is None


def test_any_other_parent_will_do(reactor: FakeReactor) -> None:
    parent = MultiService()
    plugin = PluginService("rtunnel-test", Service(), options(), reactor, dict)
    plugin.setServiceParent(parent)
    assert list(parent) == [plugin]


def test_application_of_a_tac(reactor: FakeReactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["twistd", "-ny", "x.tac"])

    def make(made: rtunnel_server.Options) -> MultiService:
        assert made.settings.drain == 3
        return PluginService("rtunnel-test", Service(), made, reactor, dict)

    application = run.application("rtunnel-test", rtunnel_server.Options, make, ["--drain=3"])
    assert [service.name for service in IServiceCollection(application)] == ["rtunnel-test"]
    with pytest.raises(SystemExit) as caught:
        run.application("rtunnel-test", rtunnel_server.Options, make, ["--drain=x"])
    assert str(caught.value.code).startswith("rtunnel-test: flag --drain: 'x' is not a time")


def test_what_is_there_at_the_start_is_not_looked_at_by_the_collector(reactor: FakeReactor) -> None:
    start(reactor, Service())
    there: list[object] = []
    for call in reactor.started:
        call()
    assert not any(thing is there for thing in gc.get_objects())
    later: list[object] = []
    assert any(thing is later for thing in gc.get_objects())
