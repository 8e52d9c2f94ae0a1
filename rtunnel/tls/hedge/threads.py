"""Threads in which keys of hedges are made, so that no link waits for those of another.

A key of Classic McEliece takes a tenth of a second or more, and some megabytes of stack, which is more than the threads
of some systems have.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

_Result = TypeVar("_Result")

#: How many threads compute at once, of all links of a process.
AT_ONCE = 2
#: The stack of such a thread, in bytes.
STACK = 16 * 1024 * 1024


class HedgeThreads:
    """Calls functions in threads, at most :data:`AT_ONCE` at a time; the others wait for their turn.

    :param reactor: in whose thread the results arrive.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._places = DeferredSemaphore(AT_ONCE)

    def run(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        """Call *work* in a thread, when it is its turn. What it returns or raises comes in the reactor's thread."""
        return self._places.run(self._start, work)

    def _start(self, work: Callable[[], _Result]) -> Deferred[_Result]:
        done: Deferred[_Result] = Deferred()

        def call() -> None:
            try:
                result: Any = work()
            except BaseException:
                result = Failure()
            self._reactor.callFromThread(done.callback, result)

        size = threading.stack_size(STACK)
        try:
            # The process does not wait for it at its end.
            threading.Thread(target=call, name="hedge", daemon=True).start()
        finally:
            threading.stack_size(size)
        return done
