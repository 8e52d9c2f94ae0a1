"""Thousands of visitors, and the service that they come for: processes of their own, which do as little as they can.

A :class:`Crowd` is the visitors, :func:`echo_service` the service. Run as a program, this is what they run: ``serve``
echoes, ``visit`` takes commands on its standard input and answers each by a line. So at run time it needs nothing of
ours, and both ends of the tunnel under test have their memory and descriptors for themselves.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.process.harness import Twistds

LOOPBACK = "127.0.0.1"
AT_ONCE = 64
"""Visitors who are on their way at the same time, unless there is to be a storm of them. A server gives each five
seconds to get a data connection."""
PATIENCE = 180.0
"""Seconds that one command may take."""


def raise_limit(needed: int) -> int:
    """Let this process, and those that it starts, have *needed* descriptors, as far as the system allows; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, needed))
        except (OSError, ValueError):
            pass  # Only a privileged process may.
        else:
            return needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(needed, hard), hard))
    return min(needed, hard)


def echo_service(twistd: Twistds) -> str:
    """Start a service that echoes; its address."""
    return twistd.program(sys.executable, __file__, "serve").wait_for(r"serving at (\S+)$")[1]


class Crowd:
    """Visitors. Their process ends with the ``with`` block."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, "visit"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def open(self, count: int, port: int, *, at_once: int = AT_ONCE) -> dict[str, int]:
        """Let *count* more come. How many are ``there``: each has sent a byte and got it back. How many ``failed``, or
        came too ``late``.
        """
        return self._do("open", count=count, port=port, at_once=at_once)

    def echo(self) -> int:
        """Let everybody send one more byte; how many got it back."""
        return self._do("echo")["there"]

    def close(self) -> None:
        """Let everybody leave."""
        self._do("close")

    def _do(self, what: str, **values: Any) -> dict[str, int]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps({"do": what, **values}), file=self._process.stdin, flush=True)
        answer: dict[str, int] = json.loads(self._process.stdout.readline())
        return answer

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._process.kill()
        self._process.communicate()


# What they run


def serve() -> None:
    """Echo, for ever."""
    listener = socket.create_server((LOOPBACK, 0), backlog=4096)
    listener.setblocking(False)
    print(f"serving at {LOOPBACK}:{listener.getsockname()[1]}", flush=True)
    epoll = select.epoll()
    epoll.register(listener, select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for number, _ in epoll.poll():
            if number == listener.fileno():
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                connection.setblocking(False)
                connections[connection.fileno()] = connection
                epoll.register(connection, select.EPOLLIN)
                continue
            connection = connections[number]
            try:
                data = connection.recv(4096)
                if data and connection.send(data):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            epoll.unregister(number)
            connections.pop(number).close()


class Visitors:
    """The commands of :class:`Crowd`."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._there: dict[int, socket.socket] = {}

    def open(self, count: int, port: int, at_once: int) -> dict[str, int]:
        """Connect, send a byte, and wait for it."""
        deadline = time.monotonic() + PATIENCE
        coming: dict[int, socket.socket] = {}
        result = {"there": 0, "failed": 0, "late": 0}
        begun = 0
        while result["there"] + result["failed"] < count and time.monotonic() < deadline:
            while begun < count and len(coming) < at_once:
                connection = socket.socket()
                connection.setblocking(False)
                connection.connect_ex((LOOPBACK, port))
                begun += 1
                coming[connection.fileno()] = connection
                self._epoll.register(connection, select.EPOLLOUT)
            for number, events in self._epoll.poll(0.1):
                if number not in coming:
                    self._gone(number)
                    continue
                try:
                    if events & select.EPOLLOUT and not events & select.EPOLLERR:
                        coming[number].send(b"x")
                        self._epoll.modify(number, select.EPOLLIN)
                        continue
                    answered = coming[number].recv(1) == b"x"
                except OSError:
                    answered = False
                connection = coming.pop(number)
                result["there" if answered else "failed"] += 1
                if answered:
                    self._there[number] = connection
                else:
                    self._epoll.unregister(number)
                    connection.close()
        result["late"] = len(coming)
        for number, connection in coming.items():
            self._epoll.unregister(number)
            connection.close()
        return result

    def echo(self) -> dict[str, int]:
        """Send a byte on each, and wait for it."""
        deadline = time.monotonic() + PATIENCE
        for number in list(self._there):
            try:
                self._there[number].send(b"y")
            except OSError:
                # It was there, and then gave way to another.
                self._gone(number)
        asked = set(self._there)
        answered = 0
        while asked and time.monotonic() < deadline:
            for number, _ in self._epoll.poll(0.1):
                try:
                    is_there = self._there[number].recv(1) == b"y"
                except OSError:
                    is_there = False
                asked.discard(number)
                answered += is_there
                if not is_there:
                    self._gone(number)
        return {"there": answered}

    def close(self) -> dict[str, int]:
        """Close each."""
        count = len(self._there)
        for number in list(self._there):
            self._gone(number)
        return {"there": count}

    def _gone(self, number: int) -> None:
        self._epoll.unregister(number)
        self._there.pop(number).close()


def visit() -> None:
    """Do what the commands say."""
    visitors = Visitors()
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(visitors, command.pop("do"))(**command)), flush=True)


if __name__ == "__main__":
    raise_limit(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    {"serve": serve, "visit": visit}[sys.argv[1]]()
