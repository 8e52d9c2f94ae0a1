"""The epoll for relays, and what the reactor sees of it. The tests of data connections run with it too."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet.interfaces import IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rtunnel.relay.dial import Dial
from rtunnel.relay.poller import Poller, ReactorPoller, poller_for


@implementer(IReadWriteDescriptor)
class Descriptor:
    """Records its calls, and does then what the test wants."""

    def __init__(self, sock: Any) -> None:
        self.socket = sock
        self.called: list[str] = []
        self.then: Callable[[], None] = lambda: None

    def fileno(self) -> int:
        return int(self.socket.fileno())

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> None:
        self.called.append("read")
        self.then()

    def doLastRead(self) -> None:
        self.called.append("last read")

    def doWrite(self) -> None:
        self.called.append("write")
        self.then()

    def connectionLost(self, reason: Failure) -> None:
        self.called.append("lost")


class Readers:
    """The part of a reactor that :class:`Poller` uses."""

    addWriter = removeWriter = None

    def __init__(self) -> None:
        self.readers: list[Any] = []

    def addReader(self, reader: Any) -> None:
        self.readers.append(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.remove(reader)


@pytest.fixture
def pair() -> Any:
    one, other = socket.socketpair()
    with one, other:
        yield Descriptor(one), Descriptor(other)


def test_reactor_has_it_while_there_is_something_to_watch(pair: tuple[Descriptor, Descriptor]) -> None:
    reactor = Readers()
    poller = Poller(reactor)
    one, other = pair
    assert not reactor.readers
    for add in (poller.addReader, poller.addReader, poller.addWriter):
        add(one)
        assert reactor.readers == [poller]
    poller.addReader(other)
    assert len(poller) == 2
    poller.removeReader(one)
    poller.removeReader(one)
    poller.removeReader(other)
    assert len(poller) == 1
    assert reactor.readers == [poller]
    poller.removeWriter(one)
    assert not reactor.readers
    poller.removeWriter(one)
    assert select.select([poller], [], [], 0)[0] == []


def test_what_is_ready_is_called(pair: tuple[Descriptor, Descriptor]) -> None:
    poller = Poller(Readers())
    one, other = pair
    poller.addReader(one)
    poller.doRead()
    assert not one.called
    poller.addWriter(one)
    poller.doRead()
    other.socket.send(b"x")
    poller.doRead()
    poller.removeWriter(one)
    assert select.select([poller], [], [], 0)[0] == [poller]
    poller.doRead()
    assert one.called == ["write", "read", "write", "read"]
    poller.removeReader(one)


def test_end_alone_is_watched(pair: tuple[Descriptor, Descriptor]) -> None:
    poller = Poller(Readers())
    one, other = pair
    poller.watch_end(one)
    other.socket.send(b"x")
    poller.doRead()
    assert not one.called
    other.socket.shutdown(socket.SHUT_WR)
    poller.doRead()
    assert one.called == ["last read"]
    poller.removeReader(one)
    assert not len(poller)


def test_hang_up_alone_is_told_as_what_was_asked_for() -> None:
    """A pipe without a writer is not readable: it only reports a hang-up."""
    poller = Poller(Readers())
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as file:
        os.close(write_end)
        one = Descriptor(file)
        poller.addReader(one)
        poller.doRead()
        assert one.called == ["read"]
        poller.removeReader(one)


def test_reactor_that_stops(pair: tuple[Descriptor, Descriptor]) -> None:
    poller = Poller(Readers())
    for each in pair:
        poller.addReader(each)
    poller.connectionLost(Failure(ConnectionError()))
    assert [each.called for each in pair] == [["lost"], ["lost"]]


def test_one_that_closes_another(pair: tuple[Descriptor, Descriptor]) -> None:
    """Both were ready at once. Whichever is called first, the other is not called."""
    poller = Poller(Readers())

    def stop() -> None:
        for each in pair:
            poller.removeWriter(each)

    for each in pair:
        each.then = stop
        poller.addWriter(each)
    poller.doRead()
    assert sorted(each.called for each in pair) == [[], ["write"]]


def test_one_that_breaks_leaves_the_others(
    pair: tuple[Descriptor, Descriptor], flush_logged_errors: Callable[..., list[Failure]]
) -> None:
    poller = Poller(Readers())

    def broken() -> None:
        raise RuntimeError("a bug")

    pair[0].then = broken
    for each in pair:
        poller.addWriter(each)
    poller.doRead()
    assert pair[0].called == ["write", "lost"]
    assert pair[1].called == ["write"]
    assert len(flush_logged_errors(RuntimeError)) == 1


def test_system_without_epoll(monkeypatch: pytest.MonkeyPatch) -> None:
    reactor = Readers()
    assert isinstance(poller_for(reactor), Poller)
    monkeypatch.delattr(select, "epoll")
    assert isinstance(poller_for(reactor), ReactorPoller)


def test_end_of_a_stream_is_told(pair: tuple[Descriptor, Descriptor]) -> None:
    poller = Poller(Readers())
    one, other = pair
    poller.add_stream(one)
    other.socket.send(b"x")
    poller.doRead()
    assert one.called == ["read"]
    other.socket.shutdown(socket.SHUT_WR)
    poller.doRead()
    assert one.called == ["read", "last read"]
    poller.addWriter(one)
    poller.removeReader(one)
    poller.doRead()
    assert one.called == ["read", "last read", "write"]
    poller.removeWriter(one)
    assert not poller


@pytest.mark.usefixtures("steady_descriptors")
def test_one_that_is_closed(pair: tuple[Descriptor, Descriptor]) -> None:
    """Another socket may get its descriptor's number at once."""
    reactor = Readers()
    poller = Poller(reactor)
    one, other = pair
    poller.addReader(one)
    poller.addWriter(one)
    poller.forget(one)
    assert not reactor.readers
    poller.forget(one)
    number = one.fileno()
    one.socket.close()
    with socket.socket(fileno=os.dup(other.fileno())) as dup:
        assert dup.fileno() == number
        heir = Descriptor(dup)
        poller.addWriter(heir)
        assert reactor.readers == [poller]
        poller.doRead()
        assert (one.called, heir.called) == ([], ["write"])
        poller.removeWriter(heir)


