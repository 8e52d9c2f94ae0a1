"""The first process of a container, once another one has taken its place. The container ends with it, so it stays.

It lets its visitors finish, as any old process does, and then executes this file in its own place: a program of a few
megabytes that passes signals on, reaps, and ends with the last process. To execute the new version itself would cut the
visitors, whose streams are in the memory of this process, and if that version failed, the container would end with it.

This file may only import what Python has without its site packages.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

#: What the operator sends to the container, but for what ends it.
FOR_THE_SERVICE = (signal.SIGHUP, signal.SIGUSR2)
TO_END = (signal.SIGTERM, signal.SIGINT)

#: The program, as it was when this version started: another one may be installed by now.
_TEXT = Path(__file__).read_text() if "__file__" in globals() else ""


def is_first() -> bool:
    """Return whether this is the first process of a container."""
    return os.getpid() == 1


def end_all() -> None:
    """Tell all other processes of the container to end."""
    with suppress(OSError):
        os.kill(-1, signal.SIGTERM)


class Children:
    """Those of the first process, whose children become its own when they end.

    :ivar code: what the last one that has ended has left.
    """

    def __init__(self, code: int = 0) -> None:
        self.code = code

    def reap(self, *, wait: bool) -> bool:
        """Reap those that have ended. Return whether there are others.

        :param wait: whether to wait until there are none.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, 0 if wait else os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            code = os.waitstatus_to_exitcode(status)
            self.code = code if code >= 0 else 128 - code


def execute(code: int) -> None:
    """Become the small program.

    :param code: see :attr:`Children.code`.
    """
    # A signal that comes in between waits.
    signal.pthread_sigmask(signal.SIG_BLOCK, [*FOR_THE_SERVICE, *TO_END])
    with suppress(OSError):
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", _TEXT, str(code)])
    run(code)


def run(code: int) -> None:
    """Pass signals on until there is no other process, and end."""
    for each in TO_END:
        signal.signal(each, lambda _number, _frame: end_all())
    for each in FOR_THE_SERVICE:
        signal.signal(each, _pass_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*FOR_THE_SERVICE, *TO_END])
    children = Children(code)
    children.reap(wait=True)
    os._exit(children.code)


def _pass_on(number: int, _frame: object) -> None:
    """An old process passes it on to its successor."""
    with suppress(OSError, ValueError):
        for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            os.kill(int(each), number)


if __name__ == "__main__":
    run(int(sys.argv[1]))
