"""What Twisted says of newcomers whom it cannot accept becomes one line, and nothing else is touched."""

from __future__ import annotations

import errno
import socket
from contextlib import nullcontext
from typing import Any

import pytest
from twisted.internet import tcp
from twisted.logger import LogEvent, Logger, LogLevel, formatEvent

from rtunnel.options.plugins.newcomers import SAID_EVERY, NewcomersObserver

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


def say(observer: NewcomersObserver, name: str, now: float, error: int = errno.EMFILE, newcomers: int = 3) -> None:
    """Let Twisted itself say what it says."""

    def at_this_time(event: LogEvent) -> None:
        observer({**event, "log_time": now})

    logger = Logger(name, observer=at_this_time)  # type: ignore[arg-type]
    accept: Any = tcp._accept
    assert not list(accept(logger, range(100), Refusing(error, 1, newcomers), Reserved()))


@pytest.mark.parametrize("name", NAMES)
def test_one_line_a_minute(name: str) -> None:
    heard: list[LogEvent] = []
    observer = NewcomersObserver(heard.append)  # type: ignore[arg-type]
    for second in range(int(SAID_EVERY)):
        say(observer, name, 1000.0 + second)
    assert [event["log_level"] for event in heard] == [LogLevel.warn]
    assert formatEvent(heard[0]).startswith(
        "no file descriptor is left: newcomers are closed until there are some again;"
    )
    say(observer, name, 1000.0 + SAID_EVERY)
    assert len(heard) == 2
    assert f"({3 * int(SAID_EVERY)} more since this was said)" in formatEvent(heard[1])


def test_other_errors_are_said_each_for_itself() -> None:
    heard: list[LogEvent] = []
    observer = NewcomersObserver(heard.append)  # type: ignore[arg-type]
    for error in (errno.ENFILE, errno.ENOMEM, errno.ENFILE, errno.EMFILE):
        say(observer, NAMES[0], 1000.0, error)
    reasons = [formatEvent(event) for event in heard]
    assert reasons[:2] == ["Could not accept new connection (ENFILE)", "Could not accept new connection (ENOMEM)"]
    assert len(reasons) == 3


def test_the_rest_passes() -> None:
    heard: list[LogEvent] = []
    observer = NewcomersObserver(heard.append)  # type: ignore[arg-type]
    events: list[LogEvent] = [
        {"log_namespace": NAMES[0], "log_format": "Something else", "log_level": LogLevel.info},
        {"log_namespace": NAMES[0], "log_format": None, "log_level": LogLevel.critical},
        {"log_namespace": "somebody", "log_format": "EMFILE encountered", "log_level": LogLevel.info},
        {},
    ]
    for event in events:
        observer(event)
    assert heard == events