@pytest.mark.usefixtures("steady_descriptors")
def test_event_of_one_that_is_closed_says_nothing_of_a_dial(pair: tuple[Descriptor, Descriptor]) -> None:
    """Both were ready at once. The first closes the second and dials: the dial gets the number, and the event."""
    poller = Poller(Readers())
    ends: list[Any] = []
    dial = Dial(poller, ends.append, ends.append)
    with ExitStack() as stack:
        # The queue of the listening socket is full, so a dial stays under way.
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())

        def then(other: Descriptor) -> Callable[[], None]:
            def close_and_dial() -> None:
                number = other.fileno()
                poller.forget(other)
                other.socket.close()
                dial.start(socket.AF_INET, listening.getsockname())
                assert dial.fileno() == number

            return close_and_dial

        for one, other in (pair, pair[::-1]):
            one.then = then(other)
            poller.addWriter(one)
        poller.doRead()
        assert sorted(each.called for each in pair) == [[], ["write"]]
        assert not ends
        dial.cancel()
        poller.removeWriter(next(each for each in pair if each.called))
    assert not poller


def test_what_is_wanted_soon_comes_behind_all_that_is_ready() -> None:
    poller = Poller(Readers())
    order: list[str] = []
    with ExitStack() as stack:
        for number in range(3):
            near, far = map(stack.enter_context, socket.socketpair())
            far.send(b"x")
            descriptor = Descriptor(near)

            def read(number: int = number) -> None:
                order.append(f"read {number}")
                poller.soon(lambda: order.append(f"soon {number}"))

            descriptor.then = read
            poller.addReader(descriptor)
        poller.doRead()
    assert [each.split()[0] for each in order] == ["read"] * 3 + ["soon"] * 3
    poller.soon(lambda: order.append("now"))
    assert order[-1] == "now"


def test_what_is_wanted_soon_may_fail(flush_logged_errors: Callable[..., list[Failure]]) -> None:
    """The others come all the same."""
    poller = Poller(Readers())
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError("on purpose")

    with ExitStack() as stack:
        near, far = map(stack.enter_context, socket.socketpair())
        far.send(b"x")
        descriptor = Descriptor(near)

        def read() -> None:
            poller.soon(fail)
            poller.soon(lambda: done.append("after"))

        descriptor.then = read
        poller.addReader(descriptor)
        poller.doRead()
    assert done == ["after"]
    assert len(flush_logged_errors(RuntimeError)) == 1
