"""Names are looked up once for all who wait, and a name server that is silent holds up nobody else."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.base import PluggableResolverMixin
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import IHostnameResolver
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from rtunnel.names import KEPT, MOST_AT_ONCE, Resolver, look_up, prefer
from tests.options.conftest import ROOT
from tests.patience import PATIENCE


def entry(host: str) -> tuple[Any, ...]:
    """An address as ``getaddrinfo`` gives it."""
    if ":" in host:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (host, 0, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 0))


class NameServer(Clock):
    """The reactor, and the system's look-up, which takes until the test answers.

    :ivar asked: the names in the order in which they were asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self._news = threading.Condition()
        self._answers: dict[str, Any] = {}
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.nameResolver = Resolver(self, self._ask)

    def _ask(self, name: str, port: object, type: int) -> Any:
        assert (port, type) == (None, socket.SOCK_STREAM)
        with self._news:
            self.asked.append(name)
            self._news.notify_all()
            assert self._news.wait_for(lambda: name in self._answers, PATIENCE)
            answer = self._answers.pop(name)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def callFromThread(self, function: Callable[..., None], *arguments: object) -> None:
        self._calls.put((function, arguments))

    def wait_until_asked(self, count: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: len(self.asked) >= count, PATIENCE), self.asked

    def answer(self, name: str, *hosts: str, error: Exception | None = None) -> None:
        """The answer comes, and is told to those who wait."""
        with self._news:
            self._answers[name] = error or [entry(host) for host in hosts]
            self._news.notify_all()
        function, arguments = self._calls.get(timeout=PATIENCE)
        function(*arguments)

    def end(self) -> None:
        with self._news:
            self._answers.update(dict.fromkeys(self.asked, ()))
            self._news.notify_all()


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.end()


def result(deferred: Deferred[Any]) -> Any:
    """What it has fired with: the IP addresses, or the error; None: it has not."""
    found: list[Any] = []
    deferred.addCallbacks(
        lambda addresses: found.append([one.host for one in addresses]), lambda failure: found.append(failure.value)
    )
    return found[0] if found else None


def test_one_look_up_for_all_who_wait(server: NameServer) -> None:
    waiting = [look_up(server, "app.example") for _ in range(100)]
    server.answer("app.example", "2001:db8::1", "192.0.2.1")
    assert [result(one) for one in waiting] == [["2001:db8::1", "192.0.2.1"]] * 100
    assert server.asked == ["app.example"]


def test_an_answer_is_kept_for_a_moment(server: NameServer) -> None:
    look_up(server, "app.example")
    server.answer("app.example", "192.0.2.1")
    server.advance(KEPT - 0.1)
    assert result(look_up(server, "app.example")) == ["192.0.2.1"]
    server.advance(0.1)
    later = look_up(server, "app.example")
    server.answer("app.example", "192.0.2.2")
    assert result(later) == ["192.0.2.2"]
    assert server.asked == ["app.example"] * 2


def test_the_answer_that_there_is_none_is_kept_too(server: NameServer) -> None:
    first = look_up(server, "nas.lan")
    server.answer("nas.lan", error=socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    for waiting in (first, look_up(server, "nas.lan")):
        error = result(waiting)
        assert isinstance(error, DNSLookupError)
        assert str(error) == "DNS lookup failed: nas.lan: Temporary failure in name resolution."
    assert server.asked == ["nas.lan"]


def test_a_name_that_cannot_be_asked_for(server: NameServer) -> None:
    waiting = look_up(server, "x" * 64)
    server.answer("x" * 64, error=UnicodeError("label too long"))
    assert "label too long" in str(result(waiting))


def test_silent_names_hold_up_no_other(server: NameServer) -> None:
    """Three more than may run at once, and the name of the server: only the three wait."""
    server.nameResolver.first.add("server.example")
    silent = [look_up(server, f"{number}.silent.example") for number in range(MOST_AT_ONCE + 2)]
    patient = look_up(server, "patient.example")
    look_up(server, "server.example")
    server.wait_until_asked(MOST_AT_ONCE + 1)
    assert "server.example" in server.asked
    assert "patient.example" not in server.asked
    # Those who no longer wait free their place in the queue.
    for one in silent:
        result(one)
        one.cancel()
    server.answer("0.silent.example")
    server.wait_until_asked(MOST_AT_ONCE + 2)
    assert server.asked[-1] == "patient.example"
    server.answer("patient.example", "192.0.2.1")
    assert result(patient) == ["192.0.2.1"]


def test_who_has_given_up_hears_nothing(server: NameServer) -> None:
    gone, there = look_up(server, "app.example"), look_up(server, "app.example")
    told: list[Any] = []
    gone.addBoth(told.append)
    gone.cancel()
    server.answer("app.example", "192.0.2.1")
    assert [one.type for one in told] == [CancelledError]
    assert result(there) == ["192.0.2.1"]


def test_no_thread_can_be_started(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    waiting = look_up(server, "app.example")
    server.advance(0)
    assert "can't start new thread" in str(result(waiting))


def test_it_is_what_twisted_asks_for(server: NameServer) -> None:
    assert verifyObject(IHostnameResolver, server.nameResolver)
    reactor = PluggableResolverMixin()
    reactor.installNameResolver(server.nameResolver)
    found: list[str] = []
    reactor.resolver.getHostByName("app.example").addCallback(found.append)
    server.answer("app.example", "2001:db8::1", "192.0.2.1")
    assert found == ["192.0.2.1"]


@pytest.mark.process
def test_the_process_ends_during_a_look_up() -> None:
    script = """
import threading
from twisted.internet import reactor
from rtunnel.names import Resolver, look_up

def silent(*_arguments, **_more):
    reactor.callFromThread(reactor.stop)
    threading.Event().wait()

reactor.installNameResolver(Resolver(reactor, silent))
look_up(reactor, "nas.lan")
reactor.run()
print("end")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize(
    ("hosts", "worked", "order"),
    [
        ("a b c", "", "a b c"),
        ("a b c", "c", "c a b"),
        (":a :b :c d e", "", ":a d :b e :c"),
        ("d :a :b :c", "", "d :a :b :c"),
        (":a :b d", "gone", ":a d :b"),
        (":a :b d", ":b", ":b :a d"),
    ],
)
def test_the_order_of_addresses(hosts: str, worked: str, order: str) -> None:
    addresses = [(IPv6Address if ":" in host else IPv4Address)("TCP", host, 80) for host in hosts.split()]
    assert [one.host for one in prefer(addresses, worked)] == order.split()
