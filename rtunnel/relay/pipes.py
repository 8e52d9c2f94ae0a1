"""Pipes for ``splice``: few, kept open, and handed out one at a time while there are bytes in them.

Bytes that go from one socket through a pipe to another are never copied, which is what bulk wants. A pipe costs two
descriptors and a share of what the system allows a user, so there is a limit; whoever gets none copies.
"""

from __future__ import annotations

import os
from contextlib import suppress

try:
    import fcntl
except ImportError:  # not a system with splice
    fcntl = None  # type: ignore[assignment]

#: Whether this system and this Python have what is needed.
HAVE_SPLICE = hasattr(os, "splice") and hasattr(os, "pipe2") and hasattr(fcntl, "F_SETPIPE_SZ")

#: What a pipe is asked to hold, in bytes, best first. Linux gives a user without privileges 64 of the first size.
SIZES = (1 << 20, 1 << 18)
#: Pipes in use at once.
MOST = 64
#: Empty pipes that are kept for the next one.
KEPT = 8


class Pipe:
    """Both ends of a pipe that never blocks.

    :ivar count: bytes that are in it now.
    """

    __slots__ = ("count", "read_end", "write_end")

    def __init__(self) -> None:
        """:raises OSError: no descriptor is left."""
        self.read_end, self.write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.count = 0
        for size in SIZES:
            try:
                fcntl.fcntl(self.write_end, fcntl.F_SETPIPE_SZ, size)
            except OSError:
                continue  # the user has enough already; it works with any size
            break

    def close(self) -> None:
        """Close both ends; what is in it is lost."""
        for end in (self.read_end, self.write_end):
            with suppress(OSError):
                os.close(end)


class Pipes:
    """The pipes of a process; as many as its length are kept for the next one who wants one.

    :ivar in_use: how many are taken.
    """

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self.in_use = 0

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Pipe | None:
        """An empty pipe; None: there is none to be had."""
        if self.in_use >= MOST:
            return None
        try:
            pipe = self._idle.pop() if self._idle else Pipe()
        except OSError:
            return None
        self.in_use += 1
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """*pipe* is not needed any more. One with bytes in it is closed: nobody else may get them."""
        self.in_use -= 1
        if pipe.count or len(self._idle) >= KEPT:
            pipe.close()
        else:
            self._idle.append(pipe)


#: One for all relays of the process, as the limits are the user's.
PIPES = Pipes()
