"""The bridge between Deferreds and asyncio, and the only module that deals with both.

aiortc runs in asyncio tasks, the rest of this package in Twisted's reactor. Both share one event loop
(:mod:`twisted.internet.asyncioreactor`), so plain calls need no bridge; only awaiting does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from rtunnel.names import look_up
from rtunnel.wire.messages import clean_text

_log = Logger()


class Tasks:
    """Asyncio tasks that belong together and are cancelled together.

    :param on_error: called with the exception of a task that failed, which would be a bug.
    """

    def __init__(self, on_error: Callable[[Failure], None]) -> None:
        self._on_error = on_error
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run *work* as a task."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._on_error(Failure(error))

    async def cancel(self) -> None:
        """Cancel all tasks except the calling one, and wait until they have ended. Await this in a task."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def as_deferred(work: Coroutine[Any, Any, None]) -> Deferred[None]:
    """Run *work* as a task, and return a Deferred that fires when it ends."""
    return Deferred.fromFuture(asyncio.ensure_future(work))


def look_up_as(reactor: Any, loop: Any) -> None:
    """Make asyncio's *loop* look names up by the resolver of *reactor*.

    asyncio's own look-ups share a few threads, and the process waits for these at its end.
    """

    async def getaddrinfo(
        host: str, port: int, *, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[Any, ...]]:
        try:
            addresses = await look_up(reactor, host).asFuture(loop)
        except DNSLookupError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from None
        found: list[tuple[Any, ...]] = [
            (socket.AF_INET6, type, proto, "", (one.host, port, one.flowInfo, one.scopeID))
            if isinstance(one, IPv6Address)
            else (socket.AF_INET, type, proto, "", (one.host, port))
            for one in addresses
        ]
        found = [entry for entry in found if family in (0, entry[0])]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, f"{host} has no address of this family")
        return found

    loop.getaddrinfo = getaddrinfo


class _ToTwisted(logging.Handler):
    """Passes what asyncio and the WebRTC libraries log to Twisted's log, instead of standard error.

    All of it is logged at debug level, because what matters shows in the state of a connection. The exception is a task
    that failed without anybody awaiting it: that is a bug, unless it failed because the network path was lost.
    """

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        mistake = record.name == "asyncio" and record.levelno >= logging.ERROR and not isinstance(error, OSError)
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = str(record.msg)
        message = clean_text(message)
        if mistake and error is not None:
            _log.failure("{library}: {text}", Failure(error), library=record.name, text=message)
        else:
            level = LogLevel.error if mistake else LogLevel.debug
            _log.emit(level, "{library}: {text}", library=record.name, text=message)


def adopt_python_logging() -> None:
    """Send the logs of asyncio, aiortc and aioice to Twisted's log. May be called more than once."""
    for name in ("asyncio", "aiortc", "aioice"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _ToTwisted) for handler in logger.handlers):
            logger.addHandler(_ToTwisted(logging.INFO if name == "asyncio" else logging.WARNING))
            logger.propagate = False
