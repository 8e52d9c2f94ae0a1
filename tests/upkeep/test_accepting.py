"""When ``accept()`` fails, a port pauses, and what Twisted logs becomes one line; nothing else is touched."""

from __future__ import annotations

import errno
import socket
from contextlib import nullcontext
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.internet.task import Clock
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent

from rtunnel.upkeep.accepting import LINE_EVERY, PAUSE, AcceptErrorObserver, pause_when_full

NAMES = ["twisted.internet.tcp.Port", "twisted.internet.unix.Port"]


class Refusing:
    """A listening socket that cannot accept for so many calls, and then gives sockets to be closed."""

    def __init__(self, error: int, failures: int, then: int) -> None:
        self._error = error
        self._failures = failures
        self._then = then

    def accept(self) -> tuple[Any, Any]:
        if self._failures:
            self._failures -= 1
            raise OSError(self._error, "no")
        if not self._then:
            raise BlockingIOError(errno.EAGAIN, "no more")
        self._then -= 1
        return socket.socket(), ("192.0.2.1", 5000 + self._then)


class Reserved(nullcontext[None]):
    """A descriptor that is kept for this."""

    def available(self) -> bool:
        return True


def say(observer: AcceptErrorObserver, name: str, now: float, error: int = errno.EMFILE, newcomers: int = 3) -> None:
    """Let Twisted itself say what it says."""

    def at_this_time(event: LogEvent) -> None:
        observer({**event, "log_time": now})

    logger = Logger(name, observer=at_this_time)  # type: ignore[arg-type]
    accept: Any = tcp._accept
    assert not list(accept(logger, range(100), Refusing(error, 1, newcomers), Reserved()))


@pytest.mark.parametrize("name", NAMES)
def test_one_line_a_minute(name: str) -> None:
    heard: list[LogEvent] = []
    observer = AcceptErrorObserver(heard.append)  # type: ignore[arg-type]
    for second in range(int(LINE_EVERY)):
        say(observer, name, 1000.0 + second)
    assert [event["log_level"] for event in heard] == [LogLevel.warn]
    assert formatEvent(heard[0]).startswith(
        "no file descriptor is left: new connections are closed until there are some again;"
    )
    say(observer, name, 1000.0 + LINE_EVERY)
    assert len(heard) == 2
    assert f"({3 * int(LINE_EVERY)} more since the last such line)" in formatEvent(heard[1])


def test_other_errors_are_said_each_for_itself() -> None:
    heard: list[LogEvent] = []
    observer = AcceptErrorObserver(heard.append)  # type: ignore[arg-type]
    for error in (errno.ENFILE, errno.ENOMEM, errno.ENFILE, errno.EMFILE):
        say(observer, NAMES[0], 1000.0, error)
    reasons = [formatEvent(event) for event in heard]
    assert reasons[:2] == ["Could not accept new connection (ENFILE)", "Could not accept new connection (ENOMEM)"]
    assert len(reasons) == 3


def test_the_rest_passes() -> None:
    heard: list[LogEvent] = []
    observer = AcceptErrorObserver(heard.append)  # type: ignore[arg-type]
    events: list[LogEvent] = [
        {"log_namespace": NAMES[0], "log_format": "Something else", "log_level": LogLevel.info},
        {"log_namespace": NAMES[0], "log_format": None, "log_level": LogLevel.critical},
        {"log_namespace": "somebody", "log_format": "EMFILE encountered", "log_level": LogLevel.info},
        {},
    ]
    for event in events:
        observer(event)
    assert heard == events


class Port(tcp.Port):
    """A port that listens, and reads when the test says so."""

    connected = True
    disconnecting = False

    def __init__(self, error: int) -> None:
        self.reactor: Any = Clock()
        self.socket: Any = Refusing(error, 1, 1)
        self.is_reading = True

    def stopReading(self) -> None:
        self.is_reading = False

    def startReading(self) -> None:
        self.is_reading = True


@pytest.mark.parametrize("error", [errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
def test_port_rests_when_the_system_is_full(error: int) -> None:
    port: Any = Port(error)
    pause_when_full(port)
    with pytest.raises(OSError, match="no") as caught:
        port.socket.accept()
    assert caught.value.errno == error
    assert not port.is_reading
    port.reactor.advance(PAUSE * 0.9)
    assert not port.is_reading
    port.reactor.advance(PAUSE * 0.2)
    assert port.is_reading
    port.socket.accept()[0].close()
    with pytest.raises(BlockingIOError):
        port.socket.accept()
    assert port.is_reading


@pytest.mark.parametrize("attribute", ["connected", "disconnecting"])
def test_port_that_is_closed_while_it_rests(attribute: str) -> None:
    port: Any = Port(errno.ENFILE)
    pause_when_full(port)
    with pytest.raises(OSError, match="no"):
        port.socket.accept()
    setattr(port, attribute, not getattr(port, attribute))
    port.reactor.advance(2 * PAUSE)
    assert not port.is_reading


def test_port_goes_on_after_other_errors() -> None:
    port: Any = Port(errno.EMFILE)
    pause_when_full(port)
    with pytest.raises(OSError, match="no"):
        port.socket.accept()
    assert port.is_reading
    assert not port.reactor.getDelayedCalls()


def test_other_ports_stay_as_they_are() -> None:
    port: Any = type("Port", (), {"socket": object()})()
    before = port.socket
    pause_when_full(port)
    assert port.socket is before
